"""The context that a model gets when it may be as long as memory allows."""

from dataclasses import replace

import pytest

from herd.config import SCOUT, TINY
from herd.errors import DoesNotFit
from herd.planning.context import LEAST_RESERVE_BYTES, RESERVE, USUAL, auto_context
from herd.planning.memory import check_fits, need

WEIGHTS = 61 * 10**9
GB = 10**9


@pytest.mark.parametrize("available", [80 * GB, 128 * GB, 190 * GB])
@pytest.mark.parametrize("kv", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("sequences", [1, 8])
def test_it_fits_beside_the_weights_and_the_reserve_and_a_step_more_would_not(
    available: int, kv: str, sequences: int
) -> None:
    found = auto_context(SCOUT, WEIGHTS, available, kv, sequences=sequences)
    room = available - max(available // RESERVE, LEAST_RESERVE_BYTES)
    assert USUAL < found < SCOUT.max_context
    assert need(SCOUT, WEIGHTS, found, kv, sequences=sequences).total_bytes <= room
    assert need(SCOUT, WEIGHTS, found + 256, kv, sequences=sequences).total_bytes > room


def test_a_models_own_context_is_the_most() -> None:
    assert auto_context(SCOUT, WEIGHTS, 2000 * GB) == SCOUT.max_context == 10_485_760
    odd = replace(TINY, max_context=1000)
    assert auto_context(odd, 10**6, 8 * GB) == 1000


def test_what_other_models_were_promised_is_theirs() -> None:
    alone = auto_context(SCOUT, WEIGHTS, 128 * GB)
    assert auto_context(SCOUT, WEIGHTS, 128 * GB, promised=20 * GB) < alone - 300_000
    assert auto_context(SCOUT, WEIGHTS, 128 * GB, promised=128 * GB) == USUAL


def test_where_little_is_left_the_usual_context_may_use_up_the_reserve() -> None:
    tight = need(SCOUT, WEIGHTS, USUAL).total_bytes
    assert auto_context(SCOUT, WEIGHTS, tight) == USUAL
    less = auto_context(SCOUT, WEIGHTS, tight - 100 * 10**6)
    assert 0 < less < USUAL
    check_fits("scout", SCOUT, WEIGHTS, less, tight - 100 * 10**6)


def test_where_nothing_fits_the_refusal_speaks_of_the_usual_context() -> None:
    found = auto_context(SCOUT, WEIGHTS, 8 * GB)
    assert found == USUAL
    with pytest.raises(DoesNotFit, match="cache of 8192 tokens"):
        check_fits("scout", SCOUT, WEIGHTS, found, 8 * GB)
