"""Too little memory is foretold before anything is loaded, with figures and three ways out; when pages
run out while requests are under way, others wait or one is refused, and what was said stays what it would have been."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import herd
from helpers import TINY_TEXT, hf_folder, op_set, weights
from herd.checkpoint.opened import Checkpoint
from herd.engine.core import Core
from herd.engine.messages import EndedEvent, TokenEvent
from herd.engine.request import Request, SamplingOptions
from herd.engine.runner import Runner
from herd.errors import DoesNotFit, PassFailed
from herd.model import place_weights
from herd.planning import memory


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf_folder(tmp_path_factory.mktemp("m") / "tiny", TINY_TEXT)


@pytest.mark.parametrize("engine", ["thread", "child"])
def test_what_will_not_fit_is_refused_before_loading(
    folder: Path, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (folder / "model.safetensors").stat().st_size
    needed = memory.need(TINY_TEXT, size, 2048, "f32", sequences=8, engine=engine).total_bytes
    monkeypatch.setattr("herd.llm.loading.available_bytes", lambda: needed - 10_000)
    monkeypatch.setattr(Checkpoint, "load", lambda self: pytest.fail("weights were loaded"))
    monkeypatch.setattr("herd.llm.loading._start", lambda *a: pytest.fail("a child was started"))
    with pytest.raises(DoesNotFit) as caught:
        herd.load(folder, context=2048, kv="f32", engine=engine, pack=False)
    line = str(caught.value)
    figures = r"needs [\d.]+ [GM]B \(weights [\d.]+ MB, cache of 2048 tokens [\d.]+ MB, work [\d.]+ [GM]B\)"
    assert re.search(figures, line), line
    assert "are available" in line
    ways = re.search(r"a context of (\d+); a cache of (int8) \(--kv int8\); the same model as (\w+), ", line)
    assert ways is not None, line
    monkeypatch.undo()
    monkeypatch.setattr("herd.llm.loading.available_bytes", lambda: needed - 10_000)
    herd.load(folder, context=int(ways[1]), kv="f32", pack=False, engine=engine).close()  # what it offers is true
    herd.load(folder, context=2048, kv="int8", pack=False, engine=engine).close()


def run(core: Core, prompts: list[list[int]], max_tokens: int) -> tuple[dict[int, list[int]], dict[int, Any]]:
    for n, ids in enumerate(prompts):
        core.add(
            Request(number=n, ids=ids, options=SamplingOptions(max_tokens=max_tokens, temperature=0.0, speculate="off"))
        )
    tokens: dict[int, list[int]] = {n: [] for n in range(len(prompts))}
    errors: dict[int, Any] = {}
    while core.busy:
        for event in core.step():
            if isinstance(event, TokenEvent):
                tokens[event.number].append(event.token_id)
            elif isinstance(event, EndedEvent):
                errors[event.number] = event.error
        core.runner.cache.check()
    assert not core.runner.pager.leases  # type: ignore[attr-defined]
    return tokens, errors


def core(context: int) -> Core:
    ops = op_set("native")
    runner = Runner(TINY_TEXT, place_weights(ops, weights(TINY_TEXT)), ops, context=context, page_size=4, sequences=3)
    return Core(runner, budget=16, places=6)


def test_pages_that_run_out_cost_one_request_at_most() -> None:
    """Six requests grow beyond the cache together; one does not fit it even alone."""
    prompts = [[1, 2, 3, n] for n in range(5)] + [list(range(70))]
    crowded = core(48)
    tokens, errors = run(crowded, prompts, 40)
    assert list(errors) == [5]
    assert isinstance(errors[5], DoesNotFit)
    assert crowded.counters.preempted > 0, "the cache was never short: the test shows nothing"
    for n in range(5):
        alone, none = run(core(48), [prompts[n]], 40)
        assert not none
        assert tokens[n] == alone[0]


def test_memory_that_runs_out_in_an_operation_costs_that_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """An allocation fails while one request is computed; the rest of the pass is computed again."""
    prompts = [[1, 2], [77, 3], [4, 5]]
    short = core(64)
    ops = short.runner.ops  # type: ignore[attr-defined]
    embed = ops.embed

    def picky(ids_T: Any, w: Any) -> Any:
        if 77 in np.asarray(ids_T):
            raise MemoryError("cannot allocate")
        return embed(ids_T, w)

    monkeypatch.setattr(ops, "embed", picky)
    tokens, errors = run(short, prompts, 5)
    assert list(errors) == [1]
    assert isinstance(errors[1], PassFailed)
    assert "MemoryError: cannot allocate" in str(errors[1])
    for n in (0, 2):
        assert tokens[n] == run(core(64), [prompts[n]], 5)[0][0], "the others are as if it had not been there"
