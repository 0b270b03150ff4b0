"""`herd.load(context="auto")`: as much context as memory holds."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import pytest

import herd
from helpers import hf_folder
from herd.config import TINY
from herd.errors import DoesNotFit, UsageError
from herd.llm import loading
from herd.planning.context import USUAL
from herd.planning.memory import need


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf_folder(tmp_path_factory.mktemp("models") / "tiny")


def test_where_there_is_room_it_is_the_models_own(folder: Path) -> None:
    with herd.load(folder, threads=1, context="auto") as llm:
        assert llm.context == TINY.max_context
        assert llm.chat("hi", max_tokens=2, seed=1).usage.output_tokens > 0


@pytest.mark.parametrize("engine", ["thread", "child"])
def test_where_there_is_little_room_it_is_what_fits(folder: Path, monkeypatch: pytest.MonkeyPatch, engine: Any) -> None:
    with loading.open_checkpoint(folder) as checkpoint:
        weights = checkpoint.size_bytes
    room = need(TINY, weights, 512, engine=engine).total_bytes
    monkeypatch.setattr(loading, "available_bytes", lambda: room)
    with herd.load(folder, threads=1, context="auto", parallel=1, engine=engine) as llm:
        assert llm.context == 512
    with pytest.raises(DoesNotFit, match="cache of 4096 tokens"):
        herd.load(folder, threads=1, context=4096, parallel=1, engine=engine)


def test_another_word_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="context: got most, expected 1 to the model's own"):
        herd.load(folder, context="most")  # type: ignore[arg-type]


def test_models_share_what_memory_there_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache takes memory as it fills: what is promised to one model is not given to the next."""
    long = hf_folder(folder.parent / "long", replace(TINY, max_context=1 << 20))
    monkeypatch.setattr(loading, "available_bytes", lambda: 1300 << 20)
    monkeypatch.setattr(loading, "_promised", WeakKeyDictionary())  # models that other tests have left
    first = herd.load(long, threads=1, context="auto")
    second = herd.load(long, threads=1, context="auto")
    found = first.context, second.context
    first.close()
    second.close()
    assert USUAL <= found[1] < found[0] < 1 << 20
    with herd.load(long, threads=1, context="auto") as third:
        assert third.context == found[0]
