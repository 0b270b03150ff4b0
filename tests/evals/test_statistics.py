"""What numbers of items say: intervals that hold, chances that are exact, few false alarms, drops that are found."""

from fractions import Fraction
from itertools import product
from math import comb

import numpy as np
import pytest

from herd.evals.statistics import Difference, Interval, differ, holm, mcnemar, mean, sign_flips

DRAWS = 1000


def outcomes(draws: np.random.Generator, n: int, drop: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Right and wrong of two runs that sample their answers: each item has a chance of its own, most are sure."""
    chance = draws.beta(0.35, 0.15, n)
    return (draws.random(n) < chance).astype(float), (draws.random(n) < np.clip(chance - drop, 0, 1)).astype(float)


def test_one_model_under_other_seeds_gives_few_false_alarms() -> None:
    draws = np.random.default_rng(1)
    told = [differ(*outcomes(draws, 300), seed=i).verdict() for i in range(DRAWS)]
    assert told.count("worse") + told.count("better") <= 0.05 * DRAWS


def test_several_tasks_together_give_few_false_alarms() -> None:
    draws, alarms = np.random.default_rng(2), 0
    for i in range(DRAWS // 10):
        found = [differ(*outcomes(draws, 200), seed=i) for _ in range(5)]
        chances = holm([one.chance for one in found])
        alarms += any(d.verdict(chance=c) in ("worse", "better") for d, c in zip(found, chances, strict=True))
    assert alarms <= 0.05 * DRAWS / 10


def test_a_drop_of_three_points_in_2000_items_is_found() -> None:
    """As many pairs as two quantisations of one model have: a sixth of the items come out differently."""
    draws, found = np.random.default_rng(3), 0
    for i in range(200):
        first = draws.random(2000) < 0.7
        lost, won = draws.random(2000) < 0.075 / 0.7 + 0.03 / 0.7, draws.random(2000) < 0.075 / 0.3
        second = np.where(first, ~lost, won)
        found += differ(first.astype(float), second.astype(float), seed=i).verdict() == "worse"
    assert found >= 0.8 * 200


def test_intervals_hold_the_mean_as_often_as_they_say() -> None:
    draws, held = np.random.default_rng(4), 0
    for i in range(200):
        found = mean(draws.exponential(1.0, 80), seed=i)
        held += found.low <= 1.0 <= found.high
    assert 0.88 * 200 <= held <= 0.99 * 200


def test_few_distinct_values_are_resampled_as_many_are() -> None:
    """Draws of counts and draws of items are the same bootstrap: intervals by either agree within their own noise."""
    values = np.array([0.0] * 30 + [1.0] * 70)
    exact = mean(values)
    spread = mean(values + np.arange(100) * 1e-12)
    assert exact.low == pytest.approx(spread.low, abs=0.015) and exact.high == pytest.approx(spread.high, abs=0.015)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (5, 5), (3, 14), (40, 61)])
def test_mcnemars_test_is_the_exact_sum(first: int, second: int) -> None:
    n = first + second
    likely = [Fraction(comb(n, k), 2**n) for k in range(n + 1)]
    as_uneven = sum(p for k, p in enumerate(likely) if abs(2 * k - n) >= abs(first - second))
    assert mcnemar(first, second) == pytest.approx(float(as_uneven))


def test_sign_flips_come_near_to_all_signs() -> None:
    given = [0.3, -0.1, 0.5, 0.2, 0.4, -0.2, 0.1, 0.6]
    sums = [abs(sum(s * x for s, x in zip(signs, given, strict=True))) for signs in product((-1, 1), repeat=8)]
    exact = sum(one >= sum(given) - 1e-9 for one in sums) / len(sums)
    assert sign_flips(given) == pytest.approx(exact, abs=0.02)


def test_holm_is_the_step_down_rule() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("low", "high", "allow", "verdict"),
    [
        (-0.05, -0.01, 0.0, "worse"),
        (-0.05, -0.01, 0.02, "cannot tell"),
        (-0.05, -0.03, 0.02, "worse"),
        (0.01, 0.03, 0.0, "better"),
        (-0.01, 0.01, 0.02, "same"),
        (-0.01, 0.01, 0.0, "cannot tell"),
        (0.0, 0.0, 0.0, "same"),
    ],
)
def test_verdicts_are_where_the_interval_lies(low: float, high: float, allow: float, verdict: str) -> None:
    found = Difference(100, Interval((low + high) / 2, low, high), 0.001, 0.5)
    assert found.verdict(allow) == verdict


def test_chance_that_explains_a_difference_leaves_it_untold() -> None:
    found = Difference(100, Interval(-0.03, -0.05, -0.01), 0.04, 0.5)
    assert found.verdict() == "worse" and found.verdict(chance=0.08) == "cannot tell"


def test_as_many_items_as_needed_tell() -> None:
    """An interval with that many is as likely as not to lie on one side; with three times as many it nearly always
    does."""
    draws = np.random.default_rng(5)
    found = Difference(100, Interval(-0.05, -0.15, 0.05), 0.5, 0.5)
    needed = found.needed()
    assert needed == pytest.approx((1.96 * 0.5 / 0.05) ** 2, abs=1)
    told = []
    for n in (needed, 3 * needed):
        lost = [draws.choice([-1.0, 0.0, 1.0], n, p=(0.15, 0.75, 0.1)) for _ in range(100)]
        told.append(sum(differ(np.maximum(-one, 0), np.maximum(one, 0)).verdict() == "worse" for one in lost))
    assert 25 <= told[0] <= 75 and told[1] >= 85
    assert found.needed(0.05) is None


def test_where_less_is_better_a_rise_is_worse() -> None:
    draws = np.random.default_rng(6)
    bits = draws.normal(1, 0.3, 400)
    assert differ(bits, bits + draws.normal(0.01, 0.02, 400), higher=False).verdict() == "worse"
    assert differ(bits, bits - draws.normal(0.01, 0.02, 400), higher=False).verdict() == "better"


def test_the_same_numbers_give_the_same_results() -> None:
    values = np.random.default_rng(7).random(50)
    assert mean(values, 3) == mean(values, 3) and differ(values, values**2) == differ(values, values**2)
