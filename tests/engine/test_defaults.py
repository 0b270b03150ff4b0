"""Sampling defaults: the checkpoint's recommendation over the makers' advice."""

import pytest

from herd.engine.defaults import LLAMA, SMOLLM2, sampling_defaults
from herd.errors import BadConfig


def test_the_checkpoint_wins_over_advice_field_by_field() -> None:
    o = sampling_defaults({"temperature": 0.3, "top_k": 40}, LLAMA)
    assert (o.temperature, o.top_p, o.top_k) == (0.3, 0.9, 40)


def test_without_a_recommendation_advice_stands() -> None:
    assert sampling_defaults({}, SMOLLM2) == SMOLLM2
    assert sampling_defaults({"temperature": 0.0}, LLAMA).greedy


@pytest.mark.parametrize("bad", [{"temperature": -1}, {"top_p": -0.1}, {"top_k": 1.5}])
def test_a_bad_recommendation_is_named(bad: dict) -> None:
    with pytest.raises(BadConfig, match=rf"the checkpoint's sampling advice: {next(iter(bad))}: got"):
        sampling_defaults(bad, LLAMA)
