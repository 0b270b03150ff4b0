"""A model of another engine or host, as a ChatModel.

What the other side lacks is refused by name; what a policy wants is applied by whoever serves it (`herd.gated`). What
it is not: several of them, a call without an event loop.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Unpack

from herd.backends.forms import form_of
from herd.backends.gate import Pass, allow
from herd.backends.openai_request import offered, written
from herd.backends.openai_stream import Chunks, Expected
from herd.backends.target import Target
from herd.backends.transport import Transport
from herd.backends.wire import Sending, WireForm
from herd.chat_model import Capabilities, ChatModel, Turns
from herd.errors import NetworkError, NotReady
from herd.event_stream import EventStream
from herd.events import Event
from herd.lanes import computing
from herd.request_options import DialogRequest

UNKNOWN_CONTEXT = 1 << 17
"""Tokens of context that are taken for granted where nobody said how many there are."""
USAGE_S = 10.0
"""Seconds that the count of tokens is waited for once the answer is whole."""


class BackendModel(ChatModel):
    """One model at the other side."""

    def __init__(self, target: Target, *, transport: Transport | None = None) -> None:
        """Raises MissingExtra where httpx is not installed."""
        self.target = target
        self.name = target.name
        self.context = target.context or UNKNOWN_CONTEXT
        self._form = form_of(target)
        self._transport = transport or Transport(target)
        self._closed = False

    @property
    def capabilities(self) -> Capabilities:
        """What the other side can do in the form that it speaks."""
        return self._form.can(self.target.capabilities)

    @property
    def alive(self) -> bool:
        """Whether it was not closed. Nothing is held that could die."""
        return not self._closed

    def warm_up(self) -> None:
        """Do nothing: no connection is made before a request is there, which says whether it may leave the house."""

    def close(self) -> None:
        """Begin no further request. Each has a connection of its own, which goes with it."""
        self._closed = True

    def astream(self, messages: Turns, **options: Unpack[DialogRequest]) -> "BackendStream":
        """See ChatModel. `leave`: whether the request may leave the house; without it StaysHere comes before anything
        is sent to a host outside, a name looked up included."""
        if self._closed:
            raise NotReady(f"{self.name} is closed")
        return BackendStream(self._form, self._transport, messages, options)

    async def models(self, *, leave: bool = False) -> tuple[str, ...] | None:
        """Names of the models that it lists; None: it has no list. Raises errors of `herd.backends.failures`,
        StaysHere."""
        return await self._form.models(self._transport, allow(self.target, leave=leave))


class BackendStream(EventStream):
    """Events of one request to a backend."""

    def __init__(self, form: WireForm, transport: Transport, messages: Turns, options: DialogRequest) -> None:
        super().__init__(self._answer(), most_tokens=(options.get("max_tokens") or 0) * (options.get("n") or 1))
        self._form, self._transport, self._messages, self._options = form, transport, messages, options
        self.answered_by = transport.target.name
        self._body: bytes | None = None
        self._passed: Pass | None = None
        self.num_images = 0
        """Images of the request, once it is prepared."""

    @property
    def asked_bytes(self) -> int:
        """See ChatStream: the dialog, and the body that was made of it."""
        return self.size_bytes + len(self._body or b"")

    async def prepare(self) -> None:
        """See ChatStream. Raises StaysHere before anything is done for a request that may not leave."""
        if self._body is None and not self._closed:
            self._passed = allow(self._transport.target, leave=self._options.get("leave") is True)
            owner = self._options.get("tenant", "")
            self._body = await computing().run(owner, self._write, self.size_bytes)
            self.hold(len(self._body))

    async def ready(self) -> None:
        """See ChatStream."""
        await self.prepare()
        await super().ready()

    def _write(self) -> bytes:
        body = self._form.body_of(self._transport.target, self._messages, self._options)
        self.num_images = self._form.images_in(body)
        return written(body)

    async def _answer(self) -> AsyncGenerator[Event, None]:
        target = self._transport.target
        assert self._body is not None and self._passed is not None, "not prepared"
        chunks = Chunks(target, _expected(self._options))
        transport = self._transport.once() if self.has_spare else self._transport
        talk = self._form.talk(Sending(transport, self._body, self._passed, self._options))
        async with aclosing(talk):
            end = _End(chunks)
            while (chunk := await end.next(talk)) is not None:
                for event in chunks.take(chunk):
                    yield event
                if chunks.over and (chunks.told_usage or not target.tells_usage):
                    break
        for event in chunks.finish():
            yield event


class _End:
    """Waits for chunks: once the answers are whole, a while in all for what is left to tell."""

    def __init__(self, chunks: Chunks) -> None:
        self._chunks = chunks
        self._at: float | None = None

    async def next(self, talk: AsyncGenerator[Any, None]) -> Any:
        """The next chunk; None at the end, and where an answer is whole and nothing more comes in time."""
        if self._chunks.over and self._at is None:
            self._at = asyncio.get_running_loop().time() + USAGE_S
        try:
            async with asyncio.timeout_at(self._at):
                return await anext(talk, None)
        except (TimeoutError, NetworkError):
            if self._chunks.over:
                return None
            raise


def _expected(options: DialogRequest) -> Expected:
    """What an answer is checked against."""
    stop = options.get("stop") or ()
    return Expected(
        n=options.get("n") or 1,
        tools=offered(options),
        must_call=(options.get("tool_choice") or "auto") not in ("auto", "none"),
        parallel=options.get("parallel_tool_calls") is not False,
        logprobs=options.get("logprobs"),
        has_form=bool(options.get("schema")) or options.get("grammar") is not None,
        stops=(stop,) if isinstance(stop, str) else tuple(stop),
        seed=options.get("seed") or 0,
    )
