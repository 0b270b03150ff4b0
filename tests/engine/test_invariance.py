"""A request alone and among others gives the same tokens, logits, scores and vectors, to the bit: with prefix hits,
forks, preemption, chunked prefill and guesses. On TINY, over the native operations: weights as floats and quantised, in
rows and in strips, and every kind of cache. benchmarks/mixes.py does the same on a slice."""

import random
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest

from helpers import TINY_DENSE, TINY_TEXT, Quantized, op_set
from herd.checkpoint.random_weights import RandomSource
from herd.config import Llama4Config
from herd.engine.core import Core
from herd.engine.messages import EndedEvent, MeasuredEvent, TokenEvent
from herd.engine.request import Request, SamplingOptions, Want
from herd.engine.runner import Runner
from herd.model import place_weights
from herd.weights import build

WIDE = replace(
    TINY_TEXT, width=256, dense_width=256, expert_width=256, num_heads=2, num_kv_heads=1, head_size=128, num_layers=2,
    nope_interval=2,
)  # fmt: skip
"""Rows that are whole blocks of 256."""
CHUNKS_OF_A_PAGE = replace(TINY_TEXT, chunk=256, floor_scale=64)
"""Pages of int4 have 256 positions, and a chunk is whole pages."""


@dataclass(frozen=True)
class Kind:
    """What a mix runs on."""

    config: Llama4Config
    format: str | None = None
    """Of the matrices; None: float32."""
    layout: str = "rows"
    kv: str = "f32"
    context: int = 64
    page_size: int = 4


KINDS = {
    "chunks": Kind(TINY_TEXT),
    "dense": Kind(TINY_DENSE),
    "f16": Kind(TINY_TEXT, kv="f16"),
    "bf16": Kind(TINY_TEXT, kv="bf16"),
    "int8": Kind(TINY_TEXT, kv="int8"),
    "int4": Kind(CHUNKS_OF_A_PAGE, kv="int4", context=768, page_size=256),
    "q4_0": Kind(TINY_TEXT, "q4_0", "strips", "bf16"),
    "q8_0": Kind(TINY_DENSE, "q8_0", "rows", "bf16"),
    "q4_k": Kind(WIDE, "q4_k", "strips", "int8"),
    "q6_k": Kind(WIDE, "q6_k", "rows", "f16"),
    "q4_k int4": Kind(replace(WIDE, chunk=256), "q4_k", "strips", "int4", 768, 256),
}
EXACT = ("chunks", "dense")
"""Kinds of float32 throughout."""
OTHERS = tuple(name for name in KINDS if name not in EXACT)
LONG = ("int4", "q4_k int4")
"""Kinds whose mixes take seconds."""
FAST, SLOW, SHARDS = 6, 400, 8
"""Mixes; benchmarks/mixes.py runs as many as one wants."""


@cache
def parts(name: str) -> tuple[Any, Any]:
    ops, kind = op_set("native"), KINDS[name]
    source = RandomSource(kind.config) if kind.format is None else Quantized(kind.config, kind.format, kind.layout)
    return place_weights(ops, build(kind.config, source)), ops


def core_for(name: str, *, pages: int | None, places: int, budget: int) -> Core:
    kind = KINDS[name]
    weights, ops = parts(name)
    runner = Runner(
        kind.config,
        weights,
        ops,
        context=kind.context,
        kv_dtype=kind.kv,
        piece=budget,
        sequences=pages or 1,
        page_size=kind.page_size,
    )
    return Core(runner, budget=budget, places=places)


def orders(rng: random.Random, count: int, context: int) -> list[Request]:
    base = [[rng.randrange(256) for _ in range(context)] for _ in range(3)]
    base[2] = (base[2][:5] * context)[:context]  # repeats itself: guesses are made
    found = []
    for n in range(count):
        shared = rng.choice(base)[: rng.randrange(0, context - 20)]
        ids = [*shared, *(rng.randrange(256) for _ in range(rng.randint(1, 6)))]
        options = SamplingOptions(
            temperature=rng.choice((0.0, 0.0, 1.0)),
            top_p=rng.choice((1.0, 0.9)),
            max_tokens=rng.randint(1, 12),
            logprobs=2,
            repetition_penalty=rng.choice((1.0, 1.2)),
        )
        whose = {"seed": rng.randrange(99), "client": rng.choice("ab")}
        found.append(Request(number=n, ids=ids, options=options, want=want_of(rng, len(ids)), **whose))
    return found


