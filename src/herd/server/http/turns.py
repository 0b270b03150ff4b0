"""The order in which requests start: a few in a turn of the event loop, one of each owner after the other.

A thousand requests of one key that come at once would all be begun before anybody else's; here the first of another
key's waits for a handful.
"""

import asyncio
from collections import deque
from collections.abc import Hashable
from typing import Protocol

STARTS = 4
"""Requests that begin in one turn of the event loop: each takes about a millisecond."""


class Starter(Protocol):
    """A request that waits for its turn."""

    owner: Hashable

    def start(self) -> bool:
        """Start the request; returns False when it no longer wanted to."""


class Turns:
    """Gives requests of one event loop their turns; see the module."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, deque[Starter]] = {}
        """Owner -> its waiting requests; the owner whose turn it is is first."""
        self._left = STARTS
        self._loop: asyncio.AbstractEventLoop | None = None

    def enter(self, one: Starter) -> bool:
        """Ask for a turn: True when the request may start at once; else its `start` is called later."""
        self._again()
        if self._left and not self._waiting:
            self._left -= 1
            return True
        self._waiting.setdefault(one.owner, deque()).append(one)
        return False

    def _again(self) -> None:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Begin another turn of the event loop."""
        self._loop, self._left = None, STARTS
        if self._waiting:
            self._again()
        while self._left and self._waiting:
            owner = next(iter(self._waiting))
            mine = self._waiting.pop(owner)
            one = mine.popleft()
            if mine:
                self._waiting[owner] = mine
            self._left -= one.start()
