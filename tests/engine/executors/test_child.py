"""The core in another process: a thread's answers, typed errors, and an end on either side that is seen at once."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from child_model import COMMAND
from msgspec.structs import replace

from helpers import PATIENCE_S, until
from herd.engine.engine import Engine
from herd.engine.executors.child import ChildExecutor
from herd.engine.fake import FakeModel
from herd.engine.request import Request, SamplingOptions, Step, Want
from herd.errors import BadCheckpoint, EngineDied, NotFound, PassFailed, UsageError
from herd.ops.contract import LowRank
from herd.progress import silent
from herd.text.stream import StreamDecoder
from herd.text.tokenizer import Tokenizer

BYTES = Tokenizer.bytes_only()


def child(progress: Any = silent, **told: Any) -> ChildExecutor:
    return ChildExecutor(COMMAND, json.dumps(told).encode(), progress=progress)


def front(backend: Any) -> Engine:
    return Engine(backend, lambda: StreamDecoder(BYTES), BYTES.eos_ids)


def request(ids: list[int], pixels: Any = None, **options: Any) -> Request:
    return Request(ids, SamplingOptions().with_(options), pixels)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    e = front(child())
    yield e
    e.close()


def tokens(engine: Engine, r: Request) -> list[int]:
    return [s.token_id for s in engine.stream(engine.submit(r)) if s.token_id is not None]


def here() -> Engine:
    def next_id(ids: list[int]) -> int:
        return (sum(ids) * 7 + len(ids)) % 100

    return front(FakeModel(next_id, patch_id=266, chunk=16))


def test_a_child_answers_as_a_thread_does(engine: Engine) -> None:
    tiles = np.random.default_rng(0).random((1, 3, 2, 2), np.float32)
    for r in (
        request([1, 2, 3], max_tokens=9, logprobs=2),
        request([5], max_tokens=4, temperature=1.0, logit_bias={3: 5.0}),
        request([1, *[266] * 4, 9], tiles, max_tokens=5),
    ):
        assert tokens(engine, r) == tokens(here(), r)
    steps = list(engine.stream(engine.submit(request([1, 2, 3, 4], max_tokens=2, logprobs=1))))
    assert steps[-1].finish is not None
    assert steps[-1].finish.usage.cached_tokens == 3, "the prefix is there"
    assert steps[0].logprob is not None
    assert steps[0].logprob.token_id == steps[0].token_id


def test_a_child_tells_of_reading_as_a_thread_does_and_only_whoever_asks(engine: Engine) -> None:
    def read(engine: Engine, progress: bool) -> list[int]:
        asked = replace(request([*range(40)], max_tokens=1), progress=progress, salt=b"read")
        steps = engine.stream(engine.submit(asked))
        return [step.progress.read_tokens for step in steps if step.progress is not None]

    assert read(engine, True) == read(here(), True) == [0, 16, 32, 40]
    assert read(engine, False) == []


def test_many_threads_and_samples(engine: Engine) -> None:
    jobs = engine.submit_samples(request([7, 8], max_tokens=6, temperature=0.7), 3)
    found = [[s.token_id for s in engine.stream(job)] for job in jobs]
    assert len(found) == 3
    results: dict[int, list[int]] = {}

    def ask(n: int) -> None:
        results[n] = tokens(engine, request([n, n], max_tokens=8))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(PATIENCE_S)
    assert results == {n: tokens(here(), request([n, n], max_tokens=8)) for n in range(12)}


def test_a_request_that_breaks_there_fails_here_with_its_type(engine: Engine) -> None:
    with pytest.raises(PassFailed, match="RuntimeError: 200 breaks"):
        tokens(engine, request([200]))
    assert len(tokens(engine, request([3], max_tokens=3))) == 3


@pytest.mark.parametrize(
    "want", [Want(what="logprobs", start=2, top=3), Want(what="state"), Want(what="logits", keep=False)]
)
def test_a_child_measures_as_a_thread_does(engine: Engine, want: Want) -> None:
    def numbers(engine: Engine) -> Any:
        steps = list(engine.stream(engine.submit(Request([1, 2, 3, 4, 5], SamplingOptions(), want=want))))
        rows = [step.rows_RX for step in steps if step.rows_RX is not None]
        return [score for step in steps for score in step.scores], np.concatenate(rows).tolist() if rows else []

    assert numbers(engine) == numbers(here())
    assert len(tokens(engine, request([3], max_tokens=3))) == 3


def test_progress_and_errors_of_loading() -> None:
    heard: list[tuple[str, int, int]] = []
    front(child(lambda *x: heard.append(x))).close()
    assert heard == [("weights", 1, 2), ("weights", 2, 2)]
    with pytest.raises(BadCheckpoint, match=r"^weights: got sand, expected numbers$"):
        child(fails="typed")
    with pytest.raises(PassFailed, match="ZeroDivisionError: by zero"):
        child(fails="untyped")
    with pytest.raises(EngineDied, match=r"ended \(status 7\) while it loaded"):
        child(fails="dies")


def test_a_killed_child_ends_every_stream_at_once() -> None:
    """Its end is felt, not found out at some time-out."""
    backend = child(pass_s=0.01)
    engine = front(backend)
    ended: list[Exception] = []
    going = threading.Barrier(4)

    def read() -> None:
        stream: Iterator[Step] = engine.stream(engine.submit(request([1], ignore_eos=True)))
        next(stream)
        going.wait(PATIENCE_S)
        try:
            list(stream)
        except Exception as error:
            ended.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for t in threads:
        t.start()
    waiting = engine.submit(request([2]))  # nobody reads it yet
    going.wait(PATIENCE_S)
    os.kill(backend.pid, signal.SIGKILL)
    for t in threads:
        t.join(PATIENCE_S)
    assert len(ended) == 3
    assert all(isinstance(error, EngineDied) and "SIGKILL" in str(error) for error in ended)
    with pytest.raises(EngineDied):
        list(engine.stream(waiting))
    with pytest.raises(EngineDied):
        engine.submit(request([1]))
    engine.close()


def test_a_child_ends_with_its_parent() -> None:
    script = (
        "import sys, json, os, time\n"
        f"sys.path[:0] = {[str(folder) for folder in Path(__file__).parents[:3]]!r}\n"
        "from test_child import child, front, request\n"
        "backend = child(pass_s=0.2)\n"
        "engine = front(backend)\n"
        "next(engine.stream(engine.submit(request([1]))))\n"
        "print(backend.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S)
    assert found.returncode == -9, found.stderr
    pid = int(found.stdout)
    until("the child outlives its parent", lambda: not _runs(pid))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_child_goes_on_with_other_weights_or_with_the_old_ones() -> None:
    engine = front(child())
    asked = request([1, 2, 3], max_tokens=4)
    old = tokens(engine, asked)
    with pytest.raises(BadCheckpoint, match="sand"):
        engine.executor.update_weights("sand")
    for bad in ("what cannot be used", object()):
        with pytest.raises(UsageError, match="new weights"):
            engine.executor.update_weights(bad)
    assert tokens(engine, asked) == old
    engine.executor.update_weights("9")
    steps = list(engine.stream(engine.submit(asked)))
    assert [step.token_id for step in steps] == [9] * 4
    assert steps[-1].finish is not None
    assert steps[-1].finish.usage.cached_tokens == 0
    engine.close()
    with pytest.raises(EngineDied):
        engine.executor.update_weights("9")


def test_a_child_takes_adapters_and_answers_with_them_as_a_thread_does(engine: Engine) -> None:
    pair = LowRank(np.ones((1, 2), np.float16), np.ones((2, 1), np.float32), 2)
    asked = replace(request([1, 2, 3], max_tokens=5), adapter="a")
    plain = tokens(engine, replace(asked, adapter=None))
    with pytest.raises(NotFound, match="adapter: got a"):
        tokens(engine, asked)
    engine.executor.add_adapter("a", {"a weight": pair})
    assert engine.executor.adapters == ("a",)
    adapted = tokens(engine, asked)
    assert adapted != plain
    assert adapted == tokens(engine, asked)
    with pytest.raises(UsageError, match="a weight: got tuple, expected a LowRank"):
        engine.executor.add_adapter("b", {"a weight": (pair.down, pair.up)})  # type: ignore[dict-item]
    with pytest.raises(NotFound):
        engine.executor.drop_adapter("b")
    engine.executor.drop_adapter("a")
    with pytest.raises(NotFound):
        tokens(engine, asked)
    assert tokens(engine, replace(asked, adapter=None)) == plain


def test_who_waits_for_a_change_hears_that_the_process_is_gone() -> None:
    backend = child()
    backend.connect(lambda events: None)
    with pytest.raises(EngineDied, match="status 7"):
        backend.update_weights("dies")
    backend.close()
