"""Accepted sockets that wait: until they have sent something, and until the event loop has time for them.

asyncio makes a task, a transport and a protocol of every connection that the system has accepted, in the order in which
they came; behind some thousand that somebody opens at once a newcomer waits for all of those. Here many are taken from
the system in a turn of the event loop, as bare sockets: each is counted (`crowd`) and costs a descriptor and little
else. A few in a turn are made connections: of those that have sent something who asks for /health, then one of each
address after the other, who waits longest and who sent last by turns. Who sends nothing is cut at the time-out of
heads; whose place another one gets is told so, if it has sent something.
"""

import asyncio
import contextlib
import select
import socket
from collections.abc import Callable, Hashable
from functools import partial
from itertools import chain, islice
from typing import Any, Protocol, cast

from herd.server.http import system_calls
from herd.server.http.crowd import ConnectionState, Crowd
from herd.server.http.error_bodies import NO_FILES

TAKEN = 64
"""Most sockets that are accepted in one turn of the event loop: each takes about 25 us."""
HANDED = 3
"""Most sockets that are made connections in one turn of the event loop: each takes about 0.1 ms, and its request up to
1 ms more."""
TOLD = 256
"""Most sockets that are looked at in one turn: each takes a few microseconds."""
UNHEARD_TURNS = 8
"""Turns of the loop: more than it takes from a socket to a head that is read."""
UNREAD = 64 << 10
"""Bytes that are read from a client that is refused: no more than a head and the beginning of a body."""
RETRY_S = 0.25
"""Seconds until the system is asked again for descriptors that it did not have."""
LOOKS = b"GET /health"
"""How requests begin that go first: they cost next to nothing."""


class Loop(Protocol):
    """The part of an event loop that is needed here, beside asyncio's own methods."""

    def add_first_reader(self, fd: int, callback: Callable[[], None]) -> None:
        """As `add_reader`; in each turn this file's events are handled before those of others."""


class Taker(Protocol):
    """An asyncio.Protocol that takes over the place of an Arrival: it calls `arrival.take` when its connection is made,
    then moves to the state `arrival.state`."""

    arrival: "Arrival | None"


class Arrival:
    """An accepted socket that has not become a connection yet; a member of the crowd."""

    def __init__(self, acceptor: "Acceptor", found: socket.socket, peer: Hashable, came_s: float) -> None:
        self._acceptor = acceptor
        self.socket = found
        self.peer = self.owner = peer
        self.came_s = came_s
        self.has_sent = False
        self.is_handed = False
        """Whether its socket is a transport's by now."""
        self.is_gone = False

    @property
    def state(self) -> ConnectionState:
        """The state that it takes over as a connection, until that handles what has been sent."""
        return ConnectionState.OPENS if self.has_sent else ConnectionState.HEAD

    def rate(self) -> float:
        """Zero: it sends no body."""
        return 0.0

    def cut(self) -> None:
        """Close it, because another one gets its place. It is told so if it has sent something; if its connection is
        about to be made, that closes it."""
        self.is_gone = True
        self._acceptor.drop(self)

    def give_way(self) -> None:
        """Cut it: it has no request that could be answered."""
        self.cut()

    def take(self) -> float | None:
        """Give its place to its connection. Returns the seconds that are left for a head; None: it was cut
        meanwhile."""
        return None if self.is_gone else self._acceptor.take(self)


