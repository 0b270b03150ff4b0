"""How much of a prompt is read is told pass by pass to whoever asks for it, and to nobody else. Times decide nothing:
what is told is counted."""

import threading
from typing import Any

import pytest
from msgspec.structs import replace
from test_engine import engine_for, request, says

from helpers import PATIENCE_S
from herd.engine.engine import Engine
from herd.engine.executors.thread import ThreadExecutor
from herd.engine.fake import FakeModel
from herd.engine.messages import Event, ReadEvent, StartedEvent, TokenEvent, is_last
from herd.engine.request import Request, SamplingOptions, Step, Want
from herd.errors import UsageError

PROMPT = [*range(50)]
PIECE = 16


def asking(ids: list[int], **options: Any) -> Request:
    return replace(request(ids, **{"max_tokens": 2, **options}), progress=True)


def told(steps: list[Step]) -> list[int]:
    """Tokens that each step before the answer says to be read."""
    found = [step.progress.read_tokens for step in steps if step.progress is not None]
    assert [step.progress is not None for step in steps[: len(found)]] == [True] * len(found), "before the answer"
    assert all(not step.text and step.token_id is None for step in steps[: len(found)])
    return found


def plain(**arguments: Any) -> FakeModel:
    return FakeModel(lambda ids: 65, chunk=None, **arguments)


def test_each_pass_tells_what_it_has_read_and_the_last_one_all() -> None:
    with_cache = engine_for(plain(), piece=PIECE)
    steps = list(with_cache.stream(with_cache.submit(asking(PROMPT))))
    assert told(steps) == [0, 16, 32, 48, 50]
    progress = [step.progress for step in steps if step.progress is not None]
    assert {(p.prompt_tokens, p.cached_tokens) for p in progress} == {(50, 0)}
    assert sorted(p.prefill_s for p in progress) == [p.prefill_s for p in progress]
    assert progress[0].prefill_s == 0.0
    assert [step.text for step in steps[5:]] == ["A", "A"]


def test_what_the_cache_holds_is_told_apart_and_first() -> None:
    engine = engine_for(plain(), piece=PIECE)
    list(engine.stream(engine.submit(asking(PROMPT[:20]))))
    steps = list(engine.stream(engine.submit(asking(PROMPT))))
    assert told(steps) == [20, 36, 50]
    assert {step.progress.cached_tokens for step in steps if step.progress is not None} == {20}
    again = list(engine.stream(engine.submit(asking(PROMPT))))
    assert told(again) == [49, 50], "one row is always computed: the answer comes of it"
    assert again[-1].finish is not None and again[-1].finish.usage.cached_tokens == 49


def test_each_of_several_answers_to_one_prompt_tells_its_own() -> None:
    engine = engine_for(plain(), piece=PIECE, places=2)
    jobs = engine.submit_samples(asking(PROMPT), 3)
    found: dict[int, list[Step]] = {}
    for job, step in engine.streams(jobs):
        found.setdefault(job.number, []).append(step)
    read = [told(steps) for _, steps in sorted(found.items())]
    assert read == [[0, 16, 32, 48, 50], [0, 50], [49, 50]], "who reads, who shares it, who found no place until later"


def test_a_prompt_is_begun_to_be_told_of_before_its_first_pass() -> None:
    passes_may_begin, begun_in_time = threading.Event(), []

    def cost(rows: int) -> float:
        begun_in_time.append(passes_may_begin.wait(PATIENCE_S))
        return 0.0

    engine = engine_for(plain(cost=cost), piece=PIECE)
    stream = engine.stream(engine.submit(asking(PROMPT)))
    first = next(stream)
    passes_may_begin.set()
    assert told([first]) == [0]
    assert told(list(stream)) == [16, 32, 48, 50]
    assert all(begun_in_time)


def delivered(progress: bool) -> list[list[Event]]:
    """What an executor delivers for one request, call by call."""
    executor = ThreadExecutor(plain(), piece=PIECE, places=2)
    calls: list[list[Event]] = []
    over = threading.Event()

    def deliver(events: Any) -> None:
        calls.append(list(events))
        if any(map(is_last, events)):
            over.set()

    executor.connect(deliver)
    executor.submit(Request(PROMPT, SamplingOptions(max_tokens=2), number=1, progress=progress))
    assert over.wait(PATIENCE_S)
    found = list(calls)  # closing delivers what is left: nothing
    executor.close()
    return found


def test_who_did_not_ask_costs_no_event_and_no_delivery() -> None:
    kinds = [[type(event) for event in call] for call in delivered(progress=False)]
    assert kinds == [[StartedEvent], [TokenEvent], [TokenEvent]]
    kinds = [[type(event) for event in call] for call in delivered(progress=True)]
    assert kinds == [[StartedEvent], *[[ReadEvent]] * 3, [ReadEvent, TokenEvent], [TokenEvent]]


def test_what_is_measured_tells_no_progress() -> None:
    engine: Engine = engine_for(says("x", 3))
    wanted = replace(asking([1, 2, 3]), want=Want(what="state"))
    with pytest.raises(UsageError, match=r"^progress: got it with state, expected a request for tokens$"):
        engine.submit(wanted)
    odd: Any = replace(request([1, 2, 3]), progress="yes")
    with pytest.raises(UsageError, match=r"^progress: "):
        engine.submit(odd)
