"""Several models in order, as one: the first that can answers, the next ones where it cannot.

Before the first token only: afterwards an answer fails as it does, so that nobody gets two in one. Each model that did
not answer is told with its reason (`herd.backends.failures.Reason`), and every reply says who answered. A model that
had no place or was not there comes last for a while. Whether a request may leave the house is asked where it always is:
a backend outside refuses a private one by itself, which is one more reason to go on (`herd.backends.gate`). What it is
not: a balance of load, a second try of the same model.
"""

import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Unpack

from herd.backends.failures import Reason, reason_of
from herd.backends.gate import Said, strictest
from herd.chat_model import Capabilities, ChatModel, ChatStream, Turns
from herd.errors import (
    Busy,
    ContextTooLong,
    HerdError,
    NetworkError,
    StaysHere,
    TimedOut,
    Unsupported,
    UsageError,
    fail,
    herd_error,
)
from herd.event_stream import EventStream
from herd.events import DoneEvent, Event
from herd.request_options import DialogRequest

COOL_S = 30.0
"""Seconds for which a model that could not answer comes last, unless it says another time."""
LONGEST_COOL_S = 600.0
"""The longest time that it may say."""
COOLING: frozenset[Reason] = frozenset({"full", "absent", "withdrawn", "broken"})
"""Reasons that are the model's own: the next request would most likely find the same."""
STAYING: frozenset[Reason | None] = frozenset({None, "unfit"})
"""Reasons that are the request's: another model would not help, or nobody knows."""
NEVER = ("completion", "ids", "scores", "embeddings")
"""What needs one model and no other."""
WORDS = 160
"""Characters of each reason that the error of a whole route tells."""


@dataclass(frozen=True)
class Missed:
    """A model that did not answer a request, and why."""

    name: str
    reason: Reason
    words: str


class Route(ChatModel):
    """Models in order, as one. Closing it closes them."""

    def __init__(
        self,
        name: str,
        models: Sequence[ChatModel],
        *,
        cool_s: float = COOL_S,
        clock: Callable[[], float] = time.monotonic,
        tell: Callable[[Missed], None] = lambda missed: None,
        said: Said | None = None,
    ) -> None:
        """tell: is told of each model that did not answer, on the event loop. said: what the route says of whether a
        request may leave the house, beside the request itself. Raises UsageError for no models, or two of one name."""
        names = [model.name for model in models]
        if not names or len(set(names)) < len(names):
            fail(UsageError, f"route {name}", got=", ".join(names) or "no models", expected="one or more, each once")
        self.name = name
        self.context = max(model.context for model in models)
        self.members = tuple(models)
        self._cool_s, self._clock, self._tell = cool_s, clock, tell
        self._said = said or Said(None)
        self._until: dict[str, float] = {}

    @property
    def capabilities(self) -> Capabilities:
        """What one of them can do: a request for it goes to that one."""
        can = [member.capabilities for member in self.members]
        found = {one.name: any(getattr(each, one.name) for each in can) for one in fields(Capabilities)}
        return Capabilities(**(found | dict.fromkeys(NEVER, False)))

    @property
    def alive(self) -> bool:
        """Whether one of them still answers."""
        return any(member.alive for member in self.members)

    def warm_up(self) -> None:
        """Warm all of them up."""
        for member in self.members:
            member.warm_up()

    def close(self) -> None:
        """Close all of them."""
        for member in self.members:
            member.close()

    def order(self) -> list[ChatModel]:
        """Models in the order in which a request asks them now: those that are cooling down come last."""
        now = self._clock()
        return sorted(self.members, key=lambda member: self._until.get(member.name, now) > now)

    def astream(self, messages: Turns, **options: Unpack[DialogRequest]) -> "RouteStream":
        """See ChatModel. Where nobody answers, the error tells why each did not."""
        decision = strictest(Said(options.get("leave") is True or None), self._said)
        return RouteStream(self, messages, {**options, "leave": decision.leave})

    def note(self, model: ChatModel, error: HerdError, reason: Reason) -> Missed:
        """A model did not answer: it cools down where that is its own fault, and whoever listens is told."""
        if reason in COOLING:
            asked = error.retry_after_s if isinstance(error, Busy) else 0.0
            self._until[model.name] = self._clock() + min(max(self._cool_s, asked), LONGEST_COOL_S)
        missed = Missed(model.name, reason, str(error))
        self._tell(missed)
        return missed

    def answered(self, model: ChatModel) -> None:
        """A model answers: it no longer cools down."""
        self._until.pop(model.name, None)


