"""Replicate's predictions: one is made, its stream is read at another address, and it is cancelled where nobody waits.

    POST {base}/models/{owner}/{name}/predictions      {"input": {...}, "stream": true}
    GET  {urls.stream}                                 events: output (text), error, done
    GET  {base}/predictions/{id}                       what it took, once it is over
    POST {base}/predictions/{id}/cancel                where the stream is left: closing it alone ends nothing there

An answer cannot send anybody anywhere: the stream's address has to be of an origin that the target names, and its own
pass is asked for it; addresses of a prediction are made of its id. No webhook is ever named. Should the request to
cancel be lost, Replicate cancels a prediction after the time that the request had (`Cancel-After`).

Input: what Llama 4 has there is `prompt`, `max_tokens`, `temperature`, `top_p` and two penalties, as examples at
Replicate show (https://replicate.com/meta/llama-4-maverick-instruct, November 2026). Whether a system text would be
heard is not known, so that a dialog is one user's text, and all others are refused. Sources:
https://replicate.com/docs/reference/http and https://replicate.com/docs/topics/predictions/streaming. What it is not:
a file, an image, another model's input.
"""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from math import ceil
from typing import Any

from herd.backends.failures import Broken, failure, of_event
from herd.backends.gate import Pass, allow
from herd.backends.openai_request import asked_of, content_of
from herd.backends.reading import Named, named_events, parsed
from herd.backends.target import Target, origin_of
from herd.backends.transport import STREAM, WHOLE, Reads, Transport
from herd.backends.wire import Sending
from herd.chat_model import Capabilities, Turns
from herd.dialogs import turns_of
from herd.errors import HerdError, TimedOut, Unsupported, UsageError, fail
from herd.text.message_checks import check_messages

INPUT = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
"""Options that have the same name in the input."""
KNOWN = frozenset({*INPUT, "max_tokens"})
CANCEL_S = 5.0
"""Seconds that whoever leaves waits for the prediction to be cancelled."""
LEAST_LIFE_S = 5
"""The shortest Cancel-After that Replicate takes."""
WAITS_S = (0.0, 0.5, 1.0)
"""Seconds before each time that one is asked what it took."""
DEFAULT_TOKENS = 1024
"""Tokens of an answer at the most where a request does not say."""
_ID = re.compile(r"[a-z0-9]{1,64}")
_MODEL = re.compile(r"[A-Za-z0-9._-]{1,128}/[A-Za-z0-9._-]{1,128}")
_LEFT: set["asyncio.Task[None]"] = set()
"""Cancellations that go on while nobody waits for them any more."""


class ReplicateForm:
    """See WireForm."""

    def can(self, capabilities: Capabilities) -> Capabilities:
        """See WireForm: texts alone."""
        return Capabilities()

    def forces(self, target: Target) -> bool:
        """See WireForm."""
        return False

    def body_of(self, target: Target, messages: Turns, options: Mapping[str, Any]) -> dict[str, Any]:
        """See WireForm."""
        turns = turns_of(messages)
        check_messages(turns)
        asked = asked_of(target.name, Capabilities(), target.options & KNOWN, options)
        if not _MODEL.fullmatch(target.model):
            fail(Unsupported, f"{target.name}: its model", got=target.model, expected="OWNER/NAME for Replicate")
        if len(turns) != 1 or turns[0].role != "user":
            got = ", ".join(turn.role for turn in turns[:8])
            fail(
                Unsupported,
                f"{target.name}: a dialog",
                got=got,
                expected="one user's text, all that it is known to take",
            )
        prompt = content_of(target.name, Capabilities(), turns[0], "messages[0]")
        if not prompt:
            fail(Unsupported, "messages[0].content", got="nothing", expected="a text")
        found: dict[str, Any] = {"prompt": prompt}
        limits = [asked[name] for name in ("max_tokens", "ceiling") if name in asked]
        if limits:
            found["max_tokens"] = min(limits)
        found |= {name: asked[name] for name in INPUT if name in asked}
        return {"input": found, "stream": True}

    def images_in(self, body: Mapping[str, Any]) -> int:
        """See WireForm."""
        return 0

    def talk(self, sending: Sending) -> AsyncGenerator[Any, None]:
        """See WireForm."""
        return _Prediction(sending).chunks()

    async def models(self, transport: Transport, passed: Pass) -> tuple[str, ...] | None:
        """See WireForm: of the many that there are, the target's own."""
        target = transport.target
        found = await transport.get(f"/models/{target.model}", passed)
        names = [found.get(one) for one in ("owner", "name")] if isinstance(found, Mapping) else []
        if not names or not _MODEL.fullmatch(told := "/".join(map(str, names))):
            raise failure(Broken, target, "sent what is no model")
        return (told,)


