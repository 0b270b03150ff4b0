"""Commands whose model is another engine or a host: which word names one, flags that are none of its matter, and the
one prompt of `herd run`. Without --leave none leaves the house.

What it is not: models of files (`run`), what backends there are (`backend`).
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from click import get_current_context
from click.core import ParameterSource

from herd.backends.names import may_name
from herd.cli import console, options
from herd.errors import UsageError, fail

if TYPE_CHECKING:
    from herd.chat_model import ChatModel, ChatStream
    from herd.events import Event

LOADING = ("context", "chat_format", "threads", "ops", "device", "kv", "force", "mmproj", "no_pack", "trace", "raw")
"""Flags that say how a file is loaded and computed."""


def named(word: str) -> tuple[str, str] | None:
    """The backend or route that a word names, and another model there or ""; None: it is a model of files, or a
    backend that is asked by token ids and is loaded like one."""
    if not may_name(word) or by_ids(word):
        return None
    from herd.backends.routes import chosen

    return chosen(word)


def by_ids(word: str) -> bool:
    """Whether a word names a backend that is asked by token ids."""
    if not may_name(word):
        return False
    from herd.backends.routes import chosen
    from herd.backends.settings import Backends

    found, known = chosen(word), Backends().read().good
    return found is not None and not found[1] and found[0] in known and known[found[0]].by == "ids"


def check(named: str, prompt: str, images: Sequence[str]) -> None:
    """Raise UsageError for flags that are no matter of another engine's, and for no prompt."""
    check_flags(named)
    if not prompt.strip() and not images:
        fail(UsageError, "no prompt", do=f'herd run {named} "PROMPT", or pipe one in')


def check_flags(named: str) -> None:
    """Raise UsageError for flags that are no matter of another engine's."""
    context = get_current_context()
    for name in LOADING:
        if context.get_parameter_source(name) not in (None, ParameterSource.DEFAULT):
            flag = "--ctx" if name == "context" else f"--{name.replace('_', '-')}"
            fail(UsageError, flag, got=f"a backend, {named}", expected="a model of files", do=f"leave {flag} out")


def dialog_of(prompt: str, system: str | None, images: Sequence[str]) -> list[dict[str, Any]]:
    """The turns of one question. Raises NotFound for an image that is not there."""
    shown = [{"type": "image", "image": Path(image)} for image in images]
    content: Any = [*shown, {"type": "text", "text": prompt}] if shown else prompt
    turns = [{"role": "user", "content": content}]
    return [{"role": "system", "content": system}, *turns] if system else turns


def events_of(model: "ChatModel", turns: Sequence[Mapping[str, Any]], values: Mapping[str, Any]) -> "Iterator[Event]":
    """The events of an answer. What would leave the house is told first, or refused without --leave."""
    from herd.backends.members import hosts_outside

    if values["leave"] and (hosts := hosts_outside(model)):
        size = sum(map(_size_of, turns))
        to = ", or ".join(hosts)
        console.note(f"to {to}: 1 request, {size} bytes of texts and images", quiet=values["quiet"])
    return _driven(model.astream(turns, leave=values["leave"], **options.given(values)))


def _size_of(turn: Mapping[str, Any]) -> int:
    """Bytes of the texts and images of a turn that `dialog_of` made."""
    content = turn["content"]
    parts: Sequence[Any] = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return sum(len(p["text"].encode()) if p["type"] == "text" else Path(p["image"]).stat().st_size for p in parts)


def _driven(stream: "ChatStream") -> "Iterator[Event]":
    with asyncio.Runner() as runner:

        def step() -> "Event | None":
            return runner.run(_next(stream))

        try:
            steps: Iterator[Event] = iter(step, None)
            yield from steps
        finally:
            runner.run(stream.aclose())


async def _next(stream: "ChatStream") -> "Event | None":
    return await anext(stream, None)
