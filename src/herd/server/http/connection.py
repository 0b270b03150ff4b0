"""Connections: uvicorn's protocol over h11, with stricter framing, time-outs and bounds.

Requests are framed strictly before h11 sees them (`framing`); what is no request is answered in one line of JSON with
the status that RFC 9110 has for it. A client that sends headers one byte at a time is cut at the time-out, the number
of connections is bounded (`crowd`), and there are no websockets. A request that is answered before it has come whole
ends its connection: what comes after is read and thrown away for a moment, so that the answer is not lost. When the
system has no descriptor for another connection, some idle ones are closed.
"""

import asyncio
import contextlib
import math
import resource
import weakref
from collections.abc import Callable, Hashable
from functools import partial
from http import HTTPStatus
from typing import Any, ClassVar, cast

from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from herd.server.http.accepting import Acceptor, Arrival
from herd.server.http.crowd import ConnectionState, Crowd
from herd.server.http.error_bodies import NO_FILES
from herd.server.http.event_loop import new_event_loop
from herd.server.http.framing import Framing, RefusedRequest
from herd.server.http.turns import Turns
from herd.server.http.wire import encode
from herd.server.keys import Keyring
from herd.server.limits import Limits
from herd.server.log import Log

SPARE_FILES = 128
"""File descriptors that are not for connections."""
ROOM = 16
"""Idle connections that are closed when there are none left."""
BATCH = 64
"""Connections that asyncio accepts in one turn of the event loop, at most, where it does (see `event_loop`)."""
NO_PLACE = 503, "the service has as many connections as it takes; ask again in a moment"


def connection_class(limits: Limits, keyring: Keyring) -> type[asyncio.Protocol]:
    """A protocol class for uvicorn with these limits; connections of one class are counted together, by their keys."""
    most = min(limits.connections, _allow_files(limits.connections + SPARE_FILES) - SPARE_FILES)
    crowd = Crowd(max(1, most), limits.newcomer_share)
    members = {"limits": limits, "crowd": crowd, "turns": Turns(), "keyring": keyring}
    return cast(type[asyncio.Protocol], type("HerdConnection", (Connection,), members))


def _allow_files(wanted: int) -> int:
    """Raise this process's soft limit of open files towards `wanted`; returns the limit then in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


class TransportGate:
    """A transport as uvicorn sees it: the connection decides when it closes and when reading resumes.

    Neither it nor anything else keeps a connection that is gone: what the collector of garbage would have to find
    holds up everybody while it looks.
    """

    def __init__(self, transport: asyncio.Transport, connection: "Connection") -> None:
        self._transport = transport
        self._of = weakref.ref(connection)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether nothing more will be written."""
        connection = self._of()
        return connection is None or connection.ends or self._transport.is_closing()

    def close(self) -> None:
        """Close the connection once everything is sent."""
        if (connection := self._of()) is not None:
            connection.hang_up()

    def resume_reading(self) -> None:
        """Let the connection read on: more of a body may come, or another request."""
        if (connection := self._of()) is not None:
            connection.read_on()


