"""A request that a coroutine reads. No thread waits for it: the engine wakes the loop when something has come.

Preparing a request (tokens, images, a policy's first look) takes milliseconds to seconds, so threads do that, and
nobody's waits behind another's (`herd.lanes`).
"""

from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import NoReturn
from weakref import WeakMethod

from herd.chat_model import ID_BYTES
from herd.engine.engine import Engine
from herd.engine.messages import EndedEvent
from herd.engine.outputs import Mailbox
from herd.engine.request import Step
from herd.errors import HerdError
from herd.events import Event
from herd.lanes import computing, waiting
from herd.llm.answers import Sample
from herd.llm.waiting import Leaving


@dataclass
class Prepared:
    """A checked request that has not begun."""

    samples: Sequence[Sample]
    refusal: Callable[[], str | None] = lambda: None
    """What the policy says before the first token."""
    shown: str | None = None
    """What the policy made of a prompt that is a text or ids; None: nothing else."""

    def close(self) -> None:
        """Close what was opened for it."""
        for sample in self.samples:
            if sample.job.routing is not None:
                sample.job.routing.close()


class AsyncStream(AsyncIterator[Event]):
    """Events of one request; `ready` tells whether it is one. Close it, or read it to its end. Once it is closed it has
    no more events, and a request that had not begun never does."""

    def __init__(
        self, engine: Engine, prepare: Callable[[], Prepared], *, owner: str = "", answered_by: str = ""
    ) -> None:
        """prepare: makes the request, on another thread; raises what is wrong with it. owner: whose lane that is.
        answered_by: see ChatStream."""
        self._engine = engine
        self._prepare = prepare
        self._owner = owner
        self.answered_by = answered_by
        """See ChatStream."""
        self.size_bytes = 0
        """See ChatStream."""
        self.hold: Callable[[int], None] = lambda count: None
        """Asked for room before a token is kept; set before. What it raises ends the request."""
        self.has_spare = False
        """See ChatStream."""
        self._prepared: Prepared | None = None
        self._instead: str | None = None
        self._begun = False
        self._closed = False
        self._leaving = Leaving()
        self._mailbox: Mailbox | None = None
        self._waiting: dict[int, Sample] = {}
        self._out: deque[Event] = deque()

    @property
    def prompt_tokens(self) -> int:
        """Tokens of its prompt, once it is ready."""
        assert self._prepared is not None, "not ready yet"
        return len(self._prepared.samples[0].job.request.ids)

    @property
    def shown(self) -> str | None:
        """What a policy let the model see of a prompt that is a text or ids; None: all of it. Once it is prepared."""
        assert self._prepared is not None, "not ready yet"
        return self._prepared.shown if self._instead is None else ""

    @property
    def most_tokens(self) -> int:
        """Tokens that its answers may take together, once it is prepared: max_tokens, or what the context leaves."""
        assert self._prepared is not None, "not ready yet"
        request = self._prepared.samples[0].job.request
        left = max(self._engine.executor.context - len(request.ids), 0)
        most = request.options.max_tokens
        return len(self._prepared.samples) * (left if most is None else min(most, left))

    @property
    def made_tokens(self) -> int:
        """Tokens that have come of it so far, read or not."""
        return 0 if self._mailbox is None else self._mailbox.num_tokens

    @property
    def unread(self) -> int:
        """Events that have come and that nobody has read: of a reader that is slow, or gone."""
        return len(self._out) + (0 if self._mailbox is None or self._closed else len(self._mailbox))

    @property
    def unread_bytes(self) -> int:
        """Bytes of the events that nobody has read."""
        return 0 if self._mailbox is None or self._closed else self._mailbox.unread_bytes

    @property
    def asked_bytes(self) -> int:
        """Bytes that its prompt keeps in memory until its end, once it is prepared: ids, and tiles of images."""
        assert self._prepared is not None, "not ready yet"
        request = self._prepared.samples[0].job.request
        tiles = getattr(request.pixels_I3SS, "nbytes", 0)
        return ID_BYTES * len(request.ids) + tiles

    async def prepare(self) -> None:
        """Make and check it; nothing is queued. Raises UsageError, ContextTooLong, BadMedia. Once it has returned this
        does nothing."""
        import asyncio

        if self._prepared is not None or self._closed:
            return
        self._engine.check_here()
        preparing = computing().submit(self._owner, self._first, self.size_bytes)
        try:
            prepared, instead = await asyncio.wrap_future(preparing)
        except asyncio.CancelledError:
            self._leaving.leave()
            preparing.add_done_callback(_close_prepared)  # a thread may be at it still
            raise
        self._prepared, self._instead = prepared, instead

    async def ready(self) -> None:
        """Prepare, check and queue it. Raises what `prepare` raises, Busy, EngineDied: nothing has begun then. Once it
        has returned this does nothing."""
        await self.prepare()
        prepared = self._prepared
        if prepared is None or self._begun:
            return
        try:
            if not self._closed and self._instead is None:
                self._begin(prepared)
        except BaseException:
            prepared.close()
            raise
        self._begun = True
        if not self._waiting:
            prepared.close()
        if self._instead is not None and not self._closed:
            for sample in prepared.samples:
                self._out += sample.refuse(self._instead)

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
                step = job.reading.take(EndedEvent(job.number) if job.cancelled else event)
                if step is not None:
                    self._out += await self._taken(sample, step)
            except BaseException:
                await self.aclose()
                raise
            if sample.over and sample.job.number in self._waiting:
                self._leave(sample)
        return self._out.popleft()

    async def _taken(self, sample: Sample, step: Step) -> list[Event]:
        """What may be shown after a step; a thread asks a policy that takes long."""
        looks = step.progress is None
        if looks and sample.slow:
            return await waiting().run(self._owner, partial(sample.take, step))
        if looks and sample.is_long(step):
            return await computing().run(self._owner, partial(sample.take, step))
        return sample.take(step)

    async def aclose(self) -> None:
        """End it, if it has not ended; at any time."""
        self._closed = True
        self._leaving.leave()
        self._out.clear()
        if self._prepared is not None and not self._begun:
            self._prepared.close()
        for sample in list(self._waiting.values()):
            self._leave(sample)
            assert self._mailbox is not None
            self._mailbox.arrive(EndedEvent(sample.job.number))  # whoever waits for an event learns that none will come

    def _begin(self, prepared: Prepared) -> None:
        """Queue it. Raises Busy, EngineDied."""
        room = WeakMethod(self._room)  # what has no reader any more must not be held by what comes for it

        def hold(count: int) -> None:
            found = room()
            if found is not None:
                found(count)

        self._mailbox = Mailbox(hold)
        for sample in prepared.samples:
            sample.job.inbox = self._mailbox
        self._engine.start(prepared.samples[0].job)
        self._waiting = {sample.job.number: sample for sample in prepared.samples}

    def _room(self, count: int) -> None:
        """Ask for room before a token is kept. Without it nothing more of the request is computed. What still comes
        after the end is nobody's: whoever held room for the request has given all of it back."""
        if self._closed:
            return
        try:
            self.hold(count)
        except HerdError:
            for sample in self._waiting.values():
                self._engine.leave(sample.job)
            raise

    def _first(self) -> tuple[Prepared, str | None]:
        with self._leaving.here():
            prepared = self._prepare()
            self._prepare = _once_only
            instead, prepared.refusal = prepared.refusal(), _once_only  # texts and images are held no longer
            return prepared, instead

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


def _once_only() -> NoReturn:
    raise AssertionError("it has been prepared")