class Acceptor(asyncio.AbstractServer):
    """Accepts connections to one listening socket.

    make: makes a protocol, a Taker. timeout_s: seconds from accepting to the end of a head. no_place: bytes that are
    sent to a client whose place another one takes.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listening: socket.socket,
        make: Callable[[], asyncio.BaseProtocol],
        *,
        crowd: Crowd,
        timeout_s: float,
        no_place: bytes,
    ) -> None:
        self._loop, self._listening, self._make = loop, listening, make
        self._crowd, self._timeout_s, self._no_place = crowd, timeout_s, no_place
        self._silent: dict[int, Arrival] = {}
        """Descriptor -> arrival that has sent nothing yet; the oldest is first."""
        self._looking: dict[Arrival, None] = {}
        self._ready: dict[Hashable, dict[Arrival, None]] = {}
        """Address -> arrivals that have sent something: the address whose turn it is is first, the arrival that sent
        last is last."""
        self._handing: dict[asyncio.Task[None], Arrival] = {}
        self._handed = 0
        self._few = max(1, (crowd.most - crowd.busiest) // UNHEARD_TURNS)
        """Sockets that may be accepted in one turn where all places are taken, and that may be about to be heard at
        once: so few that newcomers find the places of others."""
        self._serving = True
        self._next: asyncio.Handle | None = None
        self._late: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._room = system_calls.Epoll()
        cast(Loop, loop).add_first_reader(self._room.fileno(), self._told)
        self._listen()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Its event loop."""
        return self._loop

    def is_serving(self) -> bool:
        """Whether it accepts connections."""
        return self._serving

    async def start_serving(self) -> None:
        """Do nothing: it accepts from its making on."""

    async def serve_forever(self) -> None:
        """Wait until the task is cancelled, then close; see asyncio."""
        try:
            await self._loop.create_future()
        finally:
            self.close()
            await self.wait_closed()

    def close(self) -> None:
        """Stop accepting, and cut the sockets that have not become connections."""
        if not self._serving:
            return
        self._serving = False
        for pending in (self._next, self._late, self._retry):
            if pending is not None:
                pending.cancel()
        self._loop.remove_reader(self._listening.fileno())
        self._loop.remove_reader(self._room.fileno())
        ready = chain.from_iterable(self._ready.values())
        for arrival in [*self._silent.values(), *self._looking, *ready]:
            arrival.cut()
        for arrival in self._handing.values():
            arrival.cut()
            with contextlib.suppress(OSError):  # it has gone
                arrival.socket.shutdown(socket.SHUT_RDWR)
        self._room.close()

    async def wait_closed(self) -> None:
        """Wait until no socket is about to become a connection."""
        if self._handing:
            await asyncio.wait(list(self._handing))

    def drop(self, arrival: Arrival) -> None:
        """Close an arrival that has lost its place."""
        if self._serving:
            self._refuse(arrival.socket)
        if not arrival.is_handed:
            self._forget(arrival)
            arrival.socket.close()
        self._crowd.leave(arrival)

    def _forget(self, arrival: Arrival) -> None:
        fd = arrival.socket.fileno()
        self._room.unregister(fd)
        self._silent.pop(fd, None)
        self._looking.pop(arrival, None)
        mine = self._ready.get(arrival.peer, {})
        mine.pop(arrival, None)
        if not mine:
            self._ready.pop(arrival.peer, None)

    def _refuse(self, found: socket.socket) -> None:
        """Send that there is no place, if the client has sent something; that is read first, or the client would lose
        the answer."""
        with contextlib.suppress(OSError):  # it has sent nothing, or has gone
            if found.recv(UNREAD):
                found.send(self._no_place)

    def take(self, arrival: Arrival) -> float:
        """Remove an arrival from the crowd; returns the seconds that are left for its head."""
        self._crowd.leave(arrival)
        return max(0.0, arrival.came_s + self._timeout_s - self._loop.time())

    def _listen(self) -> None:
        self._retry = None
        self._loop.add_reader(self._listening.fileno(), self._accept)

    def _accept(self) -> None:
        """Accept the sockets that wait, up to a bound."""
        self._soon()
        for _ in range(self._may_take()):
            try:
                found = system_calls.accept(self._listening)
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in NO_FILES:
                    raise
                self._pause(error)
                return
            address = found.getpeername()
            self._enter(Arrival(self, found, address[0] if address else "", self._loop.time()))

    def _may_take(self) -> int:
        """How many sockets to accept now. Where all places are taken: so few that each is heard before it loses its
        own."""
        return min(TAKEN, max(self._crowd.free, self._few))

    def _pause(self, error: OSError) -> None:
        """Stop accepting for RETRY_S, because the system has no descriptor left, and tell the loop's exception
        handler."""
        self._loop.remove_reader(self._listening.fileno())
        self._retry = self._loop.call_later(RETRY_S, self._listen)
        told = {"message": "no descriptor for a connection", "exception": error, "socket": self._listening}
        self._loop.call_exception_handler(told)

    def _enter(self, arrival: Arrival) -> None:
        """Count a new arrival, and wait for its first bytes."""
        fd = arrival.socket.fileno()
        self._silent[fd] = arrival
        self._room.register(fd, select.EPOLLIN | select.EPOLLONESHOT)
        self._crowd.move(arrival, ConnectionState.HEAD)
        if not self._crowd.make_room_for(arrival):
            del self._silent[fd]
            self._make_ready(arrival)  # its connection says that there is no place
        self._mind_silent()

    def _told(self) -> None:
        """Some arrivals have sent something: handle them now, unless a turn is planned."""
        if self._next is None:
            self._turn()

    def _soon(self) -> None:
        if self._next is None:
            self._next = self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Turn a few arrivals into connections."""
        self._next = None
        for fd, _ in self._room.poll(TOLD):
            if (arrival := self._silent.pop(fd, None)) is not None:
                self._hear(arrival)
        for _ in range(min(HANDED, self._few - self._crowd.count(ConnectionState.OPENS))):
            if (chosen := self._choose()) is None:
                break
            self._hand(chosen)
        if self._looking or self._ready:
            self._soon()

    def _hear(self, arrival: Arrival) -> None:
        """Look at what an arrival has sent; cut it if it has hung up."""
        try:
            begun = arrival.socket.recv(len(LOOKS), socket.MSG_PEEK)
        except OSError:
            begun = b""
        arrival.has_sent = bool(begun)
        if not begun:
            arrival.cut()
        elif begun == LOOKS:
            self._looking[arrival] = None
        else:
            self._make_ready(arrival)

    def _make_ready(self, arrival: Arrival) -> None:
        self._ready.setdefault(arrival.peer, {})[arrival] = None

    def _choose(self) -> Arrival | None:
        """Take out the arrival whose turn it is; None: there is none."""
        if self._looking:
            return self._looking.popitem()[0]
        peer = next(iter(self._ready), None)
        if peer is None:
            return None
        mine = self._ready.pop(peer)
        self._handed += 1
        chosen = next(iter(mine) if self._handed % 2 else reversed(mine))
        del mine[chosen]
        if mine:
            self._ready[peer] = mine
        return chosen

    def _hand(self, arrival: Arrival) -> None:
        """Make an arrival a connection; until that is made its place is kept."""
        self._room.unregister(arrival.socket.fileno())
        arrival.is_handed = True
        self._crowd.move(arrival, arrival.state)
        task = self._loop.create_task(self._connect(arrival))
        self._handing[task] = arrival
        task.add_done_callback(self._handing.pop)

    async def _connect(self, arrival: Arrival) -> None:
        try:
            await self._loop.connect_accepted_socket(partial(self._make_for, arrival), arrival.socket)
        except OSError:  # it has gone
            arrival.socket.close()
        finally:
            self._crowd.leave(arrival)

    def _make_for(self, arrival: Arrival) -> Any:
        made = cast(Taker, self._make())
        made.arrival = arrival
        return made

    def _mind_silent(self) -> None:
        if self._late is None and self._silent:
            first = next(iter(self._silent.values()))
            self._late = self._loop.call_at(first.came_s + self._timeout_s, self._cut_silent)

    def _cut_silent(self) -> None:
        """Cut the arrivals that have sent nothing by the time-out."""
        self._late = None
        before_s = self._loop.time() - self._timeout_s
        for arrival in list(islice(self._silent.values(), TOLD)):
            if arrival.came_s <= before_s:
                arrival.cut()
        self._mind_silent()
