"""`LLM.update_weights`: another checkpoint or a tree while it answers, in a thread and in a child."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import herd
from helpers import hf_folder, weights
from herd.config import TINY
from herd.errors import BadCheckpoint, NotFound, UsageError
from herd.llm import LLM, TextEvent
from herd.llm.loading import FRONT_FIELDS


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("models")
    return [hf_folder(place / f"tiny{seed}", seed=seed) for seed in (0, 1)]


@pytest.fixture(params=["thread", "child"])
def model(folders: list[Path], request: pytest.FixtureRequest) -> Iterator[LLM]:
    with herd.load(folders[0], engine=request.param, kv="f32", chat_format="llama4", seed=1) as model:
        yield model


def said(model: LLM) -> tuple[int, ...]:
    return model.complete("what is said", max_tokens=12).ids


def test_a_path_gives_what_a_fresh_load_gives(model: LLM, folders: list[Path]) -> None:
    old = said(model)
    model.update_weights(folders[1])
    assert model.path == folders[1]
    with herd.load(folders[1], kv="f32", chat_format="llama4", seed=1) as fresh:
        assert said(model) == said(fresh) != old
    np.testing.assert_array_equal(model.embed(["some text"]).shape, (1, TINY.width))
    model.update_weights(str(folders[0]))
    assert said(model) == old


def test_a_stream_goes_on_over_the_change(model: LLM, folders: list[Path]) -> None:
    stream = model.stream_complete("a long story", max_tokens=200, ignore_eos=True)
    assert isinstance(next(stream), TextEvent)
    model.update_weights(folders[1])
    *_, last = stream
    assert last.reply.usage.output_tokens == 200  # type: ignore[union-attr]


def test_what_is_no_such_checkpoint_leaves_the_old_weights(model: LLM, tmp_path: Path) -> None:
    old = said(model)
    other = hf_folder(tmp_path / "other", config=replace(TINY, dense_width=TINY.dense_width * 2))
    with pytest.raises(UsageError, match=r"dense_width: got .*, expected .*, as the loaded model has it"):
        model.update_weights(other)
    with pytest.raises(NotFound):
        model.update_weights(tmp_path / "nothing")
    with pytest.raises(UsageError):
        model.update_weights("")
    with pytest.raises(UsageError, match="new weights"):
        model.update_weights(7)  # type: ignore[arg-type]
    cut = hf_folder(tmp_path / "cut", seed=1)
    file = next(cut.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BadCheckpoint):
        model.update_weights(cut)
    assert said(model) == old


def test_a_tree_is_taken_where_the_model_is(folders: list[Path]) -> None:
    with herd.load(folders[0], kv="f32", chat_format="llama4") as model:
        runner = model._running().runner
        tree = weights(TINY, 1)
        model.update_weights(tree)
        got = model.logits([1, 2, 3])
        assert runner.weights.blocks[0].q.w is tree.blocks[0].q.w  # type: ignore[attr-defined]
        with herd.load(folders[1], kv="f32", chat_format="llama4") as fresh:
            np.testing.assert_array_equal(got, fresh.logits([1, 2, 3]))


def test_files_that_are_no_longer_in_use_may_change(tmp_path: Path) -> None:
    first, second = (hf_folder(tmp_path / f"tiny{seed}", seed=seed) for seed in (0, 1))
    with herd.load(first, kv="f32", chat_format="llama4") as model:
        model.update_weights(second)
        next(first.glob("*.safetensors")).unlink()
        assert said(model)
        next(second.glob("*.safetensors")).unlink()
        with pytest.raises(BadCheckpoint, match="tiny1"):
            said(model)


def test_fields_that_no_weight_depends_on_may_differ(tmp_path: Path) -> None:
    assert set(FRONT_FIELDS) <= set(vars(TINY)), "they are fields of a config"
    with herd.load(hf_folder(tmp_path / "a"), chat_format="llama4") as model:
        model.update_weights(hf_folder(tmp_path / "b", config=replace(TINY, max_context=TINY.max_context * 2)))
