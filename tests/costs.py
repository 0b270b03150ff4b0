"""Whether work grows with its input alone: times of one run, each size beside the one before it.

Seconds are of the thread or the process, so that other programs do not count, and never compared with a number of
seconds: four times the input may take eleven times as long, or more if it is too little to measure. What seems worse
is measured again, the best of several.
"""

import contextlib
import gc
import time
from collections.abc import Callable
from typing import Any

from herd.errors import HerdError

FACTOR = 4
"""From size to size."""
MOST = 11.0
"""Times the time, for FACTOR times the size: linear work takes 4, quadratic work 16, and linear work that leaves a
processor's cache up to 10."""
HALF = 2.3
"""Times the time for twice the size, in both halves of a step: linear work takes 2, quadratic work 4. One that leaves a
cache takes longer in one half alone."""
ROUNDS, BEST_OF = 3, 5
"""What seems worse is worse in every round, each time the best of so many."""
SEEN_S = 1e-3
"""Below this a time says nothing: a million steps of quadratic work take longer."""


def seconds(run: Callable[[Any], object], data: Any, clock: Callable[[], float] = time.thread_time) -> float:
    """Of one run. That the input is refused is an answer, too."""
    gc.collect(0)
    gc.disable()
    try:
        begun = clock()
        with contextlib.suppress(HerdError):
            run(data)
        return clock() - begun
    finally:
        gc.enable()


def grows(
    run: Callable[[Any], object],
    make: Callable[[int], Any],
    *,
    first: int = 256,
    most: int = 1 << 16,
    clock: Callable[[], float] = time.thread_time,
) -> list[float]:
    """Runs `run(make(size))` for growing sizes, to `most` or until it takes a fifth of a second. Empty if times grow
    with the size; else two that do not, in seconds."""
    before = seconds(run, make(first), clock)
    size = first * FACTOR
    while size <= most and before < 0.2:
        now = seconds(run, make(size), clock)
        if _worse(before, now):
            for _ in range(ROUNDS):
                sizes = (size // FACTOR, size // 2, size)
                first_s, half_s, whole_s = (min(seconds(run, make(n), clock) for _ in range(BEST_OF)) for n in sizes)
                if not _worse(first_s, whole_s) or half_s < HALF * first_s or whole_s < HALF * half_s:
                    break
            else:
                return [first_s, whole_s]
        before, size = now, size * FACTOR
    return []


def _worse(before: float, now: float) -> bool:
    return now > SEEN_S and now > MOST * before + SEEN_S / 2
