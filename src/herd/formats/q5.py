"""Blocks of 32 weights with 5-bit codes: q5_0, q5_1. Sources: the byte layouts of GGML's types 6 and 7.

Characteristics: q4_0 and q4_1 (`simple.py`) with a fifth bit, kept apart so that the other four stay two to a byte.

    q5_0   22 bytes, 5.5 bits   | d f16 | 4 bytes: bit i of a u32 is the fifth bit of weight i | 16 bytes of nibbles |
                                w = d * (q - 16), q 0..31. d = (value of largest magnitude) / -16.
    q5_1   24 bytes, 6 bits     | d f16 | m f16 | 4 bytes as above | 16 bytes as above |   w = d * q + m, q 0..31.

    byte i of the nibbles holds weight i (low) and weight 16 + i (high), as in q4_0.

Why 32: as q4_0; the fifth bits of a block are one 32-bit word, which is one mask register of AVX-512 and one broadcast,
shuffle and test of AVX2. For matrices that 4 bits hurt and whose rows are no multiple of 256 (else q5_k is smaller).

Largest error of a weight, with a = largest magnitude, r = range of its block, u = 2^-11 (rounding of a float16 scale):
    q5_0: a/32 inside, a/16 at the end of the other sign; q5_1: r/62; each plus u times the magnitude.
Encoding gives llama.cpp's bytes, or with importances of columns a search (`search.py`). Errors: docs/formats.md.
"""

import numpy as np

from herd.formats.format import Bytes, Floats, Format, half, half_bytes, halves_at, inverse
from herd.formats.simple import BLOCK, affine_blocks, join_nibbles, split_nibbles, symmetric_blocks


def _codes(blocks: Bytes, at: int) -> Floats:
    """The fifth bits from byte `at` and the nibbles after them -> whole numbers 0..31, [n, 32]."""
    fifth = np.unpackbits(blocks[:, at : at + 4], axis=1, bitorder="little")
    q: Floats = (split_nibbles(blocks[:, at + 4 :]) | (fifth << np.uint8(4))).astype(np.float32)
    return q


def join_fives(q: Bytes) -> Bytes:
    """The inverse of `_codes`: uint8 [n, 32] -> [n, 20]."""
    fifth = np.packbits(q >> np.uint8(4), axis=1, bitorder="little")
    return np.concatenate([fifth, join_nibbles(q & np.uint8(15))], axis=1)


def _decode_q5_0(blocks: Bytes) -> Floats:
    return halves_at(blocks, 0) * (_codes(blocks, 2) - np.float32(16))


def _encode_q5_0(x: Floats, weights: Floats | None) -> Bytes:
    if weights is not None:
        scale, codes = symmetric_blocks(x, weights, -16, 15, "q5_0")
        return np.concatenate([scale, join_fives((codes + 16).astype(np.uint8))], axis=1)
    extreme = np.take_along_axis(x, np.abs(x).argmax(axis=1, keepdims=True), axis=1)
    d = extreme / np.float32(-16)
    q = np.minimum(np.trunc(x * inverse(d) + np.float32(16.5)), np.float32(31)).astype(np.uint8)
    return np.concatenate([half_bytes(half(d, "q5_0")), join_fives(q)], axis=1)


def _decode_q5_1(blocks: Bytes) -> Floats:
    return halves_at(blocks, 0) * _codes(blocks, 4) + halves_at(blocks, 2)


def _encode_q5_1(x: Floats, weights: Floats | None) -> Bytes:
    if weights is not None:
        scale, codes = affine_blocks(x, weights, 31, "q5_1")
        return np.concatenate([scale, join_fives(codes.astype(np.uint8))], axis=1)
    low = x.min(axis=1, keepdims=True)
    with np.errstate(over="ignore"):
        d = (x.max(axis=1, keepdims=True) - low) / np.float32(31)
    d = np.minimum(d, np.finfo(np.float32).max)  # so that `half` refuses a range that left float32
    halves = half(np.concatenate([d, low], axis=1), "q5_1")
    q = np.minimum(np.trunc((x - low) * inverse(d) + np.float32(0.5)), np.float32(31)).astype(np.uint8)
    return np.concatenate([half_bytes(halves), join_fives(q)], axis=1)


Q5_0 = Format("q5_0", 6, BLOCK, 22, _decode_q5_0, _encode_q5_0)
Q5_1 = Format("q5_1", 7, BLOCK, 24, _decode_q5_1, _encode_q5_1)