def want_of(rng: random.Random, count: int) -> Want:
    """A third of them are measured."""
    what: Any = rng.choice(("tokens",) * 6 + ("logprobs", "state", "logits"))
    return Want(what=what if count > 1 else "tokens", start=rng.randrange(1, max(2, count)), top=2)


def told(events: list[TokenEvent | MeasuredEvent]) -> Any:
    """What a request was told, whatever the passes that it was told in."""
    tokens = [(e.token_id, e.reason, e.logprob) for e in events if isinstance(e, TokenEvent)]
    measured = [e for e in events if isinstance(e, MeasuredEvent)]
    rows = b"".join(e.rows_RX.tobytes() for e in measured if e.rows_RX is not None)
    return tokens, [score for e in measured for score in e.scores], rows


def run(core: Core, asked: list[Request], rng: random.Random) -> dict[int, list[TokenEvent | MeasuredEvent]]:
    """All of them, arriving at any step."""
    out: dict[int, list[TokenEvent | MeasuredEvent]] = {o.number: [] for o in asked}
    left = list(asked)
    while left or core.busy:
        while left and (rng.random() < 0.5 or not core.busy):
            core.add(left.pop())
        for event in core.step():
            if isinstance(event, TokenEvent | MeasuredEvent):
                out[event.number].append(event)
            else:
                assert not isinstance(event, EndedEvent), event
    core.runner.cache.check()
    return out


def mix(seed: int, name: str) -> Core:
    rng = random.Random(seed)
    asked = orders(rng, 32, KINDS[name].context)
    core = core_for(name, pages=rng.choice((1, 9, 40)), places=rng.choice((4, 8, 32)), budget=rng.choice((32, 48, 64)))
    core.scheduler.headroom, core.scheduler.turn = rng.choice((0, 32)), rng.choice((4, 256))
    together = run(core, asked, rng)
    for order in rng.sample(asked, 6):
        alone = run(core_for(name, pages=None, places=1, budget=64), [order], rng)[order.number]
        assert told(together[order.number]) == told(alone) != told([])
    return core


@pytest.mark.parametrize("name", EXACT)
def test_requests_do_not_feel_each_other(name: str) -> None:
    cores = [mix(seed, name) for seed in range(FAST)]
    for what in ("preempted", "cached_tokens", "proposed"):
        assert sum(getattr(core.counters, what) for core in cores) > 0, what


@pytest.mark.parametrize("name", OTHERS)
def test_nor_with_narrow_weights_and_caches(name: str) -> None:
    counters = mix(2, name).counters
    assert counters.cached_tokens > 0
    assert counters.preempted > 0


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("name", EXACT)
def test_hundreds_of_mixes(name: str, shard: int) -> None:
    for seed in range(FAST + shard, FAST + SLOW // 2, SHARDS):
        mix(seed, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_mixes_of_narrow_weights_and_caches(name: str) -> None:
    for seed in range(3, 7 if name in LONG else 23):
        mix(seed, name)


def test_samples_of_one_prompt_are_those_of_their_seeds() -> None:
    options = SamplingOptions(temperature=1.0, max_tokens=8, logprobs=0)
    ids = list(range(40, 61))
    samples = ((1, 8), (2, 9), (3, 10))
    core = core_for("chunks", pages=20, places=8, budget=32)
    out: dict[int, list[TokenEvent | MeasuredEvent]] = {n: [] for n in range(4)}
    core.add(Request(number=0, ids=ids, options=options, seed=7, samples=samples))
    while core.busy:
        for event in core.step():
            if isinstance(event, TokenEvent):
                out[event.number].append(event)
    assert core.counters.forked == 3
    for n, seed in ((0, 7), *samples):
        alone = core_for("chunks", pages=None, places=1, budget=64)
        one = run(alone, [Request(number=n, ids=ids, options=options, seed=seed)], random.Random(0))[n]
        assert told(out[n]) == told(one)
