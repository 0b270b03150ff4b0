"""An event loop that handles a bounded number of events in a turn, those of new connections first.

asyncio answers everything that is ready before it looks again: when thousands of connections send or end at once, a
newcomer's question waits for all of them. Here a turn has a bounded number of events, and what has just been registered
(a connection's first bytes), like a socket that accepts, is looked at before the rest. Whoever comes waits until there
is time (`accepting`). Only where the system has epoll; elsewhere the loop is asyncio's own.
"""

import asyncio
import contextlib
import math
import select
import selectors
import socket
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from herd.lanes import FIRST
from herd.server.http.system_calls import Epoll

EVENTS = 32
"""Most events in one turn of files that are known, and as many of new ones."""


class Serve(Protocol):
    """Makes the server that accepts connections to a listening socket; see `accepting.Acceptor`."""

    def __call__(
        self, loop: asyncio.AbstractEventLoop, listening: socket.socket, make: Callable[[], asyncio.BaseProtocol]
    ) -> asyncio.AbstractServer:
        """Begin to accept connections."""


def new_event_loop(serve: Serve | None = None) -> asyncio.AbstractEventLoop:
    """A new event loop, for `uvicorn.Config(loop=...)`. serve: accepts for servers whose socket is given, in place of
    asyncio."""
    return FairLoop(serve) if hasattr(select, "epoll") else asyncio.new_event_loop()


class FairLoop(asyncio.SelectorEventLoop):
    """asyncio's event loop over a FairSelector."""

    def __init__(self, serve: Serve | None = None) -> None:
        self._fair = FairSelector()
        super().__init__(self._fair)
        self._serve = serve

    def run_forever(self) -> None:
        """See asyncio. Once it has stopped, nobody gives way to it."""
        try:
            super().run_forever()
        finally:
            FIRST.rests()

    def add_first_reader(self, fd: int, callback: Callable[[], None]) -> None:
        """As `add_reader`; until `remove_reader` its events are handled before those of others."""
        self._fair.keep_new(fd)
        self.add_reader(fd, callback)

    async def create_server(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], *args: Any, **options: Any
    ) -> asyncio.AbstractServer:
        """See asyncio; a socket that is given has to listen already."""
        listening = options.get("sock")
        if self._serve is None or listening is None or options.get("ssl") is not None:
            return await super().create_server(protocol_factory, *args, **options)
        listening.setblocking(False)
        return self._serve(self, listening, protocol_factory)


class FairSelector(selectors.BaseSelector):
    """Two sets of files: events of the new ones come first; after its first event a file moves to the other set.
    Sockets that accept stay new, and so do files given to `keep_new`. Within a set the system takes turns."""

    def __init__(self) -> None:
        self._known, self._new = Epoll(), Epoll()
        self._known.register(self._new.fileno(), select.EPOLLIN)
        self._keys: dict[int, selectors.SelectorKey] = {}
        self._in: dict[int, Epoll] = {}
        self._stay_new: set[int] = set()

    def keep_new(self, fd: int) -> None:
        """Let a file that will be registered stay new until it is unregistered."""
        self._stay_new.add(fd)

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """See selectors.BaseSelector."""
        fd = _number(fileobj)
        if fd in self._keys:
            raise KeyError(f"{fileobj!r} is registered already")
        self._new.register(fd, _mask(events))
        self._in[fd] = self._new
        key = self._keys[fd] = selectors.SelectorKey(fileobj, fd, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """See selectors.BaseSelector."""
        fd = self._find(fileobj)
        key = self._keys.pop(fd)
        self._stay_new.discard(fd)
        with contextlib.suppress(OSError):  # it is closed, and the system has forgotten it
            self._in.pop(fd).unregister(fd)
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """See selectors.BaseSelector."""
        fd = self._find(fileobj)
        if self._keys[fd].events != events:
            self._in[fd].modify(fd, _mask(events))
        key = self._keys[fd] = selectors.SelectorKey(fileobj, fd, events, data)
        return key

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """See selectors.BaseSelector; it may return fewer files than are ready, and the others the next time."""
        seconds = -1.0 if timeout is None else max(0.0, math.ceil(timeout * 1e3) * 1e-3)
        try:
            known, new = self._known.poll(EVENTS + 1), self._new.poll(EVENTS)
            if not known and not new and seconds != 0:
                FIRST.rests()
                known, new = self._known.wait(seconds, EVENTS + 1), self._new.poll(EVENTS)
                FIRST.works()
        except InterruptedError:
            return []
        found = []
        for fd, mask in (*new, *known):
            key = self._keys.get(fd)
            events = 0 if key is None else _events(mask) & key.events
            if key is not None and events:
                found.append((key, events))
        for fd, _ in new:
            self._meet(fd)
        return found

    def close(self) -> None:
        """See selectors.BaseSelector."""
        self._new.close()
        self._known.close()
        self._keys.clear()
        self._in.clear()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """See selectors.BaseSelector: the keys by number of the file."""
        return self._keys

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        """See selectors.BaseSelector."""
        return self._keys[self._find(fileobj)]

    def _meet(self, fd: int) -> None:
        """Move a file from the new ones to the others."""
        key = self._keys.get(fd)
        if key is not None and fd not in self._stay_new and not _accepts(fd):
            self._new.unregister(fd)
            self._known.register(fd, _mask(key.events))
            self._in[fd] = self._known

    def _find(self, fileobj: Any) -> int:
        try:
            fd = _number(fileobj)
        except ValueError:  # it is closed
            fd = next((key.fd for key in self._keys.values() if key.fileobj is fileobj), -1)
        if fd not in self._keys:
            raise KeyError(f"{fileobj!r} is not registered")
        return fd


def _number(fileobj: Any) -> int:
    """The number of an open file. Raises ValueError for anything else."""
    fd = fileobj if isinstance(fileobj, int) else int(fileobj.fileno())
    if fd < 0:
        raise ValueError(f"{fileobj!r} is no open file")
    return fd


def _accepts(fd: int) -> bool:
    """Whether this is a listening socket."""
    try:
        found = socket.socket(fileno=fd)
    except OSError:  # no socket
        return False
    try:
        return bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    finally:
        found.detach()


def _mask(events: int) -> int:
    read = select.EPOLLIN if events & selectors.EVENT_READ else 0
    return read | (select.EPOLLOUT if events & selectors.EVENT_WRITE else 0)


def _events(mask: int) -> int:
    """The selector's events for an epoll mask. An error or an end counts as both: whoever reads or writes hears of
    it."""
    read = selectors.EVENT_READ if mask & ~select.EPOLLOUT else 0
    return read | (selectors.EVENT_WRITE if mask & ~select.EPOLLIN else 0)
