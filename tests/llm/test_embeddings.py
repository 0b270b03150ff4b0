"""Texts as vectors: what they are made of, and who waits meanwhile."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from speaking import endless

import herd
from helpers import hf_folder, op_set, weights
from herd.batch import packed
from herd.config import TINY
from herd.engine.fake import FakeModel
from herd.errors import ContextTooLong, UsageError
from herd.model import hidden, place_weights

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
        assert there.complete("a", max_tokens=2).usage.output_tokens == 2


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


def test_requests_go_on_between_texts() -> None:
    llm = endless()
    model = llm._running().runner
    assert isinstance(model, FakeModel)
    done: list[str] = []
    compute, states = model.compute, model.states

    def noted_compute(*arguments: Any) -> Any:
        done.append("request")
        return compute(*arguments)

    def noted_states(*arguments: Any) -> Any:
        model.compute = compute  # type: ignore[method-assign]
        found = states(*arguments)
        model.compute = noted_compute  # type: ignore[method-assign]
        done.append("text")
        return found

    model.compute, model.states = noted_compute, noted_states  # type: ignore[method-assign]
    stream = llm.stream("hi", max_tokens=2000)
    next(stream)
    llm.embed(["a" * 400] * 6)
    stream.close()  # type: ignore[attr-defined]
    turns = [i for i, what in enumerate(done) if what == "text"]
    assert len(turns) == 6
    assert all("request" in done[a:b] for a, b in itertools.pairwise(turns)), done[turns[0] : turns[-1]]
