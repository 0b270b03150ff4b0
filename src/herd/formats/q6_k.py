"""q6_k: 6-bit codes with two-level scales. Source: the byte layout of GGML's type 14.

Characteristics: 256 weights in 210 bytes, 6.5625 bits a weight. 16 groups of 16, each with a signed 8-bit scale in
units of one float16. Symmetric, no minimum. Used for whole models and for the output table of 4-bit ones.

    | 128 bytes: lower 4 bits | 64 bytes: upper 2 bits | 16 x int8 scales | d f16 |
    w[16 j + i] = (d * scale[j]) * (q[16 j + i] - 32),  q 0..63

    Half h (0, 1) of the super-block is weights 128 h .. 128 h + 127, in four runs r of 32. Weight 32 r + i of it has
    its lower bits in byte 64 h + 32 (r mod 2) + i (low nibble for r 0, 1; high nibble for r 2, 3)
    and its upper bits in byte 32 h + i, at bit 2 r.

Why groups of 16: an 8-bit scale costs half a bit a weight there, as a float16 does in groups of 32 (q8_0), and a large
weight coarsens 15 neighbours instead of 31; 8 bits of scale lose less than 6 bits of code do.

Encoding is the search of `symmetric.py`. Errors measured: docs/formats.md.
"""

import numpy as np

from herd.formats.format import Bytes, Floats, Format, half, half_bytes, halves_at
from herd.formats.search import by_group, fit_symmetric
from herd.formats.symmetric import encode_symmetric, whole

GROUPS, GROUP = 16, 16
_SHIFTS = np.array([0, 2, 4, 6], np.uint8)[None, None, :, None]


def _decode(blocks: Bytes) -> Floats:
    n = len(blocks)
    lower = blocks[:, :128].reshape(n, 2, 2, 32)
    lower = np.concatenate([lower & 15, lower >> 4], axis=2)
    upper = (blocks[:, 128:192].reshape(n, 2, 1, 32) >> _SHIFTS) & 3
    q = (lower | (upper << 4)).astype(np.float32) - np.float32(32)
    scale = halves_at(blocks, 208) * np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.float32)
    return (scale[:, :, None] * q.reshape(n, GROUPS, GROUP)).reshape(n, GROUPS * GROUP)


def _encode(x: Floats, weights: Floats | None) -> Bytes:
    n = len(x)
    scale = fit_symmetric(*by_group(x, weights, GROUP), -32, 31).reshape(n, GROUPS)
    d, scales, q = encode_symmetric(x.reshape(n, GROUPS, GROUP), scale, 128, whole(-32, 31), "q6_k", weights)
    codes = (q + 32).astype(np.uint8).reshape(n, 2, 4, 32)
    lower = (codes[:, :, :2] & 15) | (codes[:, :, 2:] << 4)
    upper = np.bitwise_or.reduce(codes >> 4 << _SHIFTS, axis=2)
    return np.concatenate(
        [
            lower.reshape(n, 128),
            upper.reshape(n, 64),
            scales.astype(np.int8).view(np.uint8),
            half_bytes(half(d, "q6_k")),
        ],
        axis=1,
    )


Q6_K = Format("q6_k", 14, GROUPS * GROUP, 210, _decode, _encode)
