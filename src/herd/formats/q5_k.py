"""q5_k: 5-bit codes with two-level scales and minima. Source: the byte layout of GGML's type 13.

Characteristics: 256 weights in 176 bytes, 5.5 bits a weight: q4_k with a fifth bit for every code. Scales and minima of
the 8 groups of 32 are packed in the same twelve bytes (`q4_k.py`).

    | d f16 | dmin f16 | 12 bytes: 8 scales and 8 minima of 6 bits | 32 bytes: fifth bits | 128 bytes: lower 4 bits |
    w[32 j + i] = (d * scale[j]) * q[32 j + i] - (dmin * min[j]),  q 0..31, scale and min 0..63

    lower bits: byte 32 g + i holds group 2 g (low nibble) and 2 g + 1 (high nibble), g 0..3
    fifth bits: bit j of byte i belongs to weight i of group j

Why: the place between q4_k and q6_k, for the matrices that lose most (values, down projections) in a file that is 4-bit
otherwise. Groups of 32 as in q4_k: at 5 bits the code, not the group's scale, still makes most of the error.

Encoding is the search of `affine.py`. Errors measured: docs/formats.md.
"""

import numpy as np

from herd.formats.affine import affine_halves, encode_affine
from herd.formats.format import Bytes, Floats, Format, halves_at
from herd.formats.q4_k import GROUP, GROUPS, join_pairs, pack_scales, split_pairs, unpack_scales

_BITS = np.arange(8, dtype=np.uint8)[None, :, None]


def _decode(blocks: Bytes) -> Floats:
    n = len(blocks)
    scales, minima = unpack_scales(blocks[:, 4:16])
    scale = (halves_at(blocks, 0) * scales.astype(np.float32))[:, :, None]
    minimum = (halves_at(blocks, 2) * minima.astype(np.float32))[:, :, None]
    fifth = (blocks[:, 16:48].reshape(n, 1, GROUP) >> _BITS) & 1
    q = (split_pairs(blocks[:, 48:]) | (fifth << 4)).astype(np.float32)
    return (scale * q - minimum).reshape(n, GROUPS * GROUP)


def _encode(x: Floats, weights: Floats | None) -> Bytes:
    found = encode_affine(x.reshape(-1, GROUPS, GROUP), 31, 63, "q5_k", weights)
    fifth = np.bitwise_or.reduce(found.q >> 4 << _BITS, axis=1)
    packed = pack_scales(found.scales, found.minima)
    return np.concatenate([affine_halves(found), packed, fifth, join_pairs(found.q & np.uint8(15))], axis=1)


Q5_K = Format("q5_k", 13, GROUPS * GROUP, 176, _decode, _encode)
