"""A model that costs money, within what a person lets it cost: the most is set aside before anything is sent.

What it is not: the sums (`herd.backends.spending`), who may leave the house (`herd.backends.gate`).
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Unpack

from herd.backends.failures import Absent, Broken
from herd.backends.model import BackendModel, BackendStream
from herd.backends.spending import Account, Held
from herd.chat_model import Capabilities, ChatModel, Sizes, Turns
from herd.errors import HerdError, Interrupted, TimedOut
from herd.event_stream import EventStream
from herd.events import DoneEvent, Event
from herd.lanes import waiting
from herd.request_options import DialogRequest

TEMPLATE_TOKENS = 4096
"""Tokens that a chat template and tools may take beyond the bytes of a request."""
IMAGE_TOKENS = 16_384
"""Tokens that an image may take beyond its bytes: some thousands for a large one, which may be a few bytes of one
colour."""


class PaidModel(ChatModel):
    """A backend's model whose requests are paid from an account."""

    def __init__(self, inner: BackendModel, account: Account) -> None:
        self._inner, self._account = inner, account
        self.name, self.context, self.target = inner.name, inner.context, inner.target

    @property
    def capabilities(self) -> Capabilities:
        """See ChatModel."""
        return self._inner.capabilities

    @property
    def sizes(self) -> Sizes:
        """See ChatModel."""
        return self._inner.sizes

    @property
    def alive(self) -> bool:
        """See ChatModel."""
        return self._inner.alive

    def warm_up(self) -> None:
        """See ChatModel."""
        self._inner.warm_up()

    def close(self) -> None:
        """See ChatModel."""
        self._inner.close()

    def astream(self, messages: Turns, **options: Unpack[DialogRequest]) -> "PaidStream":
        """See ChatModel. Raises LimitReached in the stream's `prepare`, before anything is sent."""
        answers = options.get("n") or 1
        most = options.get("max_tokens") or self.context
        if self.target.context is not None:  # a context that nobody said is guessed, and bounds nothing
            most = min(most, self.target.context)
        most *= answers
        return PaidStream(
            self._inner.astream(messages, **options), self._account, most, answers, options.get("tenant", "")
        )

    async def models(self, *, leave: bool = False) -> tuple[str, ...] | None:
        """Names of the models that the other side lists, which costs nothing; None: it has no list."""
        return await self._inner.models(leave=leave)


class PaidStream(EventStream):
    """Events of one request that is paid. most: tokens that its answers may take together."""

    def __init__(self, inner: BackendStream, account: Account, most: int, answers: int, owner: str) -> None:
        super().__init__(self._paid(), most_tokens=most)
        self._inner, self._account, self._most, self._owner = inner, account, most, owner
        self.answered_by = inner.answered_by
        self._left = answers
        self._held: Held | None = None
        self._used: tuple[int, int] = 0, 0
        self._came = False
        self._prepared = False

    @property
    def asked_bytes(self) -> int:
        """See ChatStream."""
        return self._inner.asked_bytes

    async def prepare(self) -> None:
        """See ChatStream. The most that it may cost is set aside. Raises LimitReached."""
        if self._prepared or self._closed:
            return
        self._prepared = True
        inner = self._inner
        inner.size_bytes, inner.has_spare = self.size_bytes, self.has_spare
        inner.hold, self.hold = self.hold, lambda count: None  # what is kept is counted once
        await inner.prepare()
        prompt = inner.asked_bytes + TEMPLATE_TOKENS + IMAGE_TOKENS * inner.num_images  # a token is a byte or more
        holding = asyncio.ensure_future(waiting().run(self._owner, lambda: self._account.hold(prompt, self._most)))
        try:
            self._held = await asyncio.shield(holding)
        except asyncio.CancelledError:
            with suppress(HerdError):
                self._held = await holding  # a thread sets it aside all the same; `aclose` gives it back
            raise

    async def ready(self) -> None:
        """See ChatStream."""
        await self.prepare()
        await super().ready()

    async def aclose(self) -> None:
        """See ChatStream. What was set aside is settled."""
        await super().aclose()
        await self._inner.aclose()
        await self._settle(self._sum() if self._begun else 0)

    async def _paid(self) -> AsyncGenerator[Event, None]:
        assert self._held is not None, "not prepared"
        try:
            async for event in self._inner:
                self._came = True
                if isinstance(event, DoneEvent):
                    self._add(event)
                yield event
        except Exception as error:
            unknown = self._came or isinstance(error, Broken | TimedOut | Interrupted) or type(error) is Absent
            await self._settle(None if unknown else 0)
            raise
        await self._settle(self._sum())

    def _sum(self) -> int | None:
        """What the answers came to, as the other side counts; None: they are not over, or it did not say."""
        told = self._left <= 0 and self._used[0] > 0
        return self._account.rates.nano(*self._used) if told else None

    def _add(self, event: DoneEvent) -> None:
        """Add what an answer took; the prompt is one for all of them."""
        prompt, output = self._used
        self._used = max(prompt, event.usage.prompt_tokens), output + event.usage.output_tokens
        self._left -= 1

    async def _settle(self, nano: int | None) -> None:
        held, self._held = self._held, None
        if held is not None:
            await waiting().run(self._owner, lambda: held.settle(nano))
