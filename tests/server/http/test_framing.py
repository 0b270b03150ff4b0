"""Framing of requests (RFC 9112) over a real socket: what bytes are answered, and whether the connection goes on. h11's
own parser is asked about what is let through."""

import json
import random
import socket
from collections.abc import Iterator
from typing import NamedTuple

import h11
import pytest
from serving import fake_service, running

from helpers import PATIENCE_S
from herd.server.http.framing import Framing, RefusedRequest
from herd.server.limits import Limits

LIMITS = Limits(request_line_bytes=200, header_bytes=1000, headers=10)
HOST = b"Host: localhost\r\n"
POST = b"POST /tokenize HTTP/1.1\r\n" + HOST
BODY = b'{"model": "fake", "prompt": "Hi"}'
PROBE = b"GET /health HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"


class Row(NamedTuple):
    """Bytes, the statuses of their answers, and whether another request of the same connection is answered."""

    name: str
    data: bytes
    statuses: tuple[int, ...]
    goes_on: bool = False


def get(line: bytes, *fields: bytes) -> bytes:
    return b"".join(part + b"\r\n" for part in (line, *fields, b""))


def health(*fields: bytes) -> bytes:
    return get(b"GET /health HTTP/1.1", *fields)


def chunks(*parts: bytes, fields: bytes = b"") -> bytes:
    return POST + b"Transfer-Encoding: chunked\r\n" + fields + b"\r\n" + b"".join(parts)


def sized(*fields: bytes, body: bytes = BODY) -> bytes:
    return POST + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + body


