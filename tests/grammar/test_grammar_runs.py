"""Grammars through the whole engine, on TINY over the native operations: valid at any seed, the same alone, among
others, after preemption, with guesses and without, in samples of one prompt, and in another process."""

import json
import random
from functools import cache
from typing import Any

import jsonschema
import pytest

from helpers import TINY_TEXT, op_set, placed
from herd.engine.core import Core
from herd.engine.engine import Engine
from herd.engine.executors.child import ChildExecutor
from herd.engine.messages import EndedEvent, TokenEvent
from herd.engine.request import Request, SamplingOptions
from herd.engine.runner import Runner
from herd.grammar.masks import Grammars
from herd.grammars import Grammar
from herd.text.stream import StreamDecoder
from herd.text.tokenizer import Tokenizer
from schemas import CASES

BYTES = Tokenizer.bytes_only()
ENDS = tuple(sorted(BYTES.eos_ids))
GRAMMARS = Grammars(BYTES, BYTES.eos_ids)
SOON = {ord('"'): 4.0, ord("}"): 3.0, ord("]"): 3.0}
"""Bias of a model that says anything, so that its texts end."""


@cache
def parts() -> tuple[Any, Any]:
    ops = op_set("native")
    return placed(TINY_TEXT, ops), ops


def runner(context: int = 512, **arguments: Any) -> Runner:
    weights, ops = parts()
    return Runner(TINY_TEXT, weights, ops, context=context, page_size=4, **arguments)


def run(core: Core, orders: list[Request], rng: random.Random) -> dict[int, list[TokenEvent]]:
    """All of them, arriving at any step."""
    out: dict[int, list[TokenEvent]] = {n: [] for o in orders for n in o.numbers}
    left = list(orders)
    while left or core.busy:
        while left and (rng.random() < 0.5 or not core.busy):
            order = left.pop()
            grammar = order.options.grammar
            core.add(order, None if grammar is None else GRAMMARS.matcher(grammar))
        for event in core.step():
            if isinstance(event, TokenEvent):
                out[event.number].append(event)
            else:
                assert not isinstance(event, EndedEvent), event
    core.runner.cache.check()
    return out


def text(tokens: list[TokenEvent]) -> str:
    assert tokens[-1].reason == "stop"
    return bytes(t.token_id for t in tokens[:-1]).decode()


