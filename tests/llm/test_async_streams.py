"""Streams of coroutines: the same as those of threads, and over when they are closed, wherever they stood."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from speaking import endless, saying

from helpers import PATIENCE_S
from herd.engine.engine import Engine
from herd.engine.messages import TokenEvent
from herd.errors import Busy
from herd.llm import LLM, AsyncStream, DoneEvent, Event, ProgressEvent, Reply

QUESTIONS = ["hi", "a" * 40, "what?\n", "Grüße"]


def within(coroutine: Coroutine[Any, Any, Any], seconds: float = PATIENCE_S) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, seconds))


def alike(events: list[Event]) -> list[Event]:
    """Without what two runs of one request do not share: their times, and how much was cached."""
    return [DoneEvent(timeless(e.reply), e.index) if isinstance(e, DoneEvent) else e for e in events]


def timeless(reply: Reply) -> Any:
    return reply.text, reply.finish_reason, reply.usage.output_tokens, reply.seed, reply.ids, reply.logprobs


@pytest.mark.parametrize("options", [{}, {"logprobs": 2}, {"stop": ["ö"]}, {"max_tokens": 4}, {"n": 3}])
def test_coroutines_read_what_threads_read(options: dict[str, Any]) -> None:
    llm = saying("Ein schönes 🐄 Wort.")
    options = {"temperature": 1.0, "seed": 3, **options}
    samples = range(options.get("n", 1))

    async def read(question: str) -> list[Event]:
        return [event async for event in llm.astream(question, **options)]

    async def together() -> list[list[Event]]:
        return await asyncio.gather(*(read(q) for q in QUESTIONS))

    for question, found in zip(QUESTIONS, within(together()), strict=True):
        expected = alike(list(llm.stream(question, **options)))
        for i in samples:
            assert [e for e in alike(found) if e.index == i] == [e for e in expected if e.index == i]
        assert sum(isinstance(e, DoneEvent) for e in found) == len(samples)


def test_streams_tell_how_much_of_a_prompt_is_read_where_that_is_asked_for() -> None:
    llm, question = saying("yes", chunk=None), "a" * 1200
    total = len(llm.tokenize([{"role": "user", "content": question}]))

    def read(events: list[Event], index: int = 0) -> list[int]:
        found = [event for event in events if event.index == index]
        progress = [event for event in found if isinstance(event, ProgressEvent)]
        assert found[: len(progress)] == progress, "before the answer"
        assert all(event.prompt_tokens == total for event in progress)
        return [event.read_tokens for event in progress]

    async def asked(**options: Any) -> list[Event]:
        return [event async for event in llm.astream(question, **options)]

    whole = [0, 512, 1024, total]
    assert read(list(llm.stream(question, progress=True))) == whole
    assert read(within(asked(progress=True, tenant="another"))) == whole
    for events in (list(llm.stream(question, progress=True, n=2)), within(asked(progress=True, n=2))):
        assert [read(events, index) for index in (0, 1)] == [[total - 1, total]] * 2, "the cache has the rest"
    for events in (list(llm.stream(question)), within(asked(progress=False))):
        assert read(events) == []


class Slow:
    """A policy that asks a model, and counts how often it is asked."""

    hold_tokens, slow = 0, True

    def __init__(self) -> None:
        self.looks = 0

    def before(self, messages: Any) -> None:
        return None

    def window(self, text: str, shown: int) -> None:
        self.looks += 1

    def after(self, reply: Reply) -> None:
        return None


def test_a_policy_is_not_asked_about_progress() -> None:
    llm = saying("yes", chunk=None)

    async def looks(**options: Any) -> int:
        policy = Slow()
        events = [event async for event in llm.astream("a" * 1200, policy=policy, **options)]
        assert isinstance(events[0], ProgressEvent) == bool(options)
        return policy.looks

    assert within(looks(progress=True)) == within(looks())


def test_ready_tells_of_the_prompt_and_each_answer_has_a_seed_of_its_own() -> None:
    llm = saying("abc")

    async def talk() -> tuple[int, list[int]]:
        stream = llm.astream("hi", n=3, seed=11)
        await stream.ready()
        return stream.prompt_tokens, sorted([e.reply.seed async for e in stream if isinstance(e, DoneEvent)])

    assert within(talk()) == (len(llm.tokenize([{"role": "user", "content": "hi"}])), [11, 12, 13])


class Held:
    """A policy that looks at a dialog for as long as the test wants."""

    hold_tokens = 0

    def __init__(self) -> None:
        self.asked, self.go = threading.Event(), threading.Event()

    def before(self, messages: Any) -> None:
        self.asked.set()
        assert self.go.wait(PATIENCE_S)

    def window(self, text: str, shown: int) -> None:
        return None

    def after(self, reply: Reply) -> None:
        return None


def never_started(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The jobs that start from here on."""
    started: list[Any] = []
    monkeypatch.setattr(Engine, "start", lambda self, job: started.append(job))
    assert llm._running() is not None
    return started


