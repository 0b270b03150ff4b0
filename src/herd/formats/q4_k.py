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

Encoding is a search of ours: least squares over a grid of code ranges for each group (`search.py`), the whole numbers
around the rounded scale and minimum, then one joint least-squares fit of d and dmin. Errors measured: docs/formats.md.
"""

import numpy as np

from herd.formats.format import Bytes, Floats, Format, half, half_bytes, halves_at
from herd.formats.search import fit_affine, fit_two, safe_divide

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


def _decode(blocks: Bytes) -> Floats:
    n = len(blocks)
    scales, minima = unpack_scales(blocks[:, 4:16])
    scale = (halves_at(blocks, 0) * scales.astype(np.float32))[:, :, None]
    minimum = (halves_at(blocks, 2) * minima.astype(np.float32))[:, :, None]
    pairs = blocks[:, 16:].reshape(n, 4, 1, GROUP)
    q = np.concatenate([pairs & 15, pairs >> 4], axis=2).reshape(n, GROUPS, GROUP)
    return (scale * q.astype(np.float32) - minimum).reshape(n, GROUPS * GROUP)


def _rounded(groups: Floats, d: Floats, dmin: Floats, scales: Floats, minima: Floats) -> tuple[Floats, Floats]:
    """The nearest codes [n, 8, 32] for given scales, and the squared error of each group [n, 8]."""
    step, base = (d * scales)[:, :, None], (dmin * minima)[:, :, None]
    q = np.clip(np.rint(safe_divide(groups + base, step)), 0, 15)
    return q, np.square(groups - (step * q - base)).sum(axis=2)


def _encode(x: Floats) -> Bytes:
    n = len(x)
    groups = x.reshape(n, GROUPS, GROUP)
    scale, minimum = (a.reshape(n, GROUPS) for a in fit_affine(groups.reshape(-1, GROUP), 15))
    d = half(scale.max(axis=1, keepdims=True) / np.float32(63), "q4_k").astype(np.float32)
    dmin = half(minimum.max(axis=1, keepdims=True) / np.float32(63), "q4_k").astype(np.float32)
    scales = np.clip(np.rint(safe_divide(scale, d)), 0, 63)
    minima = np.clip(np.rint(safe_divide(minimum, dmin)), 0, 63)

    # Rounding scale and minimum apart ignores that each can mend the other: look at the 8 whole numbers around.
    q, error = _rounded(groups, d, dmin, scales, minima)
    centre_scales, centre_minima = scales, minima
    for up, right in ((i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j):
        near_scales, near_minima = np.clip(centre_scales + up, 0, 63), np.clip(centre_minima + right, 0, 63)
        near_q, near_error = _rounded(groups, d, dmin, near_scales, near_minima)
        better = near_error < error
        scales, minima = np.where(better, near_scales, scales), np.where(better, near_minima, minima)
        q, error = np.where(better[:, :, None], near_q, q), np.minimum(near_error, error)

    # With all whole numbers fixed, the two float16 are a linear problem of two unknowns.
    fitted = fit_two(groups, scales[:, :, None] * q, np.broadcast_to(-minima[:, :, None], q.shape))
    new_d, new_dmin = (half(np.maximum(a, 0), "q4_k").astype(np.float32) for a in fitted)
    new_q, new_error = _rounded(groups, new_d, new_dmin, scales, minima)
    better = (new_error.sum(axis=1) < error.sum(axis=1))[:, None]
    d, dmin, q = np.where(better, new_d, d), np.where(better, new_dmin, dmin), np.where(better[:, :, None], new_q, q)

    codes = q.astype(np.uint8).reshape(n, 4, 2, GROUP)
    nibbles = (codes[:, :, 0] | (codes[:, :, 1] << 4)).reshape(n, 128)
    packed = pack_scales(scales.astype(np.uint8), minima.astype(np.uint8))
    return np.concatenate([half_bytes(half(np.concatenate([d, dmin], axis=1), "q4_k")), packed, nibbles], axis=1)


Q4_K = Format("q4_k", 12, GROUPS * GROUP, 144, _decode, _encode)
