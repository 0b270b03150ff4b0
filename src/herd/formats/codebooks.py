"""Codebooks: the points of 4 or 8 weights that codes of iq1, iq2 and iq3 name. Source: the `gguf` package's tables.

`codebooks.bin`, made by scripts/make_codebooks.py, holds them one after another, 16 bits an entry, little-endian;
native kernels have the same bytes. A weight of an entry is a level, counted from 0; four nibbles hold them, the lowest
first, in the order 0, 2, 1, 3, so that one shift and one mask spread an entry to four bytes:

    book      entries  weights  levels
    iq1       2048     8        -1 0 1                   in nibble k: level of weight k, and of weight k + 4 times 4
    iq2_xxs   256      8        8 25 43
    iq2_xs    512      8
    iq2_s     1024     8
    iq3_xxs   256      4        4 12 20 28 36 44 52 62   in nibble k: level of weight k
    iq3_s     512      4        1 3 5 7 9 11 13 15

What it is not: a block, a scale, a sign (`iq1.py`, `iq2.py`, `iq3.py`).
"""

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from herd.formats.format import Bytes, Floats

_IQ2 = (8, 25, 43)
BOOKS: dict[str, tuple[int, int, tuple[int, ...]]] = {
    "iq1": (2048, 8, (-1, 0, 1)),
    "iq2_xxs": (256, 8, _IQ2),
    "iq2_xs": (512, 8, _IQ2),
    "iq2_s": (1024, 8, _IQ2),
    "iq3_xxs": (256, 4, (4, 12, 20, 28, 36, 44, 52, 62)),
    "iq3_s": (512, 4, (1, 3, 5, 7, 9, 11, 13, 15)),
}
"""Book -> entries, weights an entry, levels: in the order of the file."""
_NIBBLES = np.array([0, 8, 4, 12], np.uint16)
"""The bit at which the nibble of weight k stands."""


@cache
def codebook(name: str) -> Floats:
    """The entries of a book of `BOOKS` as float32 [entries, weights]. Not to be written to."""
    start = 0
    for other, (count, _, _) in BOOKS.items():
        if other == name:
            break
        start += count
    count, weights, levels = BOOKS[name]
    content = np.fromfile(Path(__file__).with_name("codebooks.bin"), "<u2", count, offset=2 * start)
    nibbles = (content[:, None] >> _NIBBLES) & 15
    found = nibbles if weights == 4 else np.concatenate([nibbles & 3, nibbles >> 2], axis=1)
    values = np.array(levels, np.float32)[found]
    values.flags.writeable = False
    return values


SEVEN: Bytes = np.array([i | i.bit_count() % 2 << 7 for i in range(128)], np.uint8)
"""Signs of eight weights from seven bits: an even number of them is negative."""


def signs(bits: Bytes) -> Floats:
    """uint8 [...] -> float32 [..., 8]: -1 where the bit is set, lowest first, else 1."""
    negative = np.unpackbits(bits[..., None], axis=-1, bitorder="little")
    return np.float32(1) - np.float32(2) * negative.astype(np.float32)


def words(blocks: Bytes, start: int, count: int, size: int) -> npt.NDArray[np.uint32]:
    """`count` little-endian numbers of `size` bytes (2, 4) from byte `start` of each block, as uint32 [n, count]."""
    return np.ascontiguousarray(blocks[:, start : start + size * count]).view(f"<u{size}").astype(np.uint32)
