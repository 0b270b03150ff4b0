"""The engine over an op set that draws where the logits are: every answer is the one drawn on the host."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from helpers import TINY_TEXT, weights
from herd.engine.core import Core
from herd.engine.messages import EndedEvent, TokenEvent
from herd.engine.request import Request, SamplingOptions
from herd.engine.runner import Runner
from herd.errors import BadCheckpoint, PassFailed
from herd.model import place_weights

torch = pytest.importorskip("torch")
from herd.ops.torch import TorchOps  # noqa: E402

PROMPT = np.random.default_rng(3).integers(0, 256, 21).tolist()
REPEATS = [7, 8, 9] * 6
"""Guessed from its own text: some rows of a pass are of proposed ids."""


def run(draws: bool, orders: list[Request], model: Any = None) -> tuple[dict[int, Any], Core]:
    ops = TorchOps(draws=draws)
    tree = place_weights(ops, weights(TINY_TEXT) if model is None else model)
    runner = Runner(TINY_TEXT, tree, ops, context=256, page_size=4, sequences=8)
    core = Core(runner, budget=24, clock=itertools.count().__next__)  # so that passes are cut alike
    for order in orders:
        core.add(order)
    found: dict[int, Any] = {}
    while core.busy:
        for event in core.step():
            if isinstance(event, TokenEvent):
                found.setdefault(event.number, []).append((event.token_id, event.logprob))
            elif isinstance(event, EndedEvent):
                found[event.number] = event.error
        core.runner.cache.check()
    assert not core.runner.pager.leases  # type: ignore[attr-defined]
    return found, core


def order(number: int, ids: list[int], samples: tuple[tuple[int, int], ...] = (), **options: Any) -> Request:
    return Request(
        number=number, ids=ids, options=SamplingOptions(max_tokens=8, **options), seed=number, samples=samples
    )


ORDERS = [
    order(0, PROMPT, logprobs=2),
    order(1, PROMPT[:5], temperature=0.8),
    order(2, PROMPT[3:], ((10, 77), (11, 78)), temperature=1.0, top_p=0.9, logprobs=0),
    order(3, PROMPT[2:9], temperature=1.0, presence_penalty=1.0, speculate="off"),
    order(4, REPEATS),
    order(5, REPEATS, temperature=0.5, top_k=5),
    order(6, PROMPT[:7], ((12, 5),), logit_bias={3: 4.0}, speculate="off"),
]


def test_answers_are_those_of_the_host() -> None:
    there, core = run(True, ORDERS)
    here, _ = run(False, ORDERS)
    assert core.counters.forked and core.counters.proposed
    assert there.keys() == here.keys()
    for number, tokens in here.items():
        assert [i for i, _ in there[number]] == [i for i, _ in tokens], number
        for (_, a), (_, b) in zip(there[number], tokens, strict=True):
            assert (a is None) == (b is None)
            if a is not None and b is not None:
                assert a.logprob == pytest.approx(b.logprob, abs=1e-9)
                assert [i for i, _ in a.top] == [i for i, _ in b.top]


def test_logits_cross_to_the_host_only_for_what_it_must_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes, numpy = [], TorchOps.numpy
    monkeypatch.setattr(TorchOps, "numpy", lambda ops, x: shapes.append(tuple(x.shape)) or numpy(ops, x))
    run(True, ORDERS[:3])
    assert shapes == []
    run(True, ORDERS)
    assert {shape[1] for shape in shapes} == {TINY_TEXT.vocab_size}
    assert max(shape[0] for shape in shapes) <= 3, "of 3, 6 and 12"


def test_a_draw_that_breaks_costs_no_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no memory on the card")

    monkeypatch.setattr(TorchOps, "draw", broken)
    found, _ = run(True, [ORDERS[0], ORDERS[3], ORDERS[4]])
    assert {number: type(x) for number, x in found.items()} == {0: PassFailed, 3: list, 4: PassFailed}


def test_logits_that_are_no_numbers_name_the_head() -> None:
    model = weights(TINY_TEXT)
    norm = replace(model.norm, w=np.full(TINY_TEXT.width, np.inf, np.float32))
    found, _ = run(True, [ORDERS[0], ORDERS[1]], replace(model, norm=norm))
    for error in found.values():
        assert isinstance(error, BadCheckpoint)
        assert str(error) == "the head: its output is not finite; verify the model's files"
