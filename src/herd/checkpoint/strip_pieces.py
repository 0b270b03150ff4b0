"""Codes from rows to strips and back, a few MiB at a time: whole tensors never need to be in memory twice.

The rule of the permutation is `herd.formats.strips`; the native module does it on all cores where it is there.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from math import prod
from typing import Any

import numpy as np

from herd import formats
from herd.errors import BadCheckpoint, fail
from herd.formats import strips
from herd.formats.dtypes import Array
from herd.weights import Packed

PIECE_BYTES = 32 << 20


@cache
def native_pack() -> Callable[..., Any] | None:
    """The native module's packing, when it computes with strips; None when it does not, or is not there."""
    try:
        from herd import _native
    except ImportError:
        return None
    return getattr(_native, "pack", None)


def pack(format: str, rows: Array, threads: Any = None) -> Array:
    """Pack rows uint8 [O, row_bytes] to strips uint8 [strips, 16 * row_bytes]. threads: of a native op set; None: the
    process's."""
    native = native_pack()
    if native is None:
        return strips.to_strips(format, rows)
    outputs, row_bytes = rows.shape
    out = np.empty((strips.num_strips(outputs), strips.ROWS * row_bytes), np.uint8)
    inputs = row_bytes // formats.get(format).block_bytes * formats.get(format).block
    native(format, np.ascontiguousarray(rows), [outputs, inputs], out, threads)
    return out


def step_rows(row_bytes: int) -> int:
    """Number of rows of a piece: a whole number of strips."""
    return max(1, PIECE_BYTES // (row_bytes * strips.ROWS)) * strips.ROWS


def strip_pieces(format: str, shape: tuple[int, ...], pieces: Iterable[Array]) -> Iterator[Array]:
    """Turn pieces of rows, cut anywhere, into pieces of strips, of each matrix of `shape` one after the other.

    Raises BadCheckpoint when the rows are too many, too few or of another size.
    """
    *front, outputs, inputs = shape
    row_bytes = formats.row_bytes(format, inputs)
    total, step = prod(front) * outputs, step_rows(row_bytes)
    given = 0  # rows taken from `pieces`
    held: list[Array] = []
    num_held = at = 0  # rows waiting; rows of this matrix that are out
    for piece in pieces:
        if piece.dtype != np.uint8 or piece.shape[-1:] != (row_bytes,):
            have = f"{piece.dtype} {piece.shape}"
            fail(BadCheckpoint, f"{format} codes of rows of {inputs} weights", got=have, expected=f"[n, {row_bytes}]")
        flat = piece.reshape(-1, row_bytes)
        given += len(flat)
        if given > total:
            break
        while len(flat):
            room = min(step, outputs - at) - num_held
            held.append(flat[:room])
            num_held += len(held[-1])
            flat = flat[room:]
            if num_held == min(step, outputs - at):
                yield pack(format, held[0] if len(held) == 1 else np.concatenate(held))
                at = (at + num_held) % outputs
                held, num_held = [], 0
    if given != total:
        fail(BadCheckpoint, f"{format} codes of {list(shape)}", got=f"{given} rows", expected=total)


def strips_of(node: Packed, threads: Any = None) -> Iterator[Array]:
    """The codes of a node as strips, in pieces. threads: see `pack`."""
    for matrix in _matrices(node.codes):
        step = step_rows(matrix.shape[-1]) if node.layout == "rows" else max(1, PIECE_BYTES // matrix.shape[-1])
        for start in range(0, len(matrix), step):
            part = np.asarray(matrix[start : start + step])
            yield pack(node.format, part, threads) if node.layout == "rows" else part


def rows_of(node: Packed) -> Iterator[Array]:
    """The codes of a node as rows [n, row_bytes], in pieces, experts one after the other."""
    outputs = node.shape[-2]
    for matrix in _matrices(node.codes):
        step = max(1, PIECE_BYTES // matrix.shape[-1])
        for start in range(0, len(matrix), step):
            part = np.asarray(matrix[start : start + step])
            if node.layout == "strips":
                count = min(len(part) * strips.ROWS, outputs - start * strips.ROWS)
                part = strips.from_strips(node.format, part, count)
            yield part


def _matrices(codes: Any) -> Iterator[Any]:
    """The matrices of [O, ...] or [E, O, ...], arrays or LazyArrays."""
    if codes.ndim == 2:
        yield codes
    else:
        yield from (codes[e] for e in range(len(codes)))


def float_pieces(array: Any) -> Iterator[Array]:
    """Rows of an array, a few MiB at a time."""
    if array.ndim not in (2, 3):
        yield np.asarray(array)
        return
    for matrix in _matrices(array):
        step = max(1, PIECE_BYTES // max(1, matrix.shape[-1] * matrix.dtype.itemsize))
        yield from (np.asarray(matrix[i : i + step]) for i in range(0, len(matrix), step))


class StripRows:
    """Strips that are read like rows: of codes [..., strips, bytes] any rows, any expert, or blocks of all rows of one
    matrix, made when asked for."""

    def __init__(self, format: str, codes: Array, outputs: int) -> None:
        self._format, self._codes, self._outputs = format, codes, outputs

    def __getitem__(self, key: Any) -> Any:
        """Read one expert (an int), rows (a slice), or whole blocks ((:, slice), counted in bytes of a row)."""
        if isinstance(key, int):
            return StripRows(self._format, self._codes[key], self._outputs)
        if isinstance(key, tuple):
            blocks = self._codes[:, slice(*(strips.ROWS * (n or 0) for n in (key[1].start, key[1].stop)))]
            return strips.from_strips(self._format, blocks, self._outputs)
        start, stop, _ = key.indices(self._outputs)
        if stop <= start:
            return np.empty((0, self._codes.shape[-1] // strips.ROWS), np.uint8)
        first, last = start // strips.ROWS, strips.num_strips(stop)
        count = min(last * strips.ROWS, self._outputs) - first * strips.ROWS
        rows = strips.from_strips(self._format, self._codes[first:last], count)
        return rows[start - first * strips.ROWS : stop - first * strips.ROWS]
