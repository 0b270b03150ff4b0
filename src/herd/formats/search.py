"""Least-squares searches that the two-level formats share: the best scale (and minimum) of small groups of weights.

Rounding to a fixed grid is easy once the grid is known; its step is not, since the error is not convex in it. Each
search tries a handful of code ranges around the obvious one, rounds, and solves the step for those codes exactly (a
linear problem); the best of all tries wins. All groups go through at once; float32, sums of at most 256 terms.
"""

import numpy as np

from herd.formats.format import Floats

RANGES = (-0.9, -0.6, -0.3, 0.0, 0.3, 0.6, 0.9, 1.3, 1.8)
"""Tried code ranges: the extremes of a group land this far outside (-) or inside (+) the last code."""


def safe_divide(a: Floats, b: Floats) -> Floats:
    """a / b; 0 where b is 0 or the quotient is not finite."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        quotient = a / b
    return np.where(np.isfinite(quotient), quotient, np.float32(0.0)).astype(np.float32)


def fit_affine(x: Floats, top: int) -> tuple[Floats, Floats]:
    """x [n, g] -> scale [n] >= 0, minimum [n] >= 0 of x ~ scale * q - minimum with whole q of 0..top."""
    low = np.minimum(x.min(axis=1), 0)[:, None]
    high = np.maximum(x.max(axis=1), 0)[:, None]
    size = np.float32(x.shape[1])
    mean_x = x.mean(axis=1)
    best = np.full(len(x), np.inf, np.float32)
    best_scale, best_minimum = np.zeros(len(x), np.float32), np.zeros(len(x), np.float32)
    for inside in RANGES:
        step = (high - low) / np.float32(top + inside)
        q = np.clip(np.rint(safe_divide(x - low, step)), 0, top)
        mean_q = q.mean(axis=1)
        qq = np.square(q).sum(axis=1)
        xq = (x * q).sum(axis=1)
        scale = safe_divide(xq - size * mean_x * mean_q, qq - size * np.square(mean_q))
        offset = mean_x - scale * mean_q
        # A minimum is subtracted and cannot be negative: then the line goes through zero.
        above = offset > 0
        scale = np.where(above, safe_divide(xq, qq), scale)
        offset = np.where(above, np.float32(0), offset)
        error = np.square(x - (scale[:, None] * q + offset[:, None])).sum(axis=1)
        better = error < best
        best[better], best_scale[better], best_minimum[better] = error[better], scale[better], -offset[better]
    return np.maximum(best_scale, 0), best_minimum


def fit_symmetric(x: Floats, bottom: int) -> Floats:
    """x [n, g] -> scale [n], of either sign, of x ~ scale * q with whole q of -bottom..bottom-1."""
    extreme = np.take_along_axis(x, np.abs(x).argmax(axis=1, keepdims=True), axis=1)
    best = np.full(len(x), np.inf, np.float32)
    best_scale = np.zeros(len(x), np.float32)
    for inside in RANGES:
        step = extreme / np.float32(-(bottom + inside))
        q = np.clip(np.rint(safe_divide(x, step)), -bottom, bottom - 1)
        scale = fit_one(x[:, None], q[:, None])[:, 0]
        error = np.square(x - scale[:, None] * q).sum(axis=1)
        better = error < best
        best[better], best_scale[better] = error[better], scale[better]
    return best_scale


def fit_one(x: Floats, a: Floats) -> Floats:
    """x, a [n, j, g] -> s [n, 1] that minimises |x - s a|^2."""
    return safe_divide((x * a).sum(axis=(1, 2)), np.square(a).sum(axis=(1, 2)))[:, None]


def fit_two(x: Floats, a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """x, a, b [n, j, g] -> s, t [n, 1] that minimise |x - s a - t b|^2; one alone when a or b is 0 throughout."""
    aa, bb, ab = (np.sum(p * q, axis=(1, 2), dtype=np.float64) for p, q in ((a, a), (b, b), (a, b)))
    xa, xb = (np.sum(x * p, axis=(1, 2), dtype=np.float64) for p in (a, b))
    determinant = aa * bb - ab * ab
    regular = determinant > 1e-9 * aa * bb
    safe = np.where(regular, determinant, 1.0)
    s = np.where(regular, (xa * bb - xb * ab) / safe, np.divide(xa, aa, out=np.zeros_like(xa), where=aa > 0))
    t = np.where(
        regular,
        (xb * aa - xa * ab) / safe,
        np.where(aa > 0, 0.0, np.divide(xb, bb, out=np.zeros_like(xb), where=bb > 0)),
    )
    return s.astype(np.float32)[:, None], t.astype(np.float32)[:, None]
