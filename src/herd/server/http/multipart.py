"""A multipart/form-data body (RFC 7578, RFC 2046) as it comes: parts told piece by piece, none of them held.

Strict where leniency would let two readers disagree: the body begins with its boundary, lines end with CR LF, each part
has one disposition with a name. What it is not: a reader of what parts mean; of encodings of parts, which RFC 7578
took away.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from herd.errors import UsageError, fail

MOST_BOUNDARY = 70
"""Characters (RFC 2046)."""
HEAD_BYTES = 8 << 10
"""Bytes of the head of one part."""
MOST_PARTS = 32
_END = b"\r\n\r\n"


class Piece(NamedTuple):
    """What has come: the head of a part, some of its bytes, or its end."""

    kind: Literal["head", "data", "end"]
    name: str = ""
    filename: str | None = None
    """None: the part is no file."""
    data: bytes = b""


class Multipart:
    """A body that is fed as it comes. Raises UsageError for a content type without boundary."""

    def __init__(self, content_type: str) -> None:
        kind, _, rest = content_type.partition(";")
        boundary = _parameter(";" + rest, "boundary")
        if kind.strip().lower() != "multipart/form-data" or not boundary or len(boundary) > MOST_BOUNDARY:
            expected = "multipart/form-data with a boundary"
            fail(UsageError, "content-type", got=content_type[:100] or "none", expected=expected)
        self._delimiter = b"\r\n--" + boundary.encode("latin-1", "replace")
        self._left = bytearray(b"\r\n")  # a body begins with its delimiter, but for the first line's end
        self._state: Literal["preamble", "mark", "head", "data", "over"] = "preamble"
        self._seen = 0
        self._parts = 0

    @property
    def over(self) -> bool:
        """Whether the last part is complete."""
        return self._state == "over"

    def feed(self, data: bytes) -> Iterator[Piece]:
        """What has come with these bytes. Raises UsageError for what is no such body."""
        if self._state == "over":
            return
        self._left += data
        moved = True
        while moved:
            moved = False
            for piece in self._step():
                moved = True
                if piece is not None:
                    yield piece

    def _step(self) -> Iterator[Piece | None]:
        """Take the next part of what is left, if it is whole; None: something was taken and nothing is told."""
        if self._state == "preamble" and len(self._left) >= len(self._delimiter):
            if not self._left.startswith(self._delimiter):
                fail(UsageError, "body", got="something before the first part", expected="the boundary")
            del self._left[: len(self._delimiter)]
            self._state = "mark"
            yield None
        elif self._state == "mark" and len(self._left) >= 2:
            mark = bytes(self._left[:2])
            if mark not in (b"--", b"\r\n"):
                fail(UsageError, "body", got="a boundary that goes on", expected="CR LF, or -- after the last part")
            del self._left[:2]
            self._state, self._seen = ("over" if mark == b"--" else "head"), 0
            yield None
        elif self._state == "head":
            yield from self._head()
        elif self._state == "data":
            yield from self._data()

    def _head(self) -> Iterator[Piece]:
        at = self._left.find(_END, max(0, self._seen - len(_END)))
        self._seen = len(self._left)
        if at > HEAD_BYTES or (at < 0 and len(self._left) > HEAD_BYTES):
            fail(UsageError, "head of a part", got="more bytes", expected=f"at most {HEAD_BYTES}")
        if at < 0:
            return
        self._parts += 1
        if self._parts > MOST_PARTS:
            fail(UsageError, "parts", got="more", expected=f"at most {MOST_PARTS}")
        head = bytes(self._left[:at]).decode("utf-8", "replace")
        del self._left[: at + len(_END)]
        self._state, self._seen = "data", 0
        yield _head_of(head)

    def _data(self) -> Iterator[Piece]:
        keep = len(self._delimiter) - 1
        at = self._left.find(self._delimiter)
        if at >= 0:
            if at:
                yield Piece("data", data=bytes(self._left[:at]))
            del self._left[: at + len(self._delimiter)]
            self._state = "mark"
            yield Piece("end")
        elif len(self._left) > keep:
            yield Piece("data", data=bytes(self._left[: len(self._left) - keep]))
            del self._left[: len(self._left) - keep]


def _head_of(head: str) -> Piece:
    """The name of a part, and of its file. Raises UsageError."""
    found = [line for line in head.split("\r\n") if line.lower().startswith("content-disposition:")]
    value = found[0].partition(":")[2].strip() if len(found) == 1 else ""
    kind, _, rest = value.partition(";")
    name = _parameter(";" + rest, "name")
    if kind.strip().lower() != "form-data" or not name:
        fail(UsageError, "head of a part", got=value[:100] or "no disposition", expected='form-data; name="..."')
    return Piece("head", name, _parameter(";" + rest, "filename"))


def _parameter(text: str, name: str) -> str | None:
    """A parameter of a header, quoted or not; None: there is none. text: what stands behind the value, from the first
    semicolon on."""
    lower = text.lower()
    for separator in (f"; {name}=", f";{name}="):
        at = lower.find(separator)
        if at >= 0:
            rest = text[at + len(separator) :]
            if rest.startswith('"'):
                return rest[1:].partition('"')[0]
            return rest.partition(";")[0].strip()
    return None
