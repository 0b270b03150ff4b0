"""q2_k: 2-bit codes with two-level scales and minima. Source: the byte layout of GGML's type 10.

Characteristics: 256 weights in 84 bytes, 2.625 bits a weight. 16 groups of 16; each has a scale and a minimum of 4 bits
in units of two float16.

    | 16 bytes: scale[j] low nibble, min[j] high | 64 bytes: 2-bit codes | d f16 | dmin f16 |
    w[16 j + i] = (d * scale[j]) * q[16 j + i] - (dmin * min[j]),  q 0..3, scale and min 0..15

    Half h (0, 1) of the super-block is weights 128 h .. 128 h + 127, in four runs r of 32. Weight 32 r + i of it has
    its code in byte 32 h + i, at bits 2 r and 2 r + 1.

Why: with four values a weight, fitting the group decides the error, so groups are half as wide as in q4_k and their
scale and minimum get only 4 bits each to pay for it. Coarse: a third of a standard deviation of error. For the experts
of a model that fits no other way; the rest should stay at 4 bits and more.

Encoding is the search of `affine.py`. Errors measured: docs/formats.md.
"""

import numpy as np

from herd.formats.affine import affine_halves, encode_affine
from herd.formats.format import Bytes, Floats, Format, halves_at

GROUPS, GROUP = 16, 16
_SHIFTS = np.array([0, 2, 4, 6], np.uint8)[None, None, :, None]


def split_runs(packed: Bytes) -> Bytes:
    """uint8 [n, 64] -> the 2-bit codes, [n, 256], in the order of the weights."""
    return ((packed.reshape(-1, 2, 1, 32) >> _SHIFTS) & np.uint8(3)).reshape(-1, 256)


def join_runs(q: Bytes) -> Bytes:
    """The inverse of `split_runs`, for q below 4."""
    joined: Bytes = np.bitwise_or.reduce(q.reshape(-1, 2, 4, 32) << _SHIFTS, axis=2)
    return joined.reshape(-1, 64)


def _decode(blocks: Bytes) -> Floats:
    n = len(blocks)
    scale = halves_at(blocks, 80) * (blocks[:, :16] & 15).astype(np.float32)
    minimum = halves_at(blocks, 82) * (blocks[:, :16] >> 4).astype(np.float32)
    q = split_runs(blocks[:, 16:80]).reshape(n, GROUPS, GROUP).astype(np.float32)
    return (scale[:, :, None] * q - minimum[:, :, None]).reshape(n, GROUPS * GROUP)


def _encode(x: Floats, weights: Floats | None) -> Bytes:
    found = encode_affine(x.reshape(-1, GROUPS, GROUP), 3, 15, "q2_k", weights)
    return np.concatenate([found.scales | (found.minima << 4), join_runs(found.q), affine_halves(found)], axis=1)


Q2_K = Format("q2_k", 10, GROUPS * GROUP, 84, _decode, _encode)
