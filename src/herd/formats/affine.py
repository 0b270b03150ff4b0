"""The search of the formats whose groups have a scale and a minimum in units of two float16: q2_k, q4_k, q5_k.

    x[i] ~ (d * scale[j]) * q[i] - (dmin * minimum[j]),   q 0..top, scale and minimum 0..scale_top

First every group alone (`search.fit_affine`); the widest scale and minimum set d and dmin. Then in turn: all pairs of
whole numbers around each group's rounded scale and minimum, with codes rounded anew, and, with all whole numbers fixed,
d and dmin as a linear problem of two unknowns. The best of what came by is kept.
"""

from dataclasses import dataclass

import numpy as np

from herd.formats.format import Bytes, Floats, half, half_bytes
from herd.formats.search import by_group, fit_affine, fit_two, nearest, total

ROUNDS = 2
LARGEST_HALF = np.float32(65504)


@dataclass
class Affine:
    """The choice for n super-blocks of G groups of g weights."""

    d: Floats
    """[n, 1], values that float16 has; dmin too."""
    dmin: Floats
    scales: Bytes
    """[n, G]; minima too."""
    minima: Bytes
    q: Bytes
    """[n, G, g]"""


def _rounded(
    groups: Floats, top: int, d: Floats, dmin: Floats, scales: Floats, minima: Floats, w: Floats | None
) -> tuple[Floats, Floats]:
    """The nearest codes [n, G, g] for given scales, and the squared error of each group [n, G]."""
    step, base = (d * scales)[:, :, None], (dmin * minima)[:, :, None]
    q = nearest(groups + base, step, 0, top)
    return q, total(np.square(groups - (step * q - base)), w, 2)


def encode_affine(groups: Floats, top: int, scale_top: int, name: str, weights: Floats | None = None) -> Affine:
    """groups [n, G, g], with the importance of each weight or None -> codes. Raises BadCheckpoint: scales too large."""
    n, count, size = groups.shape
    w = None if weights is None else weights.reshape(groups.shape)
    each = fit_affine(*by_group(groups, w, size), top)
    scale, minimum = (a.reshape(n, count) for a in each)
    d, dmin = (half(a.max(axis=1, keepdims=True) / np.float32(scale_top), name).astype(np.float32)
               for a in (scale, minimum))  # fmt: skip
    scales, minima = (nearest(a, b, 0, scale_top) for a, b in ((scale, d), (minimum, dmin)))
    q, error = _rounded(groups, top, d, dmin, scales, minima, w)
    best = (d, dmin, scales, minima, q)
    least = error.sum(axis=1)
    for _ in range(ROUNDS):
        # Rounding scale and minimum apart ignores that each can mend the other: look at the 8 pairs around.
        scales_before, minima_before = scales, minima
        for up, right in ((i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j):
            near_scales = np.clip(scales_before + up, 0, scale_top)
            near_minima = np.clip(minima_before + right, 0, scale_top)
            near_q, near_error = _rounded(groups, top, d, dmin, near_scales, near_minima, w)
            better = near_error < error
            scales, minima = np.where(better, near_scales, scales), np.where(better, near_minima, minima)
            q, error = np.where(better[:, :, None], near_q, q), np.minimum(near_error, error)
        best, least = _better(best, least, (d, dmin, scales, minima, q), error.sum(axis=1))
        fitted = fit_two(groups, scales[:, :, None] * q, np.broadcast_to(-minima[:, :, None], q.shape), w)
        d, dmin = (np.clip(a, 0, LARGEST_HALF).astype(np.float16).astype(np.float32) for a in fitted)
        q, error = _rounded(groups, top, d, dmin, scales, minima, w)
        best, least = _better(best, least, (d, dmin, scales, minima, q), error.sum(axis=1))
    d, dmin, scales, minima, q = best
    return Affine(d, dmin, scales.astype(np.uint8), minima.astype(np.uint8), q.astype(np.uint8))


Found = tuple[Floats, Floats, Floats, Floats, Floats]


def _better(old: Found, old_error: Floats, new: Found, new_error: Floats) -> tuple[Found, Floats]:
    """Super-block by super-block the one with the smaller error."""
    better = new_error < old_error
    chosen = [np.where(better.reshape(-1, *[1] * (a.ndim - 1)), b, a) for a, b in zip(old, new, strict=True)]
    return (chosen[0], chosen[1], chosen[2], chosen[3], chosen[4]), np.minimum(old_error, new_error)


def affine_halves(found: Affine) -> Bytes:
    """d and dmin as bytes, [n, 4]."""
    return half_bytes(np.concatenate([found.d, found.dmin], axis=1).astype(np.float16))
