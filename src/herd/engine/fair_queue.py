"""Who is served next when several clients wait: start-time fair queueing over rows of work. Plain integers.

Each client has a virtual time: the rows that were computed for it. The client that is furthest behind goes first, so a
client with ten thousand requests gets as many rows as one with a single long one (Goyal, Vin, Cheng 1996; for token
counts Sheng and others 2024, "virtual token counter"). A client that comes back after a pause starts at the least
virtual time of those that are active: a pause earns nothing.

The queue is bounded with dynamic thresholds (Choudhury and Hahne 1998): a client may hold as many waiting requests as
there are places left, so that whoever comes next always finds one. What it is not: a clock, an owner of pages.
"""

from bisect import insort
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from herd.errors import Busy, fail

REMEMBERED = 4096
"""Clients without work whose virtual time is kept."""


class QueueBound:
    """Bounds the queue by client: a client may have as many waiting requests as there are places left."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.total = 0
        self._held: dict[str, int] = {}

    def check(self, client: str) -> None:
        """Raise Busy when this client may not queue another request."""
        if self._held.get(client, 0) >= self.most - self.total:
            fail(Busy, f"the queue is full: {self.total} requests wait", do="try again in a moment")

    def enter(self, client: str) -> None:
        """Count one more waiting request of this client."""
        self._held[client] = self._held.get(client, 0) + 1
        self.total += 1

    def leave(self, client: str) -> None:
        """Count one waiting request of this client less."""
        self.total -= 1
        self._held[client] -= 1
        if not self._held[client]:
            del self._held[client]


class Waiter(Protocol):
    """What can wait in the queue."""

    number: int
    """Order of arrival."""
    client: str
    priority: int
    since: int
    """The step at which it began to wait, later by what it was served in between."""


W = TypeVar("W", bound=Waiter)


class QueuedClient(Generic[W]):
    """A client in the queue: its waiting requests and its virtual time."""

    __slots__ = ("name", "running", "time", "waiting")

    def __init__(self, name: str) -> None:
        self.name = name
        self.time = 0
        self.waiting: dict[int, list[W]] = {}
        """Priority -> waiting requests; the oldest is last."""
        self.running = 0


def _oldest_last(x: Waiter) -> int:
    return -x.number


class FairQueue(Generic[W]):
    """Requests that wait, by client. most: how many may.

    patience: steps of waiting that count as one priority. That bounds how long lower ones starve: what is d priorities
    below is on a par with whatever came d * patience steps after it; on a par clients share, and the oldest goes first.
    """

    def __init__(self, most: int, patience: int = 1000) -> None:
        self.gate = QueueBound(most)
        self.patience = patience
        self._clients: dict[str, QueuedClient[W]] = {}
        self._active: dict[str, QueuedClient[W]] = {}

    @property
    def num_waiting(self) -> int:
        """Number of waiting requests of all clients."""
        return self.gate.total

    def put_back(self, waiter: W) -> None:
        """Add a waiting request at the place of its number. No bound is checked here: `QueueBound` does that on entry,
        and a request that was let in before may always wait again."""
        lines = self._enter(waiter.client).waiting
        insort(lines.setdefault(waiter.priority, []), waiter, key=_oldest_last)
        self.gate.enter(waiter.client)

    def head(self, tick: int) -> W | None:
        """The request to serve next at this step: by priority and patience, then the client furthest behind, then
        arrival."""
        best: tuple[tuple[int, int, int], W] | None = None
        for client in self._active.values():
            for line in client.waiting.values():
                first = line[-1]
                aged = first.priority + (tick - first.since) // self.patience
                key = (-aged, client.time, first.number)
                if best is None or key < best[0]:
                    best = key, first
        return None if best is None else best[1]

    def start(self, waiter: W) -> None:
        """Move a request from waiting to running."""
        client = self._active[waiter.client]
        self._take(client, waiter)
        client.running += 1

    def leave(self, waiter: W, *, running: bool) -> None:
        """Remove a request: it has ended or, with running, gives up its place to wait again."""
        client = self._active[waiter.client]
        if running:
            client.running -= 1
        else:
            self._take(client, waiter)
        if not client.running and not client.waiting:
            del self._active[client.name]
            # asked last, forgotten last
            self._clients[client.name] = self._clients.pop(client.name)
            while len(self._clients) > REMEMBERED + len(self._active):
                self._clients.pop(next(name for name in self._clients if name not in self._active))

    def charge(self, name: str, rows: int) -> None:
        """Add computed rows to a client's virtual time."""
        self._clients[name].time += rows

    def time(self, name: str) -> int:
        """Virtual time of a client, in rows."""
        return self._clients[name].time if name in self._clients else 0

    def running(self, name: str) -> int:
        """Number of running requests of a client."""
        return self._clients[name].running if name in self._clients else 0

    def __iter__(self) -> Iterator[W]:
        for client in self._active.values():
            for line in client.waiting.values():
                yield from line

    def _take(self, client: QueuedClient[W], waiter: W) -> None:
        line = client.waiting[waiter.priority]
        if line[-1] is waiter:
            line.pop()
        else:
            line.remove(waiter)
        if not line:
            del client.waiting[waiter.priority]
        self.gate.leave(client.name)

    def _enter(self, name: str) -> QueuedClient[W]:
        client = self._clients.setdefault(name, QueuedClient(name))
        if name not in self._active:
            if self._active:
                client.time = max(client.time, min(c.time for c in self._active.values()))
            self._active[name] = client
        return client