class Connection(H11Protocol):
    """A connection of a client. Make classes with `connection_class`."""

    limits: ClassVar[Limits]
    crowd: ClassVar[Crowd]
    turns: ClassVar[Turns]
    keyring: ClassVar[Keyring]
    arrival: Arrival | None = None
    """The arrival whose place it takes over."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection, and begin to wait for headers."""
        super().connection_made(cast(asyncio.Transport, TransportGate(transport, self)))
        self._real = transport
        self.peer: Hashable = self.client[0] if self.client else ""
        self.owner: Hashable = self.peer
        self.ends = False
        """Whether all is said: what comes is thrown away."""
        self._framing = Framing(self.limits)
        self._ahead = bytearray()
        """Bytes that have come and were not looked at: of a next request, or beyond what is read in one turn."""
        self._held: bytes | None = None
        """The head of a request that waits for its turn to begin."""
        self._turn: asyncio.Handle | None = None
        self._late: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None
        self._upload_began_s = 0.0
        self._thrown_away = 0
        arrival, self.arrival = self.arrival, None
        left_s = self.limits.header_timeout_s if arrival is None else arrival.take()
        if left_s is None:
            self.cut()
            return
        self.crowd.move(self, ConnectionState.HEAD if arrival is None else arrival.state)
        if self.crowd.make_room_for(self):
            self._wait_s(left_s)
        else:
            self.refuse(RefusedRequest(*NO_PLACE))

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection and cancel its timers."""
        self.crowd.leave(self)
        self.ends = True
        for pending in (self._late, self._turn, self._stuck):
            if pending is not None:
                pending.cancel()
        self._ahead.clear()
        super().connection_lost(exc)
        if self.cycle is not None:
            self.cycle.on_response = _nothing
        if hasattr(self._real, "_read_ready_cb"):
            self._real._read_ready_cb = None  # asyncio's holds a method of itself

    @property
    def app(self) -> Any:
        """The ASGI application that answers requests."""
        return self._answer

    @app.setter
    def app(self, app: Any) -> None:
        """uvicorn's own, which `_answer` calls."""

    def data_received(self, data: bytes) -> None:
        """Take in bytes; they are thrown away once the connection ends."""
        self._unset_keepalive_if_required()
        if self.ends:
            self._thrown_away += len(data)
            if self._thrown_away > self.limits.linger_bytes:
                self._real.abort()
            return
        self._ahead += data
        if self.crowd.state_of(self) is ConnectionState.OPENS:
            self.crowd.move(self, ConnectionState.HEAD)
        if self._turn is None:
            self._read()

    def on_response_complete(self) -> None:
        """Begin with the next request, which may have come already."""
        super().on_response_complete()
        if not self._real.is_closing() and not self.ends:
            self._framing = Framing(self.limits)
            self.crowd.move(self, ConnectionState.IDLE)
            self.read_on()

    def start(self) -> bool:
        """Start its request, whose turn it is; returns False when nobody wants it any more."""
        head, self._held = self._held, None
        if head is None or self.ends:
            return False
        if self._framing.complete:
            self.crowd.move(self, ConnectionState.WORKS)
        self.conn.receive_data(head)
        self.handle_events()
        self._read()
        return True

    def read_on(self) -> None:
        """Handle the bytes that have come already, then read more."""
        if self._ahead and not self._framing.complete:
            self._soon()
        self._mind_reading()

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete

    def rate(self) -> float:
        """Speed of the body that is coming, in bytes a second; the first second counts whole. Infinite while the
        request waits for its turn, which is not its client's delay."""
        if self._held is not None:
            return math.inf
        return self._framing.body_bytes / max(1.0, self.loop.time() - self._upload_began_s)

    def cut(self) -> None:
        """Close the connection at once, without an answer."""
        self.ends = True
        self._real.abort()

    def give_way(self) -> None:
        """Answer that there is no place, and close: another connection gets its place."""
        self.refuse(RefusedRequest(*NO_PLACE))
        self._real.close()

    def hang_up(self) -> None:
        """Close the connection once everything is sent."""
        if self.ends or self._real.is_closing():
            return
        if self._ahead or (self._framing.begun and not self._framing.complete):
            self._linger()
            return
        self.ends = True
        self._real.close()
        self._expect_reading()

    def refuse(self, refusal: RefusedRequest) -> None:
        """Answer bytes that are no valid request, or a request that cannot be taken; nothing more is read of it."""
        if not self.idle:
            if self.cycle.response_started:
                self.cut()
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.logger.warning("refused with %d", refusal.status)
        self._real.write(_reply(refusal, self._framing.method == b"HEAD"))
        self._linger()

    def send_400_response(self, msg: str) -> None:
        """Refuse what passes `framing` and is no request to h11; there is no such case known."""
        self.refuse(RefusedRequest(400, "no valid HTTP request"))

    def _unsupported_upgrade_warning(self) -> None:
        """Do nothing: upgrades are ignored, and uvicorn need not warn of them."""

    def pause_writing(self) -> None:
        """The client does not read what it is sent: start its time-out."""
        super().pause_writing()
        self._expect_reading()

    def resume_writing(self) -> None:
        """The client has read: stop its time-out, or start it anew when the connection is to be closed."""
        super().resume_writing()
        if self.ends:
            self._expect_reading()
        elif self._stuck is not None:
            self._stuck.cancel()

    def _linger(self) -> None:
        """Go on reading for a while, within bounds, and throw it away: closing while the client sends would lose the
        answer."""
        self.ends = True
        self._ahead.clear()
        self.crowd.move(self, ConnectionState.LINGERS)
        self._wait_s(self.limits.linger_s)
        with contextlib.suppress(OSError):  # it is gone
            self._real.write_eof()
        self._real.resume_reading()

    def _expect_reading(self) -> None:
        """Close the connection unless its client has read something by the time-out."""
        if self._stuck is not None:
            self._stuck.cancel()
        if unsent := self._real.get_write_buffer_size():
            self._stuck = self.loop.call_later(self.limits.write_timeout_s, self._has_it_read, unsent)

    def _has_it_read(self, unsent: int) -> None:
        if self._real.get_write_buffer_size() < unsent:
            self._expect_reading()
        else:
            self.cut()

    def _read(self) -> None:
        """Give h11 what has come: a head and a part of its body in one turn of the event loop."""
        self._turn = None
        try:
            if self._take() and self._take() and self._can_take:
                self._soon()
        except RefusedRequest as refusal:
            self.refuse(refusal)
            return
        self._mind_head()
        self._mind_reading()

    @property
    def _can_take(self) -> bool:
        """Whether the request under way has use for what has come."""
        blocked = self.ends or self._framing.complete or self.flow.read_paused or self._held is not None
        return bool(self._ahead) and not blocked

    def _take(self) -> bool:
        """Give h11 a part of a request, if any has come; returns whether there was one. Raises RefusedRequest."""
        if not self._can_take:
            return False
        had_head, length = self._framing.has_head, len(self._ahead)
        given = self._framing.take(self._ahead)
        if self._framing.has_head and not had_head:
            self._begin(given)
        elif given:
            self.conn.receive_data(given)
            self.handle_events()
        return len(self._ahead) < length

    def _begin(self, head: bytes) -> None:
        """Begin a request: it starts when it is its owner's turn. Raises RefusedRequest where there is no place for
        it."""
        looks = self._framing.path == b"/health"
        if not looks and not self.crowd.admit(self):
            raise RefusedRequest(*NO_PLACE)
        self.owner = self.keyring.name_of(self._framing.authorization, self._framing.x_api_key) or (self.peer,)
        self._upload_began_s = self.loop.time()
        self._held = head
        self.crowd.move(self, ConnectionState.UPLOADS)
        if looks or self.turns.enter(self):
            self.start()

    def _mind_head(self) -> None:
        """Set the time-out for the rest of a head, or end that of one that is complete. A body that is there already is
        no upload."""
        framing = self._framing
        if self.ends:
            return
        if framing.has_head:
            self._wait_s(None)
            if framing.complete and not self.idle and self._held is None:
                self.crowd.move(self, ConnectionState.WORKS)
        elif framing.begun and self.idle:
            if self._late is None:
                self._wait_s(self.limits.header_timeout_s)
            if self.crowd.state_of(self) is not ConnectionState.HEAD:
                self.crowd.move(self, ConnectionState.HEAD)

    def _mind_reading(self) -> None:
        """Read from the socket while what comes is of use."""
        full = self._ahead and (self._framing.complete or self._turn is not None or self._held is not None)
        if self.ends or not (full or self.flow.read_paused):
            self._real.resume_reading()
        else:
            self._real.pause_reading()

    def _soon(self) -> None:
        if self._turn is None:
            self._turn = self.loop.call_soon(self._read)

    def _wait_s(self, seconds: float | None) -> None:
        """Close the connection unless something happens in so many seconds; None: wait without a limit."""
        if self._late is not None:
            self._late.cancel()
        self._late = None if seconds is None else self.loop.call_later(seconds, self._too_late)

    def _too_late(self) -> None:
        self._late = None
        if self.ends and self._real.get_write_buffer_size():
            self._expect_reading()
        elif self.ends or not self._framing.begun:
            self.cut()
        else:
            self.refuse(RefusedRequest(408, f"no whole head of a request in {self.limits.header_timeout_s} s"))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application; a request that is answered before it has come whole is the connection's last."""

        async def reply(message: Message) -> None:
            if message["type"] == "http.response.start" and not self.ends:
                if not self._framing.complete:
                    message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
                self.crowd.move(self, ConnectionState.WORKS)
            await send(message)

        await self.config.loaded_app(scope, receive, reply)


