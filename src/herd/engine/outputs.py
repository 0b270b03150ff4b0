"""Turns the core's events into what a reader gets: steps with text, stop strings applied, counts and times.

    SimpleQueue   an inbox of a thread that waits
    Mailbox       an inbox of a coroutine; however many there are, a loop is woken once for a batch of events

What it is not: the core, a queue of requests (`engine.engine`).
"""

import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from herd.engine.forks import OwnerProcess
from herd.engine.messages import EndedEvent, Event, MeasuredEvent, ReadEvent, StartedEvent, TokenEvent
from herd.engine.request import Finish, Reason, Request, Step
from herd.engine.stop_strings import StopStrings
from herd.errors import HerdError
from herd.events import ProgressEvent, Timings, Usage

if TYPE_CHECKING:
    import asyncio


class Decoder(Protocol):
    """Ids to text while they are being made (herd.text.StreamDecoder)."""

    def push(self, token_id: int) -> str:
        """Add an id; returns the characters that are complete with it, maybe none."""

    def flush(self) -> str:
        """The text that is left at the end."""


class Inbox(Protocol):
    """Receives the events of one request."""

    def put(self, event: Event, /) -> None:
        """Add an event; may be called from any thread."""


class OutputProcessor:
    """Turns the events of one request into steps. `over`: no more steps will come; `ended`: the core has ended it."""

    def __init__(self, request: Request, decoder: Decoder) -> None:
        self._request = request
        self._decoder = decoder
        self._stops = StopStrings(request.options.stop)
        self.waited_s = 0.0
        """Seconds from the request to its start."""
        self.over = False
        self.ended = False
        self.num_output = 0
        self.num_cached = 0
        self._prefill_s = 0.0
        self._first_s: float | None = None
        self._last_s = 0.0

    @property
    def holding(self) -> bool:
        """Whether text of earlier steps is held back, because it may become a stop string."""
        return self._stops.holding

    def take(self, event: Event) -> Step | None:
        """The step that an event makes; None when there is nothing to show. Raises what the request failed with."""
        if isinstance(event, StartedEvent):
            self.num_cached = event.cached
            return self._reading(event.cached, 0.0) if self._request.progress else None
        if isinstance(event, ReadEvent):
            return self._reading(event.read, event.prefill_s)
        if isinstance(event, EndedEvent):
            self.over = self.ended = True
            if event.error is not None:
                raise event.error
            return self.ended_as(event.reason or "interrupted")
        step = self._measured(event) if isinstance(event, MeasuredEvent) else self._step(event)
        self.ended = event.reason is not None  # else a stop string may have ended it, and the core goes on
        self.over = step.finish is not None
        return step

    def interrupted(self) -> Step:
        """The last step of a request that the reader has ended; text that was given stays given."""
        return self.ended_as("interrupted")

    def ended_as(self, reason: Reason) -> Step:
        """The last step of a request that has ended without a last token."""
        self.over = True
        text = self._end()
        is_stopped = reason != "interrupted" and self._stops.hit is not None
        return Step(None, text, finish=self.finish("stop" if is_stopped else reason))

    def finish(self, reason: Reason) -> Finish:
        """The summary of the request: reason, counts and times."""
        num_prompt = len(self._request.ids)
        decode_s = self._last_s - self._first_s if self._first_s is not None else 0.0
        return Finish(
            reason,
            Usage(num_prompt, self.num_output, self.num_cached),
            Timings(
                prefill_s=self._prefill_s,
                decode_s=decode_s,
                first_token_s=self.waited_s + self._first_s if self._first_s is not None else 0.0,
                prefill_tps=(num_prompt - self.num_cached) / self._prefill_s if self._prefill_s else 0.0,
                decode_tps=(self.num_output - 1) / decode_s if decode_s else 0.0,
            ),
            stop=self._stops.hit if reason == "stop" else None,
        )

    def _reading(self, read: int, prefill_s: float) -> Step:
        return Step(None, "", progress=ProgressEvent(read, len(self._request.ids), self.num_cached, prefill_s))

    def _measured(self, event: MeasuredEvent) -> Step:
        self._prefill_s = event.prefill_s
        finish = None if event.reason is None else self.finish(event.reason)
        return Step(None, "", finish=finish, scores=event.scores, rows_RX=event.rows_RX)

    def _step(self, event: TokenEvent) -> Step:
        if self._first_s is None:
            self._first_s, self._prefill_s = event.since_s, event.prefill_s
        self._last_s = event.since_s
        self.num_output += 1
        shown = "" if event.reason == "stop" else self._stops.push(self._decoder.push(event.token_id))
        reason: Reason | None = "stop" if self._stops.hit is not None else event.reason
        if reason is None:
            return Step(event.token_id, shown, event.logprob)
        return Step(event.token_id, shown + self._end(), event.logprob, self.finish(reason))

    def _end(self) -> str:
        """The text that is left at the end, up to a stop string that it may still complete."""
        return self._stops.push(self._decoder.flush()) + self._stops.finish()


