"""The values of a weight node in pieces, as a Hugging Face file orders them: no whole tensor needs to be in memory."""

from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np

from herd.checkpoint.strip_pieces import StripRows
from herd.containers.lazy_rows import LazyArray
from herd.errors import BadCheckpoint, UsageError, fail
from herd.formats import decode, get, to_float32
from herd.formats.dtypes import Array
from herd.weights import Dense, Experts, Packed, apart, fold

PIECE_BYTES = 4 << 20
"""About this much float32 at a time."""
COLUMNS = 256
"""Input columns of an expert that are turned at a time: a whole number of blocks of every format."""


def matrix_pieces(node: Any, name: str, outputs: int, inputs: int, row_multiple: int = 1) -> Iterator[Array]:
    """Pieces [rows, I] of a matrix [O, I], each a multiple of `row_multiple` rows (whole heads). Raises UsageError."""
    step = max(1, PIECE_BYTES // (4 * inputs * row_multiple)) * row_multiple
    whole = _stored(node, name, (outputs, inputs))
    for start in range(0, outputs, step):
        yield _values(node, whole[start : start + step], inputs)


def expert_pieces(node: Any, name: str, num_experts: int, inputs: int, outputs: int) -> Iterator[Array]:
    """Pieces [I, O], one for each expert, gate columns before up columns. Raises UsageError."""

    def turned(_: Any) -> Iterator[Array]:
        rows = expert_rows(node, name, num_experts, inputs, outputs)
        pieces = -(-inputs // COLUMNS)
        return (np.concatenate([next(rows) for _ in range(pieces)]) for _ in range(num_experts))

    return fold(node, experts=lambda w: iter(_stored(w, name, (num_experts, inputs, outputs))), other=turned)


def expert_rows(node: Any, name: str, num_experts: int, inputs: int, outputs: int) -> Iterator[Array]:
    """Pieces [rows, O] of experts [E, I, O], one expert after the other, gate columns before up columns.

    Output-major stacks are transposed a few input columns at a time. Raises UsageError.
    """

    def as_they_are(w: Any) -> Iterator[Array]:
        step = max(1, PIECE_BYTES // (4 * outputs))
        for expert in _stored(w, name, (num_experts, inputs, outputs)):
            yield from (expert[start : start + step] for start in range(0, inputs, step))

    return fold(node, experts=as_they_are, other=lambda w: _turned(w, name, num_experts, inputs, outputs))


def _turned(node: Any, name: str, num_experts: int, inputs: int, outputs: int) -> Iterator[Array]:
    halves = apart(node)
    stacks = [_stored(half, name, (num_experts, outputs // len(halves), inputs)) for half in halves]
    for e in range(num_experts):
        matrices = [np.asarray(s[e]) if isinstance(s, LazyArray) else s[e] for s in stacks]
        for start in range(0, inputs, COLUMNS):
            parts = [_columns(half, m, start, inputs).T for half, m in zip(halves, matrices, strict=True)]
            if len({part.dtype for part in parts}) > 1:
                parts = [to_float32(part) for part in parts]
            yield np.concatenate(parts, axis=1)


def _columns(node: Any, rows: Array, start: int, inputs: int) -> Array:
    """Up to COLUMNS columns of rows [O, I] (or of their codes), from `start`, a multiple of COLUMNS."""
    stop = min(start + COLUMNS, inputs)

    def decoded(w: Packed) -> Array:
        f = get(w.format)
        return f.decode(rows[:, f.row_bytes(start) if start else 0 : f.row_bytes(stop)], stop - start)

    return fold(node, packed=decoded, other=lambda _: rows[:, start:stop])


def _stored(node: Any, name: str, shape: tuple[int, ...]) -> Any:
    def held(values: Any, have: tuple[int, ...]) -> Any:
        if have != shape:
            fail(BadCheckpoint, f"{name}: shape", got=have, expected=shape)
        return values if isinstance(values, LazyArray) else np.asarray(values)

    def packed(w: Packed) -> Any:
        have = tuple(w.shape)
        if w.layout == "strips" and have == shape:
            return StripRows(w.format, np.asarray(w.codes), shape[-2])
        return held(w.codes, have)

    def floats(w: Dense | Experts) -> Any:
        return held(w.w, tuple(w.w.shape))

    return fold(node, dense=floats, experts=floats, packed=packed, other=lambda w: unmerged(name, w))


def unmerged(name: str, node: Any) -> NoReturn:
    """Raise UsageError for a node that no file can hold, such as a matrix with an adapter that is not merged."""
    fail(UsageError, f"{name} is {type(node).__name__}", do="merge adapters before the model is written")


def _values(node: Any, stored: Array, inputs: int) -> Array:
    return fold(node, packed=lambda w: decode(w.format, stored, inputs), other=lambda _: stored)
