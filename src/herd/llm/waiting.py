"""Whoever waits may go away: what a thread does for him is told so.

    leaving = Leaving()
    thread    with leaving.here(): work()        work, however deep: with Leaving.calls(stop): ...
    loop      leaving.leave()                    calls stop, at once

What it is not: a time limit, a cancelled engine request (`herd.engine.engine.Engine.leave`).
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_current: ContextVar["Leaving | None"] = ContextVar("leaving", default=None)


class Leaving:
    """One who waits. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gone = False
        self._stops: list[Callable[[], None]] = []

    def leave(self) -> None:
        """He is gone: stop what is done for him, now and from now on."""
        with self._lock:
            self._gone = True
            stops = list(self._stops)
        for stop in stops:
            stop()

    @contextmanager
    def here(self) -> Iterator[None]:
        """What this thread does meanwhile is done for him."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    @staticmethod
    @contextmanager
    def calls(stop: Callable[[], None]) -> Iterator[None]:
        """Meanwhile `stop` is called, once, if he whom this thread works for goes away, or is gone."""
        one = _current.get()
        if one is None:
            yield
            return
        with one._lock:
            gone = one._gone
            one._stops.append(stop)
        try:
            if gone:
                stop()
            yield
        finally:
            with one._lock:
                one._stops.remove(stop)
