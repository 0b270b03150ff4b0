"""Encode part after part into a packed folder or a GGUF file: bounded memory, every error booked by tensor."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from herd import formats
from herd.checkpoint.gguf.unfinished import Resumable
from herd.checkpoint.gguf.write import FILE_TYPES, write_gguf
from herd.checkpoint.opened import Checkpoint
from herd.checkpoint.packed.write import PackedWriter
from herd.checkpoint.strip_pieces import rows_of as code_rows
from herd.checkpoint.walk import walk
from herd.disk.staging import discard
from herd.passes.encode import EncodingLoss, encode_rows
from herd.passes.importance import Importances
from herd.quantize.format_choice import FormatPlan
from herd.quantize.parts import MatrixPart, node_of, parts_of, pieces_of
from herd.weights import Dense, Packed, fold, is_packed_as, is_vision

Step = Callable[[str, int], None]
"""Told a tensor's name and how many of its bytes are new; once with 0 at its end."""


@dataclass
class Book:
    """What each tensor lost; tensors kept from an interrupted run are only named."""

    lost: dict[str, EncodingLoss] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)

    def add(self, tensor: str, lost: EncodingLoss) -> None:
        """Take in a piece of a tensor."""
        self.lost.setdefault(tensor, EncodingLoss()).add(lost)


class Encoder:
    """Encodes pieces with the importances of their columns. threads: of a native op set."""

    def __init__(self, importances: Importances | None, book: Book, threads: Any = None) -> None:
        self._importances, self.book, self._threads = importances, book, threads
        self._last: tuple[Any, Any] = (None, None)

    def __call__(
        self, part: MatrixPart, format: str, rows: npt.NDArray[Any], expert: int, first: int
    ) -> npt.NDArray[np.uint8]:
        """Codes of rows `first`.. of an expert (0 of a plain matrix)."""
        where = f"{part.tensor} expert {expert}" if part.num_experts else part.tensor
        codes, lost = encode_rows(format, rows, self._of(part, expert), where, first, self._threads)
        self.book.add(part.tensor, lost)
        return codes

    def _of(self, part: MatrixPart, expert: int) -> Any:
        if self._importances is None:
            return None
        key = (part.wanted.name, expert if part.num_experts else None)
        if self._last[0] != key:
            self._last = (key, self._importances.of(*key))
        return self._last[1]


def write_packed(
    target: Path,
    checkpoint: Checkpoint,
    plan: FormatPlan,
    encoder: Encoder,
    *,
    files: list[Path],
    texts: Mapping[str, str],
    job: Mapping[str, str],
    overwrite: bool,
    resume: bool,
    step: Step,
) -> None:
    """Herd's packed form. Raises what PackedWriter raises."""
    config, source = checkpoint.config, checkpoint.source()
    parts: dict[str, list[MatrixPart]] = {}
    for part in parts_of(config):
        parts.setdefault(part.wanted.name, []).append(part)
    if not resume:
        discard(target)
    writer = PackedWriter(
        target,
        config,
        files=files,
        texts=texts,
        job=job,
        needed_bytes=plan.num_bytes,
        overwrite=overwrite,
        resume=True,
        guard=checkpoint,
    )
    with writer as out, checkpoint.reading():
        for w in walk(config):
            own = parts.get(w.name, [])
            if out.has(w.name):
                encoder.book.kept += [p.tensor for p in own]
                for part in own:
                    step(part.tensor, _size(part, plan))
                    step(part.tensor, 0)
                continue
            if w.kind == "vector":
                array = source.vector(w.name, w.shape)
                out.put(w.name, array if is_vision(w.name) else formats.to_float32(np.asarray(array)))
                continue
            node: Any = source.experts(w.name, *w.shape) if w.kind == "experts" else None
            node = node if node is not None else source.matrix(w.name, *w.shape, bias=w.bias)
            if not own:
                if not is_vision(w.name):  # a router
                    node = Dense(_floats(node), getattr(node, "bias", None), w.name)
                out.put(w.name, node)
                continue
            if any(plan.formats[p.tensor] is None for p in own):
                out.put(w.name, node)
            elif w.bias:
                out.floats(w.name + ".bias", formats.to_float32(np.asarray(node.bias)))
            for part in own:
                name = plan.formats[part.tensor]
                if name is not None:
                    out.rows(part.tensor, name, part.shape, _codes(part, node, name, encoder, step))
                step(part.tensor, 0)


