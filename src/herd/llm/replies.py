"""Whole answers: of one request, and of many that one call has under way together.

Of many, all run to their end; what failed stands in its place as an error. What it is not: how one runs
(`herd.llm.answers`, `herd.llm.streams`), what it is asked (`herd.llm.prepare`).
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from herd.engine.engine import Engine
from herd.errors import Busy, HerdError, SomeFailed, TimedOut, herd_error
from herd.events import DoneEvent, Event, Reply, TextEvent
from herd.llm.answers import events
from herd.llm.streams import AsyncStream, Prepared

if TYPE_CHECKING:
    import asyncio

Outcome: TypeAlias = Reply | HerdError
TOGETHER = 64
"""Requests of one call that are under way at once."""
RETRY_S = 0.1
"""Seconds after which a place is looked for again where others' requests fill the queue."""


class _Reading:
    """Keeps the text so far of an answer that is read within it: a TimedOut that leaves it carries that text."""

    def __init__(self) -> None:
        self._pieces: list[str] = []

    def take(self, event: Event) -> Reply | None:
        """The reply, with the last event."""
        if isinstance(event, TextEvent):
            self._pieces.append(event.text)
        return event.reply if isinstance(event, DoneEvent) else None

    def __enter__(self) -> "_Reading":
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, TimedOut):
            error.text = "".join(self._pieces)


def last(stream: Iterator[Event]) -> Reply:
    """The answer at the end of a stream. A TimedOut carries the text so far."""
    with _Reading() as reading:
        for event in stream:
            if (reply := reading.take(event)) is not None:
                return reply
    raise AssertionError("a stream ended without its DoneEvent")


async def alast(stream: AsyncStream) -> Reply:
    """`last` for a coroutine; the stream is closed in any case."""
    with _Reading() as reading:
        async with aclosing(stream):
            async for event in stream:
                if (reply := reading.take(event)) is not None:
                    return reply
    raise AssertionError("a stream ended without its DoneEvent")


def run(engine: Engine, prepared: Prepared) -> Iterator[Event]:
    """Events of a request; it begins when the first is read, unless it has begun."""
    try:
        yield from events(engine, prepared.samples, prepared.refusal)
    finally:
        prepared.close()


@dataclass
class _Begun:
    """A request that is queued, or runs."""

    prepared: Prepared
    events: Iterator[Event]


def answer_all(engine: Engine, count: int, prepare: Callable[[int], Prepared], most: int) -> list[Outcome]:
    """What comes of each request, in order, `most` of them at once. prepare: makes one.

    Waits where the queue is full. Ctrl-C ends it: the list then ends with the interrupted reply.
    """
    waiting = deque(range(count))
    begun: deque[_Begun | HerdError] = deque()
    found: list[Outcome] = []
    try:
        while waiting or begun:
            while waiting and len(begun) < most:
                one = _begin(engine, prepare, waiting[0])
                if one is None:
                    break
                begun.append(one)
                waiting.popleft()
            if not begun:
                time.sleep(RETRY_S)  # others fill the queue
                continue
            found.append(_outcome(begun[0]))
            begun.popleft()  # only now, so that whatever breaks it off ends it
            if isinstance(found[-1], Reply) and found[-1].finish_reason == "interrupted":
                break
    finally:
        for left in begun:
            for sample in () if isinstance(left, HerdError) else left.prepared.samples:
                engine.cancel(sample.job)
    return found


def _begin(engine: Engine, prepare: Callable[[int], Prepared], index: int) -> _Begun | HerdError | None:
    """A request that has begun, or why it cannot; None: there is no place for it yet."""
    try:
        prepared = prepare(index)
        refusal = prepared.refusal()  # now, not when its first event is read
        prepared.refusal = lambda: refusal
        if refusal is None:
            try:
                engine.start(prepared.samples[0].job)
            except BaseException:
                prepared.close()
                raise
    except Busy:
        return None
    except Exception as error:
        return herd_error(error)
    return _Begun(prepared, run(engine, prepared))


def _outcome(begun: _Begun | HerdError) -> Outcome:
    if isinstance(begun, HerdError):
        return begun
    try:
        return last(begun.events)
    except Exception as error:
        return herd_error(error)


async def aanswer_all(count: int, open_stream: Callable[[int], AsyncStream], most: int) -> list[Outcome]:
    """`answer_all` for a coroutine: no thread waits, and cancelling its task ends the requests."""
    import asyncio

    found: list[asyncio.Future[Outcome]] = []
    running: set[asyncio.Future[Outcome]] = set()
    try:
        for index in range(count):
            if len(running) >= most:
                running = await _fewer(running)
            while (one := await _abegin(open_stream, index)) is None:
                running = await _fewer(running)
            found.append(one)
            running.add(one)
        return list(await asyncio.gather(*found))
    finally:
        for one in found:
            one.cancel()
        await asyncio.gather(*found, return_exceptions=True)


async def _fewer(running: "set[asyncio.Future[Outcome]]") -> "set[asyncio.Future[Outcome]]":
    """Wait until one has ended, and return those that still run; where none runs, others fill the queue: wait a bit."""
    import asyncio

    if not running:
        await asyncio.sleep(RETRY_S)
        return running
    return (await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED))[1]


async def _abegin(open_stream: Callable[[int], AsyncStream], index: int) -> "asyncio.Future[Outcome] | None":
    """What will come of a request that has begun; None: there is no place for it yet."""
    import asyncio

    try:
        stream = open_stream(index)
        await stream.ready()
    except Busy:
        return None
    except Exception as error:
        failed: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        failed.set_result(herd_error(error))
        return failed
    reading = asyncio.create_task(_aoutcome(stream))
    try:
        await asyncio.sleep(0)  # a task that is cancelled before it began would not close the stream
    except asyncio.CancelledError:
        reading.cancel()
        raise
    return reading


async def _aoutcome(stream: AsyncStream) -> Outcome:
    try:
        return await alast(stream)
    except Exception as error:
        return herd_error(error)


def at_once(each: Sequence[Mapping[str, Any]]) -> int:
    """How many requests of these options may be under way together: those that share a trace's file may not."""
    return TOGETHER if all(one.get("trace") is None for one in each) else 1


def settled(name: str, found: list[Outcome], return_errors: bool) -> list[Outcome]:
    """What came of all requests of a call. Raises SomeFailed unless errors are to stand in the list."""
    failed = [(i, one) for i, one in enumerate(found) if isinstance(one, HerdError)]
    if failed and not return_errors:
        index, first = failed[0]
        raise SomeFailed(f"{len(failed)} of {len(found)} {name} failed; {name}[{index}]: {first}", found) from first
    return found
