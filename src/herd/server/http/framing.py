"""HTTP/1.1's framing (RFC 9112), as strict as its grammar: where a request begins and ends, before any parser.

Parsers that read one stream differently let a request hide in another's body. What may be read in two ways is refused
here: two lengths, a length beside chunks, folded fields, a lone CR or LF, blanks before a colon. What passes is handed
on in a form that has one reading only: a head of whole lines, the path of a target, a chunk for what came at once.
"""

import re
from collections.abc import Callable
from typing import NoReturn

from herd.server.limits import Limits

TOKEN = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
VISIBLE = bytes(range(0x21, 0x7F))
FIELD = b"\t " + VISIBLE + bytes(range(0x80, 0x100))
METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH")
"""Methods that a route could have. CONNECT and TRACE are not implemented."""
MOST_DIGITS = 16
"""Most digits of a length, decimal or hexadecimal."""
CHUNK_LINE = 256
"""Bytes of the line before a chunk, without its end."""
STEPS = 256
"""Lines and pieces that are read in one turn: chunks of a byte each would hold the event loop for long."""
_VERSION = re.compile(rb"HTTP/([0-9])\.([0-9])")
_EXTENSION = re.compile(
    rb"(?:[\t ]*+;[\t ]*+[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
    rb"(?:[\t ]*+=[\t ]*+(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
    rb'|"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+"))?+)*+'
)


