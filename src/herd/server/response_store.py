"""The store of responses: in memory, for each key, bounded in number and bytes; the oldest go first.

They are held as JSON, so that their size is known. A response that goes on from another one holds its own items alone:
those before it are shared, however long the dialog grows. Items are found by their ids as well.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec

from herd.errors import NotFound, TooLarge, fail
from herd.server.http.body import values_of
from herd.server.http.wire import encode
from herd.server.keys import Key
from herd.server.response_log import ResponseLog

ID_BYTES = 512
"""Bytes of one id of an item beside its characters: it, and its entry in the table of ids."""
OVERHEAD_BYTES = 1024
"""Bytes of one response, and of one link of a dialog, beside their JSON: objects and entries of tables."""
AFTERWARDS = ("usage", "herd")
"""Members of a response that only an answer brings."""
Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


def _json(value: Any) -> bytes:
    """JSON in a buffer of its own size: what an encoder returns may lie in half as many bytes again."""
    return bytes(memoryview(encode(value)))


def _member(item: Any, name: str) -> Any:
    return item.get(name) if isinstance(item, dict) else None


class Items:
    """Items of a dialog: some of its own, after those that came before. Never changed, and shared by all who go on from
    it."""

    def __init__(self, before: "Items | None", own: list[Any], *, private: bool = False) -> None:
        """private: whether what they were part of may not leave the house: then they may not, nor what comes after."""
        self.before = before
        self.private: bool = private or (before is not None and before.private)
        """Whether they may not leave the house, whoever goes on from them."""
        self._own = _json(own)
        self.ids = tuple(dict.fromkeys(id_ for item in own if isinstance(id_ := _member(item, "id"), str)))
        """Ids of its own items, as far as they have one."""
        self.size_bytes = len(self._own) + OVERHEAD_BYTES + sum(ID_BYTES + 4 * len(id_) for id_ in self.ids)
        """Bytes of its own items."""
        self.whole_bytes: int = self.size_bytes + (0 if before is None else before.whole_bytes)
        """Bytes of these and of all items before."""
        self.num_values = values_of(self._own)
        """How many values of JSON its own items may be."""
        self.whole_values: int = self.num_values + (0 if before is None else before.whole_values)
        """How many values of JSON these and all items before may be."""
        self.holders = 0
        """Kept responses and later items that hold it (see ResponseStore)."""

    def chain(self) -> "Iterator[Items]":
        """These items' objects: this one, then those before it, the latest first."""
        link: Items | None = self
        while link is not None:
            yield link
            link = link.before

    def all(self) -> list[Any]:
        """The items of the whole dialog."""
        return [item for link in reversed([*self.chain()]) for item in link.own()]

    def own(self) -> list[Any]:
        """The items that were added here."""
        found: list[Any] = msgspec.json.decode(self._own)
        return found


class StoredResponse:
    """A stored response: its body as clients see it, and the items that led to it and came of it."""

    def __init__(self, body: dict[str, Any], items: Items, log: ResponseLog | None = None) -> None:
        """log: of one that is made in the background."""
        self.id: str = body["id"]
        self.model: str = body.get("model", "")
        self.items = items
        """Items of the whole dialog, from which a next response goes on."""
        self.asked = items
        """Items that led to the response: all but what came of it."""
        self.log = log
        self.in_background = False
        """Whether it is made in the background, or was."""
        self.task: asyncio.Task[None] | None = None
        """What makes it there, until it is over: a task that was cancelled holds all that it had."""
        self.status: Status = "in_progress"
        self.json = b""
        """The response as it is now."""
        self._body = body
        self.say()

    def say(self, **members: Any) -> None:
        """Change members of the body."""
        if not self._body:  # it was over
            self._body = msgspec.json.decode(self.json)
        self._body.update(members)
        self.status = self._body["status"]
        self.json = _json(self._body)
        if self.status not in ("queued", "in_progress"):
            self._body = {}  # it is read more often than changed

    def begun(self, status: Status) -> bytes:
        """The response as it was before its answer, as JSON."""
        body = dict(self._body or msgspec.json.decode(self.json))
        for name in AFTERWARDS:
            body.pop(name, None)
        return encode({**body, "status": status, "output": [], "error": None, "incomplete_details": None})

    @property
    def over(self) -> bool:
        """Whether the response is complete."""
        return not self._body

    @property
    def size_bytes(self) -> int:
        """Size of the body and the log, without its items."""
        return len(self.json) + OVERHEAD_BYTES + (0 if self.log is None else self.log.size_bytes)


