"""Failures stay in their request: over the real model on TINY, with weights that are not numbers."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from helpers import TINY_TEXT, op_set, weights
from herd.engine.core import Core
from herd.engine.messages import EndedEvent, TokenEvent
from herd.engine.request import Request, SamplingOptions
from herd.engine.runner import Runner
from herd.errors import BadCheckpoint
from herd.model import place_weights

OPTIONS = SamplingOptions(max_tokens=6, logprobs=1)


def core(model: Any, **arguments: Any) -> Core:
    ops = op_set("native")
    runner = Runner(TINY_TEXT, place_weights(ops, model), ops, **{"context": 64, "page_size": 4, **arguments})
    return Core(runner, budget=16, places=4)


def run(c: Core, prompts: list[list[int]]) -> tuple[dict[int, list[Any]], dict[int, Any]]:
    for n, ids in enumerate(prompts):
        c.add(Request(number=n, ids=ids, options=OPTIONS))
    tokens: dict[int, list[Any]] = {n: [] for n in range(len(prompts))}
    errors: dict[int, Any] = {}
    while c.busy:
        for event in c.step():
            if isinstance(event, TokenEvent):
                tokens[event.number].append((event.token_id, event.logprob))
            elif isinstance(event, EndedEvent):
                errors[event.number] = event.error
        c.runner.cache.check()
    assert not c.runner.pager.leases  # type: ignore[attr-defined]
    return tokens, errors


def test_an_id_whose_row_is_not_a_number_fails_its_request_only() -> None:
    model = weights(TINY_TEXT)
    table = np.array(model.embed.w, np.float32)
    table[200] = np.nan
    broken = replace(model, embed=replace(model.embed, w=table))
    prompts = [[1, 2, 3], [5, 200, 6], list(range(30, 60))]
    tokens, errors = run(core(broken), prompts)
    assert list(errors) == [1]
    assert isinstance(errors[1], BadCheckpoint)
    assert str(errors[1]) == "the embedding: its output is not finite; verify the model's files"
    for n in (0, 2):
        assert tokens[n] == run(core(model), [prompts[n]])[0][0], "the others are as if it had not been there"


@pytest.mark.parametrize("layer", [0, 2])
def test_the_first_layer_that_is_not_finite_is_named(layer: int) -> None:
    model = weights(TINY_TEXT)
    blocks = list(model.blocks)
    bad = blocks[layer]
    blocks[layer] = replace(bad, norm2=replace(bad.norm2, w=np.full_like(np.asarray(bad.norm2.w, np.float32), np.inf)))
    _, errors = run(core(replace(model, blocks=type(model.blocks)(blocks))), [[1, 2, 3], list(range(40))])
    assert {str(e).split(":")[0] for e in errors.values()} == {f"layer {layer}"}
    assert len(errors) == 2
