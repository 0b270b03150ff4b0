"""The one place that opens a connection to a backend, and reads from it within bounds.

Nothing is looked up, connected or sent without a Pass to the target (`herd.backends.gate`). An address in the house is
looked up here, and each address that its name leads to has to be in the house as well. TLS is verified, redirects are
not followed, what the environment says is not asked unless the target says so, answers come uncompressed or not at all.
A request is sent again only before the first byte of an answer, and only where the other side could answer it then.

Each request has a connection of its own, which closes with it: so a cancelled one ends at the other side, too. What it
is not: what is sent (`herd.backends.openai_request`), who may send it.
"""

import asyncio
import random
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from copy import copy
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, cast
from urllib.parse import urlsplit

from herd.backends.failures import Absent, Broken, Full, failure, of_status, sent_again, told_words
from herd.backends.gate import Pass
from herd.backends.reading import messages, parsed, taking_turns, value_of
from herd.backends.target import Target
from herd.errors import HerdError, MissingExtra, NetworkError, TimedOut, fail

if TYPE_CHECKING:
    import ssl

    import httpx

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[object]]
ERROR_BYTES = 64 << 10
"""Bytes that are read of an answer that tells an error."""
ERROR_S = 10.0
"""Seconds that such a body is waited for: drop by drop it would keep others from being asked."""
BACK_OFF_S = 0.5
"""Seconds before a request is sent again, the first time; twice as long each time, and up to half of it more."""
STREAM = "text/event-stream"
JSON = "application/json"
NAMED = "x-amzn-errortype"
"""The header in which some hosts name an error."""
GOOD = (200, 201)
"""Statuses of an answer: here it is; it was made."""
_TLS: dict[bool, "ssl.SSLContext"] = {}
"""What is trusted, read once: without and with what the environment names."""


class Reads(NamedTuple):
    """How the body of an answer is read. kind: the type of a stream; values: what its pieces mean; or_json: whether it
    may be one JSON text as well."""

    kind: str
    values: Callable[[AsyncIterator[bytes], Target], AsyncGenerator[Any, None]]
    or_json: bool = True

    @property
    def kinds(self) -> tuple[str, ...]:
        """Types of bodies that are read."""
        return (JSON, self.kind) if self.or_json and self.kind != JSON else (self.kind,)


MESSAGES = Reads(STREAM, messages)
"""A stream of JSON texts, in OpenAI's form."""
WHOLE = Reads(JSON, messages)
"""One JSON text."""


