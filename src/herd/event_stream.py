"""A ChatStream over any asynchronous iterator of events: what a ChatModel that is no LLM answers with.

What it is not: a policy (`herd.gated`), the engine's own streams (`herd.llm.streams`).
"""

import asyncio
from collections.abc import AsyncIterator, Callable

from herd.errors import PassFailed, herd_error
from herd.events import CallArgumentsEvent, DoneEvent, Event, TextEvent

EVENT_BYTES = 256
"""Bytes of an event in memory, without what it says."""
CHARACTER_BYTES = 8
"""Bytes of a character of an answer: in its event, and in the reply."""
LIKELY_BYTES = 768
"""Bytes of a token that is told with its log-probability."""


class EventStream(AsyncIterator[Event]):
    """A ChatStream over an asynchronous iterator of events, which nobody has begun. `ready` waits for the first event,
    so that what is wrong with a request is known before anything of an answer is sent."""

    def __init__(self, events: AsyncIterator[Event], *, prompt_tokens: int = 0, most_tokens: int = 0) -> None:
        """prompt_tokens: of the prompt, where they are known beforehand. most_tokens: that may be made."""
        self.size_bytes = 0
        self.hold: Callable[[int], None] = lambda count: None
        self.has_spare = False
        self.prompt_tokens = prompt_tokens
        self.most_tokens = most_tokens
        self.shown: str | None = None
        self.answered_by = ""
        self.unread_bytes = 0
        self._events = events
        self._first: Event | None = None
        self._begun = False
        self._closed = False
        self._step: asyncio.Task[Event | None] | None = None
        self._made: dict[int, int] = {}
        self._ended: set[int] = set()

    @property
    def made_tokens(self) -> int:
        """See ChatStream; until an answer ends, an event counts as a token, or as those whose probability it tells."""
        return sum(self._made.values())

    @property
    def asked_bytes(self) -> int:
        """See ChatStream: the request stays until it is answered."""
        return self.size_bytes

    async def prepare(self) -> None:
        """See ChatStream."""

    async def ready(self) -> None:
        """See ChatStream."""
        if not self._begun:
            self._begun = True
            self._first = await self._next()

    async def __anext__(self) -> Event:
        """See ChatStream. Raises PassFailed for an iterator that fails by an error of its own, or that ends before an
        answer has its DoneEvent."""
        await self.ready()
        event, self._first = self._first, None
        if event is None:
            event = await self._next()
        if event is None:
            raise StopAsyncIteration
        return event

    async def aclose(self) -> None:
        """See ChatStream."""
        self._closed = True
        self._first = None
        if self._step is not None:
            self._step.cancel()
            await asyncio.wait({self._step})
        close = getattr(self._events, "aclose", None)
        if close is not None:
            await close()

    async def _next(self) -> Event | None:
        """The next event, counted; None at the end."""
        if self._closed:
            return None
        self._step = asyncio.ensure_future(anext(self._events, None))
        try:
            event = await self._step
            if event is not None:
                self._count(event)
            elif not self._closed and (not self._ended or self._ended != self._made.keys()):
                raise PassFailed("the answer broke off before its end")
        except asyncio.CancelledError:
            if self._closed:
                return None
            raise
        except Exception as error:
            self._step = None
            await self.aclose()
            raise herd_error(error)  # noqa: B904 (it has its cause)
        finally:
            self._step = None
        return event

    def _count(self, event: Event) -> None:
        """Ask for room for it, and count its tokens."""
        match event:
            case TextEvent():
                self.hold(_size(event.text) + LIKELY_BYTES * sum(1 + len(x.top) for x in event.logprobs or ()))
                self._made[event.index] = self._made.get(event.index, 0) + len(event.logprobs or (0,))
            case CallArgumentsEvent():
                self.hold(_size(event.fragment))
                self._made[event.index] = self._made.get(event.index, 0) + 1
            case DoneEvent():
                self.prompt_tokens = max(self.prompt_tokens, event.usage.prompt_tokens)
                self._made[event.index] = event.usage.output_tokens
                self._ended.add(event.index)


def _size(text: str) -> int:
    """Bytes of an event that says this."""
    return EVENT_BYTES + CHARACTER_BYTES * len(text)
