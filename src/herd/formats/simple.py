"""Blocks of 32 weights with one float16 scale: q4_0, q4_1, q8_0. Sources: the byte layouts of GGML's types 2, 3 and 8.

Why 32: it is one AVX2 register of int8 and two of 4-bit codes after unpacking; a scale costs half a bit a weight, and a
largest value spoils the resolution of 31 neighbours only.

    q4_0   18 bytes, 4.5 bits   | d f16 | 16 bytes: weight i low nibble of byte i, weight 16 + i high |
                                w = d * (q - 8), q 0..15. d = (value of largest magnitude) / -8, so that value is hit
                                exactly and the other end reaches 7/8 of it.
    q4_1   20 bytes, 5 bits     | d f16 | m f16 | 16 bytes as above |   w = d * q + m, q 0..15.
                                For lopsided blocks; costs half a bit.
    q8_0   34 bytes, 8.5 bits   | d f16 | 32 x int8 |   w = d * q, q -127..127. Fit to multiply with int8 activations.

Largest error of a weight, with a = largest magnitude, r = range of its block, u = 2^-11 (rounding of a float16 scale;
absolute 2^-25 when the scale is subnormal, under 6.1e-5):
    q4_0: a/16 inside, a/8 at the end of the other sign; q4_1: r/30; q8_0: a/254; each plus u times the magnitude.
Measured on a Gaussian (root mean square error / standard deviation): q4_0 9.3e-2, q4_1 8.0e-2, q8_0 5.4e-3.
"""

import numpy as np
import numpy.typing as npt

from herd.formats.format import Bytes, Floats, Format, half, half_bytes, halves_at, inverse
from herd.formats.search import fit_affine, fit_symmetric, nearest

BLOCK = 32


def split_nibbles(packed: Bytes) -> Bytes:
    """[n, 16] -> [n, 32]: low halves, then high halves."""
    return np.concatenate([packed & np.uint8(15), packed >> np.uint8(4)], axis=1)


def join_nibbles(q: Bytes) -> Bytes:
    """The inverse of `split_nibbles`."""
    return q[:, :16] | (q[:, 16:] << np.uint8(4))


def _decode_q4_0(blocks: Bytes) -> Floats:
    return halves_at(blocks, 0) * (split_nibbles(blocks[:, 2:]).astype(np.float32) - np.float32(8))


def symmetric_blocks(x: Floats, weights: Floats, low: int, high: int, name: str) -> tuple[Bytes, Floats]:
    """The scale's bytes [n, 2] and codes [n, 32] of low..high with the least weighted error that the search finds."""
    d = half(fit_symmetric(x, weights, low, high)[:, None], name)
    return half_bytes(d), nearest(x, d.astype(np.float32), low, high)


def affine_blocks(x: Floats, weights: Floats, top: int, name: str) -> tuple[Bytes, Floats]:
    """The bytes of scale and minimum [n, 4] and codes [n, 32] of 0..top, as `symmetric_blocks`."""
    scale, minimum = fit_affine(x, weights, top, signed=True)
    halves = half(np.stack([scale, -minimum], axis=1), name)
    d, m = halves[:, :1].astype(np.float32), halves[:, 1:].astype(np.float32)
    return half_bytes(halves), nearest(x - m, d, 0, top)


def _encode_q4_0(x: Floats, weights: Floats | None) -> Bytes:
    if weights is not None:
        scale, codes = symmetric_blocks(x, weights, -8, 7, "q4_0")
        return np.concatenate([scale, join_nibbles((codes + 8).astype(np.uint8))], axis=1)
    extreme = np.take_along_axis(x, np.abs(x).argmax(axis=1, keepdims=True), axis=1)
    d = extreme / np.float32(-8)
    q = np.minimum(np.trunc(x * inverse(d) + np.float32(8.5)), np.float32(15)).astype(np.uint8)
    return np.concatenate([half_bytes(half(d, "q4_0")), join_nibbles(q)], axis=1)


def _decode_q4_1(blocks: Bytes) -> Floats:
    return halves_at(blocks, 0) * split_nibbles(blocks[:, 4:]).astype(np.float32) + halves_at(blocks, 2)


def _encode_q4_1(x: Floats, weights: Floats | None) -> Bytes:
    if weights is not None:
        scale, codes = affine_blocks(x, weights, 15, "q4_1")
        return np.concatenate([scale, join_nibbles(codes.astype(np.uint8))], axis=1)
    low = x.min(axis=1, keepdims=True)
    with np.errstate(over="ignore"):
        d = (x.max(axis=1, keepdims=True) - low) / np.float32(15)
    d = np.minimum(d, np.finfo(np.float32).max)  # so that `half` refuses a range that left float32
    halves = half(np.concatenate([d, low], axis=1), "q4_1")
    q = np.minimum(np.trunc((x - low) * inverse(d) + np.float32(0.5)), np.float32(15)).astype(np.uint8)
    return np.concatenate([half_bytes(halves), join_nibbles(q)], axis=1)


def _decode_q8_0(blocks: Bytes) -> Floats:
    codes: npt.NDArray[np.int8] = blocks[:, 2:].view(np.int8)
    values: Floats = codes.astype(np.float32) * halves_at(blocks, 0)
    return values


def round_away(x: Floats) -> Floats:
    """Round to the nearest whole number, halves away from zero (C's roundf); numpy's rint sends halves to even."""
    size = np.abs(x)
    whole = np.floor(size)
    rounded: Floats = np.copysign(whole + ((size - whole) >= np.float32(0.5)), x).astype(np.float32)
    return rounded


def _encode_q8_0(x: Floats, weights: Floats | None) -> Bytes:
    if weights is not None:
        scale, codes = symmetric_blocks(x, weights, -127, 127, "q8_0")
        return np.concatenate([scale, codes.astype(np.int8).view(np.uint8)], axis=1)
    d = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)
    q: npt.NDArray[np.int8] = round_away(x * inverse(d)).astype(np.int8)
    return np.concatenate([half_bytes(half(d, "q8_0")), q.view(np.uint8)], axis=1)


Q4_0 = Format("q4_0", 2, BLOCK, 18, _decode_q4_0, _encode_q4_0)
Q4_1 = Format("q4_1", 3, BLOCK, 20, _decode_q4_1, _encode_q4_1)
Q8_0 = Format("q8_0", 8, BLOCK, 34, _decode_q8_0, _encode_q8_0)