def test_closed_while_it_is_prepared_it_never_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    llm, policy = saying("abc"), Held()
    started = never_started(llm, monkeypatch)

    async def talk() -> tuple[list[Event], int]:
        stream = llm.astream("hi", policy=policy)
        task = asyncio.create_task(stream.ready())
        await asyncio.to_thread(policy.asked.wait, 20)
        await stream.aclose()
        policy.go.set()
        await task
        return [event async for event in stream], stream.unread

    assert within(talk()) == ([], 0)
    assert started == []


def test_cancelled_while_it_is_prepared_it_never_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    llm, policy = saying("abc"), Held()
    started = never_started(llm, monkeypatch)

    async def talk() -> None:
        task = asyncio.create_task(llm.achat("hi", policy=policy))
        await asyncio.to_thread(policy.asked.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        policy.go.set()

    within(talk())
    assert started == []


def test_a_closed_stream_has_no_events_and_begins_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = saying("abc")
    started = never_started(llm, monkeypatch)

    async def talk() -> list[Event]:
        stream = llm.astream("hi")
        await stream.aclose()
        await stream.ready()
        return [event async for event in stream]

    assert within(talk()) == []
    assert started == []


def test_closing_wakes_whoever_waits_for_an_event() -> None:
    llm = endless()
    model = llm._running().runner
    compute, computing, go = model.compute, threading.Event(), threading.Event()

    def slow(*arguments: Any) -> Any:
        computing.set()
        assert go.wait(PATIENCE_S)
        return compute(*arguments)

    model.compute = slow  # type: ignore[method-assign]

    async def talk() -> tuple[list[Event], int]:
        stream = llm.astream("hi")
        await stream.ready()

        async def read() -> list[Event]:
            return [event async for event in stream]

        task = asyncio.create_task(read())
        await asyncio.to_thread(computing.wait, 20)
        await stream.aclose()
        found = await task
        go.set()
        return found, stream.unread

    assert within(talk()) == ([], 0)
    assert not llm._running()._table.jobs


def test_for_what_comes_after_its_end_no_room_is_held() -> None:
    """Tokens are on their way to the loop when it is closed, and whoever held room has given it back."""
    llm = endless()

    async def run() -> None:
        held: list[int] = []
        stream = llm.astream("hi")
        stream.hold = held.append
        await anext(stream)
        assert stream._mailbox is not None and held
        (number,) = stream._waiting
        for _ in range(3):
            stream._mailbox.put(TokenEvent(number, 65, None, 0.0, 0.0))
        count = stream.made_tokens
        await stream.aclose()
        before = len(held)
        while stream.made_tokens < count + 3:
            await asyncio.sleep(0.001)
        assert len(held) == before

    within(run())


def test_what_was_refused_is_refused_again() -> None:
    """A stream whose `ready` failed must not look like one whose answer is empty."""
    llm = saying("abc")
    engine = llm._running()
    start: Callable[[Any], None] = engine.start
    refusals = iter([True, True, False])

    def busy(job: Any) -> None:
        if next(refusals):
            raise Busy("the queue is full")
        start(job)

    engine.start = busy  # type: ignore[method-assign]

    async def talk() -> str:
        stream = llm.astream("hi")
        for _ in range(2):
            with pytest.raises(Busy):
                await stream.ready()
        return [event async for event in stream][-1].reply.text

    assert within(talk()) == "abc"


def test_a_reader_that_does_not_read_can_be_seen() -> None:
    llm = saying("a" * 50)

    async def talk() -> tuple[int, int]:
        stream: AsyncStream = llm.astream("hi")
        await stream.ready()
        while stream.unread < 50:
            await asyncio.sleep(0.001)
        waiting = stream.unread
        await stream.aclose()
        return waiting, stream.unread

    waiting, after = within(talk())
    assert waiting >= 50
    assert after == 0


def test_a_trace_is_closed_even_when_its_request_never_begins(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    llm, policy = saying("abc"), Held()
    logs: list[Any] = []

    class Log:
        def __init__(self, path: Any) -> None:
            self.closed = threading.Event()
            logs.append(self)

        def close(self) -> None:
            self.closed.set()

    monkeypatch.setattr("herd.llm.prepare.RoutingLog", Log)

    async def talk() -> None:
        task = asyncio.create_task(llm.achat("hi", policy=policy, trace=tmp_path / "trace"))
        await asyncio.to_thread(policy.asked.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        policy.go.set()
        await asyncio.to_thread(logs[0].closed.wait, 20)

    within(talk())
    assert [log.closed.is_set() for log in logs] == [True]
