"""A request that a coroutine reads. No thread waits for it: the engine wakes the loop when something has come.

Preparing a request (tokens, images, a policy's first look) takes milliseconds to seconds, so a few threads do that.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

from herd.answers import Sample
from herd.engine.generate import Engine
from herd.engine.orders import Ended
from herd.engine.reading import Mailbox
from herd.replies import Event

PREPARERS = 4
"""Requests that are prepared at once."""


@dataclass
class Prepared:
    """A checked request that has not begun."""

    samples: Sequence[Sample]
    refusal: Callable[[], str | None] = lambda: None
    """What the policy says before the first token."""

    def close(self) -> None:
        """Close what was opened for it."""
        for sample in self.samples:
            if sample.job.routing is not None:
                sample.job.routing.close()


class AsyncStream(AsyncIterator[Event]):
    """Events of one request; `ready` tells whether it is one. Close it, or read it to its end. Once it is closed it has
    no more events, and a request that had not begun never does."""

    def __init__(self, engine: Engine, prepare: Callable[[], Prepared]) -> None:
        """prepare: makes the request, on another thread; raises what is wrong with it."""
        self._engine = engine
        self._prepare = prepare
        self._prepared: Prepared | None = None
        self._closed = False
        self._mailbox: Mailbox | None = None
        self._waiting: dict[int, Sample] = {}
        self._out: deque[Event] = deque()

    @property
    def prompt_tokens(self) -> int:
        """Of its prompt, once it is ready."""
        assert self._prepared is not None, "not ready yet"
        return len(self._prepared.samples[0].job.request.ids)

    @property
    def seeds(self) -> tuple[int, ...]:
        """With which its answers are drawn, by index, once it is ready."""
        assert self._prepared is not None, "not ready yet"
        return tuple(sample.job.request.seed for sample in self._prepared.samples)

    @property
    def unread(self) -> int:
        """Events that have come and that nobody has read: of a reader that is slow, or gone."""
        return len(self._out) + (0 if self._mailbox is None or self._closed else len(self._mailbox))

    async def ready(self) -> None:
        """Prepare, check and queue it. Raises UsageError, ContextTooLong, BadMedia, Busy, EngineDied: nothing has begun
        then. Once it has returned this does nothing."""
        if self._prepared is not None or self._closed:
            return
        preparing = _preparers().submit(self._first)
        try:
            prepared, instead = await asyncio.wrap_future(preparing)
        except asyncio.CancelledError:
            preparing.add_done_callback(_close_prepared)  # a thread may be at it still
            raise
        try:
            if not self._closed and instead is None:
                self._begin(prepared)
        except BaseException:
            prepared.close()
            raise
        self._prepared = prepared
        if not self._waiting:
            prepared.close()
        if instead is not None and not self._closed:
            for sample in prepared.samples:
                self._out += sample.refuse(instead)

    async def __anext__(self) -> Event:
        """The next event. Raises what the request failed with; it is closed then."""
        await self.ready()
        while not self._out:
            if not self._waiting:
                raise StopAsyncIteration
            assert self._mailbox is not None
            event = await self._mailbox.get()
            sample = self._waiting.get(event.number)
            if sample is None:
                continue
            job = sample.job
            try:
                step = job.reading.take(Ended(job.number) if job.cancelled else event)
                if step is not None and sample.slow:
                    self._out += await asyncio.to_thread(sample.take, step)
                elif step is not None:
                    self._out += sample.take(step)
            except BaseException:
                await self.aclose()
                raise
            if sample.over and sample.job.number in self._waiting:
                self._leave(sample)
        return self._out.popleft()

    async def aclose(self) -> None:
        """End it, if it has not ended; at any time."""
        self._closed = True
        self._out.clear()
        for sample in list(self._waiting.values()):
            self._leave(sample)
            assert self._mailbox is not None
            self._mailbox.arrive(Ended(sample.job.number))  # whoever waits for an event learns that none will come

    def _begin(self, prepared: Prepared) -> None:
        """Queue it. Raises Busy, EngineDied."""
        self._mailbox = Mailbox()
        for sample in prepared.samples:
            sample.job.inbox = self._mailbox
        self._engine.start(prepared.samples[0].job)
        self._waiting = {sample.job.number: sample for sample in prepared.samples}

    def _first(self) -> tuple[Prepared, str | None]:
        prepared = self._prepare()
        return prepared, prepared.refusal()

    def _leave(self, sample: Sample) -> None:
        del self._waiting[sample.job.number]
        self._engine.leave(sample.job)
        if not self._waiting and self._prepared is not None:
            self._prepared.close()

    def __del__(self) -> None:
        """Nobody can read it any more. Whatever lock this thread holds, the loop holds none of the engine's."""
        if self._waiting and self._mailbox is not None and not self._mailbox.loop.is_closed():
            for sample in self._waiting.values():
                self._mailbox.loop.call_soon_threadsafe(self._engine.leave, sample.job)


def _close_prepared(preparing: "Future[tuple[Prepared, str | None]]") -> None:
    if not preparing.cancelled() and preparing.exception() is None:
        preparing.result()[0].close()


@cache
def _preparers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(PREPARERS, thread_name_prefix="herd-prepare")
