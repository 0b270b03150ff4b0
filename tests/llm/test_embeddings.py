"""Texts as vectors: what they are made of, and who waits meanwhile."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from speaking import BYTES, endless

import herd
from helpers import PATIENCE_S, hf_folder, op_set, until, weights
from herd.batch import packed
from herd.config import TINY
from herd.engine.fake import FakeModel
from herd.engine.runner import Chunk, Runner
from herd.errors import ContextTooLong, UsageError
from herd.llm import LLM
from herd.model import hidden, place_weights
from herd.text.chat import Llama4

TEXTS = ["a", "Grüße aus Rom", "a" * 60, "b"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf_folder(tmp_path_factory.mktemp("models") / "tiny")


def expected(ids: list[int]) -> Any:
    """The same by definition: one pass over the whole text, without a cache."""
    ops = op_set("native")
    place = ops.place(packed([len(ids)], TINY.chunk))
    x_TD = np.asarray(ops.numpy(hidden(ops, TINY, place_weights(ops, weights(TINY)), np.asarray(ids), place)))
    x_TD = x_TD.astype(np.float64)
    x_TD /= np.sqrt((x_TD**2).mean(axis=1, keepdims=True))
    mean_D = x_TD.mean(axis=0)
    return mean_D / np.linalg.norm(mean_D)


def by_position(runner: Runner, ids: list[int]) -> Any:
    """The sum in float64, position by position, of whole blocks of 512, over the rows that a runner gives."""
    rows: list[Any] = []

    class All:
        states = True

        def take(self, position: int, rows_RX: Any) -> None:
            assert position == sum(map(len, rows))
            rows.append(rows_RX)

    lease = runner.lease()
    for start in range(0, len(ids), 512):
        runner.run([Chunk(lease, ids[start : start + 512], rows=(), reader=All())])
    runner.drop(lease)
    total = np.zeros(TINY.width)
    for block in rows:
        x_TD = block.astype(np.float64)
        total = total + (x_TD / (np.sqrt((x_TD**2).mean(axis=1, keepdims=True)) + 1e-12)).sum(axis=0)
    return (total / np.linalg.norm(total)).astype(np.float32)


@pytest.mark.parametrize("kv", ["f32", "bf16", "int8"])
def test_a_vector_is_the_same_to_the_bit_however_it_was_cut(
    folder: Path, kv: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [*TEXTS, "Der Mond ist aufgegangen. " * 55]
    for piece in (512, 50):
        monkeypatch.setattr("herd.llm.PIECE", piece)
        with herd.load(folder, threads=1, kv=kv) as llm:
            bos = llm.tokenizer.bos_id
            assert bos is not None
            runner = llm._running().runner
            assert isinstance(runner, Runner)
            expected = [by_position(runner, [bos, *llm.tokenize(text)]) for text in texts]
            stream = llm.stream("Hi", max_tokens=60)
            next(stream)
            found = llm.embed(texts)  # together, and beside a stream
            list(stream)
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("piece", [512, 7])
def test_a_vector_is_the_mean_of_the_last_states(folder: Path, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("herd.llm.PIECE", piece)
    with herd.load(folder, threads=1, kv="f32") as llm:
        found = llm.embed(TEXTS)
        assert (found.shape, found.dtype) == ((4, TINY.width), np.float32)
        for vector_D, text in zip(found, TEXTS, strict=True):
            bos = llm.tokenizer.bos_id
            assert bos is not None
            np.testing.assert_allclose(vector_D, expected([bos, *llm.tokenize(text)]), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
        np.testing.assert_array_equal(llm.embed(TEXTS[::-1]), found[::-1])
        assert llm.embed([]).shape == (0, TINY.width)


def test_a_child_gives_the_same_vectors(folder: Path) -> None:
    with (
        herd.load(folder, threads=1, kv="f32") as here,
        herd.load(folder, threads=1, kv="f32", engine="child") as there,
    ):
        np.testing.assert_array_equal(there.embed(TEXTS), here.embed(TEXTS))
        assert there.complete("a", max_tokens=2, ignore_eos=True).usage.output_tokens == 2


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        (["a", ""], UsageError, r"texts\[1\]: got an empty text"),
        (["a", 5], UsageError, r"texts\[1\]: got int, expected a text"),
        ("a", UsageError, "texts: got str, expected a list"),
        (["a" * 5000], ContextTooLong, "tokens, the context holds"),
    ],
)
def test_what_is_no_list_of_texts_is_refused_before_any_is_computed(
    texts: Any, error: type[Exception], message: str
) -> None:
    llm = endless()
    model = llm._running().runner
    assert isinstance(model, FakeModel)
    with pytest.raises(error, match=message):
        llm.embed(texts)
    assert model.passes == []


def test_prompts_stay_in_the_cache_beside_embeddings_and_perplexity() -> None:
    llm = endless()
    first = llm.chat("Tell me something about the moon and the sea.", max_tokens=4)
    llm.embed(["hello", "a" * 400])
    llm.perplexity("x" * 900, context=100, stride=50)
    llm.logits([1, 2, 3])
    again = llm.chat("Tell me something about the moon and the sea.", max_tokens=4)
    assert again.usage.cached_tokens == first.usage.prompt_tokens - 1


def test_a_stream_goes_on_beside_texts() -> None:
    llm = endless()
    model = llm._running().runner
    assert isinstance(model, FakeModel)
    compute, over = model.compute, threading.Event()

    def held(*arguments: Any) -> Any:
        """A pass begins when texts were asked for: the stream does not end before them."""
        until("nobody asks for texts", lambda: over.is_set() or llm._running().num_under_way > 1)
        return compute(*arguments)

    stream = llm.stream("hi", max_tokens=3000)
    next(stream)
    model.compute = held  # type: ignore[method-assign]
    before = len(model.passes) + 1  # one may have begun
    llm.embed(["a" * 400] * 6)
    over.set()
    passed = model.passes[before:]
    stream.close()  # type: ignore[attr-defined]
    beside = [one for one in passed if any(len(ids) > 1 for ids in one)]
    assert beside
    assert all(any(65 in ids for ids in one) for one in beside), "a token of the stream in each pass"


@pytest.mark.parametrize("way", ["aembed", "ascore"])
def test_what_nobody_waits_for_any_more_is_not_computed(way: str) -> None:
    llm = endless()
    model = llm._running().runner
    assert isinstance(model, FakeModel)
    begun, on = threading.Event(), threading.Event()
    compute = model.compute

    def held(*arguments: Any) -> Any:
        begun.set()
        assert on.wait(PATIENCE_S)
        return compute(*arguments)

    model.compute = held  # type: ignore[method-assign]

    async def leave() -> None:
        texts: Any = ["a" * 3000] * 50 if way == "aembed" else [("a" * 3000, "b")] * 50
        task = asyncio.create_task(getattr(llm, way)(texts))
        await asyncio.to_thread(begun.wait, PATIENCE_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    on.set()
    assert llm.complete("x", max_tokens=1).usage.output_tokens == 1
    assert llm._running().num_under_way == 0
    assert sum(len(ids) for one in model.passes for ids in one) < 3000, "one pass, and the last request's"
    llm.close()


@pytest.mark.parametrize("way", ["aembed", "ascore"])
def test_long_texts_are_read_in_the_lane_for_large_work(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    llm, lanes, sizes = endless(), herd.llm.computing(), list[int]()

    class Noting:
        def run(self, owner: str, work: Any, size_bytes: int = 0) -> Any:
            sizes.append(size_bytes)
            return lanes.run(owner, work, size_bytes)

    monkeypatch.setattr(herd.llm, "computing", Noting)
    texts: Any = ["a" * 300, "b" * 300] if way == "aembed" else [("a" * 300, "b" * 300)]
    asyncio.run(getattr(llm, way)(texts))
    assert sizes[0] >= 600
    llm.close()


def test_a_full_queue_is_waited_for_where_a_part_is_under_way() -> None:
    model = FakeModel(lambda ids: 65)
    with LLM(TINY, model, BYTES, Llama4(BYTES), parallel=1, queue=2) as llm:
        texts = [f"text number {i}" for i in range(9)]
        found = llm.embed(texts)
        assert len(np.unique(found, axis=0)) == 9
        np.testing.assert_array_equal(asyncio.run(llm.aembed(texts)), found)
