"""Ids that stand for rows of an image are in no answer: a model that wants to say them says the next likeliest, and
nobody else's request feels it. Real weights, here and in a process of their own."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import PATIENCE_S, TINY_TEXT, byte_tokenizer_files, hf_folder, wanting
from herd.checkpoint.random_weights import save_hf
from herd.config import TINY
from herd.engine.executors.thread import ThreadExecutor
from herd.errors import GrammarStuck, UsageError
from herd.llm import LLM, Reply, load

PATCH = TINY.patch_id
PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
ASKED: dict[str, Any] = {"max_tokens": 24, "ignore_eos": True, "logprobs": 0}
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "drawn": {"temperature": 1.0, "seed": 1},
    "hot": {"temperature": 100.0, "seed": 2, "logit_bias": {PATCH: 100.0}},
    "the likeliest alone": {"temperature": 1.0, "top_k": 1},
    "all of them": {"temperature": 1.0, "top_k": TINY.vocab_size, "seed": 3},
    "biased": {"temperature": 0.0, "logit_bias": {PATCH: 100.0}},
    "an end": {"temperature": 0.0, "stop_ids": [PATCH]},
    "penalised": {"temperature": 0.0, "repetition_penalty": 0.5, "presence_penalty": -2.0, "frequency_penalty": -2.0},
    "without a guess": {"temperature": 0.0, "speculate": "off"},
    "with probabilities": {"temperature": 0.0, "logprobs": 20},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf_folder(tmp_path_factory.mktemp("wants") / "patches", TINY, model=wanting(PATCH))


@pytest.fixture(scope="module", params=["thread", "child"])
def model(request: pytest.FixtureRequest, folder: Path) -> Iterator[LLM]:
    with load(folder, engine=request.param, chat_format="llama4", force=True, context=512, threads=1) as found:
        yield found


def ids_of(reply: Reply) -> list[int]:
    assert reply.logprobs is not None
    return [one.token_id for one in reply.logprobs]


def said(model: LLM, **arguments: Any) -> list[int]:
    """What is said to a dialog with an image, and to one without, at once."""
    ids: list[int] = []

    def ask(images: list[Any]) -> None:
        reply = model.chat("Hi", images=images, **{**ASKED, **arguments})
        assert reply.finish_reason == "length"
        ids.extend(ids_of(reply))

    threads = [threading.Thread(target=ask, args=([PIXELS] * n,)) for n in (0, 1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(ids) == 3 * 24, "each answered"
    return ids


@pytest.mark.parametrize("way", WAYS)
def test_a_model_that_wants_to_say_a_patch_says_something_else(model: LLM, way: str) -> None:
    assert PATCH not in said(model, **WAYS[way])
    backend = model._running().executor
    if isinstance(backend, ThreadExecutor):
        assert backend._core.counters.failed_passes == 0, "no pass needed rows that were not there"


def test_the_model_does_want_it(model: LLM) -> None:
    logits_V = model.logits([1, 2, 3])[-1]
    assert int(logits_V.argmax()) == PATCH
    assert ids_of(model.complete([1], max_tokens=1, logprobs=1)) != [PATCH]


def test_a_grammar_of_nothing_else_ends_its_own_request(model: LLM) -> None:
    for grammar in ("lark:start: <|patch|>", 'lark:start: "a" <|patch|>'):
        with pytest.raises((GrammarStuck, UsageError)):
            model.chat("Hi", grammar=grammar, max_tokens=4)
    assert len(ids_of(model.chat("Hi", **ASKED))) == 24


def test_prompts_of_ids_and_measures_refuse_patches_without_their_image(model: LLM) -> None:
    for call in (model.complete, model.logits, model.perplexity):
        with pytest.raises(UsageError, match=r"patch|image tokens"):
            call([1, PATCH, 2])


def test_a_model_without_images_may_say_the_id(tmp_path: Path) -> None:
    text = replace(TINY_TEXT, patch_id=PATCH)
    with load(hf_folder(tmp_path / "text", text, model=wanting(PATCH, text)), force=True, threads=1) as model:
        assert ids_of(model.complete([1, PATCH], max_tokens=3, logprobs=0)) == [PATCH] * 3


def test_rows_that_only_pad_the_vocabulary_are_never_said(tmp_path: Path) -> None:
    padded = replace(TINY_TEXT, vocab_size=384)
    texts = byte_tokenizer_files(320)
    folder = save_hf(tmp_path / "padded", padded, wanting(350, padded), texts=texts)
    with load(folder, force=True, threads=1) as model:
        assert model.tokenizer.vocab_size == 320
        for temperature in (0.0, 100.0):
            assert max(ids_of(model.complete([1], temperature=temperature, **ASKED))) < 320
        for call in (model.complete, model.logits):
            with pytest.raises(UsageError, match="id 350, expected ids from 0 to 319"):
                call([1, 350])
        with pytest.raises(UsageError, match="logit_bias: got 350"):
            model.complete([1], logit_bias={350: 1.0})
