"""What another side sends, read within bounds: JSON, and the events of a stream.

Both take time in proportion to what comes, and keep no more than `Bounds` says. What it is not: a connection
(`herd.backends.transport`), what the JSON means (`herd.backends.openai_stream`).
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any, NamedTuple, NoReturn, TypeVar

from herd import strict_json
from herd.backends.failures import Broken, failure
from herd.backends.target import Target
from herd.lanes import reading

T = TypeVar("T")
DONE = "[DONE]"
"""The data of the last event of a stream in OpenAI's form."""
LINES = 4
"""Lines of an event, one with another, empty ones, comments and fields of no meaning included."""
LARGE = 16 << 10
"""Bytes of an event that a thread reads: others wait for the loop meanwhile."""
AT_ONCE = 64
"""Pieces or events that are read one after another before the loop's other tasks have a turn. What has come already is
read without waiting, so that a host which sends them tiny would hold the loop."""
_LONGEST_NUMBER = 64
"""Characters of a number; longer ones say nothing that a reader would want."""


def parsed(data: bytes, target: Target) -> Any:
    """The value of a JSON text. Raises Broken for what is none, is too deep or too much, names a member twice, or holds
    a number without end."""
    if (excess := strict_json.excess(data, depth=target.bounds.depth, values=target.bounds.values)) is not None:
        raise failure(Broken, target, f"sent JSON with {excess} than is read")
    try:
        return json.loads(
            data.decode(),
            object_pairs_hook=strict_json.unique(_twice),
            parse_constant=_constant,
            parse_int=_whole,
            parse_float=_finite,
        )
    except (ValueError, RecursionError):
        raise failure(Broken, target, "sent what is no JSON", data.decode(errors="replace")) from None


def _twice(name: str) -> NoReturn:
    raise ValueError("a member twice")


def _constant(name: str) -> NoReturn:
    raise ValueError("NaN or Infinity")


def _whole(digits: str) -> int:
    if len(digits) > _LONGEST_NUMBER:
        raise ValueError("a number of many digits")
    return int(digits)


def _finite(digits: str) -> float:
    found = float(digits)
    if found - found != 0:
        raise ValueError("a number beyond all")
    return found


class Lines:
    """Lines out of pieces as they come: by LF, a CR before it left out. Raises Broken for a line over its bound."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._begun: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Lines that this piece makes whole."""
        *whole, rest = piece.split(b"\n")
        for line in whole:
            self._keep(line)
            yield b"".join(self._begun).removesuffix(b"\r")
            self._begun, self._size = [], 0
        self._keep(rest)

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._target.bounds.line_bytes:
            raise failure(Broken, self._target, f"sent a line of more than {self._target.bounds.line_bytes} bytes")
        if part:
            self._begun.append(part)


class Named(NamedTuple):
    """An event of a stream: its name, "message" where it has none, and its data."""

    name: str
    data: bytes


async def named_events(pieces: AsyncIterator[bytes], target: Target) -> AsyncGenerator[Named, None]:
    """Events of a stream (text/event-stream) without those that hold no data. One that is not ended by an empty line is
    left out, as the form wants it. Raises Broken beyond the bounds."""
    lines, name, data, size, count = Lines(target), b"", list[bytes](), 0, 0
    async for piece in pieces:
        for line in lines.feed(piece):
            count += 1
            if count > LINES * target.bounds.events:
                raise failure(Broken, target, f"sent more than {target.bounds.events} events")
            if not line:
                if data:
                    yield Named(name.decode(errors="replace") or "message", b"\n".join(data))
                name, data, size = b"", [], 0
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"event":
                name = value
            elif field == b"data":
                data.append(value)
                size += len(value)
                if size > target.bounds.event_bytes:
                    raise failure(Broken, target, f"sent an event of more than {target.bounds.event_bytes} bytes")


async def messages(pieces: AsyncIterator[bytes], target: Target) -> AsyncGenerator[Any, None]:
    """Values of the events of a stream, up to the one that says that it is done; that one as None. Raises Broken."""
    async with aclosing(taking_turns(named_events(pieces, target))) as found:
        async for event in found:
            if event.data.strip() == DONE.encode():
                yield None
                return
            yield await value_of(event.data, target)


async def value_of(data: bytes, target: Target) -> Any:
    """As `parsed`; a thread reads what is large."""
    if len(data) <= LARGE:
        return parsed(data, target)
    return await reading().run(target.name, lambda: parsed(data, target), len(data))


async def taking_turns(found: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The same, with turns of the loop's other tasks in between."""
    async with aclosing(found):
        count = 0
        async for one in found:
            yield one
            count += 1
            if count % AT_ONCE == 0:
                await asyncio.sleep(0)