def test_every_schema_at_many_seeds_gives_texts_that_an_independent_validator_takes() -> None:
    judges = {
        name: jsonschema.Draft202012Validator(s, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
        for name, (s, _, _) in CASES.items()
    }
    orders, names = [], list(CASES)
    for n, name in enumerate(names * 3):
        options = SamplingOptions(
            temperature=1.0,
            max_tokens=400,
            logit_bias=SOON,
            grammar=Grammar("schema", json.dumps(CASES[name][0])),
        )
        orders.append(Request(number=n, ids=[1, 2, n % 200], options=options, seed=n, end_ids=ENDS))
    core = Core(runner(context=2048, piece=64, sequences=16), budget=64, places=16)
    valid = 0
    for n, tokens in run(core, orders, random.Random(0)).items():
        if tokens[-1].reason == "length":
            continue  # a long number or text: cut, and told so
        name = names[n % len(names)]
        value = json.loads(text(tokens))
        if "draft" in name:  # an older standard than this judge's: the schema as it is rewritten
            continue
        judges[name].validate(value)
        valid += 1
    assert len(names) >= 60
    assert valid > 2.5 * len(names)


def orders(rng: random.Random, count: int) -> list[Request]:
    schemas = [json.dumps(CASES[n][0]) for n in ("properties", "oneOf by a property", "a chain", "anything", "date")]
    lark = 'start: row+ "."\nrow: "name=" /[a-f]{2,4}/ ", total=" /[0-9]{1,3}/ "; "'
    found = []
    for n in range(count):
        grammar = rng.choice((Grammar("schema", rng.choice(schemas)), Grammar("lark", lark), None))
        options = SamplingOptions(
            temperature=rng.choice((0.0, 1.0, 1.0)),
            top_p=rng.choice((1.0, 0.9)),
            repetition_penalty=rng.choice((1.0, 1.2)),
            max_tokens=rng.randint(4, 40),
            logprobs=rng.choice((None, 1)),
            speculate=rng.choice(("auto", "off")),
            logit_bias=SOON,
            grammar=grammar,
        )
        ids = [rng.randrange(256) for _ in range(rng.randint(1, 12))]
        found.append(Request(number=n, ids=ids, options=options, seed=rng.randrange(99), end_ids=ENDS))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_requests_with_grammars_do_not_feel_each_other(seed: int) -> None:
    rng = random.Random(seed)
    asked = orders(rng, 24)
    core = Core(runner(context=96, piece=32, sequences=3), budget=32, places=8)
    core.scheduler.headroom, core.scheduler.turn = 0, 4
    together = run(core, asked, rng)
    assert core.counters.preempted > 0
    for order in rng.sample(asked, 8):
        alone = run(Core(runner(context=96), budget=64, places=1), [order], rng)[order.number]
        found = together[order.number]
        assert [(t.token_id, t.reason, t.logprob) for t in found] == [(t.token_id, t.reason, t.logprob) for t in alone]


def test_guesses_obey_the_grammar_and_change_nothing() -> None:
    lark = 'start: ("the total is " /[0-9]/ "; "){6}'
    options = SamplingOptions(temperature=1.0, grammar=Grammar("lark", lark))
    prompt = list(b"the total is 4; the total is 4; ")
    said = {}
    for speculate in ("auto", "off"):
        core = Core(runner(), budget=64, places=1)
        chosen = options.with_({"speculate": speculate})
        said[speculate] = run(
            core, [Request(number=0, ids=prompt, options=chosen, seed=5, end_ids=ENDS)], random.Random(0)
        )
        assert (core.counters.kept > 0) == (speculate == "auto")
    ids = {how: [t.token_id for t in tokens[0]] for how, tokens in said.items()}
    assert ids["auto"] == ids["off"]


def test_samples_of_one_prompt_each_follow_the_grammar() -> None:
    options = SamplingOptions(temperature=1.0, max_tokens=200, logit_bias=SOON, grammar=Grammar("json"))
    samples = ((1, 8), (2, 9), (3, 10))
    core = Core(runner(sequences=4), budget=64, places=4)
    out = run(
        core, [Request(number=0, ids=[5, 6], options=options, seed=7, end_ids=ENDS, samples=samples)], random.Random(0)
    )
    assert core.counters.forked == 3
    assert len({text(tokens) for tokens in out.values()}) > 1
    for n, seed in ((0, 7), *samples):
        assert isinstance(json.loads(text(out[n])), dict)
        order = Request(number=n, ids=[5, 6], options=options, seed=seed, end_ids=ENDS)
        one = run(Core(runner(), budget=64, places=1), [order], random.Random(0))[n]
        assert [t.token_id for t in out[n]] == [t.token_id for t in one]


def test_a_child_follows_grammars_as_a_thread_does() -> None:
    from child_model import COMMAND, babble, fake

    child = ChildExecutor(COMMAND, json.dumps({"babbles": True}).encode())
    engines = [
        Engine(backend, lambda: StreamDecoder(BYTES), BYTES.eos_ids, grammars=Grammars(BYTES, BYTES.eos_ids))
        for backend in (child, fake(babble))
    ]

    def ask(engine: Engine, grammar: Grammar) -> list[list[int]]:
        options = SamplingOptions(temperature=1.0, max_tokens=150, grammar=grammar, logit_bias=SOON)
        jobs = engine.submit_samples(Request([1, 2], options, seed=3), 2)
        said: dict[int, list[int]] = {job.number: [] for job in jobs}
        for job, step in engine.streams(jobs):
            if step.token_id is not None:
                said[job.number].append(step.token_id)
        return list(said.values())

    chain = Grammar("schema", json.dumps(CASES["a chain"][0]))
    for grammar in (Grammar("json"), Grammar("regex", "[a-f]{3,9}!"), chain):
        there, here = (ask(engine, grammar) for engine in engines)
        assert there == here
    for engine in engines:
        engine.close()
