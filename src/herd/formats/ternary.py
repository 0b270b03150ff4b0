"""Three values, one scale: tq1_0, tq2_0. Sources: the byte layouts of GGML's types 34 and 35.

    tq1_0  256 weights, 54 bytes, 1.6875 bits  | 48 bytes of five | 4 bytes of four | d f16 |   w = d * (q - 1), q 0..2
    tq2_0  256 weights, 66 bytes, 2.0625 bits  | 64 bytes: codes as in q2_k | d f16 |           w = d * (q - 1), q 0..3

A byte b of tq1_0 holds a fraction b / 256 in base 3: digit i is 3 * (b * 3^i mod 256) div 256. Digit i of byte j of the
first 32 is weight 32 i + j, of the next 16 weight 160 + 16 i + j, of the last four weight 240 + 4 i + j.

Why: for models that were trained with weights of -1, 0 and 1 (BitNet); others lose nearly everything. Read, not
written.
"""

import numpy as np

from herd.formats.format import Bytes, Floats, Format, halves_at
from herd.formats.q2_k import split_runs

_POWERS = np.array([1, 3, 9, 27, 81], np.uint8)[None, :, None]


def _digits(packed: Bytes, count: int) -> Bytes:
    """[n, k] -> the first `count` digits of every byte, [n, count * k], all first ones first."""
    fraction = packed[:, None, :] * _POWERS[:, :count]
    return ((fraction.astype(np.uint16) * 3) >> 8).astype(np.uint8).reshape(len(packed), -1)


def _values(blocks: Bytes, at: int, q: Bytes) -> Floats:
    return halves_at(blocks, at) * (q.astype(np.float32) - np.float32(1))


def _decode_1(blocks: Bytes) -> Floats:
    parts = [_digits(blocks[:, :32], 5), _digits(blocks[:, 32:48], 5), _digits(blocks[:, 48:52], 4)]
    return _values(blocks, 52, np.concatenate(parts, axis=1))


def _decode_2(blocks: Bytes) -> Floats:
    return _values(blocks, 64, split_runs(blocks[:, :64]))


TQ1_0 = Format("tq1_0", 34, 256, 54, _decode_1)
TQ2_0 = Format("tq2_0", 35, 256, 66, _decode_2)
