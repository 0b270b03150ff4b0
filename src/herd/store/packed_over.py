"""A checkpoint whose quantised matrices are strips from the store; all else is its own (see `auto_pack`)."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from herd.checkpoint.opened import Checkpoint
from herd.checkpoint.packed.form import GATE_UP, halves
from herd.checkpoint.packed.source import PackedFiles
from herd.checkpoint.walk import WeightSpec, walk
from herd.config import Llama4Config
from herd.disk.manifest import check_manifest
from herd.disk.mapping import MappedFile
from herd.errors import BadCheckpoint, fail
from herd.formats import strips
from herd.text.tokenizer import Tokenizer
from herd.weights import Dense, Linear, Packed, Pair, Source, apart, fold


def packable(config: Llama4Config, source: Source) -> Iterator[tuple[str, Packed]]:
    """Tensor names of the packed form and nodes that have strips. A table that is only looked up (not the head, too)
    stays: nothing is multiplied with it."""
    for wanted in walk(config):
        if wanted.kind == "vector" or (wanted.name == "model.embed_tokens" and not config.tied_embeddings):
            continue
        yield from _parts(wanted, source)


def _parts(wanted: WeightSpec, source: Source) -> Iterator[tuple[str, Packed]]:
    if wanted.kind == "matrix":
        node = source.matrix(wanted.name, *wanted.shape, bias=wanted.bias)
        names: tuple[str, ...] = (wanted.name + ".weight",)
    else:
        node = source.experts(wanted.name, *wanted.shape)
        names = (wanted.name,) if len(apart(node)) == 1 else halves(wanted.name)
    for name, part in zip(names, apart(node), strict=True):
        yield from ((name, w) for w in fold(part, packed=_in_rows, other=lambda _: ()))


def _in_rows(w: Packed) -> tuple[Packed, ...]:
    """The node, where it could be strips and is none."""
    return (w,) if w.layout == "rows" and w.format in strips.UNITS else ()


class OverSource:
    """A `weights.Source`: strips for what `files` has, the rest from `source`. Raises BadCheckpoint when the files hold
    a tensor that the config does not have, or of another shape."""

    def __init__(self, config: Llama4Config, source: Source, files: PackedFiles) -> None:
        self._source, self._files = source, files
        wanted: dict[str, tuple[int, ...]] = {}
        for w in walk(config):
            if w.kind == "matrix":
                wanted[w.name + ".weight"] = w.shape
            elif w.kind == "experts":
                E, inputs, outputs = w.shape
                names = halves(w.name) if w.name.endswith(GATE_UP) else (w.name,)
                wanted |= dict.fromkeys(names, (E, outputs // len(names), inputs))
        for name in sorted(files.names):
            if files.is_float(name) or name not in wanted or files.shape(name) != wanted[name]:
                have = f"{name} {list(files.shape(name))}"
                fail(BadCheckpoint, f"{files.path}: a tensor that the model does not have", got=have)

    def vector(self, name: str, shape: tuple[int, ...]) -> Any:
        """The vector of the model's own files."""
        return self._source.vector(name, shape)

    def matrix(self, name: str, outputs: int, inputs: int, *, bias: bool = False) -> Linear:
        """The matrix as strips where the store has them, else of the model's own files."""
        if name + ".weight" not in self._files.names:
            return self._source.matrix(name, outputs, inputs, bias=bias)
        node = self._files.node(name + ".weight", name)
        return replace(node, bias=self._source.vector(name + ".bias", (outputs,))) if bias else node

    def experts(self, name: str, num_experts: int, inputs: int, outputs: int) -> Linear:
        """Experts as strips where the store has them, else of the model's own files; gate and up may differ in this."""
        names = halves(name) if name.endswith(GATE_UP) else (name,)
        have = [n in self._files.names for n in names]
        if not any(have):
            return self._source.experts(name, num_experts, inputs, outputs)
        nodes: list[Dense | Packed] = [self._files.node(n, name) for n in names if n in self._files.names]
        if len(names) == 1:
            return nodes[0]
        if all(have):
            return Pair(nodes[0], nodes[1], name)
        own: Any = self._source.experts(name, num_experts, inputs, outputs)
        return Pair(nodes[0], own.up, name) if have[0] else Pair(own.gate, nodes[0], name)


class PackedOver(Checkpoint):
    """`own`, with the strips of `files` in the place of its quantised matrices. Raises BadCheckpoint."""

    def __init__(self, own: Checkpoint, files: PackedFiles) -> None:
        self.own, self.files = own, files
        self.path: Path = own.path
        self.format = own.format
        self.config = own.config
        self.advice = own.advice
        self.size_bytes = own.size_bytes
        self._source = OverSource(own.config, own.source(), files)

    def source(self) -> Source:
        """See Checkpoint."""
        return self._source

    @property
    def mapped(self) -> Sequence[MappedFile]:
        """See Checkpoint: the files of the model and of its packed form."""
        return (*self.own.mapped, *self.files.files)

    def check_digests(self) -> bool:
        """See Checkpoint: both the model's files and the packed form. True when digests of the model's files were
        known."""
        check_manifest(self.files.path)
        return self.own.check_digests()

    def close(self) -> None:
        """See Checkpoint: closes the model's files and the packed form."""
        self.files.close()
        self.own.close()

    def _read_tokenizer(self) -> Tokenizer:
        return self.own.load_tokenizer()
