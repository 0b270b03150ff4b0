"""Least-squares searches that the block formats share: the best scale (and minimum) of small groups of weights.

Rounding to a fixed grid is easy once the grid is known; its step is not, since the error is not convex in it. Each
search tries a handful of code ranges around the obvious one, rounds, and solves the step for those codes exactly (a
linear problem); the best of all tries wins. All groups go through at once; float32, sums of at most 256 terms.

`w`, where it is not None, has the shape of x: what is minimised is the sum of w * error^2, otherwise of error^2.
"""

import numpy as np

from herd.formats.format import Floats

RANGES = (-0.9, -0.6, -0.3, 0.0, 0.3, 0.6, 0.9, 1.3, 1.8)
"""Tried code ranges: the extremes of a group land this far outside (-) or inside (+) the last code."""


POLISH = 2
"""Times that the best line of all ranges is rounded to and solved again."""


def safe_divide(a: Floats, b: Floats) -> Floats:
    """a / b; 0 where b is 0 or the quotient is not finite."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        quotient = a / b
    return np.where(np.isfinite(quotient), quotient, np.float32(0.0)).astype(np.float32)


def nearest(x: Floats, step: Floats, low: int, high: int) -> Floats:
    """The whole number of low..high whose multiple of `step` is nearest to x."""
    q: Floats = np.clip(np.rint(safe_divide(x, step)), low, high)
    return q


def total(a: Floats, w: Floats | None, axis: int | tuple[int, ...]) -> Floats:
    """The sum of w * a along axes."""
    summed: Floats = (a if w is None else a * w).sum(axis=axis)
    return summed


def by_group(x: Floats, w: Floats | None, size: int) -> tuple[Floats, Floats | None]:
    """Weights and importances of blocks as rows of `size`."""
    return x.reshape(-1, size), None if w is None else w.reshape(-1, size)


def fit_affine(x: Floats, w: Floats | None, top: int, *, signed: bool = False) -> tuple[Floats, Floats]:
    """x [n, g] -> scale [n] >= 0, minimum [n] of x ~ scale * q - minimum with whole q of 0..top.

    The minimum is not negative (it is stored without a sign) unless `signed`.
    """
    low, high = x.min(axis=1)[:, None], x.max(axis=1)[:, None]
    if not signed:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    size: Floats = np.full(len(x), x.shape[1], np.float32) if w is None else w.sum(axis=1)
    mean_x = safe_divide(total(x, w, 1), size)
    best = np.full(len(x), np.inf, np.float32)
    best_scale, best_minimum = np.zeros(len(x), np.float32), np.zeros(len(x), np.float32)
    for inside in (*RANGES, *[None] * POLISH):
        if inside is None:
            q = nearest(x + best_minimum[:, None], best_scale[:, None], 0, top)
        else:
            q = nearest(x - low, (high - low) / np.float32(top + inside), 0, top)
        mean_q = safe_divide(total(q, w, 1), size)
        qq, xq = total(np.square(q), w, 1), total(x * q, w, 1)
        scale = safe_divide(xq - size * mean_x * mean_q, qq - size * np.square(mean_q))
        offset = mean_x - scale * mean_q
        if not signed:
            # A minimum is subtracted and cannot be negative: then the line goes through zero.
            above = offset > 0
            scale = np.where(above, safe_divide(xq, qq), scale)
            offset = np.where(above, np.float32(0), offset)
        error = total(np.square(x - (scale[:, None] * q + offset[:, None])), w, 1)
        better = error < best
        best[better], best_scale[better], best_minimum[better] = error[better], scale[better], -offset[better]
    return np.maximum(best_scale, 0), best_minimum


def fit_symmetric(x: Floats, w: Floats | None, low: int, high: int) -> Floats:
    """x [n, g] -> scale [n], of either sign, of x ~ scale * q with whole q of low..high, where -low >= high."""
    extreme = np.take_along_axis(x, np.abs(x).argmax(axis=1, keepdims=True), axis=1)
    best = np.full(len(x), np.inf, np.float32)
    best_scale = np.zeros(len(x), np.float32)
    for inside in RANGES:
        q = nearest(x, extreme / np.float32(low - inside), low, high)
        scale = safe_divide(total(x * q, w, 1), total(np.square(q), w, 1))
        error = total(np.square(x - scale[:, None] * q), w, 1)
        better = error < best
        best[better], best_scale[better] = error[better], scale[better]
    return best_scale


def fit_one(x: Floats, a: Floats, w: Floats | None = None) -> Floats:
    """x, a [n, j, g] -> s [n, 1] that minimises |x - s a|^2."""
    return safe_divide(total(x * a, w, (1, 2)), total(np.square(a), w, (1, 2)))[:, None]


def fit_two(x: Floats, a: Floats, b: Floats, w: Floats | None = None) -> tuple[Floats, Floats]:
    """x, a, b [n, j, g] -> s, t [n, 1] that minimise |x - s a - t b|^2; one alone when a or b is 0 throughout."""
    wa, wb = (a, b) if w is None else (a * w, b * w)
    aa, bb, ab = (np.sum(p * q, axis=(1, 2), dtype=np.float64) for p, q in ((wa, a), (wb, b), (wa, b)))
    xa, xb = (np.sum(x * p, axis=(1, 2), dtype=np.float64) for p in (wa, wb))
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
