"""How likely continuations are: against the model's own logits, of texts and ids, in a thread, a child, a coroutine."""

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from speaking import BYTES, endless

import herd
from helpers import hf_folder
from herd.config import TINY
from herd.engine.fake import FakeModel
from herd.errors import Busy, ContextTooLong, TimedOut, UsageError
from herd.llm import LLM
from herd.text.chat import Llama4

PAIRS = [("Der Mond", " ist"), ("Der Mond", " ist aufgegangen"), ("", "Grüße"), ("a ", "b"), ([5, 6, 7], [8, 9])]


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    with herd.load(hf_folder(tmp_path_factory.mktemp("models") / "tiny"), threads=1, kv="f32") as found:
        yield found


def expected(llm: LLM, prompt: Any, continuation: Any) -> tuple[list[int], Any, bool]:
    """Ids of a continuation, their log-probabilities, and whether each is the likeliest: all logits at once."""
    if isinstance(prompt, str):
        begin = [] if llm.tokenizer.bos_id is None else [llm.tokenizer.bos_id]
        before = [*begin, *llm.tokenize(prompt.rstrip())]
        ids = [*begin, *llm.tokenize(prompt + continuation)]
    else:
        before, ids = prompt, [*prompt, *continuation]
    rows = llm.logits(ids).astype(np.float64)[len(before) - 1 : -1]
    logp = rows - np.log(np.exp(rows - rows.max(1, keepdims=True)).sum(1, keepdims=True)) - rows.max(1, keepdims=True)
    rows[:, [i for i in (TINY.patch_id,) if i is not None]] = -np.inf  # no answer holds it
    own = ids[len(before) :]
    return own, logp[np.arange(len(own)), own], rows.argmax(1).tolist() == own


def test_scores_are_those_of_the_logits(llm: LLM) -> None:
    found = llm.score(PAIRS, top=3)
    for score, (prompt, continuation) in zip(found, PAIRS, strict=True):
        ids, logprobs, is_greedy = expected(llm, prompt, continuation)
        assert list(score.ids) == ids
        np.testing.assert_allclose(score.logprobs, logprobs, atol=1e-9)
        assert score.logprob == pytest.approx(logprobs.sum())
        assert score.is_greedy == is_greedy
        assert all(len(token.top) == 3 for token in score.tokens)
        assert all(a.logprob >= b.logprob for t in score.tokens for a, b in itertools.pairwise(t.top))
        assert score.usage.output_tokens == 0
    assert asyncio.run(llm.ascore(PAIRS, top=3)) == [
        type(score)(score.tokens, score.is_greedy, again.usage)
        for score, again in zip(found, llm.score(PAIRS, top=3), strict=True)
    ]


def test_what_the_model_would_say_is_greedy(llm: LLM) -> None:
    prompt = [3, 1, 4, 1, 5]
    said = list(llm.complete(prompt, max_tokens=6, temperature=0, ignore_eos=True).ids)
    other = [*said[:3], (said[3] + 1) % 256, *said[4:]]
    right, wrong = llm.score([(prompt, said), (prompt, other)])
    assert (right.is_greedy, wrong.is_greedy) == (True, False)
    logprobs = llm.complete(prompt, max_tokens=6, temperature=0, ignore_eos=True, logprobs=0).logprobs
    assert logprobs is not None
    assert right.logprobs == tuple(x.logprob for x in logprobs), "to the bit"


def test_the_space_before_a_word_belongs_to_the_continuation(llm: LLM) -> None:
    here, there = llm.score([("The sky is ", "blue"), ("The sky is", " blue")])
    assert here.ids == there.ids
    assert here.logprobs == there.logprobs


def test_prompts_that_begin_alike_are_computed_once() -> None:
    llm = endless()
    model = llm._running().runner
    assert isinstance(model, FakeModel)
    prompt = "a" * 200
    (first,) = llm.score([(prompt, "b")])
    assert first.usage.cached_tokens == 0
    before = len(model.passes)
    found = llm.score([(prompt, x) for x in ("c", "d", "ef")])
    assert [x.usage.cached_tokens for x in found] == [first.usage.prompt_tokens - 2] * 3
    assert sum(len(ids) for one in model.passes[before:] for ids in one) < 10


def test_pairs_of_one_call_are_those_of_single_calls_to_the_bit(llm: LLM) -> None:
    texts = ["The moon is made of", "The moon is made of", "Der Mond"]
    ends = [" cheese", " cheese and milk", " cheese and bread", " rock", " r", " cheese"]
    pairs: list[Any] = [(text, end) for end in ends for text in texts]
    pairs += [([5, 6, 7], [8, 9]), ([5, 6], [7, 8, 9]), ([5, 6, 7], [8]), *(([1, 2], [i % 50, 3]) for i in range(70))]
    found = llm.score(pairs, top=2)
    for score, pair in zip(found, pairs, strict=True):
        (alone,) = llm.score([pair], top=2)
        assert (score.tokens, score.is_greedy) == (alone.tokens, alone.is_greedy)
        assert score.usage.prompt_tokens == alone.usage.prompt_tokens
    assert [s.tokens for s in asyncio.run(llm.ascore(pairs, top=2))] == [s.tokens for s in found]


def test_a_child_scores_as_a_thread_does(llm: LLM, tmp_path: Path) -> None:
    with herd.load(hf_folder(tmp_path / "tiny"), threads=1, kv="f32", engine="child") as there:
        for one, other in zip(there.score(PAIRS, top=2), llm.score(PAIRS, top=2), strict=True):
            assert one.tokens == other.tokens


@pytest.mark.parametrize(
    ("pairs", "error", "message"),
    [
        ("ab", UsageError, "pairs: got str, expected a list"),
        ([("a", "b"), "ab"], UsageError, r"pairs\[1\]: got str, expected a list"),
        ([("a",)], UsageError, r"pairs\[0\]: got 1 parts, expected a prompt and a continuation"),
        ([("a", "")], UsageError, r"pairs\[0\]: got a continuation without a token of its own"),
        ([([], [1])], UsageError, r"pairs\[0\]: got nothing before the continuation"),
        ([("a", "b" * 9000)], ContextTooLong, r"pairs\[0\] has 900\d tokens, the context holds"),
        ([([1], [2, 5000])], UsageError, r"pairs\[0\]: got id 5000"),
        ([("a", 5)], UsageError, r"pairs\[0\]: got int, expected a list of token ids"),
    ],
)
def test_what_is_no_pair_is_refused_before_any_is_computed(pairs: Any, error: type[Exception], message: str) -> None:
    llm = endless()
    model = llm._running().runner
    assert isinstance(model, FakeModel)
    with pytest.raises(error, match=message):
        llm.score(pairs)
    with pytest.raises(error, match=message):
        asyncio.run(llm.ascore(pairs))
    assert model.passes == []
    assert llm.score([]) == []


def test_one_that_is_late_ends_the_call_and_a_full_queue_is_told() -> None:
    llm = endless()
    with pytest.raises(TimedOut):
        llm.score([("a", "b")], timeout_s=1e-9)
    assert llm._running().num_under_way == 0
    with LLM(TINY, FakeModel(lambda ids: 65), BYTES, Llama4(BYTES), parallel=1, queue=1) as small:
        streams = [small.stream("x", client=str(i)) for i in range(2)]
        for stream in streams:
            next(stream)
        with pytest.raises(Busy):
            small.embed(["x"])
