"""Frames of a binary event stream (application/vnd.amazon.eventstream), read within bounds.

    | all u32 | headers u32 | CRC of both u32 | headers | payload | CRC of all before u32 |

Numbers are big-endian; checksums are CRC-32 (the one of zlib). A header is a length byte and so many bytes of name, a
type byte, and a value as its type has it. Lengths are bounded as soon as twelve bytes are there, before anything of the
rest is kept. Source: the event stream encoding of Amazon Transcribe's developer guide and of Smithy's specification
(https://smithy.io/2.0/aws/amazon-eventstream.html). What it is not: what a payload means (`converse_stream`).
"""

import struct
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import NoReturn, TypeAlias
from zlib import crc32

from herd.backends.failures import Broken, failure
from herd.backends.reading import taking_turns
from herd.backends.target import Target

KIND = "application/vnd.amazon.eventstream"
"""The type of a body of frames."""
PRELUDE = struct.Struct("!III")
"""Bytes of the whole frame, bytes of its headers, checksum of both."""
CRC = struct.Struct("!I")
FIXED = PRELUDE.size + CRC.size
"""Bytes of a frame beside headers and payload."""
MOST_HEADER_BYTES = 128 << 10
MOST_HEADERS = 64
Value: TypeAlias = bool | int | bytes | str


@dataclass(frozen=True)
class Frame:
    """One frame, its checksums verified."""

    headers: Mapping[str, Value]
    payload: bytes

    def text(self, name: str) -> str:
        """A header that is a text; "" where there is none of that name."""
        found = self.headers.get(name)
        return found if isinstance(found, str) else ""


class Frames:
    """Frames out of pieces as they come. Raises Broken for what is no frame or is over its bounds."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._begun = bytearray()
        self._wanted = PRELUDE.size
        self._lengths: tuple[int, int, int] | None = None

    @property
    def is_within(self) -> bool:
        """Whether a frame has begun and is not whole."""
        return bool(self._begun)

    def feed(self, piece: bytes) -> Iterator[Frame]:
        """Frames that this piece makes whole."""
        at = 0
        while at < len(piece):
            part = piece[at : at + self._wanted - len(self._begun)]
            at += len(part)
            self._begun += part
            if len(self._begun) == self._wanted and (found := self._whole()) is not None:
                yield found

    def _whole(self) -> Frame | None:
        """The frame that is whole now; None: only its prelude is."""
        data = bytes(self._begun)
        if self._lengths is None:
            self._lengths = self._prelude(data)
            self._wanted = self._lengths[0]
            return None
        size, header_size, _ = self._lengths
        self._begun, self._wanted, self._lengths = bytearray(), PRELUDE.size, None
        if crc32(data[: size - CRC.size]) != CRC.unpack_from(data, size - CRC.size)[0]:
            self._broken("sent a frame with a wrong checksum")
        end = PRELUDE.size + header_size
        return Frame(self._headers(data[PRELUDE.size : end]), data[end : size - CRC.size])

    def _prelude(self, data: bytes) -> tuple[int, int, int]:
        size, header_size, told = found = PRELUDE.unpack(data)
        if crc32(data[: PRELUDE.size - CRC.size]) != told:
            self._broken("sent a frame with a wrong checksum of its lengths")
        if size < FIXED + header_size:
            self._broken(f"sent a frame of {size} bytes with {header_size} of headers")
        if header_size > MOST_HEADER_BYTES:
            self._broken(f"sent a frame with more than {MOST_HEADER_BYTES} bytes of headers")
        if size - header_size - FIXED > self._target.bounds.event_bytes:
            self._broken(f"sent an event of more than {self._target.bounds.event_bytes} bytes")
        return found

    def _headers(self, data: bytes) -> dict[str, Value]:
        found: dict[str, Value] = {}
        at = 0
        try:
            while at < len(data):
                name, at = _text(data, at + 1, data[at])
                value, at = _VALUES[data[at]](data, at + 1)
                if name in found or len(found) >= MOST_HEADERS:
                    self._broken("sent a frame with a header twice, or too many")
                found[name] = value
        except (IndexError, KeyError, struct.error, UnicodeDecodeError):
            self._broken("sent a frame with headers that are none")
        return found

    def _broken(self, what: str) -> NoReturn:
        raise failure(Broken, self._target, what)


async def frames(pieces: AsyncIterator[bytes], target: Target) -> AsyncGenerator[Frame, None]:
    """Frames of a body. Raises Broken beyond the bounds, and for a body that ends within a frame."""
    async with aclosing(taking_turns(_frames(pieces, target))) as found:
        async for frame in found:
            yield frame


async def _frames(pieces: AsyncIterator[bytes], target: Target) -> AsyncGenerator[Frame, None]:
    reader, count = Frames(target), 0
    async for piece in pieces:
        for frame in reader.feed(piece):
            count += 1
            if count > target.bounds.events:
                raise failure(Broken, target, f"sent more than {target.bounds.events} events")
            yield frame
    if reader.is_within:
        raise failure(Broken, target, "cut its answer within a frame")


def _part(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    """So many bytes, and where the next ones are. Raises IndexError where there are fewer."""
    if at + size > len(data):
        raise IndexError(at)
    return data[at : at + size], at + size


def _text(data: bytes, at: int, size: int) -> tuple[str, int]:
    found, at = _part(data, at, size)
    return found.decode(), at


def _sized(data: bytes, at: int) -> tuple[bytes, int]:
    """Bytes whose number stands before them."""
    (size,) = struct.unpack_from("!H", data, at)
    return _part(data, at + 2, size)


def _sized_text(data: bytes, at: int) -> tuple[str, int]:
    found, at = _sized(data, at)
    return found.decode(), at


def _number(form: str) -> Callable[[bytes, int], tuple[Value, int]]:
    packed = struct.Struct(form)
    return lambda data, at: (packed.unpack_from(data, at)[0], at + packed.size)


_VALUES: Mapping[int, Callable[[bytes, int], tuple[Value, int]]] = {
    0: lambda data, at: (True, at),
    1: lambda data, at: (False, at),
    2: _number("!b"),
    3: _number("!h"),
    4: _number("!i"),
    5: _number("!q"),
    6: _sized,
    7: _sized_text,
    8: _number("!q"),  # a time: milliseconds since 1970
    9: lambda data, at: _part(data, at, 16),  # a UUID
}
"""Values of headers by their type."""
