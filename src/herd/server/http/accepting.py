"""Who has come and has not been heard yet: sockets that wait until they have sent something and there is time for them.

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

from herd.server.http.crowd import Crowd, Does
from herd.server.http.error_bodies import NO_FILES

TAKEN = 64
"""That are taken from the system in one turn of the event loop, at most: each takes about 25 us."""
HANDED = 3
"""That are made connections in one turn of the event loop: each takes about 0.1 ms, and its request up to 1 ms more."""
TOLD = 256
"""That are looked at in one turn, at most: each takes a few microseconds."""
UNHEARD_TURNS = 8
"""More turns than it takes from a socket to a head that is read."""
UNREAD = 64 << 10
"""Bytes that are read of one that is refused: no more than a head and the beginning of a body."""
RETRY_S = 0.25
"""Until the system is asked again for descriptors that it did not have."""
LOOKS = b"GET /health"
"""How requests begin that go first: they cost next to nothing."""


class Loop(Protocol):
    """What is needed of an event loop, beside asyncio's."""

    def add_first_reader(self, fd: int, callback: Callable[[], None]) -> None:
        """As `add_reader`; in each turn it is told of before others are."""


class Taker(Protocol):
    """An asyncio.Protocol that takes the place of who came: by `arrival.take`, when its connection is made; then it
    does what `arrival.does` says."""

    arrival: "Arrival | None"


class Arrival:
    """A member of the crowd that has not been heard yet."""

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
    def does(self) -> Does:
        """What it does once it is a connection, until that is told what has been sent."""
        return Does.OPENS if self.has_sent else Does.HEAD

    def rate(self) -> float:
        """It sends no body."""
        return 0.0

    def cut(self) -> None:
        """Another one gets its place: it is told so if it has sent something, and closed, by its connection if it is
        about to be one."""
        self.is_gone = True
        self._acceptor.drop(self)

    def give_way(self) -> None:
        """It has no request that could be answered."""
        self.cut()

    def take(self) -> float | None:
        """Its place is another's now: the seconds that are left for a head; None: it was cut meanwhile."""
        return None if self.is_gone else self._acceptor.take(self)


class Acceptor(asyncio.AbstractServer):
    """Accepts what comes to one socket that listens. make: a protocol, a Taker. timeout_s: until the end of a head.
    no_place: is said to whom another takes the place of."""

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
        """By descriptor, who has sent nothing yet; who came first is first."""
        self._looking: dict[Arrival, None] = {}
        self._ready: dict[Hashable, dict[Arrival, None]] = {}
        """By address, the one whose turn it is first; who sent last is last."""
        self._handing: dict[asyncio.Task[None], Arrival] = {}
        self._handed = 0
        self._few = max(1, (crowd.most - crowd.busiest) // UNHEARD_TURNS)
        """That may come in one turn where all places are taken, and that may be about to be heard at once: so few that
        newcomers find the places of others."""
        self._serving = True
        self._next: asyncio.Handle | None = None
        self._late: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._room = select.epoll()
        cast(Loop, loop).add_first_reader(self._room.fileno(), self._told)
        self._listen()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Whose it is."""
        return self._loop

    def is_serving(self) -> bool:
        """Whether it accepts."""
        return self._serving

    async def start_serving(self) -> None:
        """It has begun to."""

    async def serve_forever(self) -> None:
        """Until the task is cancelled; see asyncio."""
        try:
            await self._loop.create_future()
        finally:
            self.close()
            await self.wait_closed()

    def close(self) -> None:
        """Accept nobody any more; who was not heard is cut."""
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
        """Until nobody is under way to become a connection."""
        if self._handing:
            await asyncio.wait(list(self._handing))

    def drop(self, arrival: Arrival) -> None:
        """It has lost its place."""
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
        """Say that there is no place, if it has sent something: unread, that would lose it what it is told."""
        with contextlib.suppress(OSError):  # it has sent nothing, or has gone
            if found.recv(UNREAD):
                found.send(self._no_place)

    def take(self, arrival: Arrival) -> float:
        """It leaves the crowd; the seconds that are left for its head."""
        self._crowd.leave(arrival)
        return max(0.0, arrival.came_s + self._timeout_s - self._loop.time())

    def _listen(self) -> None:
        self._retry = None
        self._loop.add_reader(self._listening.fileno(), self._accept)

    def _accept(self) -> None:
        """Some have come."""
        self._soon()
        for _ in range(self._may_take()):
            try:
                found, address = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in NO_FILES:
                    raise
                self._pause(error)
                return
            found.setblocking(False)
            self._enter(Arrival(self, found, address[0] if address else "", self._loop.time()))

    def _may_take(self) -> int:
        """Where all places are taken, so few that somebody who has just come is heard before it loses its own."""
        return min(TAKEN, max(self._crowd.free, self._few))

    def _pause(self, error: OSError) -> None:
        """The system has no descriptor, and says that somebody waits until it has."""
        self._loop.remove_reader(self._listening.fileno())
        self._retry = self._loop.call_later(RETRY_S, self._listen)
        told = {"message": "no descriptor for a connection", "exception": error, "socket": self._listening}
        self._loop.call_exception_handler(told)

    def _enter(self, arrival: Arrival) -> None:
        """It is counted, and waits."""
        fd = arrival.socket.fileno()
        self._silent[fd] = arrival
        self._room.register(fd, select.EPOLLIN | select.EPOLLONESHOT)
        self._crowd.move(arrival, Does.HEAD)
        if not self._crowd.make_room_for(arrival):
            del self._silent[fd]
            self._make_ready(arrival)  # its connection says that there is no place
        self._mind_silent()

    def _told(self) -> None:
        """Some have sent something."""
        if self._next is None:
            self._turn()

    def _soon(self) -> None:
        if self._next is None:
            self._next = self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Make a few of them connections."""
        self._next = None
        for fd, _ in self._room.poll(0, TOLD):
            if (arrival := self._silent.pop(fd, None)) is not None:
                self._hear(arrival)
        for _ in range(min(HANDED, self._few - self._crowd.count(Does.OPENS))):
            if (chosen := self._choose()) is None:
                break
            self._hand(chosen)
        if self._looking or self._ready:
            self._soon()

    def _hear(self, arrival: Arrival) -> None:
        """It has sent something, or hung up."""
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
        """Whose turn it is."""
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
        """It becomes a connection; until then its place is kept."""
        self._room.unregister(arrival.socket.fileno())
        arrival.is_handed = True
        self._crowd.move(arrival, arrival.does)
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
        """Those that have sent nothing by the time-out."""
        self._late = None
        before_s = self._loop.time() - self._timeout_s
        for arrival in list(islice(self._silent.values(), TOLD)):
            if arrival.came_s <= before_s:
                arrival.cut()
        self._mind_silent()