TOKEN_BYTES = 256
"""Bytes that one token keeps in memory until its answer has ended: its event, its id, its text in what was shown and in
what a policy looks at (measured: 160 with text of one character)."""
READ_BYTES = 192
"""Bytes of what tells how much of a prompt is read."""
LIKELY_BYTES = 768
"""Bytes that one log-probability keeps until then, and its part of a whole reply as JSON (measured: 640)."""


def bytes_of(event: Event) -> int:
    """Estimated memory of an event, in bytes, from its arrival to the end of the answer."""
    if isinstance(event, MeasuredEvent):
        return sum(LIKELY_BYTES * (1 + len(score.top)) for score in event.scores) + getattr(event.rows_RX, "nbytes", 0)
    if isinstance(event, ReadEvent):
        return READ_BYTES
    if not isinstance(event, TokenEvent):
        return 0
    return TOKEN_BYTES if event.logprob is None else TOKEN_BYTES + LIKELY_BYTES * (1 + len(event.logprob.top))


class Mailbox:
    """Events of one request for one coroutine. Made on its event loop; `put` may be called from any thread.

    hold: asked for memory before a token is kept; where it raises, the sequence ends with that error.
    """

    def __init__(self, hold: Callable[[int], None] = lambda count: None) -> None:
        import asyncio

        self.loop = asyncio.get_running_loop()
        self._hold = hold
        self._home = OwnerProcess()
        self._events: deque[Event] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self.num_tokens = 0
        """Number of tokens that have arrived, read or not."""
        self.unread_bytes = 0
        """Estimated memory of the events that nobody has read yet."""

    def put(self, event: Event) -> None:
        """See Inbox."""
        _carrier(self.loop).send(self, event)

    async def get(self) -> Event:
        """Wait for the next event. Only one coroutine may wait at a time. Raises UsageError in a fork: no event comes
        there."""
        self._home.check()
        while not self._events:
            self._waiting = self.loop.create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        event = self._events.popleft()
        self.unread_bytes -= bytes_of(event)
        return event

    def __len__(self) -> int:
        """Number of unread events."""
        return len(self._events)

    def arrive(self, event: Event) -> None:
        """Add an event; must be called on the loop."""
        size = bytes_of(event)
        self.num_tokens += isinstance(event, TokenEvent)
        if size:
            try:
                self._hold(size)
            except HerdError as error:
                event, size = EndedEvent(event.number, error), 0
        self._events.append(event)
        self.unread_bytes += size
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


TURN = 16
"""Events that a loop is given at once: a step of a thousand sequences would keep all else on it waiting."""


class _Carrier:
    """Brings events of all mailboxes of a loop over to it: one call into the loop, however many have come; between two
    `TURN`s of them the loop does its other work."""

    def __init__(self, loop: "asyncio.AbstractEventLoop") -> None:
        self._loop = weakref.ref(loop)
        self._lock = threading.Lock()
        self._sent: deque[tuple[Mailbox, Event]] = deque()
        self._called = False

    def send(self, mailbox: Mailbox, event: Event) -> None:
        """Send an event from any thread. Events for a loop that is closed are dropped."""
        with self._lock:
            self._sent.append((mailbox, event))
            if self._called:
                return
            self._called = True
        loop = self._loop()
        if loop is not None:
            with suppress(RuntimeError):  # it is closed, perhaps since a moment ago
                loop.call_soon_threadsafe(self._bring)

    def _bring(self) -> None:
        loop = self._loop()
        assert loop is not None, "it runs this"
        with self._lock:
            turn = [self._sent.popleft() for _ in range(min(TURN, len(self._sent)))]
            self._called = bool(self._sent)
            if self._called:
                loop.call_soon(self._bring)
        for mailbox, event in turn:
            mailbox.arrive(event)


_carriers: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Carrier]" = weakref.WeakKeyDictionary()
_carriers_lock = threading.Lock()


def _carrier(loop: "asyncio.AbstractEventLoop") -> _Carrier:
    with _carriers_lock:
        found = _carriers.get(loop)
        if found is None:
            found = _carriers[loop] = _Carrier(loop)
        return found