def _nothing() -> None:
    """Do nothing: stands in for a callback of a connection that is gone."""


def _reply(refusal: RefusedRequest, no_body: bool) -> bytes:
    """The HTTP response to a request that is refused."""
    kind = "server_error" if refusal.status >= 500 else "invalid_request_error"
    code = "not_ready" if refusal.status == 503 else "invalid_request"
    body = encode({"error": {"message": str(refusal), "type": kind, "param": None, "code": code}})
    head = [f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}", "content-type: application/json"]
    head += [f"content-length: {len(body)}", "connection: close", "cache-control: no-store"]
    head += ["retry-after: 1"] if refusal.status == 503 else []
    return "\r\n".join([*head, "", ""]).encode() + (b"" if no_body else body)


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
            crowd = connections.crowd
            log.event("no file descriptors", connections=len(crowd), closed=crowd.make_room(ROOM))

    return handle


def uvicorn_options(limits: Limits, keyring: Keyring | None = None) -> dict[str, Any]:
    """Arguments for uvicorn.Config that concern connections."""
    connections = cast(type[Connection], connection_class(limits, keyring or Keyring()))
    crowd = connections.crowd
    no_place = _reply(RefusedRequest(*NO_PLACE), no_body=False)
    accept = partial(Acceptor, crowd=crowd, timeout_s=limits.header_timeout_s, no_place=no_place)
    return {
        "http": connections,
        "loop": partial(new_event_loop, accept),
        "ws": "none",
        "lifespan": "on",
        "timeout_keep_alive": limits.idle_timeout_s,
        "h11_max_incomplete_event_size": 2 * limits.header_bytes,
        "server_header": False,
        "date_header": False,
        "access_log": False,
        "log_config": None,
        "proxy_headers": False,
        # all of a batch are counted before anything is read of one: it must not be more than the places kept free
        "backlog": max(1, min(BATCH, (crowd.most - crowd.busiest) // 2)),
    }
