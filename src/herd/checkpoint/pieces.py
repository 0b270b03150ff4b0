"""Values of a weight node in pieces, as a Hugging Face file orders them: whole tensors never need to be in memory."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from herd.checkpoint.floats import Array
from herd.errors import BadCheckpoint, UsageError, fail
from herd.formats import decode
from herd.weights import Dense, Experts, Packed, Pair

PIECE_BYTES = 16 << 20
"""About this much float32 at a time; an expert is one piece, as its axes may have to be turned."""


def matrix_pieces(node: Any, name: str, outputs: int, inputs: int, row_multiple: int = 1) -> Iterator[Array]:
    """[rows, I] pieces of a matrix [O, I], each a multiple of `row_multiple` rows (whole heads). Raises UsageError."""
    step = max(1, PIECE_BYTES // (4 * inputs * row_multiple)) * row_multiple
    whole = _stored(node, name, (outputs, inputs))
    for start in range(0, outputs, step):
        yield _values(node, whole[start : start + step], inputs)


def expert_pieces(node: Any, name: str, num_experts: int, inputs: int, outputs: int) -> Iterator[Array]:
    """[I, O] of one expert after the other, gate columns before up columns. Raises UsageError."""
    if isinstance(node, Pair):
        gates = expert_pieces(node.gate, name, num_experts, inputs, outputs // 2)
        ups = expert_pieces(node.up, name, num_experts, inputs, outputs // 2)
        for gate, up in zip(gates, ups, strict=True):
            yield np.concatenate([gate, up], axis=1)
        return
    if isinstance(node, Experts):
        yield from _stored(node, name, (num_experts, inputs, outputs))
        return
    for expert in _stored(node, name, (num_experts, outputs, inputs)):
        yield np.ascontiguousarray(_values(node, expert, inputs).T)


def _stored(node: Any, name: str, shape: tuple[int, ...]) -> Array:
    if isinstance(node, Packed):
        values, have = node.codes, tuple(node.shape)
    elif isinstance(node, Dense | Experts):
        values, have = node.w, tuple(node.w.shape)
    else:
        fail(UsageError, f"{name} is {type(node).__name__}", do="merge adapters before the model is written")
    if have != shape:
        fail(BadCheckpoint, f"{name}: shape", got=have, expected=shape)
    return np.asarray(values)


def _values(node: Any, stored: Array, inputs: int) -> Array:
    if isinstance(node, Packed):
        return decode(node.format, stored, inputs)
    return stored
