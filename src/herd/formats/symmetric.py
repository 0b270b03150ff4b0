"""The search of the formats whose groups have a signed scale in units of one float16: q3_k, q6_k, iq4_xs.

    x[i] ~ (d * scale[j]) * value(q[i]),   scale -limit..limit - 1

A format says how it rounds to its values, and which scale suits a group alone. The scale of largest magnitude lands on
-limit, the longer side, which sets d. Then in turn: the whole numbers around each group's scale, with codes rounded
anew, and, with those fixed, d by least squares. The best of what came by is kept.
"""

from collections.abc import Callable

import numpy as np

from herd.formats.affine import LARGEST_HALF
from herd.formats.format import Floats, half
from herd.formats.search import fit_one, nearest, total

ROUNDS = 2

Rounding = Callable[[Floats, Floats], Floats]
"""(x, step) -> the format's value of code nearest to x / step, in float32."""


def whole(low: int, high: int) -> Rounding:
    """Rounding to the whole numbers of low..high."""
    return lambda x, step: nearest(x, step, low, high)


def encode_symmetric(
    groups: Floats, scale: Floats, limit: int, rounding: Rounding, name: str, weights: Floats | None = None
) -> tuple[Floats, Floats, Floats]:
    """groups [n, G, g], the best scale of each alone [n, G] -> d [n, 1], scales [n, G], values [n, G, g].

    weights: the importance of each, [n, G, g]. Raises BadCheckpoint (scales too large).
    """
    n = len(groups)
    w = None if weights is None else weights.reshape(groups.shape)
    extreme = np.take_along_axis(scale, np.abs(scale).argmax(axis=1, keepdims=True), axis=1)
    d = half(extreme / np.float32(-limit), name).astype(np.float32)
    scales = nearest(scale, d, -limit, limit - 1)
    best_d, best_scales, best_values = d, scales, np.zeros_like(groups)
    least = np.full((n, 1), np.inf, np.float32)

    def rounded(scales: Floats) -> tuple[Floats, Floats]:
        step = (d * scales)[:, :, None]
        values = rounding(groups, step)
        return values, total(np.square(groups - step * values), w, 2)

    for turn in range(ROUNDS + 1):
        values, error = rounded(scales)
        for near in (scales - 1, scales + 1) if turn < ROUNDS else ():
            near_scales = np.clip(near, -limit, limit - 1)
            near_values, near_error = rounded(near_scales)
            better = near_error < error
            scales, error = np.where(better, near_scales, scales), np.minimum(near_error, error)
            values = np.where(better[:, :, None], near_values, values)
        sum_error = error.sum(axis=1, keepdims=True)
        better = sum_error < least
        least = np.minimum(sum_error, least)
        best_d, best_scales = np.where(better, d, best_d), np.where(better, scales, best_scales)
        best_values = np.where(better[:, :, None], values, best_values)
        fitted = fit_one(groups, scales[:, :, None] * values, w)
        d = np.clip(fitted, -LARGEST_HALF, LARGEST_HALF).astype(np.float16).astype(np.float32)
    return best_d, best_scales, best_values
