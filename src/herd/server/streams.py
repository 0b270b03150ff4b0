"""Replies that come in pieces: sent as they are made, ended when the reader goes away or reads nothing."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping

from starlette.types import Receive, Scope, Send

TICK_S = 5.0
"""How often a stream is looked at: is its reader still reading?"""
PING_S = 15.0
"""Silence after which a ping is sent: prompts of a million tokens take a while, and proxies lose patience."""


class Stream:
    """An ASGI response out of an async generator of chunks.

    ping: what may be sent at any time between chunks; None: nothing. is_behind: whether too much waits for the reader.
    The generator is closed however it ends: that is what frees the request's place.
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
    ) -> None:
        self._chunks = chunks
        self._headers = [
            (b"content-type", media_type.encode()),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
            *((name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()),
        ]
        self._write_timeout_s = write_timeout_s
        self._ping = ping
        self._is_behind = is_behind
        self._sent_s = time.monotonic()
        self._sending = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it all."""
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
            await self._chunks.aclose()

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
