"""Streamed replies: sent as they are made, ended when the reader goes away or reads nothing."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

TICK_S = 5.0
"""How often a stream is looked at: is its reader still reading?"""
PING_S = 15.0
"""Silence after which a ping is sent: prompts of a million tokens take a while, and proxies lose patience."""


PIECE = 64 << 10
"""Bytes of a body that are handed to a connection at once: it keeps what its reader has not taken."""


class InPieces:
    """ASGI middleware: a long body goes to its connection piece by piece, as fast as the client reads."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""

        async def in_pieces(message: Message) -> None:
            body = message.get("body", b"")
            if message["type"] != "http.response.body" or len(body) <= PIECE:
                await send(message)
                return
            view, more = memoryview(body), message.get("more_body", False)
            for start in range(0, len(view), PIECE):
                last = start + PIECE >= len(view)
                if start:
                    await asyncio.sleep(0)  # a reader that is fast would get all of it in one turn of the loop
                await send({**message, "body": bytes(view[start : start + PIECE]), "more_body": more or not last})

        await self._app(scope, receive, in_pieces)


class Stream:
    """An ASGI response made of an async generator of chunks.

    ping: bytes that may be sent at any time between chunks; None: nothing. is_behind: whether too much waits for the
    reader. However it ends, the generator is closed and then `ended` called: a generator that has not begun does
    nothing when it is closed.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[bytes, None],
        media_type: str,
        *,
        headers: Mapping[str, str],
        write_timeout_s: float,
        ping: bytes | None = None,
        is_behind: Callable[[], bool] = lambda: False,
        ended: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._chunks = chunks
        self._ended = ended
        self._headers = [
            (b"content-type", media_type.encode()),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        self.add_headers(headers)
        self._write_timeout_s = write_timeout_s
        self._ping = ping
        self._is_behind = is_behind
        self._sent_s = time.monotonic()
        self._sending = False

    def add_headers(self, headers: Mapping[str, str]) -> None:
        """Add headers, before it is sent."""
        self._headers += ((name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything."""
        main = asyncio.current_task()
        assert main is not None
        watcher = asyncio.create_task(self._watch(main, receive, send))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self._headers})
            async for chunk in self._chunks:
                self._sending = True
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                self._sending = False
                self._sent_s = time.monotonic()
            watcher.cancel()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except asyncio.CancelledError:
            if not watcher.done() or watcher.cancelled():
                raise  # not the watcher: the service is ending
        finally:
            watcher.cancel()
            try:
                await self._chunks.aclose()
            finally:
                if self._ended is not None:
                    await self._ended()

    async def _watch(self, main: "asyncio.Task[object]", receive: Receive, send: Send) -> None:
        """Cancel the sender when its reader is gone."""
        while True:
            try:
                async with asyncio.timeout(TICK_S):
                    message = await receive()
                if message["type"] == "http.disconnect":
                    break
            except TimeoutError:
                silent_s = time.monotonic() - self._sent_s
                if self._sending and (silent_s > self._write_timeout_s or self._is_behind()):
                    break
                if self._ping is not None and not self._sending and silent_s > PING_S:
                    self._sent_s = time.monotonic()
                    await send({"type": "http.response.body", "body": self._ping, "more_body": True})
        main.cancel()
