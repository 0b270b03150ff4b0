"""Strips: the layout in which block formats are computed with. A file's blocks, sixteen rows at a time, transposed.

Sixteen outputs (rows) of a matrix make a strip; block after block along the inputs, the strip holds the blocks of its
sixteen rows interleaved by unit, field by field in the file's own order:

    field of the block   unit      in the strip
    halves (scales)      2 bytes   [unit][16 rows]: sixteen float16 side by side
    bytes (6-bit scales) 1 byte    [unit][16 rows]
    codes                4 bytes   [unit][16 rows]: 64 bytes, one vector of AVX-512, four of NEON

Why: a kernel that computes sixteen outputs side by side adds up each output's groups in the order of the inputs, one
chain an output, whether one row of activations comes or five hundred; so a row's result does not depend on its batch,
down to the last bit. Memory is read front to back. Nothing is rounded and nothing is added: the bytes are the file's,
permuted, except that the last strip is filled up with rows of zero bytes (a zero scale: weights of zero).

The transposition is its own rule for every format, so that packing is one loop (here in numpy, in `native/` with all
cores) and a strip made while the file is being read computes the same bits.
"""

import numpy as np
import numpy.typing as npt

from herd.errors import BadCheckpoint, fail
from herd.formats.format import Bytes

ROWS = 16
"""Outputs of a strip."""

UNITS: dict[str, tuple[tuple[int, int], ...]] = {
    "q4_0": ((2, 1), (4, 4)),
    "q4_1": ((2, 2), (4, 4)),
    "q5_0": ((2, 1), (4, 1), (4, 4)),
    "q5_1": ((2, 2), (4, 1), (4, 4)),
    "q8_0": ((2, 1), (4, 8)),
    "q2_k": ((1, 16), (4, 16), (2, 2)),
    "q3_k": ((4, 8), (4, 16), (1, 12), (2, 1)),
    "q4_k": ((2, 2), (1, 12), (4, 32)),
    "q5_k": ((2, 2), (1, 12), (4, 8), (4, 32)),
    "q6_k": ((4, 32), (4, 16), (1, 16), (2, 1)),
    "iq4_nl": ((2, 1), (4, 4)),
    "iq4_xs": ((2, 2), (1, 4), (4, 32)),
    "mxfp4": ((1, 1), (4, 4)),
    "tq1_0": ((4, 13), (2, 1)),
    "tq2_0": ((4, 16), (2, 1)),
    "iq1_s": ((2, 1), (4, 8), (2, 8)),
    "iq1_m": ((4, 8), (2, 8), (2, 4)),
    "iq2_xxs": ((2, 1), (4, 16)),
    "iq2_xs": ((2, 1), (4, 16), (1, 8)),
    "iq2_s": ((2, 1), (4, 8), (4, 8), (1, 8), (1, 8)),
    "iq3_xxs": ((2, 1), (4, 16), (4, 8)),
    "iq3_s": ((2, 1), (4, 16), (1, 8), (4, 8), (1, 4)),
}
"""Fields of a block, in the file's order: (bytes of a unit, number of units)."""


def block_bytes(name: str) -> int:
    """Bytes of one row's block. Raises BadCheckpoint for a format that has no strips."""
    if name not in UNITS:
        fail(BadCheckpoint, "format of a strip", got=name, expected=", ".join(UNITS))
    return sum(size * count for size, count in UNITS[name])


def num_strips(outputs: int) -> int:
    """Strips of a matrix of so many rows."""
    return -(-outputs // ROWS)


def to_strips(name: str, codes: Bytes) -> Bytes:
    """uint8 [..., O, row_bytes] -> uint8 [..., strips, 16 * row_bytes]."""
    size = block_bytes(name)
    *front, outputs, row_bytes = codes.shape
    if row_bytes % size:
        fail(BadCheckpoint, f"{name} row", got=f"{row_bytes} bytes", expected=f"a multiple of {size}")
    strips, blocks = num_strips(outputs), row_bytes // size
    full = np.zeros((*front, strips * ROWS, row_bytes), np.uint8)
    full[..., :outputs, :] = codes
    rows = full.reshape(-1, strips, ROWS, blocks, size)
    out = np.empty((len(rows), strips, blocks, ROWS * size), np.uint8)
    at = 0
    for unit, count in UNITS[name]:
        end = at + unit * count
        field = rows[..., at:end].reshape(-1, strips, ROWS, blocks, count, unit)
        out[..., ROWS * at : ROWS * end] = field.transpose(0, 1, 3, 4, 2, 5).reshape(
            -1, strips, blocks, ROWS * (end - at)
        )
        at = end
    return out.reshape(*front, strips, ROWS * row_bytes)


def from_strips(name: str, strips: Bytes, outputs: int) -> Bytes:
    """The inverse of `to_strips`: uint8 [..., strips, 16 * row_bytes] -> uint8 [..., O, row_bytes]."""
    size = block_bytes(name)
    *front, count_strips, strip_bytes = strips.shape
    if count_strips != num_strips(outputs) or strip_bytes % (ROWS * size):
        fail(
            BadCheckpoint,
            f"{name} strips of {outputs} rows",
            got=f"{count_strips} of {strip_bytes} bytes",
            expected=f"{num_strips(outputs)} of a multiple of {ROWS * size}",
        )
    blocks = strip_bytes // (ROWS * size)
    given = strips.reshape(-1, count_strips, blocks, ROWS * size)
    rows = np.empty((len(given), count_strips, ROWS, blocks, size), np.uint8)
    at = 0
    for unit, count in UNITS[name]:
        end = at + unit * count
        field = given[..., ROWS * at : ROWS * end].reshape(-1, count_strips, blocks, count, ROWS, unit)
        rows[..., at:end] = field.transpose(0, 1, 4, 2, 3, 5).reshape(-1, count_strips, ROWS, blocks, end - at)
        at = end
    return rows.reshape(*front, count_strips * ROWS, blocks * size)[..., :outputs, :]


def pick_rows(name: str, strips: Bytes, rows: npt.NDArray[np.integer]) -> Bytes:
    """uint8 [strips, 16 * row_bytes], T row numbers -> uint8 [T, row_bytes]: those rows as the file has them."""
    found = from_strips(name, strips[rows // ROWS][:, None], ROWS)
    picked: Bytes = found[np.arange(len(rows)), rows % ROWS]
    return picked
