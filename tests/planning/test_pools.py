"""The cache's pools, and that the plan counts what a runner really takes for them."""

from dataclasses import replace

import pytest

from helpers import TINY_TEXT, op_set, weights
from herd.config import SCOUT
from herd.engine.runner import Runner
from herd.engine.speculative import LONGEST
from herd.model import place_weights
from herd.planning.memory import LOGIT_ROWS, need
from herd.planning.pools import page_size_for, pools_for


@pytest.mark.parametrize(("chunk", "size"), [(8192, 256), (16, 16), (24, 8), (1, 1), (None, 256)])
def test_pages_divide_the_chunk(chunk: int | None, size: int) -> None:
    assert page_size_for(chunk) == size


def test_scouts_pools() -> None:
    assert pools_for(SCOUT, 131_072, "bf16") == (256, 512, 34, 0)
    assert pools_for(SCOUT, 131_072, "bf16", sequences=8) == (256, 519, 41, 0), "a page for each further sequence"
    assert pools_for(SCOUT, 1000, "bf16", sequences=8) == (256, 11, 11, 0), "no more chunk than context"
    assert pools_for(SCOUT, 131_072, "int4", sequences=8) == (256, 519, 41, 19)


@pytest.mark.parametrize("sequences", [1, 8, 100])
@pytest.mark.parametrize("context", [300, 5000])
@pytest.mark.parametrize("kv", ["f32", "bf16", "int8", "int4"])
def test_the_plan_counts_what_a_runner_takes(kv: str, context: int, sequences: int) -> None:
    config = replace(TINY_TEXT, chunk=512)
    ops = op_set("native")
    runner = Runner(config, place_weights(ops, weights(config)), ops, context=context, kv_dtype=kv, sequences=sequences)
    held = sum(kv.nbytes for kv in runner.kv)
    assert need(config, 0, context, kv, sequences=sequences).cache_bytes == held


def test_the_plan_counts_the_logits_of_guessed_ids() -> None:
    assert LOGIT_ROWS == 1 + LONGEST
    one, eight, most = (need(SCOUT, 0, 8192, sequences=n) for n in (1, 8, 512))
    row = 4 * SCOUT.vocab_size
    assert eight.work_bytes - one.work_bytes == 7 * row
    assert eight.guesses_bytes == 8 * LONGEST * row
    assert most.work_bytes - one.work_bytes == 511 * row
    assert most.guesses_bytes == 0, "a pass has no more rows than that"