class _KeyResponses:
    """The responses that one key keeps."""

    def __init__(self) -> None:
        self.kept: OrderedDict[str, StoredResponse] = OrderedDict()
        self.counted: dict[str, tuple[int, Items]] = {}
        """Id -> the size and the items that it was counted with."""
        self.size_bytes = 0
        self.having: dict[str, dict[Items, None]] = {}
        """Id of an item -> where it is, the latest last."""

    def count(self, kept: StoredResponse) -> None:
        """Count a response that is new or has changed."""
        before = self.counted.get(kept.id)
        self.counted[kept.id] = kept.size_bytes, kept.items
        self.size_bytes += kept.size_bytes
        self._hold(kept.items)
        if before is not None:
            self._let_go(*before)

    def forget(self, response_id: str) -> StoredResponse:
        """Remove a response; returns it."""
        self._let_go(*self.counted.pop(response_id))
        return self.kept.pop(response_id)

    def end(self, response_id: str) -> None:
        """Remove a response, and cancel its making if that is under way."""
        kept = self.forget(response_id)
        if kept.task is not None:
            kept.task.cancel()

    def _hold(self, items: Items) -> None:
        for link in items.chain():
            link.holders += 1
            if link.holders > 1:
                break
            self.size_bytes += link.size_bytes
            for id_ in link.ids:
                self.having.setdefault(id_, {})[link] = None

    def _let_go(self, size_bytes: int, items: Items) -> None:
        self.size_bytes -= size_bytes
        for link in items.chain():
            link.holders -= 1
            if link.holders:
                break
            self.size_bytes -= link.size_bytes
            for id_ in link.ids:
                del self.having[id_][link]
                if not self.having[id_]:
                    del self.having[id_]


class ResponseStore:
    """All stored responses. A key sees its own: another key's id is not found, like one that never was.

    most: responses of one key. key_bytes: of one key. all_bytes: of all keys; the key that has most gives way.
    """

    def __init__(self, most: int, key_bytes: int, all_bytes: int) -> None:
        self._most, self._key_bytes, self._all_bytes = most, min(key_bytes, all_bytes), all_bytes
        self._keys: dict[str, _KeyResponses] = {}

    @property
    def size_bytes(self) -> int:
        """Size of the responses of all keys."""
        return sum(mine.size_bytes for mine in self._keys.values())

    def check(self, kept: StoredResponse) -> None:
        """Raise TooLarge for a response that can never be kept."""
        size = kept.size_bytes + kept.items.whole_bytes
        if size > self._key_bytes:
            do = 'send "store": false, or begin a new dialog'
            fail(TooLarge, "a stored response", got=f"{size} bytes", expected=f"at most {self._key_bytes}", do=do)

    def keep(self, key: Key, kept: StoredResponse) -> None:
        """Store a response; for a key that is gone nothing is stored. Raises TooLarge."""
        self.check(kept)
        if key.gone:
            return
        mine = self._keys.setdefault(key.name, _KeyResponses())
        mine.kept[kept.id] = kept
        mine.count(kept)
        self._make_room(mine, kept)

    def changed(self, key: Key, kept: StoredResponse) -> None:
        """Count a response anew after a change; nothing happens when it is not stored. Where it has become too large
        its log goes first. Raises TooLarge, and it is removed then."""
        mine = self._keys.get(key.name)
        if mine is None or mine.kept.get(kept.id) is not kept:
            return
        try:
            self._check_changed(kept)
        except TooLarge:
            mine.forget(kept.id)
            raise
        mine.count(kept)
        self._make_room(mine, kept)

    def _check_changed(self, kept: StoredResponse) -> None:
        try:
            self.check(kept)
        except TooLarge:
            if kept.log is None:
                raise
            kept.log.drop()
            kept.log = None
            self.check(kept)

    def items(self, key: Key, ids: Iterable[str]) -> dict[str, Items]:
        """Where items of this key's stored responses are, by their ids. Raises NotFound."""
        mine = self._keys.get(key.name, _KeyResponses())
        found = {}
        for id_ in ids:
            if id_ not in mine.having:
                do = 'send the item itself; what is not stored ("store": false) or was let go has none'
                fail(NotFound, "item_reference", got=id_, expected="the id of a stored item", do=do)
            found[id_] = next(reversed(mine.having[id_]))
        return found

    def find(self, key: Key, response_id: str, where: str = "response") -> StoredResponse:
        """A response of this key. where: what names it, for the error. Raises NotFound."""
        mine = self._keys.get(key.name)
        found = None if mine is None else mine.kept.get(response_id)
        if found is None:
            fail(NotFound, where, got=response_id, expected="the id of a stored one")
        return found

    def drop(self, key: Key, response_id: str) -> None:
        """Remove a response. Raises NotFound."""
        self.find(key, response_id)
        self._keys[key.name].end(response_id)

    def forget(self, name: str) -> None:
        """Remove all responses of a key that is gone: another key of the same name must not see them."""
        for response_id in [*self._keys.get(name, _KeyResponses()).kept]:
            self._keys[name].end(response_id)
        self._keys.pop(name, None)

    def __len__(self) -> int:
        """Number of responses of all keys."""
        return sum(len(mine.kept) for mine in self._keys.values())

    def _make_room(self, mine: _KeyResponses, new: StoredResponse) -> None:
        """Remove the oldest other responses until all limits hold."""
        while len(mine.kept) > self._most or mine.size_bytes > self._key_bytes:
            mine.end(_oldest(mine, new))
        while self.size_bytes > self._all_bytes:
            largest = max((one for one in self._keys.values() if one.kept.keys() - {new.id}), key=_size_of)
            largest.end(_oldest(largest, new))


def _oldest(mine: _KeyResponses, but: StoredResponse) -> str:
    return next(response_id for response_id in mine.kept if response_id != but.id)


def _size_of(mine: _KeyResponses) -> int:
    return mine.size_bytes
