"""Requests that want numbers instead of an answer, some at once, and what came of them in their order.

What it is not: what they are made of (`herd.llm.prepare`), how they are computed (`herd.engine.score`).
"""

from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue

import numpy as np
import numpy.typing as npt

from herd.engine.engine import Engine, RequestHandle
from herd.engine.messages import Event
from herd.engine.outputs import Inbox, Mailbox
from herd.engine.request import Finish, Request, TokenScore
from herd.errors import Busy, Interrupted, PassFailed, fail
from herd.events import Usage

TOGETHER = 16
"""Requests of one call that are under way at once: enough to fill passes with short texts, few in the queue."""


@dataclass
class Measured:
    """What came of one request."""

    job: RequestHandle
    scores: list[TokenScore] = field(default_factory=list)
    blocks: list[npt.NDArray[np.float32]] = field(default_factory=list)
    finish: Finish | None = None

    def rows(self) -> npt.NDArray[np.float32]:
        """All rows that it wanted."""
        return np.concatenate(self.blocks)

    @property
    def usage(self) -> Usage:
        """Tokens, once it has ended."""
        assert self.finish is not None
        return self.finish.usage


class Measuring:
    """Some requests under way. Whoever runs it takes events out of the inbox, and leaves when it is over."""

    def __init__(self, engine: Engine, requests: Iterator[Request], inbox: Inbox) -> None:
        """requests: made as they are wanted."""
        self._engine, self._requests, self._inbox = engine, requests, inbox
        self._next: Request | None = next(requests, None)
        self._found: dict[int, Measured] = {}
        """What came of each request, by its number, in their order; those at the front may have ended."""

    @property
    def going(self) -> bool:
        """Whether anything is to come."""
        return bool(self._found)

    def start(self) -> bool:
        """Queue the next one; False where there is none, or has to wait for those under way. Raises Busy where not even
        one finds a place, and what is wrong with a request."""
        if self._next is None or len(self._found) >= TOGETHER:
            return False
        try:
            job = self._engine.submit(self._next, start=False)
            job.inbox = self._inbox
            self._found[job.number] = Measured(job)
            try:
                self._engine.start(job)
            except BaseException:
                del self._found[job.number]
                raise
        except Busy:
            if not self._found:
                raise
            return False
        self._next = next(self._requests, None)
        return True

    def take(self, event: Event) -> None:
        """One event of any of them. Raises what its request failed with."""
        found = self._found.get(event.number)
        step = None if found is None else found.job.reading.take(event)
        if found is None or step is None:
            return
        found.scores += step.scores
        if step.rows_RX is not None:
            found.blocks.append(step.rows_RX)
        found.finish = step.finish
        if step.finish is None:
            return
        if step.finish.reason == "interrupted":
            raise Interrupted("somebody ended the request")
        if not found.scores and not found.blocks:
            fail(PassFailed, "what was measured", got="nothing", expected="numbers")

    def done(self) -> Iterator[Measured]:
        """The requests at the front that have ended, each once."""
        while self._found:
            number, found = next(iter(self._found.items()))
            if found.finish is None:
                return
            del self._found[number]
            yield found

    def leave(self) -> None:
        """End what is under way."""
        for found in self._found.values():
            self._engine.leave(found.job)


def measured(engine: Engine, requests: Iterator[Request]) -> Iterator[Measured]:
    """What comes of each request, in order. Closing the iterator ends those under way. Raises what the first one that
    fails failed with; the others end then."""
    inbox: SimpleQueue[Event] = SimpleQueue()
    run = Measuring(engine, requests, inbox)
    try:
        while _started(run):
            engine.check_here()
            run.take(inbox.get())
            yield from run.done()
    finally:
        run.leave()


def _started(run: Measuring) -> bool:
    """Start all that may be under way; returns whether anything is to come."""
    while run.start():
        pass
    return run.going


async def ameasured(engine: Engine, requests: Iterator[Request]) -> AsyncGenerator[Measured, None]:
    """`measured` for a coroutine: no thread waits, and cancelling its task ends the requests."""
    import asyncio

    inbox = Mailbox()
    run = Measuring(engine, requests, inbox)
    try:
        while True:
            while run.start():
                await asyncio.sleep(0)  # what else the loop has to do need not wait for all of them
            if not run.going:
                return
            run.take(await inbox.get())
            for found in run.done():
                yield found
    finally:
        run.leave()
