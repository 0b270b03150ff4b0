"""What numbers of some items say about all such items: means with intervals, and pairs of two runs compared.

    Interval, mean        a mean with its 95% interval, by bootstrap over items
    mcnemar, sign_flips   how likely a difference as large is, where there is none: of right and wrong, of any numbers
    holm                  the same of several tasks at once
    Difference, differ    two runs of the same items: better, worse, same, or that nobody can tell yet

Everything random is drawn from a seed. What it is not: where the numbers come from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
FLIPS = 10_000
LEVEL = 0.05
"""How often a difference may be told where there is none."""
_Z = 1.96
"""Standard errors on each side of a mean that hold 95% of a normal distribution."""
_TOGETHER = 1 << 22
"""Numbers that are drawn at once."""
Verdict: TypeAlias = Literal["better", "worse", "same", "cannot tell"]
_Values: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean, and where the mean of all such items lies in 95 of 100 cases."""

    mean: float
    low: float
    high: float


def mean(values: Sequence[float], seed: int = 0) -> Interval:
    """The mean of some items, at least one, with its interval: percentiles of the means of resampled items."""
    given = np.asarray(values, np.float64)
    low, high = np.quantile(_resampled(given, np.random.default_rng(seed)), (LEVEL / 2, 1 - LEVEL / 2))
    return Interval(float(given.mean()), float(low), float(high))


def _resampled(values: _Values, draws: np.random.Generator) -> _Values:
    """Means of as many items, drawn again and again with replacement."""
    distinct, counts = np.unique(values, return_counts=True)
    n = len(values)
    if len(distinct) * 4 <= n:  # how often each value is drawn says as much as which items are
        means: _Values = draws.multinomial(n, counts / n, RESAMPLES) @ distinct / n
        return means
    step = max(1, _TOGETHER // n)
    sizes = [min(step, RESAMPLES - at) for at in range(0, RESAMPLES, step)]
    return np.concatenate([values[draws.integers(0, n, (size, n))].mean(1) for size in sizes])


def mcnemar(only_first: int, only_second: int) -> float:
    """McNemar's exact test, two-sided: how likely it is that items which one run alone has right are split as unevenly
    between the runs, where each is as likely to have any of them."""
    n, fewer = only_first + only_second, min(only_first, only_second)
    tail = ways = 1
    for k in range(fewer):  # each from the one before, since there may be 50,000 of them
        ways = ways * (n - k) // (k + 1)
        tail += ways
    return min(1.0, 2 * tail / (1 << n))


def sign_flips(differences: Sequence[float], seed: int = 0) -> float:
    """How likely a mean difference as large is where each item's could as well have the other sign: of random signs,
    those that make one as large, itself among them."""
    given = np.asarray(differences, np.float64)
    draws, n = np.random.default_rng(seed), len(differences)
    reached = abs(given.sum()) * (1 - 1e-9)
    step = max(1, _TOGETHER // n)
    large = 0
    for at in range(0, FLIPS, step):
        signs = 2 * draws.integers(0, 2, (min(step, FLIPS - at), n), np.int8) - 1
        large += int((np.abs(signs @ given) >= reached).sum())
    return (1 + large) / (1 + FLIPS)


def holm(likely: Sequence[float]) -> list[float]:
    """Holm's correction: each of several such numbers as it counts where all are looked at together."""
    order = sorted(range(len(likely)), key=likely.__getitem__)
    found, largest = [0.0] * len(likely), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(likely) - rank) * likely[i]))
        found[i] = largest
    return found


@dataclass(frozen=True)
class Difference:
    """How the second of two runs does beside the first, on the items that both have; above 0: better."""

    items: int
    interval: Interval
    """The mean difference of an item."""
    chance: float
    """How likely a difference as large is where there is none."""
    deviation: float
    """The standard deviation of an item's difference."""

    def verdict(self, allow: float = 0.0, chance: float | None = None) -> Verdict:
        """worse or better: the interval lies wholly beyond what is allowed, and chance does not explain it; same: it
        lies wholly within. chance: as Holm corrects it; None: its own."""
        found, told = self.interval, (self.chance if chance is None else chance) <= LEVEL
        if told and found.high < -allow:
            return "worse"
        if told and found.low > allow:
            return "better"
        return "same" if -allow <= found.low and found.high <= allow else "cannot tell"

    def needed(self, allow: float = 0.0) -> int | None:
        """About how many items would tell, were the difference the mean that was found; None: no number of them would,
        since it lies where the answer changes."""
        gap = abs(abs(self.interval.mean) - allow)
        if gap == 0:
            return None
        return max(self.items + 1, ceil((_Z * self.deviation / gap) ** 2))


def differ(first: Sequence[float], second: Sequence[float], *, higher: bool = True, seed: int = 0) -> Difference:
    """Compare two runs, item by item, at least one. higher: whether more is better."""
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    differences = (b - a) if higher else (a - b)
    if np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all():
        chance = mcnemar(int((differences < 0).sum()), int((differences > 0).sum()))
    else:
        chance = sign_flips(differences.tolist(), seed)
    n = len(differences)
    deviation = sqrt(float(((differences - differences.mean()) ** 2).sum()) / max(1, n - 1))
    return Difference(n, mean(differences.tolist(), seed), chance, deviation)
