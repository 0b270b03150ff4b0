"""Responses that are kept for later: per key, in memory, a bounded number; the oldest go first."""

import asyncio
from collections import OrderedDict
from typing import Any

from herd.errors import NotFound, fail
from herd.server.keys import Key


class Kept:
    """One response: as clients see it, and the items that led to it and came of it."""

    def __init__(self, body: dict[str, Any], items: list[Any]) -> None:
        self.body = body
        self.items = items
        """Of the whole dialog: what a next one goes on from, as JSON."""
        self.task: asyncio.Task[None] | None = None
        """Of one that is answered in the background."""


class ResponseStore:
    """All that are kept. A key sees its own: another key's id is not found, as is one that never was."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: dict[int, OrderedDict[str, Kept]] = {}

    def keep(self, key: Key, kept: Kept) -> None:
        """One more."""
        mine = self._kept.setdefault(id(key), OrderedDict())
        mine[kept.body["id"]] = kept
        while len(mine) > self._most:
            _, oldest = mine.popitem(last=False)
            if oldest.task is not None:
                oldest.task.cancel()

    def find(self, key: Key, response_id: str) -> Kept:
        """One of a key's. Raises NotFound."""
        found = self._kept.get(id(key), OrderedDict()).get(response_id)
        if found is None:
            fail(NotFound, "response", got=response_id, expected="the id of a stored one")
        return found

    def drop(self, key: Key, response_id: str) -> None:
        """Forget one. Raises NotFound."""
        kept = self.find(key, response_id)
        if kept.task is not None:
            kept.task.cancel()
        del self._kept[id(key)][response_id]

    def __len__(self) -> int:
        """Of all keys."""
        return sum(len(mine) for mine in self._kept.values())
