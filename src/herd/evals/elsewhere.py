"""A run over a model elsewhere: what of a person's texts it sends out, and how long it bears with the other side.

    Patient   a model whose requests wait where it has no place for them
    Sending   what a run would send: hosts, items, bytes

What it is not: whether they may be sent (`herd.backends.gate`), a connection.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from herd.backends.failures import Broken
from herd.backends.members import hosts_outside
from herd.chat_model import Capabilities, ChatModel, ChatStream, Turns
from herd.errors import Busy, PassFailed
from herd.evals import templates
from herd.evals.results import RESULTS, read
from herd.evals.tasks import Task, images_of
from herd.events import Reply
from herd.request_options import DialogRequest

WAIT_S = 120.0
"""Seconds that one item waits in all where the other side has no place."""
FIRST_WAIT_S = 1.0
"""Seconds of the first wait, unless the other side says how many; twice as long each time."""
MOST_BROKEN = 3
"""Items in a row whose answers may be none: what a model says can break a host's own form. With more of them the host
is broken, and the run ends."""


class Patient(ChatModel):
    """A model elsewhere, asked by a run. leave: whether its requests may leave the house."""

    def __init__(
        self, inner: ChatModel, *, leave: bool, sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep
    ) -> None:
        self._inner, self._leave, self._sleep = inner, leave, sleep
        self.name, self.context = inner.name, inner.context
        self._broken = 0

    @property
    def capabilities(self) -> Capabilities:
        """See ChatModel."""
        return self._inner.capabilities

    def astream(self, messages: Turns, **options: Unpack[DialogRequest]) -> ChatStream:
        """See ChatModel."""
        options["leave"] = self._leave
        return self._inner.astream(messages, **options)

    def warm_up(self) -> None:
        """See ChatModel."""
        self._inner.warm_up()

    def close(self) -> None:
        """See ChatModel."""
        self._inner.close()

    async def achat(self, messages: Turns, **options: Unpack[DialogRequest]) -> Reply:
        """See ChatModel. Raises Busy where there is no place for WAIT_S, PassFailed for an answer that is none."""
        left, wait = WAIT_S, FIRST_WAIT_S
        while True:
            try:
                reply = await super().achat(messages, **options)
            except Busy as error:
                wait = max(wait, error.retry_after_s)
                if wait > left:
                    raise
                left, wait = left - wait, 2 * wait
                await self._sleep(wait / 2)
            except Broken as error:
                self._broken += 1
                if self._broken > MOST_BROKEN:
                    raise
                raise PassFailed(str(error)) from None
            else:
                self._broken = 0
                return reply


@dataclass(frozen=True)
class Sending:
    """What a run would send. size_bytes: of all texts, as UTF-8."""

    hosts: tuple[str, ...]
    """Hosts out of the house that may get them, in order."""
    items: int
    size_bytes: int

    def __str__(self) -> str:
        return f"to {', or '.join(self.hosts)}: {self.items} items, {self.size_bytes} bytes of texts and images"


def sending(model: ChatModel, tasks: Sequence[Task], folder: Path, limit: int | None) -> Sending:
    """What asking these tasks sends out of the house, without the items that are kept in a folder. Raises BadFile."""
    items = size = 0
    for task in tasks:
        path = folder / task.name / RESULTS
        done: Collection[int] = read(path).found if path.exists() else ()
        left = [number for number in task.chosen(limit) if number not in done]
        items += len(left)
        size += sum(_size(_asked(task, task.items[number])) for number in left)
    return Sending(tuple(hosts_outside(model)), items, size)


def _asked(task: Task, item: templates.Item) -> Any:
    """What is sent for an item."""
    head = task.head
    if head.kind == "bits_per_byte":
        return item["text"]
    if head.kind == "choices":
        return templates.choices(head.prompt, head.separator, task.shots, item)
    turns = templates.turns(head.system, head.prompt, task.shots, item)
    images = [task.images[name] for name in images_of(item)]
    return [turn["content"] for turn in turns], images, item.get("tools")


def _size(value: Any) -> int:
    """Bytes of all texts and files in what is sent."""
    match value:
        case str():
            return len(value.encode())
        case bytes():
            return len(value)
        case Path():
            return value.stat().st_size
        case Mapping():
            return sum(_size(one) for one in value.values())
        case list() | tuple():
            return sum(map(_size, value))
    return 0
