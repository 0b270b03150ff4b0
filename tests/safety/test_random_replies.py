"""Whatever rules find in a whole reply never leaves under redact and block, and notes say what was done."""

import os
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_replies import problems

from herd.safety.policy import Mode

REPLIES = int(os.environ.get("HERD_RANDOM_REPLIES", "60"))


@pytest.mark.parametrize("mode", ["observe", "redact", "block"])
def test_nothing_found_leaves_and_no_note_is_false_in_random_replies(mode: Mode) -> None:
    for seed in range(REPLIES):
        assert not problems(Random(seed), mode), (seed, mode)


@settings(deadline=None, max_examples=25)
@given(st.randoms(use_true_random=False), st.sampled_from(["redact", "block"]))
def test_nothing_found_leaves_whatever_hypothesis_chooses(random: Random, mode: Mode) -> None:
    assert not problems(random, mode)