class RouteStream(EventStream):
    """Events of one request, from the first model that answers. `missed`: those that did not, so far."""

    def __init__(self, route: Route, messages: Turns, options: DialogRequest) -> None:
        super().__init__(self._answer())
        self._route, self._messages, self._options = route, messages, options
        self._left = route.order()
        self._inner: ChatStream | None = None
        self._model: ChatModel | None = None
        self._begun_s = time.monotonic()
        self._room = self.hold
        self.missed: list[Missed] = []

    @property
    def asked_bytes(self) -> int:
        """See ChatStream."""
        return self.size_bytes if self._inner is None else self._inner.asked_bytes

    async def prepare(self) -> None:
        """See ChatStream. The first model that can prepare it is chosen."""
        if self._inner is None and not self._closed:
            self._room, self.hold = self.hold, lambda count: None  # what is kept is counted once
            await self._choose()

    async def ready(self) -> None:
        """See ChatStream."""
        await self.prepare()
        await super().ready()

    async def aclose(self) -> None:
        """See ChatStream."""
        await super().aclose()
        if self._inner is not None:
            await self._inner.aclose()

    async def _choose(self) -> None:
        """Have the next model prepare it. Raises what is wrong with the request itself; where no model is left, one
        error of all reasons."""
        for model in self._take():
            self._model = model
            try:
                inner = self._inner = model.astream(self._messages, **self._options_left())
                inner.size_bytes, inner.hold, inner.has_spare = self.size_bytes, self._room, bool(self._left)
                await inner.prepare()
            except Exception as error:
                await self._miss(herd_error(error))
                continue
            self.prompt_tokens, self.most_tokens = inner.prompt_tokens, inner.most_tokens
            return
        raise self._nobody()

    def _take(self) -> Iterator[ChatModel]:
        """Models that are left, each once, over all calls."""
        left, self._left = self._left, []
        for i, model in enumerate(left):
            self._left = left[i + 1 :]
            yield model

    def _options_left(self) -> DialogRequest:
        """Options of the next try: all tries share the request's own time. Raises TimedOut."""
        whole = self._options.get("timeout_s")
        if whole is None:
            return self._options
        left = whole - (time.monotonic() - self._begun_s)
        if left <= 0:
            raise TimedOut(f"{self._route.name}: nobody answered within the time of the request")
        return {**self._options, "timeout_s": left}

    async def _miss(self, error: HerdError) -> None:
        """The chosen model does not answer. Raises the error where that is the request's fault."""
        model, inner, self._inner = self._model, self._inner, None
        if inner is not None:
            await inner.aclose()
        reason = reason_of(error)
        if model is None or reason is None or reason in STAYING:
            raise error
        self.missed.append(self._route.note(model, error, reason))

    async def _answer(self) -> AsyncGenerator[Event, None]:
        event = await self._first_event()
        assert self._inner is not None and self._model is not None
        self._route.answered(self._model)
        self.answered_by = self._inner.answered_by or self._model.name
        yield self._named(event)
        async for event in self._inner:
            yield self._named(event)

    async def _first_event(self) -> Event:
        """The first event, of the first model that gives one."""
        for _ in self._route.members:
            assert self._inner is not None, "not prepared"
            try:
                await self._inner.ready()
                return await anext(self._inner)
            except Exception as error:
                await self._miss(herd_error(error))
                await self._choose()
        raise AssertionError("no model is asked twice")

    def _named(self, event: Event) -> Event:
        if not isinstance(event, DoneEvent) or event.reply.answered_by or self._model is None:
            return event
        return replace(event, reply=replace(event.reply, answered_by=self.answered_by))

    def _nobody(self) -> HerdError:
        """What a request that nobody answered ends with."""
        told = "; ".join(f"{one.name} ({one.reason}): {one.words[:WORDS]}" for one in self.missed)
        kinds: dict[Any, type[HerdError]] = {
            "private": StaysHere, "context": ContextTooLong, "unsupported": Unsupported, "full": Busy
        }  # fmt: skip
        reasons = {one.reason for one in self.missed}
        kind = kinds.get(next(iter(reasons)), NetworkError) if len(reasons) == 1 else NetworkError
        return (Busy if "full" in reasons else kind)(f"route {self._route.name}: nobody answers: {told}")
