"""q3_k: 3-bit codes with two-level scales. Source: the byte layout of GGML's type 11.

Characteristics: 256 weights in 110 bytes, 3.4375 bits a weight. 16 groups of 16, each with a signed 6-bit scale in
units of one float16. Symmetric, no minimum.

    | 32 bytes: third bits | 64 bytes: lower 2 bits | 12 bytes: 16 scales of 6 bits | d f16 |
    w[16 j + i] = (d * (scale[j] - 32)) * (q[16 j + i] - 4),  q 0..7, scale 0..63

    lower bits: as q2_k (`q2_k.py`): weight 32 r + i of half h in byte 32 h + i, at bits 2 r and 2 r + 1
    third bits: bit (4 h + r) of byte i
    bytes 0..7 of the twelve: low 4 bits of scale[0..7] below, of scale[8..15] above
    bytes 8..11:              top 2 bits of scale[j], j 0..15, in byte 8 + (j mod 4) at bit 2 (j div 4)

Why: as in q2_k the group's fit decides, so groups of 16; eight values are enough to do without a minimum, whose bits go
into a finer scale. The smallest format that keeps a large model usable throughout.

Encoding is the search of `symmetric.py`. Errors measured: docs/formats.md.
"""

import numpy as np

from herd.formats.format import Bytes, Floats, Format, half, half_bytes, halves_at
from herd.formats.q2_k import join_runs, split_runs
from herd.formats.search import by_group, fit_symmetric
from herd.formats.symmetric import encode_symmetric, whole

GROUPS, GROUP = 16, 16
_BITS = np.arange(8, dtype=np.uint8)[None, :, None]
_HALVES = np.array([0, 4], np.uint8)[None, :, None]
_QUARTERS = np.array([0, 2, 4, 6], np.uint8)[None, :, None]


def unpack_scales(packed: Bytes) -> Bytes:
    """uint8 [n, 12] -> scales, uint8 [n, 16] of 0..63 (32 stands for 0)."""
    low = (packed[:, None, :8] >> _HALVES).reshape(-1, 16) & np.uint8(15)
    high = (packed[:, None, 8:] >> _QUARTERS).reshape(-1, 16) & np.uint8(3)
    return low | (high << np.uint8(4))


def pack_scales(scales: Bytes) -> Bytes:
    """The inverse of `unpack_scales`."""
    low = np.bitwise_or.reduce((scales & 15).reshape(-1, 2, 8) << _HALVES, axis=1)
    high = np.bitwise_or.reduce((scales >> 4).reshape(-1, 4, 4) << _QUARTERS, axis=1)
    return np.concatenate([low, high], axis=1)


def _decode(blocks: Bytes) -> Floats:
    n = len(blocks)
    third = ((blocks[:, None, :32] >> _BITS) & 1).reshape(n, 256)
    q = (split_runs(blocks[:, 32:96]) | (third << 2)).astype(np.float32) - np.float32(4)
    scale = halves_at(blocks, 108) * (unpack_scales(blocks[:, 96:108]).astype(np.float32) - np.float32(32))
    values: Floats = scale[:, :, None] * q.reshape(n, GROUPS, GROUP)
    return values.reshape(n, GROUPS * GROUP)


def _encode(x: Floats, weights: Floats | None) -> Bytes:
    scale = fit_symmetric(*by_group(x, weights, GROUP), -4, 3).reshape(-1, GROUPS)
    d, scales, q = encode_symmetric(x.reshape(-1, GROUPS, GROUP), scale, 32, whole(-4, 3), "q3_k", weights)
    codes = (q + 4).astype(np.uint8).reshape(-1, 8, 32)
    return np.concatenate(
        [
            np.bitwise_or.reduce(codes >> 2 << _BITS, axis=1),
            join_runs(codes & np.uint8(3)),
            pack_scales((scales + 32).astype(np.uint8)),
            half_bytes(half(d, "q3_k")),
        ],
        axis=1,
    )


Q3_K = Format("q3_k", 11, GROUPS * GROUP, 110, _decode, _encode)