def _codes(part: MatrixPart, node: Any, format: str, encoder: Encoder, step: Step) -> Any:
    own = node_of(part, node)
    if is_packed_as(own, format, part.shape):
        encoder.book.add(part.tensor, EncodingLoss(num_weights=part.num_weights))  # it is that already: bit for bit
        for codes in code_rows(own):
            step(part.tensor, codes.nbytes)
            yield codes
        return
    for expert, first, rows in pieces_of(part, node):
        codes = encoder(part, format, rows, expert, first)
        step(part.tensor, codes.nbytes)
        yield codes


def _floats(node: Any) -> Any:
    """A small matrix as float32."""

    def decoded(w: Packed) -> Any:
        return np.concatenate([formats.decode(w.format, c, w.shape[-1]) for c in code_rows(w)])

    return fold(node, packed=decoded, other=lambda w: formats.to_float32(np.asarray(w.w)))


def _size(part: MatrixPart, plan: FormatPlan) -> int:
    name = plan.formats[part.tensor]
    return 2 * part.num_weights if name is None else part.num_bytes(name)


def write_gguf_mixed(
    target: Path,
    checkpoint: Checkpoint,
    plan: FormatPlan,
    encoder: Encoder,
    *,
    keys: Mapping[str, Any],
    job: Mapping[str, str],
    overwrite: bool,
    resume: bool,
    step: Step,
) -> list[str]:
    """A GGUF file (and mmproj-NAME for a vision part). Returns notes. Raises what write_gguf raises."""
    parts = {p.gguf: p for p in parts_of(checkpoint.config)}
    types = {p.wanted.name if p.num_experts else p.tensor: plan.formats[p.tensor] or "f16" for p in parts.values()}

    def encode(tensor: str, format: str, rows: npt.NDArray[Any], first: int) -> npt.NDArray[np.uint8]:
        part = parts[tensor]
        codes = encoder(part, format, rows, first // part.outputs, first % part.outputs)
        step(part.tensor, codes.nbytes)
        return codes

    def done(name: str, _written: int, _total: int) -> None:
        for part in parts.values():
            if name in (part.tensor, part.wanted.name):
                if part.tensor not in encoder.book.lost:  # copied as it was
                    step(part.tensor, _size(part, plan))
                    if plan.formats[part.tensor] is not None:
                        encoder.book.add(part.tensor, EncodingLoss(num_weights=part.num_weights))
                step(part.tensor, 0)

    def kept(name: str) -> None:
        for part in parts.values():
            if name in (part.tensor, part.wanted.name):
                encoder.book.kept.append(part.tensor)
                step(part.tensor, _size(part, plan))
                step(part.tensor, 0)

    mmproj = target.with_name(f"mmproj-{target.name}") if checkpoint.config.vision is not None else None
    written = write_gguf(
        target,
        checkpoint.config,
        checkpoint.source(),
        keys,
        most_common(plan),
        mmproj=mmproj,
        overwrite=overwrite,
        progress=done,
        types=types,
        encode=encode,
        guard=checkpoint,
        resumable=Resumable(job, resume, kept),
    )
    return list(written.notes)


def most_common(plan: FormatPlan) -> str:
    """The format of most tensors, as `general.file_type` names a file."""
    counts = {n: c for n, c in plan.summary().items() if n in FILE_TYPES}
    return max(counts, key=lambda n: counts[n]) if counts else "f16"
