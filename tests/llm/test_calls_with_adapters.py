"""Adapters through the Python API: in a thread and in a child, beside calls without one."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import herd
from helpers import hf_folder
from herd.config import TINY
from herd.errors import NotFound, UsageError
from herd.llm import LLM
from herd.ops.contract import LowRank

NAME = "model.layers.1.self_attn.q_proj"


@pytest.fixture(scope="module", params=["thread", "child"])
def model(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[LLM]:
    folder: Path = hf_folder(tmp_path_factory.mktemp("models") / "tiny")
    with herd.load(folder, engine=request.param, kv="f32", chat_format="llama4", seed=1) as model:
        yield model


def pairs(outputs: int = TINY.num_heads * TINY.head_size) -> dict[str, LowRank]:
    rng = np.random.default_rng(0)
    return {NAME: LowRank(rng.normal(size=(2, TINY.width)), rng.normal(size=(outputs, 2)), 1.0)}


def said(model: LLM, adapter: str | None) -> tuple[int, ...]:
    return model.complete("what is said", max_tokens=12, adapter=adapter).ids


def test_calls_name_an_adapter_and_others_do_not_feel_it(model: LLM) -> None:
    plain = said(model, None)
    model.add_adapter("tall", pairs())
    assert model.adapters == ("tall",)
    with pytest.raises(NotFound, match=r"adapter: got tal, expected one of tall; did you mean tall\?"):
        said(model, "tal")
    tall = said(model, "tall")
    assert tall != plain == said(model, None)
    assert said(model, "tall") == tall
    assert model.chat("hello", max_tokens=4, adapter="tall").ids != model.chat("hello", max_tokens=4).ids
    model.drop_adapter("tall")
    with pytest.raises(NotFound, match="adapter: got tall, expected none: the model has no adapters"):
        said(model, "tall")


def test_what_is_no_adapter_is_refused_and_none_is_known_then(model: LLM) -> None:
    with pytest.raises(UsageError, match=f"adapter wide: {NAME}: got down"):
        model.add_adapter("wide", pairs(outputs=3))
    with pytest.raises(NotFound):
        model.drop_adapter("wide")
    assert model.adapters == ()
    with pytest.raises(UsageError, match="adapter"):
        model.complete("x", adapter="")


def test_scores_and_vectors_are_those_of_the_adapter(model: LLM) -> None:
    pair, text = ([3, 1, 4], [1, 5, 9]), ["what is said"]
    plain = model.score([pair])[0].logprobs, model.embed(text).tolist()
    model.add_adapter("tall", pairs())
    said = model.complete(pair[0], max_tokens=3, temperature=0, logprobs=0, ignore_eos=True, adapter="tall")
    (found,) = model.score([(pair[0], said.ids)], adapter="tall")
    assert said.logprobs is not None
    assert found.is_greedy
    assert found.logprobs == tuple(x.logprob for x in said.logprobs)
    assert model.embed(text, adapter="tall").tolist() != plain[1]
    assert (model.score([pair])[0].logprobs, model.embed(text).tolist()) == plain
    model.drop_adapter("tall")
    with pytest.raises(NotFound, match="adapter: got tall"):
        model.score([pair], adapter="tall")