CHUNK = b"%x\r\n%b\r\n" % (len(BODY), BODY)
END = b"0\r\n\r\n"
LENGTH = b"Content-Length: %d" % len(BODY)
H = b"Host: localhost"
LONG_TARGET = b"/health?" + b"x" * (LIMITS.request_line_bytes - len(b"GET /health? HTTP/1.1"))
ROOM = LIMITS.header_bytes - len(health(H, b"X: "))
ROWS = (
    Row("plain", health(H), (200,), True),
    Row("pipelined", health(H) * 3, (200, 200, 200), True),
    Row("pipelined bodies", sized(LENGTH) * 2 + health(H), (200, 200, 200), True),
    Row("an empty line before", b"\r\n" + health(H), (200,), True),
    Row("two empty lines before", b"\r\n\r\n" + health(H), (400,)),
    Row("an empty line after a body", sized(LENGTH) + b"\r\n" + health(H), (200, 200), True),
    Row("refused after one that is not", health(H) + b"\x00", (200, 400)),
    Row("close", health(H, b"Connection: close"), (200,)),
    Row("close among others", health(H, b"Connection: x, Close"), (200,)),
    Row("HTTP/1.0", get(b"GET /health HTTP/1.0", H), (200,)),
    Row("a later 1.x", get(b"GET /health HTTP/1.9", H), (200,), True),
    # -- the request line
    Row("HTTP/0.9", b"GET /health\r\n", (400,)),
    Row("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (505,)),
    Row("HTTP/9.9", get(b"GET /health HTTP/9.9", H), (505,)),
    Row("HTTP/0.0", get(b"GET /health HTTP/0.0", H), (505,)),
    Row("HTTP/1.10", get(b"GET /health HTTP/1.10", H), (400,)),
    Row("HTTP/1", get(b"GET /health HTTP/1", H), (400,)),
    Row("http/1.1", get(b"GET /health http/1.1", H), (400,)),
    Row("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", (400,)),
    Row("two blanks", get(b"GET  /health HTTP/1.1", H), (400,)),
    Row("a tab", get(b"GET\t/health HTTP/1.1", H), (400,)),
    Row("a blank before", get(b" GET /health HTTP/1.1", H), (400,)),
    Row("a blank after", get(b"GET /health HTTP/1.1 ", H), (400,)),
    Row("no method", get(b" /health HTTP/1.1", H), (400,)),
    Row("a method of no token", get(b"G@T /health HTTP/1.1", H), (400,)),
    Row("an unknown method", get(b"BREW /health HTTP/1.1", H), (501,)),
    Row("a method in lower case", get(b"get /health HTTP/1.1", H), (501,)),
    Row("TRACE", get(b"TRACE /health HTTP/1.1", H), (501,)),
    Row("CONNECT", get(b"CONNECT localhost:80 HTTP/1.1", H), (501,)),
    Row("a method of no route", get(b"PUT /health HTTP/1.1", H), (405,), True),
    Row("at the limit of a line", get(b"GET " + LONG_TARGET + b" HTTP/1.1", H), (200,), True),
    Row("over the limit of a line", get(b"GET " + LONG_TARGET + b"x HTTP/1.1", H), (414,)),
    Row("a line without an end", b"GET /" + b"x" * 300, (414,)),
    # -- the target
    Row("an absolute target", get(b"GET http://localhost/health HTTP/1.1", H), (200,), True),
    Row("an absolute target alone", get(b"GET http://localhost HTTP/1.1", H), (200,), True),
    Row("an absolute target in capitals", get(b"GET HTTP://LOCALHOST:80/health?x HTTP/1.1", H), (200,), True),
    Row("its host counts", get(b"GET http://evil.example/health HTTP/1.1", H), (403,), True),
    Row("its host counts alone", get(b"GET http://localhost/health HTTP/1.1", b"Host: evil.example"), (200,), True),
    Row("an absolute target, no Host", get(b"GET http://localhost/health HTTP/1.1"), (400,)),
    Row("credentials in a target", get(b"GET http://a:b@localhost/health HTTP/1.1", H), (400,)),
    Row("no host in a target", get(b"GET http:///health HTTP/1.1", H), (400,)),
    Row("another scheme", get(b"GET ftp://localhost/health HTTP/1.1", H), (400,)),
    Row("an authority", get(b"GET localhost:80 HTTP/1.1", H), (400,)),
    Row("a relative target", get(b"GET health HTTP/1.1", H), (400,)),
    Row("an asterisk", get(b"GET * HTTP/1.1", H), (400,)),
    Row("OPTIONS *", get(b"OPTIONS * HTTP/1.1", H), (204,), True),
    Row("a fragment", get(b"GET /health#x HTTP/1.1", H), (400,)),
    Row("a target that is not ASCII", get(b"GET /h\xc3\xa9 HTTP/1.1", H), (400,)),
    Row("a control character in a target", get(b"GET /h\x7f HTTP/1.1", H), (400,)),
    # -- fields
    Row("no Host", health(), (400,)),
    Row("two Hosts", health(H, H), (400,)),
    Row("no Host in HTTP/1.0", get(b"GET /health HTTP/1.0"), (200,)),
    Row("two Hosts in HTTP/1.0", get(b"GET /health HTTP/1.0", H, H), (400,)),
    Row("an empty Host", health(b"Host:"), (400,), True),
    Row("a Host that is none", health(b"Host: local host"), (400,), True),
    Row("another's Host", health(b"Host: evil.example"), (403,), True),
    Row("a blank before the colon", health(H, b"X : a"), (400,)),
    Row("no colon", health(H, b"X"), (400,)),
    Row("no name", health(H, b": a"), (400,)),
    Row("a name that is no token", health(H, b"X(a): a"), (400,)),
    Row("a folded field", health(H, b"X: a", b" b"), (400,)),
    Row("a field that begins with a tab", health(H, b"\tX: a"), (400,)),
    Row("NUL in a value", health(H, b"X: a\x00b"), (400,)),
    Row("DEL in a value", health(H, b"X: a\x7fb"), (400,)),
    Row("a lone CR in a value", health(H, b"X: a\rb"), (400,)),
    Row("a lone LF at an end", b"GET /health HTTP/1.1\r\n" + HOST + b"X: a\nY: b\r\n\r\n", (400,)),
    Row("only LFs", b"GET /health HTTP/1.1\nHost: localhost\n\n", (400,)),
    Row("CR CR LF", b"GET /health HTTP/1.1\r\r\n" + HOST + b"\r\n", (400,)),
    Row("an empty value, tabs and Latin-1", health(H, b"X:", b"Y:\t a\tb \t", b"Z: \xe9"), (200,), True),
    Row("as many fields as may be", health(H, *[b"X: a"] * 9), (200,), True),
    Row("a field more", health(H, *[b"X: a"] * 10), (431,)),
    Row("at the limit of a head", health(H, b"X: " + b"a" * ROOM), (200,), True),
    Row("over the limit of a head", health(H, b"X: " + b"a" * (ROOM + 1)), (431,)),
    Row("a head without an end", b"GET /health HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 2000, (431,)),
    Row("an upgrade", health(H, b"Connection: upgrade", b"Upgrade: websocket"), (200,), True),
    # -- expectations
    Row("100-continue", sized(LENGTH, b"Expect: 100-Continue"), (200,), True),
    Row("another expectation", sized(LENGTH, b"Expect: tea"), (417,)),
    Row("another one beside it", sized(LENGTH, b"Expect: 100-continue, tea"), (417,)),
    Row("an expectation in HTTP/1.0", get(b"GET /health HTTP/1.0", H, b"Expect: tea"), (200,)),
    # -- lengths
    Row("a length", sized(LENGTH), (200,), True),
    Row("none", sized(body=b""), (400,), True),
    Row("zeros before a length", sized(b"Content-Length: 000%d" % len(BODY)), (200,), True),
    Row("a length twice", sized(LENGTH, LENGTH), (400,)),
    Row("two lengths", sized(LENGTH, b"Content-Length: 2"), (400,)),
    Row("a list of equal lengths", sized(b"Content-Length: 2, 2"), (400,)),
    Row("a list of lengths", sized(b"Content-Length: 2, 3"), (400,)),
    Row("a sign", sized(b"Content-Length: +33"), (400,)),
    Row("a negative length", sized(b"Content-Length: -1"), (400,)),
    Row("a hexadecimal length", sized(b"Content-Length: 0x21"), (400,)),
    Row("a broken length", sized(b"Content-Length: 3_3"), (400,)),
    Row("an empty length", sized(b"Content-Length:"), (400,)),
    Row("digits of elsewhere", sized(b"Content-Length: \xb2"), (400,)),
    Row("a length of 17 digits", sized(b"Content-Length: " + b"1" * 17), (400,)),
    Row("more than may be", sized(b"Content-Length: 99999999999"), (413,)),
    Row("both", sized(LENGTH, b"Transfer-Encoding: chunked", body=CHUNK + END), (400,)),
    Row("both, the other way", sized(b"Transfer-Encoding: chunked", LENGTH, body=CHUNK + END), (400,)),
    # -- codings
    Row("chunks", chunks(CHUNK, END), (200,), True),
    Row("a coding in capitals", sized(b"Transfer-Encoding: CHUNKED", body=CHUNK + END), (200,), True),
    Row("chunks in HTTP/1.0", get(b"POST /tokenize HTTP/1.0", H, b"Transfer-Encoding: chunked") + CHUNK + END, (400,)),
    Row("another coding", sized(b"Transfer-Encoding: gzip", body=CHUNK + END), (400,)),
    Row("another coding, then chunks", sized(b"Transfer-Encoding: gzip, chunked", body=CHUNK + END), (501,)),
    Row("the same on two lines",
        sized(b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked", body=CHUNK + END), (501,)),
    Row("chunks within chunks", sized(b"Transfer-Encoding: chunked, chunked", body=CHUNK + END), (400,)),
    Row("the same on two lines of chunks",
        sized(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=CHUNK + END), (400,)),
    Row("chunks, then another coding", sized(b"Transfer-Encoding: chunked, gzip", body=CHUNK + END), (400,)),
    Row("identity", sized(b"Transfer-Encoding: identity"), (400,)),
    Row("nearly chunked", sized(b"Transfer-Encoding: xchunked", body=CHUNK + END), (400,)),
    Row("a control character before it", sized(b"Transfer-Encoding: \x0bchunked", body=CHUNK + END), (400,)),
    Row("a parameter", sized(b"Transfer-Encoding: chunked;a=b", body=CHUNK + END), (400,)),
    Row("an empty coding", sized(b"Transfer-Encoding:", body=CHUNK + END), (400,)),
    # -- chunks
    Row("a chunk a byte", chunks(*[b"1\r\n%c\r\n" % c for c in BODY], END), (200,), True),
    Row("zeros before a size", chunks(b"0000" + CHUNK, b"000" + END), (200,), True),
    Row("extensions", chunks(b'%x;a;b=c ; d = "e\\"; f"\r\n%b\r\n' % (len(BODY), BODY), b"0;x\r\n\r\n"), (200,), True),
    Row("trailers", chunks(CHUNK, b"0\r\nContent-Length: 5\r\nX: y\r\n\r\n"), (200,), True),
    Row("no size", chunks(b"\r\n", END), (400,)),
    Row("no hexadecimal size", chunks(b"zz\r\n{}\r\n", END), (400,)),
    Row("a size with 0x", chunks(b"0x2\r\n{}\r\n", END), (400,)),
    Row("a size with a sign", chunks(b"+2\r\n{}\r\n", END), (400,)),
    Row("a negative size", chunks(b"-2\r\n{}\r\n", END), (400,)),
    Row("a size of 17 digits", chunks(b"0" * 17 + b"2\r\n{}\r\n", END), (400,)),
    Row("a blank after a size", chunks(b"2 \r\n{}\r\n", END), (400,)),
    Row("a blank before a size", chunks(b" 2\r\n{}\r\n", END), (400,)),
    Row("a lone LF after a size", chunks(b"2\n{}\r\n", END), (400,)),
    Row("a lone CR after a size", chunks(b"2\r{}\r\n", END), (400,)),
    Row("a lone LF after a chunk", chunks(b"2\r\n{}\n", END), (400,)),
    Row("nothing after a chunk", chunks(b"2\r\n{}", END), (400,)),
    Row("a chunk that is too long", chunks(b"1\r\n{}\r\n", END), (400,)),
    Row("an extension that is none", chunks(b"2;\r\n{}\r\n", END), (400,)),
    Row("an extension with NUL", chunks(b"2;a=\x00\r\n{}\r\n", END), (400,)),
    Row("an extension with a lone LF", chunks(b"2;a\n;b\r\n{}\r\n", END), (400,)),
    Row("a long extension", chunks(b"2;" + b"a" * 300 + b"\r\n{}\r\n", END), (400,)),
    Row("many extensions", chunks(*[b"1;" + b"a" * 200 + b"\r\n \r\n"] * 20, END), (400,)),
    Row("a trailer that is none", chunks(CHUNK, b"0\r\nX\r\n\r\n"), (400,)),
    Row("a folded trailer", chunks(CHUNK, b"0\r\nX: y\r\n z\r\n\r\n"), (400,)),
    Row("many trailers", chunks(CHUNK, b"0\r\n" + b"X: y\r\n" * 11 + b"\r\n"), (431,)),
    Row("long trailers", chunks(CHUNK, b"0\r\nX: " + b"y" * 1000 + b"\r\n\r\n"), (431,)),
    # -- answered before it has come whole
    Row("an unknown route and half a body", get(b"POST /none HTTP/1.1", H, b"Content-Length: 1000") + b"x", (404,)),
    Row("HEAD of what is no request", get(b"HEAD /health HTTP/1.1", H, b"X"), (400,)),
)  # fmt: skip


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    with running(fake_service(tmp_path_factory.mktemp("home"), limits=LIMITS)) as found:
        host, port = found.removeprefix("http://").split(":")
        yield host, int(port)


def replies(data: bytes, *, head: bool = False) -> list[int]:
    """Statuses of the answers in a stream; each but those of no body is one line of JSON."""
    found = []
    while data:
        lines, _, data = data.partition(b"\r\n\r\n")
        first, *fields = lines.split(b"\r\n")
        assert first.startswith(b"HTTP/1.1 "), first
        status = int(first.split(b" ")[1])
        if status == 100:
            continue
        found.append(status)
        if status == 204 or head:
            continue
        named = dict(field.lower().split(b": ", 1) for field in fields)
        body, data = data[: int(named[b"content-length"])], data[int(named[b"content-length"]) :]
        assert status == 200 or (b"\n" not in body and "error" in json.loads(body)), body
    return found


def exchange(address: tuple[str, int], data: bytes) -> bytes:
    with socket.create_connection(address, timeout=PATIENCE_S) as s:
        s.sendall(data)
        found = b""
        while part := s.recv(65536):
            found += part
        return found


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_each_sequence_of_bytes_is_answered_as_the_rfc_says(address: tuple[str, int], row: Row) -> None:
    expected = [*row.statuses, *([200] if row.goes_on else [])]
    assert replies(exchange(address, row.data + PROBE), head=row.data.startswith(b"HEAD")) == expected


def test_a_request_may_come_a_byte_at_a_time(address: tuple[str, int]) -> None:
    for row in ROWS:
        if len(row.data) < 300 and row.goes_on:
            with socket.create_connection(address, timeout=PATIENCE_S) as s:
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for byte in row.data + PROBE:
                    s.send(bytes([byte]))
                found = b""
                while part := s.recv(65536):
                    found += part
            assert replies(found) == [*row.statuses, 200], row.name


# -- against another parser ----------------------------------------------------------------------------------------


class Framed(NamedTuple):
    """What comes of some bytes: what h11 would be given, how long the bodies of the requests in it are, the status of
    a refusal or 0, whether a part of a request is left."""

    given: bytes
    bodies: list[int]
    status: int
    is_cut: bool


def framed(data: bytes, rng: random.Random) -> Framed:
    buffer, given, bodies = bytearray(), b"", list[int]()
    framing = Framing(LIMITS)
    while data or buffer:
        cut = rng.randrange(1, len(data) + 1) if data else 0
        buffer += data[:cut]
        data = data[cut:]
        length = -1
        while length != len(buffer):
            length = len(buffer)
            try:
                given += framing.take(buffer)
            except RefusedRequest as refusal:
                return Framed(given, bodies, refusal.status, False)
            if framing.complete:
                bodies.append(framing.body_bytes)
                framing = Framing(LIMITS)
        if not data:
            break
    return Framed(given, bodies, 0, framing.begun)


def parsed(data: bytes) -> list[tuple[bytes, bytes]]:
    """(head's method and target, body) of each request that h11 finds in what was let through."""
    connection, found = h11.Connection(h11.SERVER), []
    connection.receive_data(data)
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            head, body = event.method + b" " + event.target, b""
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            found.append((head, body))
            connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            connection.send(h11.EndOfMessage())
            connection.start_next_cycle()
        else:
            return found


def mutated(rng: random.Random) -> bytes:
    """A few rows with some bytes taken away, doubled, exchanged or put in."""
    rows = [row.data for row in ROWS if len(row.data) < 600 and b"HEAD" not in row.data]
    rows = [data for data in rows if b"close" not in data.lower()]
    data = bytearray(b"".join(rng.choice(rows) for _ in range(rng.randrange(1, 4))))
    for _ in range(rng.choice([0, 0, 0, 1, 2])):
        at = rng.randrange(len(data))
        match rng.randrange(4):
            case 0:
                del data[at : at + rng.randrange(1, 4)]
            case 1:
                data[at:at] = data[at : at + rng.randrange(1, 40)]
            case 2:
                data[at] = rng.choice(b"\r\n \t\x00:;,0aA\xff")
            case _:
                data[at:at] = rng.choice([b"\r\n", b"\n", b"\r", b" ", b"0\r\n\r\n", b"Content-Length: 1\r\n"])
        if not data:
            return b"\r\n"
    return bytes(data)


def test_what_is_let_through_is_read_alike_by_another_parser() -> None:
    """However the bytes are cut, the same requests come out, and h11 sees just these, with bodies of that length."""
    rng = random.Random(7)
    through = refused = 0
    for _ in range(3000):
        data = mutated(rng)
        found = framed(data, rng)
        again = framed(data, rng)
        assert (again.bodies, again.status, again.is_cut) == (found.bodies, found.status, found.is_cut), data
        if b"HTTP/1.0" in found.given:  # after which h11 reads no more
            continue
        seen = parsed(found.given)
        assert [len(body) for _, body in seen] == found.bodies, data
        assert all(head.count(b" ") == 1 for head, _ in seen)
        through, refused = through + len(seen), refused + bool(found.status)
    assert through > 500 and refused > 500, (through, refused)


def test_no_mutation_hangs_or_has_two_answers(address: tuple[str, int]) -> None:
    """At most an answer for a request, and one more for what is none, which is the last."""
    rng = random.Random(11)
    for _ in range(300):
        data = mutated(rng) + PROBE
        expected = framed(data, rng)
        with socket.create_connection(address, timeout=PATIENCE_S) as s:
            s.sendall(data)
            if expected.is_cut:  # it waits for the rest, or answered without it
                s.shutdown(socket.SHUT_WR)
            found = b""
            while part := s.recv(65536):
                found += part
        codes = replies(found)
        assert len(codes) <= len(expected.bodies) + bool(expected.status) + expected.is_cut, (codes, data)
        assert all(code < 500 or code in (501, 505) for code in codes), (codes, data)