class _Prediction:
    """One request: a prediction from its making to its end."""

    def __init__(self, sending: Sending) -> None:
        self._sending, self._transport = sending, sending.transport
        self._target = sending.transport.target
        self._seconds = min(self._target.bounds.total_s, sending.timeout_s or self._target.bounds.total_s)
        self._end = time.monotonic() + self._seconds
        self._id = ""

    async def chunks(self) -> AsyncGenerator[Any, None]:
        """Chunks of its answer."""
        address = await self._made()
        over = False
        try:
            async with aclosing(self._events(address)) as events:
                async for event in events:
                    if event.name == "output":
                        yield _chunk({"content": self._text(event)})
                    elif event.name in ("error", "done"):
                        over = True
                        self._check_end(event)
                        break
        finally:
            if not over:
                await _left(self._cancelled())
        if over:
            for chunk in self._last(await self._metrics()):
                yield chunk

    async def _made(self) -> Any:
        """Make it; returns where its stream is said to be. One that is made while nobody waits for it any more is
        cancelled, too."""
        making = asyncio.ensure_future(self._make())
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            await _left(self._cancelled_once(making))
            raise

    async def _make(self) -> Any:
        life = {"Cancel-After": f"{max(ceil(self._seconds), LEAST_LIFE_S)}s"}
        path = f"/models/{self._target.model}/predictions"
        post = self._transport.post(
            path, self._sending.body, self._sending.passed, timeout_s=self._seconds, reads=WHOLE, headers=life
        )
        async with aclosing(post):
            found = await anext(post)
        told = found.get("id") if isinstance(found, Mapping) else None
        if not isinstance(told, str) or not _ID.fullmatch(told):
            raise failure(Broken, self._target, "sent what is no prediction")
        self._id = told
        urls = found.get("urls")
        return urls.get("stream") if isinstance(urls, Mapping) else None

    def _events(self, address: Any) -> AsyncGenerator[Named, None]:
        """Its events, read where its stream is. Raises Broken for a place that the target does not name."""
        place = self._place(address)
        passed = allow(place, leave=self._sending.leave)
        reads = Reads(STREAM, named_events, or_json=False)
        return Transport(place).stream("", passed, timeout_s=self._left_s(), reads=reads)

    def _place(self, address: Any) -> Target:
        """The target at the address of its stream."""
        if not isinstance(address, str):
            raise failure(Broken, self._target, f"does not stream {self._target.model}")
        if origin_of(address) not in map(origin_of, (self._target.base_url, *self._target.origins)):
            raise failure(Broken, self._target, "has its stream at a place that is none of its own", address)
        try:
            return replace(self._target, base_url=address)
        except UsageError:
            raise failure(Broken, self._target, "has its stream at an address that is none", address) from None

    def _text(self, event: Named) -> str:
        try:
            return event.data.decode()
        except UnicodeDecodeError:
            raise failure(Broken, self._target, "sent what is no text") from None

    def _check_end(self, event: Named) -> None:
        """Raise what an event tells that ends it otherwise than well."""
        found = parsed(event.data, self._target)
        if not isinstance(found, Mapping):
            raise failure(Broken, self._target, f"sent an event {event.name} that is no object")
        if event.name == "error":
            raise of_event(self._target, {"error": {"message": str(found.get("detail", ""))}})
        if found.get("reason"):
            raise failure(Broken, self._target, "ended its answer before it was whole", str(found["reason"]))

    async def _metrics(self) -> Mapping[str, Any]:
        """What it took, as far as it is told in time."""
        for wait in WAITS_S:
            await asyncio.sleep(wait)
            try:
                found = await self._transport.get(f"/predictions/{self._id}", self._sending.passed)
            except HerdError:
                return {}
            metrics = found.get("metrics") if isinstance(found, Mapping) else None
            if isinstance(metrics, Mapping) and type(metrics.get("output_token_count")) is int:
                return metrics
        return {}

    def _last(self, metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The end, and the tokens. Nobody says why an answer ended: it is cut where it has all tokens that it may."""
        options = self._sending.options
        most = min((options[name] for name in ("max_tokens", "ceiling") if options.get(name)), default=DEFAULT_TOKENS)
        prompt, output = metrics.get("input_token_count"), metrics.get("output_token_count")
        finish = _chunk({}, "length" if isinstance(output, int) and output >= most else "stop")
        if prompt is None or output is None:
            return [finish]
        return [finish, {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": output}}]

    async def _cancelled_once(self, making: "asyncio.Future[Any]") -> None:
        """Cancel it as soon as it is made."""
        with suppress(HerdError):
            await making
        await self._cancelled()

    async def _cancelled(self) -> None:
        """Cancel it, where it was made."""
        if not self._id:
            return
        path = f"/predictions/{self._id}/cancel"
        with suppress(HerdError):
            post = self._transport.post(path, b"{}", self._sending.passed, timeout_s=CANCEL_S, reads=WHOLE)
            async with aclosing(post):
                await anext(post, None)

    def _left_s(self) -> float:
        """Seconds that are left. Raises TimedOut."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimedOut(f"{self._target.name}: no answer within the time of the request")
        return left


async def _left(ending: Coroutine[Any, Any, None]) -> None:
    """Wait a while for what ends a request; it goes on if that is not enough, or if whoever waits is cancelled."""
    task = asyncio.ensure_future(ending)
    _LEFT.add(task)
    task.add_done_callback(_LEFT.discard)
    with suppress(TimeoutError):
        async with asyncio.timeout(CANCEL_S):
            await asyncio.shield(task)


def _chunk(delta: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": dict(delta), "finish_reason": finish}]}
