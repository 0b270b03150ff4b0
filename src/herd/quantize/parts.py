"""A model's matrices as parts that are encoded on their own, and rows of any of them as floats, a few MiB at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy.typing as npt

from herd import formats
from herd.checkpoint.gguf.names import gguf_names
from herd.checkpoint.packed.form import GATE_UP, halves
from herd.checkpoint.strip_pieces import StripRows
from herd.checkpoint.walk import WeightSpec, walk
from herd.config import Llama4Config
from herd.errors import UsageError, fail
from herd.weights import Packed, apart, fold, is_vision

PIECE_WEIGHTS = 4 << 20
"""Rows are read and encoded about so many weights at a time."""
EMBEDDING, HEAD = "model.embed_tokens", "lm_head"


@dataclass(frozen=True)
class MatrixPart:
    """A matrix, or one half (gate, up) of a stack of experts, or a stack."""

    tensor: str
    """Its name in the packed form."""
    gguf: str
    """Its name in a GGUF file."""
    wanted: WeightSpec
    """The request of `weights.build` that it answers; half 0 is the gate, 1 the up part, None all of it."""
    half: int | None
    num_experts: int
    """0: a plain matrix."""
    outputs: int
    inputs: int

    @property
    def shape(self) -> tuple[int, ...]:
        """[O, I] or [E, O, I]."""
        front = (self.num_experts,) if self.num_experts else ()
        return (*front, self.outputs, self.inputs)

    @property
    def num_weights(self) -> int:
        """Weights of all experts."""
        return max(self.num_experts, 1) * self.outputs * self.inputs

    @property
    def is_table(self) -> bool:
        """Embedding or head."""
        return self.wanted.name in (EMBEDDING, HEAD)

    def num_bytes(self, format: str) -> int:
        """Bytes in a format."""
        return max(self.num_experts, 1) * self.outputs * formats.row_bytes(format, self.inputs)


def parts_of(config: Llama4Config) -> list[MatrixPart]:
    """What is quantised: every matrix of the text model but routers, in file order."""
    found = []
    for w in walk(config):
        if w.kind == "vector" or is_vision(w.name) or w.name.endswith(".router"):
            continue
        if w.kind == "matrix":
            tensor = w.name + ".weight"
            found.append(MatrixPart(tensor, gguf_names(tensor)[0], w, None, 0, *w.shape))
            continue
        E, inputs, outputs = w.shape
        if w.name.endswith(GATE_UP):
            for half, (tensor, gguf) in enumerate(zip(halves(w.name), gguf_names(w.name), strict=True)):
                found.append(MatrixPart(tensor, gguf, w, half, E, outputs // 2, inputs))
        else:
            found.append(MatrixPart(w.name, gguf_names(w.name)[0], w, None, E, outputs, inputs))
    return found


def node_of(part: MatrixPart, node: Any) -> Any:
    """The part's own node where gate and up are apart."""
    both = apart(node)
    return both[part.half or 0] if len(both) == 2 else node


def rows_of(part: MatrixPart, node: Any, expert: int, start: int, stop: int) -> npt.NDArray[Any]:
    """Rows [start, stop) of an expert (0 of a plain matrix) as float32, float16 or bfloat16 bits, [n, I]; a view into
    the source where that is float."""
    # a joined stack has the gate's rows first
    joined = part.half is not None and len(apart(node)) == 1
    first = part.outputs * (part.half or 0) if joined else 0

    def packed(w: Packed) -> Any:
        codes = StripRows(w.format, w.codes, w.shape[-2]) if w.layout == "strips" else w.codes
        if part.num_experts:
            codes = codes[expert]
        return formats.decode(w.format, codes[first + start : first + stop], part.inputs)

    def refuse(w: Any) -> NoReturn:
        fail(UsageError, f"{part.tensor} is {type(w).__name__}", do="merge adapters before the model is quantised")

    found: npt.NDArray[Any] = fold(
        node_of(part, node),
        experts=lambda w: w.w[expert, :, first + start : first + stop].T,
        dense=lambda w: (w.w[expert] if part.num_experts else w.w)[first + start : first + stop],
        packed=packed,
        other=refuse,
    )
    return found


def pieces_of(part: MatrixPart, node: Any) -> Iterator[tuple[int, int, npt.NDArray[Any]]]:
    """(expert, first row, rows) of everything, experts one after the other."""
    step = max(16, PIECE_WEIGHTS // part.inputs // 16 * 16)
    for expert in range(max(part.num_experts, 1)):
        for start in range(0, part.outputs, step):
            yield expert, start, rows_of(part, node, expert, start, min(start + step, part.outputs))


def sample_of(part: MatrixPart, node: Any, runs: int = 4, rows: int = 16) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """(expert, rows): runs of rows spread evenly over outputs and experts, the same ones every time."""
    E = max(part.num_experts, 1)
    runs = runs if part.num_experts == 0 else max(runs, min(E, 8))
    for i in range(runs):
        expert = i * E // runs
        start = (2 * i + 1) * part.outputs // (2 * runs) // 16 * 16
        start = max(0, min(start, part.outputs - rows))
        yield expert, rows_of(part, node, expert, start, min(start + rows, part.outputs))
