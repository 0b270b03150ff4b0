"""Work of many people on a few threads: each owner's waits behind that owner's own, whatever it costs.

    Lanes           threads, and the queues before them
    computing()     for what computes: tokens, images, JSON, rules
    reading()       for bodies of requests, whose parser holds the interpreter: long ones one at a time, of all owners
    waiting()       for what mostly waits: names of the network, an engine that is busy

    give_way()      between the parts of long work: lets an event loop go first
    owner_here()    whose work a thread does

Owners take turns. Large pieces of work have lanes of their own, one at a time for an owner and a few in all, so that
small ones never wait for them. What it is not: an executor for asyncio's defaults, a scheduler of the model.
"""

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")
LARGE = 1 << 17
"""Bytes of input from which work counts as large."""
COMPUTING = 16
"""Threads that compute."""
LARGE_AT_ONCE = 3
"""Pieces of large work that they have, of all owners."""


WAY_S = 0.005
"""Seconds that one part of long work gives way at most: a part takes about 1 ms, so that a sixth of the time is left to
long work where an event loop never rests."""


class FirstThread:
    """A thread that goes first: an event loop's, which many wait for. The interpreter itself shares its time evenly
    among threads; beside one that computes, a turn of 10 ms took 40 to 100 ms."""

    def __init__(self) -> None:
        self._rests = threading.Event()
        self._rests.set()
        self._thread = 0

    def works(self) -> None:
        """Say, on that thread, that it has work to do."""
        self._thread = threading.get_ident()
        self._rests.clear()

    def rests(self) -> None:
        """Say that it waits for something to do."""
        self._rests.set()

    def give_way(self) -> None:
        """Wait until it rests, WAY_S at most. That thread itself does not wait."""
        if not self._rests.is_set() and threading.get_ident() != self._thread:
            self._rests.wait(WAY_S)


FIRST = FirstThread()
give_way = FIRST.give_way


class _Here(threading.local):
    """What is known of the work on this thread."""

    owner = ""


_HERE = _Here()


def owner_here() -> str:
    """The owner of the work that lanes do on this thread; empty where they do none."""
    return _HERE.owner


class _Lane(NamedTuple):
    owner: str
    large: bool


class Lanes:
    """Threads that owners share fairly. Any thread may submit.

    threads: in all. each: an owner's at once. large: of all owners at once, for large work; an owner has one of them.
    """

    def __init__(self, name: str, *, threads: int, each: int, large: int) -> None:
        assert 0 < large < threads, (large, threads)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._threads, self._each, self._large = threads, each, large
        self._lock = threading.Lock()
        self._queues: OrderedDict[_Lane, deque[tuple[Future[Any], Callable[[], Any]]]] = OrderedDict()
        self._running: Counter[_Lane] = Counter()

    def submit(self, owner: str, work: Callable[[], T], size_bytes: int = 0) -> "Future[T]":
        """Queue work of an owner. size_bytes: of what it works on. Cancelling the future takes it out of the queue."""
        future: Future[T] = Future()
        lane = _Lane(owner, size_bytes >= LARGE)
        with self._lock:
            self._queues.setdefault(lane, deque()).append((future, work))
        self._start()
        return future

    async def run(self, owner: str, work: Callable[[], T], size_bytes: int = 0) -> T:
        """`submit`, and wait for it without holding a thread. Raises what the work raises."""
        import asyncio  # whoever is here has it; who has no event loop does without its 15 ms

        return await asyncio.wrap_future(self.submit(owner, work, size_bytes))

    def _start(self) -> None:
        """Give threads to whoever is next."""
        while True:
            with self._lock:
                lane = next((lane for lane in self._queues if self._may(lane)), None)
                if lane is None:
                    return
                queue = self._queues[lane]
                future, work = queue.popleft()
                self._queues.move_to_end(lane)
                if not queue:
                    del self._queues[lane]
                self._running[lane] += 1
            self._pool.submit(self._work, lane, future, work)

    def _may(self, lane: _Lane) -> bool:
        if lane.large:
            return not self._running[lane] and sum(n for one, n in self._running.items() if one.large) < self._large
        return self._running[lane] < self._each and self._running.total() < self._threads

    def _work(self, lane: _Lane, future: "Future[Any]", work: Callable[[], Any]) -> None:
        _HERE.owner = lane.owner
        try:
            if future.set_running_or_notify_cancel():
                try:
                    found = work()
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(found)
        finally:
            _HERE.owner = ""
            with self._lock:
                self._running[lane] -= 1
                if not self._running[lane]:
                    del self._running[lane]
            self._start()


@cache
def computing() -> Lanes:
    """The lanes of this process for what computes."""
    return Lanes("herd-prepare", threads=COMPUTING, each=4, large=LARGE_AT_ONCE)


@cache
def reading() -> Lanes:
    """The lanes of this process for what holds the interpreter in long calls. Two at once are no faster, and whoever
    else needs it, the event loop first, would wait for both."""
    return Lanes("herd-read", threads=8, each=4, large=1)


@cache
def waiting() -> Lanes:
    """The lanes of this process for what mostly waits."""
    return Lanes("herd-wait", threads=64, each=2, large=32)