class Transport:
    """Connections to one target. sleep, draws: of the waits between two tries."""

    def __init__(self, target: Target, *, sleep: Sleep = asyncio.sleep, draws: random.Random | None = None) -> None:
        """Raises MissingExtra where httpx is not installed."""
        self.target = target
        self._retries = target.bounds.retries
        self._http = library()
        self._sleep = sleep
        self._draws = draws or random.Random(target.name)

    def once(self) -> "Transport":
        """A Transport for whoever asks somebody else where this one cannot answer: it sends nothing again."""
        found = copy(self)
        found._retries = 0
        return found

    async def get(self, path: str, passed: Pass) -> Any:
        """The JSON at a path. Raises errors of `herd.backends.failures`, StaysHere."""
        clock = Clock(self.target, None)
        async with self._answer(_Asked("GET", path), passed, clock) as answer:
            return await self._json(answer, clock)

    def post(
        self,
        path: str,
        body: bytes,
        passed: Pass,
        *,
        timeout_s: float | None = None,
        reads: Reads = MESSAGES,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[Any, None]:
        """Values of the events of an answer, in OpenAI's form None for the one that says that it is done; of an answer
        that is one JSON text that alone. body: JSON. timeout_s: of the whole request. headers: beside the target's own.
        Raises errors of `herd.backends.failures`, TimedOut, StaysHere."""
        return self._values(_Asked("POST", path, body, reads, headers or {}), passed, timeout_s)

    def stream(
        self, path: str, passed: Pass, *, timeout_s: float | None = None, reads: Reads = MESSAGES
    ) -> AsyncGenerator[Any, None]:
        """As `post`, of what is at a path already."""
        return self._values(_Asked("GET", path, None, reads), passed, timeout_s)

    async def _values(self, asked: "_Asked", passed: Pass, timeout_s: float | None) -> AsyncGenerator[Any, None]:
        clock = Clock(self.target, timeout_s)
        async with self._answer(asked, passed, clock) as answer:
            if _kind(answer) == JSON:
                yield await self._json(answer, clock)
                return
            pieces = taking_turns(self._pieces(answer, clock, self.target.bounds.body_bytes))
            async with aclosing(pieces), aclosing(asked.reads.values(pieces, self.target)) as found:
                async for value in found:
                    yield value

    @asynccontextmanager
    async def _answer(self, asked: "_Asked", passed: Pass, clock: "Clock") -> "AsyncIterator[httpx.Response]":
        """The answer to a request, its body unread: one that is no error and has the right form."""
        passed.check(self.target)
        async with self._client() as client:
            answer = await self._tried(client, asked, passed, clock)
            try:
                yield answer
            finally:
                await answer.aclose()

    def _client(self) -> "httpx.AsyncClient":
        bounds, env = self.target.bounds, self.target.trust_env
        times = self._http.Timeout(None, connect=bounds.connect_s)
        verify = False if urlsplit(self.target.base_url).scheme == "http" else _tls(env)
        client: httpx.AsyncClient = self._http.AsyncClient(
            verify=verify, trust_env=env, follow_redirects=False, http1=True, http2=False, timeout=times
        )
        return client

    async def _tried(
        self, client: "httpx.AsyncClient", asked: "_Asked", passed: Pass, clock: "Clock"
    ) -> "httpx.Response":
        """The first answer that is none of those after which the request is sent again."""
        for left in range(self._retries, -1, -1):
            clock.begin()
            wait: float | None
            try:
                answer = await self._sent(client, asked, passed, clock)
            except Unreached:
                if not left:
                    raise
                wait = self._back_off(left)
            else:
                found = await self._failed(answer, asked, clock)
                if found is None:
                    return answer
                wait = self._wait(answer, left) if found[1] else None
                if not left or wait is None:
                    raise found[0]
            await clock.within(self._sleep(wait), wait + 1, "asked to be waited for")
        raise AssertionError("the last try raises or returns")

    def _back_off(self, left: int) -> float:
        times = self._retries - left
        return BACK_OFF_S * float(2**times) * (1 + self._draws.random() / 2)

    def _wait(self, answer: "httpx.Response", left: int) -> float | None:
        """Seconds until the next try, by Retry-After or ours; None: longer than anybody waits."""
        asked = retry_after(answer.headers)
        if asked is None:
            return self._back_off(left)
        return asked if asked <= self.target.bounds.retry_after_s else None

    async def _sent(
        self, client: "httpx.AsyncClient", asked: "_Asked", passed: Pass, clock: "Clock"
    ) -> "httpx.Response":
        """The head of an answer. Raises Unreached where no connection was made, Absent, Broken."""
        url, name = self.target.url(asked.path), self.target.host
        addresses = await self._addresses(passed, clock)
        for i, address in enumerate(addresses):
            named = {} if address is None else {"sni_hostname": name}
            try:
                request = client.build_request(
                    asked.method,
                    _at(url, address),
                    headers=self._headers(url, asked),
                    content=asked.body,
                    extensions=named,
                )
                return await clock.within(client.send(request, stream=True), clock.first_s, "did not answer in time")
            except (self._http.ConnectError, self._http.ConnectTimeout) as error:
                if i == len(addresses) - 1:
                    raise self._unreached(error) from None
            except (self._http.HTTPError, self._http.InvalidURL) as error:
                raise self._lost(error) from None
        raise AssertionError("a name has an address")

    async def _addresses(self, passed: Pass, clock: "Clock") -> list[str | None]:
        """Addresses in the house that the target's name leads to; None: it is the connection's own matter."""
        if not self.target.in_house:
            return [None]
        parts = urlsplit(self.target.base_url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        looking = asyncio.get_running_loop().getaddrinfo(self.target.host, port, type=socket.SOCK_STREAM)
        try:
            found = await clock.within(looking, self.target.bounds.connect_s, "has a name that was not found in time")
        except (OSError, UnicodeError):
            raise Unreached(str(failure(Absent, self.target, "has a name that leads nowhere"))) from None
        addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
        for address in addresses:
            passed.check_peer(address)
        return [*addresses]

    def _headers(self, url: str, asked: "_Asked") -> dict[str, str]:
        """Headers of a request, the key among them. Host is the name, whatever address it leads to."""
        kinds = ", ".join(asked.reads.kinds)
        found = {"Host": urlsplit(url).netloc, "Accept": kinds, "Accept-Encoding": "identity"}
        found |= {"Content-Type": JSON, "User-Agent": "herd", "Connection": "close"}
        found |= {**self.target.headers, **asked.headers}
        if (key := self.target.key) is not None:
            bearer = self.target.key_header == "Authorization"
            found[self.target.key_header] = f"Bearer {key.reveal()}" if bearer else key.reveal()
        return found

    async def _failed(self, answer: "httpx.Response", asked: "_Asked", clock: "Clock") -> tuple[HerdError, bool] | None:
        """What is wrong with an answer by its head, and whether the request may be sent again; None: nothing."""
        head = sum(len(name) + len(value) for name, value in answer.headers.raw)
        try:
            if head > self.target.bounds.head_bytes:
                return failure(Broken, self.target, f"sent headers of {head} bytes"), False
            if answer.headers.get("content-encoding", "identity").lower() != "identity":
                return failure(Broken, self.target, "sent what is compressed, unasked"), False
            if answer.status_code not in GOOD:
                return await self._error(answer, clock)
            if _kind(answer) not in asked.reads.kinds:
                words = await self._words(answer, clock)
                what = f"sent {self._shown_kind(answer) or 'something without a type'}"
                return failure(Broken, self.target, what, words.decode(errors="replace")), False
        except BaseException:
            await answer.aclose()
            raise
        return None

    async def _error(self, answer: "httpx.Response", clock: "Clock") -> tuple[HerdError, bool]:
        """The failure that an answer with a status of an error tells."""
        words, status = await self._words(answer, clock), answer.status_code
        await answer.aclose()
        try:
            body = parsed(words, self.target) if _is_json(_kind(answer)) else None
        except Broken:
            body = None
        name = answer.headers.get(NAMED, "")
        found = of_status(self.target, status, body, words.decode(errors="replace"), name)
        if isinstance(found, Full) and (asked := retry_after(answer.headers)) is not None:
            found.retry_after_s = asked
        return found, sent_again(status, body, name)

    async def _words(self, answer: "httpx.Response", clock: "Clock") -> bytes:
        """The beginning of a body, as far as it comes in a few seconds."""
        found = bytearray()

        async def read() -> None:
            async with aclosing(taking_turns(self._pieces(answer, clock, 1 << 40))) as pieces:
                async for piece in pieces:
                    found.extend(piece)
                    if len(found) >= ERROR_BYTES:
                        break

        with suppress(NetworkError):  # what came of it is told; the answer is an error in any case
            await clock.within(read(), ERROR_S, "told its error too slowly")
        return bytes(found[:ERROR_BYTES])

    async def _json(self, answer: "httpx.Response", clock: "Clock") -> Any:
        """A body that is one JSON text."""
        if _kind(answer) != JSON:
            raise failure(Broken, self.target, f"sent {self._shown_kind(answer)} in place of JSON")
        body = bytearray()
        most = min(self.target.bounds.whole_bytes, self.target.bounds.body_bytes)
        async with aclosing(taking_turns(self._pieces(answer, clock, most))) as pieces:
            async for piece in pieces:
                body += piece
        return await value_of(bytes(body), self.target)

    async def _pieces(self, answer: "httpx.Response", clock: "Clock", most: int) -> AsyncGenerator[bytes, None]:
        """The body, piece by piece, as it came. Raises Broken beyond `most` bytes and for one that is cut, Absent for
        one that stands still."""
        count, seconds = 0, clock.first_s
        raw = cast("AsyncGenerator[bytes, None]", answer.aiter_raw())  # closed here: no loop is left to do it later
        async with aclosing(raw) as pieces:
            try:
                while piece := await clock.within(anext(pieces, b""), seconds, "stopped sending"):
                    count, seconds = count + len(piece), self.target.bounds.idle_s
                    if count > most:
                        raise failure(Broken, self.target, f"sent more than {most} bytes")
                    yield piece
            except self._http.HTTPError as error:
                raise self._lost(error) from None

    def _shown_kind(self, answer: "httpx.Response") -> str:
        """The type of a body as part of a line: it is as strange as the body."""
        return told_words(_kind(answer), self.target.key)

    def _unreached(self, error: Exception) -> HerdError:
        return Unreached(str(failure(Absent, self.target, "cannot be reached", str(error))))

    def _lost(self, error: Exception) -> HerdError:
        """A connection that was lost, or on which no HTTP is spoken."""
        kinds = (self._http.RemoteProtocolError, self._http.DecodingError, self._http.InvalidURL)
        broken = isinstance(error, kinds)  # one of a redirect that leads nowhere, too
        what = "cut its answer, or speaks no HTTP" if broken else "was lost"
        return failure(Broken if broken else Absent, self.target, what, str(error))


class _Asked(NamedTuple):
    """One request. body: JSON."""

    method: Literal["GET", "POST"]
    path: str
    body: bytes | None = None
    reads: Reads = WHOLE
    headers: Mapping[str, str] = MappingProxyType({})


class Unreached(Absent):
    """No connection was made, so nothing was sent."""


class Clock:
    """The time that one request has: its own deadline, and how long one step may take."""

    def __init__(self, target: Target, timeout_s: float | None) -> None:
        self._target = target
        self._own = timeout_s is not None and timeout_s < target.bounds.total_s
        self._end = time.monotonic() + min(target.bounds.total_s, timeout_s if self._own and timeout_s else 1e9)
        self.begin()

    def begin(self) -> None:
        """A try begins: the first byte of its answer is waited for anew."""
        self._first = time.monotonic() + self._target.bounds.first_s

    @property
    def first_s(self) -> float:
        """Seconds until the first byte of an answer has to be there."""
        return max(self._first - time.monotonic(), 0)

    async def within(self, step: Awaitable[T], seconds: float, what: str) -> T:
        """What a step gives. Raises Absent after so many seconds, TimedOut once the request's own are over."""
        left = self._end - time.monotonic()
        try:
            async with asyncio.timeout(max(min(seconds, left), 0)):
                return await step
        except TimeoutError:
            if left > seconds:
                raise failure(Absent, self._target, what) from None
            if self._own:
                raise TimedOut(f"{self._target.name}: no whole answer within the time of the request") from None
            raise failure(Absent, self._target, "took longer than any request may") from None


def library() -> Any:
    """httpx. Raises MissingExtra where it is not installed."""
    try:
        import httpx
    except ImportError:
        fail(MissingExtra, "another engine or host as a model needs httpx", do="scripts/setup --hosts")
    return httpx


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer asks to be waited for; None: it does not say, or says a date."""
    asked = headers.get("retry-after", "")
    return float(asked) if asked.isascii() and asked.isdigit() and len(asked) <= 9 else None


def _kind(answer: "httpx.Response") -> str:
    """The type of a body, without its parameters."""
    found: str = answer.headers.get("content-type", "")
    return found.partition(";")[0].strip().lower()


def _is_json(kind: str) -> bool:
    """Whether a type is one of JSON: application/json, application/problem+json, application/x-amz-json-1.1."""
    return kind == JSON or kind.endswith("+json") or kind.startswith("application/x-amz-json-")


def _at(url: str, address: str | None) -> str:
    """An address with a name, by the number that the name leads to."""
    if address is None:
        return url
    parts = urlsplit(url)
    host = f"[{address}]" if ":" in address else address
    return parts._replace(netloc=host if parts.port is None else f"{host}:{parts.port}").geturl()


def _tls(env: bool) -> "ssl.SSLContext":
    if env not in _TLS:
        _TLS[env] = library().create_ssl_context(trust_env=env)
    return _TLS[env]
