"""Values of a weight node in pieces, as a Hugging Face file orders them: whole tensors never need to be in memory."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from herd.checkpoint.floats import Array
from herd.checkpoint.lazy import Lazy
from herd.checkpoint.strip_pieces import StripRows
from herd.errors import BadCheckpoint, UsageError, fail
from herd.formats import decode, get, to_float32
from herd.weights import Dense, Experts, Packed, Pair

PIECE_BYTES = 4 << 20
"""About this much float32 at a time."""
COLUMNS = 256
"""Input columns of an expert that are turned at a time: a whole number of blocks of every format."""


def matrix_pieces(node: Any, name: str, outputs: int, inputs: int, row_multiple: int = 1) -> Iterator[Array]:
    """[rows, I] pieces of a matrix [O, I], each a multiple of `row_multiple` rows (whole heads). Raises UsageError."""
    step = max(1, PIECE_BYTES // (4 * inputs * row_multiple)) * row_multiple
    whole = _stored(node, name, (outputs, inputs))
    for start in range(0, outputs, step):
        yield _values(node, whole[start : start + step], inputs)


def expert_pieces(node: Any, name: str, num_experts: int, inputs: int, outputs: int) -> Iterator[Array]:
    """[I, O] of one expert after the other, gate columns before up columns. Raises UsageError."""
    if isinstance(node, Experts):
        yield from _stored(node, name, (num_experts, inputs, outputs))
        return
    rows = expert_rows(node, name, num_experts, inputs, outputs)
    pieces = -(-inputs // COLUMNS)
    for _ in range(num_experts):
        yield np.concatenate([next(rows) for _ in range(pieces)])


def expert_rows(node: Any, name: str, num_experts: int, inputs: int, outputs: int) -> Iterator[Array]:
    """[rows, O] pieces of experts [E, I, O], one expert after the other, gate columns before up columns.

    Output-major stacks are turned a few input columns at a time. Raises UsageError.
    """
    if isinstance(node, Experts):
        step = max(1, PIECE_BYTES // (4 * outputs))
        for expert in _stored(node, name, (num_experts, inputs, outputs)):
            yield from (expert[start : start + step] for start in range(0, inputs, step))
        return
    halves = [node.gate, node.up] if isinstance(node, Pair) else [node]
    stacks = [_stored(half, name, (num_experts, outputs // len(halves), inputs)) for half in halves]
    for e in range(num_experts):
        matrices = [np.asarray(s[e]) if isinstance(s, Lazy) else s[e] for s in stacks]
        for start in range(0, inputs, COLUMNS):
            parts = [_columns(half, m, start, inputs).T for half, m in zip(halves, matrices, strict=True)]
            if len({part.dtype for part in parts}) > 1:
                parts = [to_float32(part) for part in parts]
            yield np.concatenate(parts, axis=1)


def _columns(node: Any, rows: Array, start: int, inputs: int) -> Array:
    """Up to COLUMNS columns of rows [O, I] (or of their codes), from `start`, a multiple of COLUMNS."""
    stop = min(start + COLUMNS, inputs)
    if isinstance(node, Packed):
        f = get(node.format)
        return f.decode(rows[:, f.row_bytes(start) if start else 0 : f.row_bytes(stop)], stop - start)
    return rows[:, start:stop]


def _stored(node: Any, name: str, shape: tuple[int, ...]) -> Any:
    if isinstance(node, Packed):
        values, have = node.codes, tuple(node.shape)
        if node.layout == "strips" and have == shape:
            return StripRows(node.format, np.asarray(values), shape[-2])
    elif isinstance(node, Dense | Experts):
        values, have = node.w, tuple(node.w.shape)
    else:
        fail(UsageError, f"{name} is {type(node).__name__}", do="merge adapters before the model is written")
    if have != shape:
        fail(BadCheckpoint, f"{name}: shape", got=have, expected=shape)
    return values if isinstance(values, Lazy) else np.asarray(values)


def _values(node: Any, stored: Array, inputs: int) -> Array:
    if isinstance(node, Packed):
        return decode(node.format, stored, inputs)
    return stored
