"""A request alone and among others gives the same tokens and the same logits, to the bit: with prefix hits, forks,
preemption, chunked prefill and guesses. On TINY, over the native operations."""

import random
from functools import cache
from typing import Any

import pytest

from helpers import TINY_DENSE, TINY_TEXT, op_set, placed
from herd.config import Llama4Config
from herd.engine.core import Core
from herd.engine.orders import Ended, Order, Token
from herd.engine.request import SamplingOptions
from herd.engine.runner import Runner

CONTEXT = 64
CONFIGS = {"chunks": TINY_TEXT, "dense": TINY_DENSE}
FAST, SLOW, SHARDS = 6, 1_000, 20


@cache
def parts(name: str) -> tuple[Llama4Config, Any, Any]:
    ops = op_set("native")
    return CONFIGS[name], placed(CONFIGS[name], ops), ops


def core_for(name: str, *, pages: int | None, places: int, budget: int, kv: str = "f32") -> Core:
    config, weights, ops = parts(name)
    runner = Runner(config, weights, ops, context=CONTEXT, kv_dtype=kv, piece=budget, sequences=pages or 1, page_size=4)
    return Core(runner, budget=budget, places=places)


def orders(rng: random.Random, count: int) -> list[Order]:
    base = [[rng.randrange(256) for _ in range(CONTEXT)] for _ in range(3)]
    base[2] = (base[2][:5] * CONTEXT)[:CONTEXT]  # repeats itself: guesses are made
    found = []
    for n in range(count):
        ids = [*rng.choice(base)[: rng.randrange(0, 44)], *(rng.randrange(256) for _ in range(rng.randint(1, 6)))]
        options = SamplingOptions(
            temperature=rng.choice((0.0, 0.0, 1.0)),
            top_p=rng.choice((1.0, 0.9)),
            max_tokens=rng.randint(1, 12),
            logprobs=2,
            repetition_penalty=rng.choice((1.0, 1.2)),
        )
        found.append(Order(number=n, ids=ids, options=options, seed=rng.randrange(99), client=rng.choice("ab")))
    return found


def run(core: Core, asked: list[Order], rng: random.Random) -> dict[int, list[Token]]:
    """All of them, arriving at any step."""
    out: dict[int, list[Token]] = {o.number: [] for o in asked}
    left = list(asked)
    while left or core.busy:
        while left and (rng.random() < 0.5 or not core.busy):
            core.add(left.pop())
        for event in core.step():
            if isinstance(event, Token):
                out[event.number].append(event)
            else:
                assert not isinstance(event, Ended), event
    core.runner.room.check()
    return out


def mix(seed: int, name: str, kv: str = "f32") -> Core:
    rng = random.Random(seed)
    asked = orders(rng, 32)
    core = core_for(
        name, pages=rng.choice((1, 9, 40)), places=rng.choice((4, 8, 32)), budget=rng.choice((32, 48, 64)), kv=kv
    )
    core.scheduler.headroom, core.scheduler.turn = rng.choice((0, 32)), rng.choice((4, 256))
    together = run(core, asked, rng)
    for order in rng.sample(asked, 6):
        alone = run(core_for(name, pages=None, places=1, budget=64, kv=kv), [order], rng)[order.number]
        found = together[order.number]
        assert [(t.token_id, t.reason, t.logprob) for t in found] == [(t.token_id, t.reason, t.logprob) for t in alone]
    return core


@pytest.mark.parametrize("name", CONFIGS)
def test_requests_do_not_feel_each_other(name: str) -> None:
    cores = [mix(seed, name) for seed in range(FAST)]
    for what in ("preempted", "cached_tokens", "proposed"):
        assert sum(getattr(core.counters, what) for core in cores) > 0, what


@pytest.mark.parametrize("kv", ["f16", "bf16"])
def test_nor_with_a_narrow_cache(kv: str) -> None:
    mix(1, "chunks", kv)


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("name", CONFIGS)
def test_a_thousand_mixes(name: str, shard: int) -> None:
    for seed in range(FAST + shard, FAST + SLOW // 2, SHARDS):
        mix(seed, name)


def test_samples_of_one_prompt_are_those_of_their_seeds() -> None:
    options = SamplingOptions(temperature=1.0, max_tokens=8, logprobs=0)
    ids = list(range(40, 61))
    samples = ((1, 8), (2, 9), (3, 10))
    core = core_for("chunks", pages=20, places=8, budget=32)
    out: dict[int, list[Token]] = {n: [] for n in range(4)}
    core.add(Order(number=0, ids=ids, options=options, seed=7, samples=samples))
    while core.busy:
        for event in core.step():
            if isinstance(event, Token):
                out[event.number].append(event)
    assert core.counters.forked == 3
    for n, seed in ((0, 7), *samples):
        alone = core_for("chunks", pages=None, places=1, budget=64)
        one = run(alone, [Order(number=n, ids=ids, options=options, seed=seed)], random.Random(0))[n]
        assert [(t.token_id, t.logprob) for t in out[n]] == [(t.token_id, t.logprob) for t in one]
