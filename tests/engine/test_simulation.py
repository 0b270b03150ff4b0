"""Thousands of days in the life of an engine; what a day is and what must hold stands in simulation.py."""

import os
from collections import Counter

import pytest
from simulation import Day

DAYS, SHARDS = 2_000, 8
SLOW_DAYS = int(os.environ.get("HERD_SIMULATED_DAYS", "7500"))
"""Of the slow tier; 100,000 take about 12 minutes of one core."""
SHARD_DAYS = 2_500


def run(seeds: range, check_every: int) -> Counter[str]:
    """Days with these seeds, and what happened in all of them together."""
    total: Counter[str] = Counter()
    for seed in seeds:
        day = Day(seed)
        try:
            day.run(check_every)
        except BaseException as error:
            error.add_note(f"seed {seed}, step {day.steps}")
            raise
        total += Counter(day.happened)
        total["late"] += sum(type(a.error).__name__ == "TimedOut" for a in day.asked.values())
        total["cancelled"] += sum(a.cancelled for a in day.asked.values())
        total["finished"] += sum(a.reason is not None for a in day.asked.values())
    return total


@pytest.mark.parametrize("shard", range(SHARDS))
def test_two_thousand_days(shard: int) -> None:
    found = run(range(shard, DAYS, SHARDS), check_every=3)
    # a simulation in which something never happens says nothing of it
    rare = {
        name: n
        for name, n in found.items()
        if n < (5 if name in ("endless", "measured again", "waited for another") else 20)
    }
    assert not rare
    assert found["finished"] > DAYS // SHARDS


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(-(-SLOW_DAYS // SHARD_DAYS)))
def test_many_more_days(shard: int) -> None:
    # every fortieth, so that the first shards of a hundred thousand days are those of fewer
    run(range(DAYS + shard, DAYS + 40 * SHARD_DAYS, 40), check_every=10)
