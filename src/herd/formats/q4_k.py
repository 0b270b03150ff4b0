"""q4_k: 4-bit codes with two-level scales and minima. Source: the byte layout of GGML's type 12.

Characteristics: 256 weights in 144 bytes, 4.5 bits a weight. A super-block holds 8 groups of 32; each has a 6-bit scale
and a 6-bit minimum, in units of two float16. So a group is affine (lopsided groups lose nothing) at the price of q4_0.

    | d f16 | dmin f16 | 12 bytes: 8 scales and 8 minima of 6 bits | 128 bytes: 4-bit codes |
    w[32 j + i] = (d * scale[j]) * q[32 j + i] - (dmin * min[j]),  q 0..15, scale and min 0..63

    bytes 0..3 of the twelve:   low 6 bits scale[0..3],  top 2 bits the upper bits of scale[4..7]
    bytes 4..7:                 low 6 bits min[0..3],    top 2 bits the upper bits of min[4..7]
    bytes 8..11:                low 4 bits of scale[4..7] below, low 4 bits of min[4..7] above
    codes: byte 32 g + i holds group 2 g (low nibble) and 2 g + 1 (high nibble), g 0..3

Why: a float16 scale for each 32 weights (q4_0) spends half a bit on one number; the same half bit here holds 6 + 6 bits
a group and two halves a super-block. Subtracting a minimum needs only the sum of the activations of a group.

Encoding is the search of `affine.py`. Errors measured: docs/formats.md.
"""

import numpy as np

from herd.formats.affine import affine_halves, encode_affine
from herd.formats.format import Bytes, Floats, Format, halves_at

GROUPS, GROUP = 8, 32


def unpack_scales(packed: Bytes) -> tuple[Bytes, Bytes]:
    """uint8 [n, 12] -> scales, minima, uint8 [n, 8] of 0..63."""
    first, second, third = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([first & 63, (third & 15) | (first >> 6 << 4)], axis=1)
    minima = np.concatenate([second & 63, (third >> 4) | (second >> 6 << 4)], axis=1)
    return scales, minima


def pack_scales(scales: Bytes, minima: Bytes) -> Bytes:
    """The inverse of `unpack_scales`."""
    first = scales[:, :4] | (scales[:, 4:] >> 4 << 6)
    second = minima[:, :4] | (minima[:, 4:] >> 4 << 6)
    third = (scales[:, 4:] & 15) | (minima[:, 4:] << 4)
    return np.concatenate([first, second, third], axis=1)


def split_pairs(packed: Bytes) -> Bytes:
    """uint8 [n, 128] -> the lower 4 bits of the codes, [n, 8, 32]."""
    pairs = packed.reshape(-1, 4, 1, GROUP)
    return np.concatenate([pairs & np.uint8(15), pairs >> np.uint8(4)], axis=2).reshape(-1, GROUPS, GROUP)


def join_pairs(q: Bytes) -> Bytes:
    """The inverse of `split_pairs`."""
    pairs = q.reshape(-1, 4, 2, GROUP)
    return (pairs[:, :, 0] | (pairs[:, :, 1] << np.uint8(4))).reshape(-1, 128)


def _decode(blocks: Bytes) -> Floats:
    scales, minima = unpack_scales(blocks[:, 4:16])
    scale = (halves_at(blocks, 0) * scales.astype(np.float32))[:, :, None]
    minimum = (halves_at(blocks, 2) * minima.astype(np.float32))[:, :, None]
    return (scale * split_pairs(blocks[:, 16:]).astype(np.float32) - minimum).reshape(-1, GROUPS * GROUP)


def _encode(x: Floats, weights: Floats | None) -> Bytes:
    found = encode_affine(x.reshape(-1, GROUPS, GROUP), 15, 63, "q4_k", weights)
    packed = pack_scales(found.scales, found.minima)
    return np.concatenate([affine_halves(found), packed, join_pairs(found.q)], axis=1)


Q4_K = Format("q4_k", 12, GROUPS * GROUP, 144, _decode, _encode)