class RefusedRequest(Exception):
    """Bytes that are no request that is accepted here: status and message of the answer, after which the connection
    ends."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _refuse(status: int, message: str) -> NoReturn:
    raise RefusedRequest(status, message)


class Framing:
    """One request, taken from the bytes of a connection as they come; make another object for the next one.

    Work is linear in the bytes. `take` raises RefusedRequest.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._next: Callable[[Framing, bytearray], bool] = Framing._request_line
        """Reads the next thing from the front of what has come; whether it did. No bound method: that would be a
        cycle, and garbage of every request."""
        self._searched = 0
        self._framed = self._fields = 0
        self._lines: list[bytes] = []
        self._hosts: list[bytes] = []
        self._lengths: list[bytes] = []
        self._codings: list[bytes] = []
        self._expected = b""
        self._authority: bytes | None = None
        self._chunked = False
        self._left = 0
        self._data = bytearray()
        self._frame = b""
        self._blank = False
        self.method = b""
        self.path = b""
        """The path without its query, once there is a request line."""
        self.authorization = self.x_api_key = ""
        """The first Authorization and x-api-key fields of the head."""
        self.begun = False
        """Whether anything of it has come."""
        self.has_head = False
        self.complete = False
        self.body_bytes = 0
        """Bytes of the body that have come, without those that frame them."""

    def take(self, buffer: bytearray) -> bytes:
        """Take from the front of `buffer` what can be read of this request; returns bytes for a parser of HTTP.

        It stops at the end of the head, at that of the request, and after STEPS: while it takes, there may be more.
        """
        had_head = self.has_head
        for _ in range(STEPS):
            if self.complete or self.has_head != had_head or not self._next(self, buffer):
                break
        data, self._data = self._data, bytearray()
        frame, self._frame = self._frame, b""
        if data and self._chunked:
            return b"%x\r\n%b\r\n%b" % (len(data), bytes(data), frame)
        return bytes(data) + frame

    # -- the head --------------------------------------------------------------------------------------------------

    def _request_line(self, buffer: bytearray) -> bool:
        """Read METHOD target HTTP/1.1; one empty line may stand before it."""
        if buffer and buffer[0] != 13:
            self.begun = True
            if buffer[0] not in TOKEN:
                _refuse(400, "no request line: the first byte belongs to no method")
        most = min(self._limits.request_line_bytes, self._limits.header_bytes - 2)
        line = self._line(buffer, most, 414, f"a request line of more than {most} bytes")
        if line is None:
            return False
        if not line and not self._blank:
            self._blank = True
            return True
        self._framed += len(line) + 2
        words = line.split(b" ")
        version = _VERSION.fullmatch(words[-1])
        if len(words) != 3 or version is None or not words[0] or words[0].translate(None, TOKEN):
            _refuse(400, "no request line: expected METHOD TARGET HTTP/1.1")
        if version[1] != b"1":
            _refuse(505, "another version of HTTP; expected HTTP/1.1")
        self.method = words[0]
        if self.method not in METHODS:
            _refuse(501, "a method that nothing here has; /openapi.json lists what there is")
        self._old = version[2] == b"0"
        self._lines.append(b"%b %b HTTP/1.%d" % (self.method, self._target(words[1]), not self._old))
        self._next = Framing._field
        return True

    def _target(self, target: bytes) -> bytes:
        """A request's target as path and query. The host of an absolute one replaces the Host field (3.2.2)."""
        if not target or target.translate(None, VISIBLE) or b"#" in target:
            _refuse(400, "the target of the request: expected a path in printable ASCII without a fragment")
        if target[:7].lower() == b"http://" or target[:8].lower() == b"https://":
            rest = target.partition(b"://")[2]
            self._authority = re.split(rb"[/?]", rest, maxsplit=1)[0]
            target = rest[len(self._authority) :]
            target = target if target.startswith(b"/") else b"/" + target
            if not self._authority or b"@" in self._authority:
                _refuse(400, "the target of the request: expected http://HOST/PATH")
        elif not target.startswith(b"/") and not (target == b"*" and self.method == b"OPTIONS"):
            _refuse(400, "the target of the request: expected a path that begins with /")
        self.path = target.partition(b"?")[0]
        return target

    def _field(self, buffer: bytearray) -> bool:
        """Read one field of the head, or the empty line at its end."""
        line = self._field_line(buffer)
        if not line:
            if line is not None:
                self._end_of_head()
            return line is not None
        name, value = _field_of(line)
        self._note(name, value)
        if name != b"host" or self._authority is None:
            self._lines.append(line)
        return True

    def _note(self, name: bytes, value: bytes) -> None:
        if name == b"host":
            self._hosts.append(value)
        elif name == b"content-length":
            self._lengths.append(value)
        elif name == b"transfer-encoding":
            self._codings.append(value)
        elif name == b"expect":
            self._expected += b"," + value
        elif name == b"authorization":
            self.authorization = self.authorization or value.decode("latin-1")
        elif name == b"x-api-key":
            self.x_api_key = self.x_api_key or value.decode("latin-1")

    def _end_of_head(self) -> None:
        """Decide whether a body follows and how it ends, as section 6.3 of the RFC says."""
        if len(self._hosts) > 1 or (not self._hosts and not self._old):
            _refuse(400, f"Host header fields: got {len(self._hosts)}, expected one")
        if not self._old and any(x and x != b"100-continue" for x in _members(self._expected)):
            _refuse(417, "an expectation other than 100-continue")
        if self._authority is not None:
            self._lines.insert(1, b"Host: " + self._authority)
        if self._codings:
            self._check_codings()
            self._next, self._chunked = Framing._chunk_line, True
        elif self._lengths:
            self._left = self._length()
            self._next = Framing._body
        self.has_head = True
        self.complete = not self._chunked and self._left == 0
        self._frame = b"\r\n".join(self._lines) + b"\r\n\r\n"
        self._lines, self._framed = [], 0

    def _length(self) -> int:
        if len(self._lengths) > 1:
            _refuse(400, "several Content-Length fields; expected one")
        (length,) = self._lengths
        if not length.isdigit() or len(length) > MOST_DIGITS:
            _refuse(400, "Content-Length: expected a number of bytes")
        return int(length)

    def _check_codings(self) -> None:
        if self._lengths:
            _refuse(400, "both Content-Length and Transfer-Encoding; expected one of them")
        if self._old:
            _refuse(400, "Transfer-Encoding in HTTP/1.0")
        codings = _members(b",".join(self._codings))
        if codings[-1] != b"chunked" or codings.count(b"chunked") > 1:
            _refuse(400, "Transfer-Encoding: expected chunked, once and at last")
        if len(codings) > 1:
            _refuse(501, "Transfer-Encoding: expected chunked alone")

    # -- the body --------------------------------------------------------------------------------------------------

    def _body(self, buffer: bytearray) -> bool:
        """Read the part of a body, or of a chunk, that has come."""
        piece = buffer[: self._left]
        if not piece:
            return False
        del buffer[: len(piece)]
        self._data += piece
        self._left -= len(piece)
        self.body_bytes += len(piece)
        if self._left == 0:
            self._next, self.complete = Framing._chunk_end, not self._chunked
        return True

    def _chunk_line(self, buffer: bytearray) -> bool:
        """Read the size of a chunk; its extensions are ignored."""
        line = self._line(buffer, CHUNK_LINE, 400, f"a chunk's line of more than {CHUNK_LINE} bytes")
        if line is None:
            return False
        size = line[: len(line) - len(line.lstrip(b"0123456789abcdefABCDEF"))]
        if not 0 < len(size) <= MOST_DIGITS or _EXTENSION.fullmatch(line, len(size)) is None:
            _refuse(400, "a chunk's line: expected its size in hexadecimal digits")
        self._framed += len(line) - len(size)
        if self._framed > self._limits.header_bytes + self.body_bytes:
            _refuse(400, "more bytes of extensions than of chunks")
        self._left = int(size, 16)
        if self._left:
            self._next = Framing._body
        else:
            self._next, self._framed, self._fields = Framing._trailer, 0, 0
        return True

    def _chunk_end(self, buffer: bytearray) -> bool:
        if len(buffer) < 2 and not buffer.lstrip(b"\r"):
            return False
        if not buffer.startswith(b"\r\n"):
            _refuse(400, "a chunk that is longer than its size says")
        del buffer[:2]
        self._next = Framing._chunk_line
        return True

    def _trailer(self, buffer: bytearray) -> bool:
        """Read a field after the last chunk, and ignore it."""
        line = self._field_line(buffer)
        if line:
            _field_of(line)
        if line != b"":
            return line is not None
        self.complete = True
        self._frame = b"0\r\n\r\n"
        return True

    # -- lines -----------------------------------------------------------------------------------------------------

    def _line(self, buffer: bytearray, most: int, status: int, message: str) -> bytes | None:
        """The next line without its end, if it is complete. Raises RefusedRequest for one of more than `most` bytes."""
        end = buffer.find(b"\n", self._searched, most + 2) if most >= 0 else -1
        if end < 0:
            self._searched = len(buffer)
            if len(buffer) >= most + 2:
                _refuse(status, message)
            return None
        self._searched = 0
        line = bytes(buffer[: max(end - 1, 0)])
        if end == 0 or buffer[end - 1] != 13 or b"\r" in line:
            _refuse(400, "a line that ends with other than CR LF, or has one of them within")
        del buffer[: end + 1]
        return line

    def _field_line(self, buffer: bytearray) -> bytes | None:
        """The next line of a head or a trailer, counted; the empty one ends it."""
        most = self._limits.header_bytes - self._framed - 2
        line = self._line(buffer, most, 431, f"header fields of more than {self._limits.header_bytes} bytes in all")
        if line is not None:
            self._framed += len(line) + 2
            self._fields += bool(line)
            if self._fields > self._limits.headers:
                _refuse(431, f"more than {self._limits.headers} header fields")
        return line


def _field_of(line: bytes) -> tuple[bytes, bytes]:
    """Name, in lower case, and value of a field."""
    name, colon, value = line.partition(b":")
    if not colon or not name or name.translate(None, TOKEN):
        _refuse(400, "a header field: expected NAME: VALUE, no blank before the colon, on one line")
    if value.translate(None, FIELD):
        _refuse(400, "a header field: a control character in its value")
    return name.lower(), value.strip(b"\t ")


def _members(value: bytes) -> list[bytes]:
    """The members of a list in a field's value, in lower case."""
    return [member.strip(b"\t ").lower() for member in value.split(b",")]
