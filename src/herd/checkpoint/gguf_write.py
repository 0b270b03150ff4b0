"""Write a model as GGUF that llama.cpp loads: streamed, one expert or a few rows in memory at a time.

What it is: `write_gguf` for the text model and, beside it, the mmproj file of a vision tower. Every place in the file
is known from the config before the first weight is read, so tensors may come in any order. The file appears under its
name complete and synced, or not at all. What it is not: a tokenizer (its keys are given), a choice of mixed precision.
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from herd import formats
from herd.checkpoint.atomic import check_disk, new_file
from herd.checkpoint.gguf_keys import (
    FILE_TYPES,
    config_keys,
    divisors,
    key_bytes,
    string_bytes,
    token_keys,
    vision_keys,
)
from herd.checkpoint.gguf_names import ROPE_FREQS, gguf_names, is_vision
from herd.checkpoint.pieces import expert_pieces, matrix_pieces
from herd.checkpoint.strip_pieces import rows_of
from herd.checkpoint.walk import TreeSource, Wanted, walk
from herd.config import Llama4Config
from herd.errors import BadCheckpoint, UsageError, fail
from herd.weights import Dense, Experts, Model, Packed, Pair, Source

__all__ = ["FILE_TYPES", "Progress", "Written", "write_gguf"]

ALIGNMENT = 32

Progress = Callable[[str, int], None]
"""Called with a tensor's name and its bytes once it is written."""

Encode = Callable[[str, str, npt.NDArray[Any], int], npt.NDArray[np.uint8]]
"""(tensor of the file, block format, float rows [n, I] of any strides, the row they begin at) -> codes of the rows."""

Named = Iterable[tuple[str, npt.NDArray[Any]]]
"""Full canonical tensor names (`model.layers.0.self_attn.q_proj.weight`) and float arrays, uint16 holding bfloat16."""


@dataclass
class Written:
    """What came out."""

    path: Path
    num_bytes: int
    types: dict[str, int] = field(default_factory=dict)
    """Tensors of each number format."""
    substituted: dict[str, str] = field(default_factory=dict)
    """Tensors whose rows are no whole number of blocks of the type asked for, and what they became instead."""
    notes: list[str] = field(default_factory=list)
    """Where llama.cpp's logits will differ from Herd's, and from which length of text on."""
    mmproj: "Written | None" = None


@dataclass(frozen=True)
class _Place:
    """One tensor of the file; `shape` row-major, `start` in the data."""

    name: str
    format: formats.Format
    shape: tuple[int, ...]
    start: int

    @property
    def row_bytes(self) -> int:
        return self.format.row_bytes(self.shape[-1])

    @property
    def num_bytes(self) -> int:
        return int(np.prod(self.shape[:-1], dtype=object)) * self.row_bytes


def write_gguf(
    path: Path | str,
    config: Llama4Config,
    weights: Model | Source | Named,
    tokenizer_keys: Mapping[str, Any],
    type: str = "f16",
    *,
    mmproj: Path | str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    types: Mapping[str, str] | None = None,
    encode: Encode | None = None,
) -> Written:
    """Write matrices in the number format `type`; norms, router and rope divisors in f32.

    `tokenizer_keys`: all `tokenizer.*` (and, if wanted, `general.*`) keys. A matrix that is already packed in the
    wanted format is copied bit for bit. A matrix whose rows do not fill blocks of the type becomes q8_0, or f16 where
    that does not fit either; `Written.substituted` lists these. A model with vision needs `mmproj`, the name of its
    second file (f16, or f32 when that is the type).

    types: canonical name of a matrix (with `.weight`) or stack -> its own number format instead of `type`. encode:
    makes the codes of block formats; None: `herd.formats`.

    Raises UsageError (the file exists, unknown type, a config that GGUF cannot express), DoesNotFit (disk),
    BadCheckpoint (a tensor missing, of another shape, or with values that the format cannot hold).
    """
    path = Path(path)
    if type not in FILE_TYPES:
        fail(UsageError, "number format of a GGUF file", got=type, expected=", ".join(FILE_TYPES))
    if config.vision is not None and mmproj is None:
        fail(UsageError, f"{path}: GGUF keeps the vision part in a second file", do="name a file for it (mmproj)")
    if config.vision is None and mmproj is not None:
        fail(UsageError, f"{mmproj}: the model has no vision part to write")
    # A stream of named tensors can be walked once: each goes to the file that it belongs to.
    keys, notes = config_keys(config)
    keys = {**keys, "general.quantization_version": 2, "general.file_type": FILE_TYPES[type]}
    keys = {**keys, **token_keys(config), **tokenizer_keys}
    text = _File(path, config, keys, type, vision=False, types=types, encode=encode)
    text.report.notes = notes
    files = [text]
    if mmproj is not None:
        plain = "f32" if type == "f32" else "f16"
        files.append(_File(Path(mmproj), config, vision_keys(config, plain), plain, vision=True))
        text.report.mmproj = files[1].report
    _write(files, _nodes(config, weights), overwrite, progress)
    return text.report


