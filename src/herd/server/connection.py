"""Connections: uvicorn's protocol over h11, with what it leaves open closed.

A client that sends headers one byte at a time is cut at the time-out, the number of connections is bounded (over it the
one that has idled longest goes), and there are no websockets. h11 refuses what parsers disagree about: two lengths,
length beside chunks, NUL in a header. When the system has no descriptor for another one, some idle ones are closed.
"""

import asyncio
import json
import resource
from collections.abc import Callable
from itertools import islice
from typing import Any, ClassVar, cast

from uvicorn.protocols.http.h11_impl import H11Protocol

from herd.server.limits import Limits
from herd.server.log import Log
from herd.server.problems import NO_FILES

SPARE_FILES = 128
"""File descriptors that are not for connections."""
ROOM = 16
"""Idle connections that are closed when there are none left."""


def connection_class(limits: Limits) -> type[asyncio.Protocol]:
    """A protocol for uvicorn with these limits; connections of one class are counted together."""
    most = min(limits.connections, _allow_files(limits.connections + SPARE_FILES) - SPARE_FILES)
    members = {"limits": limits, "most": max(1, most), "open": {}}
    return cast(type[asyncio.Protocol], type("HerdConnection", (Connection,), members))


def _allow_files(wanted: int) -> int:
    """Raise this process's soft limit of open files towards what is wanted; what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


class Connection(H11Protocol):
    """One connection. Make classes with `connection_class`."""

    limits: ClassVar[Limits]
    most: ClassVar[int]
    open: ClassVar[dict["Connection", None]]
    """All of them, the one that has been idle longest first."""
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count it, and begin to wait for headers."""
        super().connection_made(transport)
        self.open[self] = None
        if len(self.open) > self.most:
            self.make_room(1)
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self.open.pop(self, None)
        self._headers_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came: of headers as long as no request is under way."""
        self.open.pop(self, None)
        self.open[self] = None
        super().data_received(data)
        if not self.idle:
            self._headers_came()
        elif self._late is None:
            self._expect_headers()

    @classmethod
    def make_room(cls, places: int) -> int:
        """Cut so many connections as are idle, the one that has been so longest first; how many there were."""
        idle = list(islice((one for one in cls.open if one.idle), places))
        for one in idle:
            one.cut()
        return len(idle)

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete

    def cut(self) -> None:
        """Close it without a word."""
        self._headers_came()
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """What was sent is no HTTP."""
        if not self.idle:
            self.cut()
            return
        body = json.dumps({"error": {"message": "not a valid HTTP request", "type": "invalid_request_error"}}).encode()
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
        self.transport.close()

    def _expect_headers(self) -> None:
        self._late = self.loop.call_later(self.limits.header_timeout_s, self.cut)

    def _headers_came(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def for_event_loop(
    connections: type[Connection], log: Log
) -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """An exception handler for the loop that accepts connections.

    asyncio calls it for every place in the queue of the socket while the system gives no descriptor, and tries again
    after a second: once a second is often enough to make room and to say so.
    """
    told_s = float("-inf")

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal told_s
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in NO_FILES or "socket" not in context:
            loop.default_exception_handler(context)
        elif loop.time() - told_s >= 0.5:
            told_s = loop.time()
            log.event("no file descriptors", connections=len(connections.open), closed=connections.make_room(ROOM))

    return handle


def uvicorn_options(limits: Limits) -> dict[str, Any]:
    """Arguments for uvicorn.Config that belong to connections."""
    return {
        "http": connection_class(limits),
        "ws": "none",
        "lifespan": "on",
        "timeout_keep_alive": limits.idle_timeout_s,
        "h11_max_incomplete_event_size": limits.header_bytes,
        "server_header": False,
        "date_header": False,
        "access_log": False,
        "log_config": None,
        "proxy_headers": False,
        "backlog": 2048,
    }
