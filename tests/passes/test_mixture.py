"""The choice of types: never above the budget, and as good as trying everything."""

import itertools
import random

import pytest

from herd.errors import DoesNotFit
from herd.passes.mixture import Option, choose, hull


def options(rng: random.Random) -> list[Option]:
    sizes = sorted(rng.sample(range(10, 100), 4))
    return [Option(f"t{i}", size, 100.0 / size**2 * rng.uniform(0.5, 1.5)) for i, size in enumerate(sizes)]


@pytest.mark.parametrize("seed", range(30))
def test_a_choice_fits_and_is_within_one_step_of_the_best(seed: int) -> None:
    rng = random.Random(seed)
    tensors = {f"w{i}": options(rng) for i in range(5)}
    least = sum(min(o.num_bytes for o in opts) for opts in tensors.values())
    budget = least + rng.randrange(0, 250)
    made = choose(tensors, budget)
    assert made.num_bytes <= budget
    assert made.num_bytes == sum(
        next(o.num_bytes for o in opts if o.format == made.formats[n]) for n, opts in tensors.items()
    )
    every = itertools.product(*tensors.values())
    best = min(sum(o.loss for o in c) for c in every if sum(o.num_bytes for o in c) <= budget)
    one_step = max(a.loss - b.loss for opts in tensors.values() for a, b in itertools.pairwise(hull(opts)))
    assert best <= made.loss + 1e-12
    assert made.loss <= best + one_step


def test_more_bytes_never_lose_more() -> None:
    rng = random.Random(1)
    tensors = {f"w{i}": options(rng) for i in range(20)}
    least = sum(min(o.num_bytes for o in opts) for opts in tensors.values())
    losses = [choose(tensors, least + more).loss for more in range(0, 1500, 100)]
    assert losses[-1] < losses[0]
    assert all(b <= a * 1.05 for a, b in itertools.pairwise(losses))


def test_a_budget_below_the_smallest_types_is_refused_with_what_they_take() -> None:
    with pytest.raises(DoesNotFit, match="the smallest formats take"):
        choose({"w": [Option("q2_k", 10**9, 1.0)]}, 10**8)