def _write(files: list["_File"], nodes: Iterator[tuple[str, Any]], overwrite: bool, progress: Progress | None) -> None:
    """Both files are checked to be whole before either takes its name."""
    with ExitStack() as stack:
        for file in files:
            temp = stack.enter_context(new_file(file.report.path, overwrite=overwrite))
            file.begin(stack.enter_context(temp.open("r+b")))
        for name, node in nodes:
            (files[-1] if is_vision(name) else files[0]).put(name, node, progress)
        for file in files:
            file.finish()


def _nodes(config: Llama4Config, weights: Model | Source | Named) -> Iterator[tuple[str, Any]]:
    """Full canonical names, each with an array or a weight node."""
    source: Any = TreeSource(config, weights) if isinstance(weights, Model) else weights
    if not hasattr(source, "matrix"):
        yield from source
        return
    for w in walk(config):
        if w.kind == "vector":
            yield w.name, source.vector(w.name, w.shape)
        elif w.kind == "experts":
            yield w.name, source.experts(w.name, *w.shape)
        else:
            node = source.matrix(w.name, *w.shape, bias=w.bias)
            yield w.name + ".weight", node
            if w.bias:
                yield w.name + ".bias", node.bias


class _File:
    """One file in the making: places first, then tensors in any order."""

    def __init__(
        self,
        path: Path,
        config: Llama4Config,
        keys: Mapping[str, Any],
        type: str,
        *,
        vision: bool,
        types: Mapping[str, str] | None = None,
        encode: Encode | None = None,
    ) -> None:
        self.report = Written(path, 0)
        self._type, self._types, self._encode = type, types or {}, encode
        self._wanted: dict[str, Wanted] = {}
        self._places: dict[str, _Place] = {}
        self._left: set[str] = set()
        self._size = 0
        for w in walk(config):
            for name, shape in w.tensors.items():
                if is_vision(name) == vision:
                    self._plan(w, name, shape)
        self._divisors = None if vision else divisors(config)
        if self._divisors is not None:
            self._place(ROPE_FREQS, "f32", self._divisors.shape)
        self._head = self._header(keys)
        self.report.num_bytes = len(self._head) + self._size

    def _plan(self, w: Wanted, name: str, shape: tuple[int, ...]) -> None:
        self._wanted[name] = w
        self._left.add(name)
        names = gguf_names(name)
        if w.kind == "experts":
            E, inputs, outputs = shape
            shape = (E, outputs // len(names), inputs)
        for tensor in names:
            small = len(shape) == 1 or w.kind == "vector" or name.endswith(".router.weight")
            wanted = self._types.get(name, self._type)
            self._place(tensor, "f32" if small else self._fitting(tensor, wanted, shape[-1]), shape)

    def _fitting(self, tensor: str, wanted: str, inputs: int) -> str:
        if formats.get(wanted).fits(inputs):
            return wanted
        chosen = "q8_0" if formats.get("q8_0").fits(inputs) else "f16"
        self.report.substituted[tensor] = chosen
        return chosen

    def _place(self, tensor: str, format: str, shape: tuple[int, ...]) -> None:
        place = _Place(tensor, formats.get(format), shape, self._size)
        self._places[tensor] = place
        self._size += -(-place.num_bytes // ALIGNMENT) * ALIGNMENT
        self.report.types[format] = self.report.types.get(format, 0) + 1

    def _header(self, keys: Mapping[str, Any]) -> bytes:
        parts = [b"GGUF", struct.pack("<IQQ", 3, len(self._places), len(keys))]
        parts += [key_bytes(name, value) for name, value in keys.items()]
        for place in self._places.values():
            sizes = place.shape[::-1]
            parts.append(string_bytes(place.name))
            parts.append(struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, place.format.ggml_type, place.start))
        head = b"".join(parts)
        return head + bytes(-len(head) % ALIGNMENT)

    def begin(self, out: BinaryIO) -> None:
        """Header and rope divisors."""
        self._out = out
        check_disk(self.report.path, self.report.num_bytes)
        out.write(self._head)
        out.truncate(self.report.num_bytes)
        if self._divisors is not None:
            self._rows(self._places[ROPE_FREQS], 0, self._divisors)

    def put(self, name: str, node: Any, progress: Progress | None) -> None:
        """Write one tensor of the model. Raises BadCheckpoint for a name or shape that the config does not have."""
        if name not in self._left:
            what = "stands twice" if name in self._wanted else "belongs to no model of this config"
            fail(BadCheckpoint, f"tensor {name} {what}")
        self._left.remove(name)
        wanted = self._wanted[name]
        places = [self._places[tensor] for tensor in gguf_names(name)]
        try:
            if wanted.kind == "experts":
                self._experts(places, wanted, Experts(node, name) if isinstance(node, np.ndarray) else node)
            else:
                self._matrix(places[0], name, wanted, node)
        except BadCheckpoint as e:
            raise BadCheckpoint(str(e) if name in str(e) else f"{name}: {e}") from None
        if progress is not None:
            progress(name, sum(p.num_bytes for p in places))

    def _matrix(self, place: _Place, name: str, wanted: Wanted, node: Any) -> None:
        if self._copied(place, node):
            return
        if isinstance(node, np.ndarray):
            if node.shape != place.shape:
                fail(BadCheckpoint, f"{name}: shape", got=node.shape, expected=place.shape)
            if node.ndim != 2:
                self._rows(place, 0, node)
                return
            node = Dense(node, None, name)
        at = 0
        for rows in matrix_pieces(node, name, *wanted.shape):
            self._rows(place, at, rows)
            at += len(rows)

    def _experts(self, places: list[_Place], wanted: Wanted, node: Any) -> None:
        if isinstance(node, Pair) and len(places) == 2:
            # Apart, as they are: joining them could mix number formats.
            for place, half in zip(places, (node.gate, node.up), strict=True):
                self._experts([place], wanted, half)
            return
        if len(places) == 1 and self._copied(places[0], node):
            return
        E, inputs, _ = wanted.shape
        width = places[0].shape[1]
        for e, expert_IO in enumerate(expert_pieces(node, wanted.name, E, inputs, width * len(places))):
            for i, place in enumerate(places):
                self._rows(place, e * width, expert_IO[:, i * width : (i + 1) * width].T)

    def _copied(self, place: _Place, node: Any) -> bool:
        """Write codes that are in the wanted format already, bit for bit."""
        if not isinstance(node, Packed) or node.format != place.format.name or tuple(node.shape) != place.shape:
            return False
        start = 0
        for rows in rows_of(node):
            self._bytes(place, start, rows)
            start += len(rows)
        return True

    def _rows(self, place: _Place, start: int, rows: npt.NDArray[Any]) -> None:
        if self._encode is not None and place.format.packed:
            self._bytes(place, start, self._encode(place.name, place.format.name, rows, start))
        else:
            self._bytes(place, start, place.format.encode(formats.to_float32(rows)))

    def _bytes(self, place: _Place, start: int, codes: npt.NDArray[np.uint8]) -> None:
        self._out.seek(len(self._head) + place.start + start * place.row_bytes)
        self._out.write(np.ascontiguousarray(codes).data)

    def finish(self) -> None:
        """Raise BadCheckpoint when a tensor never came."""
        if self._left:
            names = sorted(self._left)
            fail(BadCheckpoint, f"{self.report.path}: {len(names)} tensors were not given", got=", ".join(names[:5]))
        self._out.flush()
