"""Kinds of hostile requests, each a function of a size: what one key that may chat and embed can send."""

import asyncio
import base64
import contextlib
import json
import random
import struct
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

MOST = 64 << 20
"""Bytes of the largest request: more than the service takes."""
TAKEN = 48 << 20
"""Bytes of the largest body that it takes."""
READ_S = 30.0


@dataclass
class Target:
    """The service, as an attacker sees it."""

    port: int
    model: str
    secret: str
    statuses: Counter[str] = field(default_factory=Counter)
    """What came back: statuses, or what became of the connection."""

    def head(self, path: str, size: int | None, method: str = "POST", more: str = "") -> bytes:
        """The head of a request; size: of its body; None: it comes in chunks."""
        length = "Transfer-Encoding: chunked" if size is None else f"Content-Length: {size}"
        return (
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self.secret}\r\n"
            f"Content-Type: application/json\r\nConnection: close\r\n{length}\r\n{more}\r\n"
        ).encode()

    async def send(self, path: str, body: bytes | dict[str, Any], *, leave_s: float | None = None) -> None:
        """One request, its answer read and forgotten; leave_s: when to hang up."""
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        await self.raw(self.head(path, len(data)) + data, leave_s=leave_s)

    async def raw(self, data: bytes, *, leave_s: float | None = None, read: bool = True) -> None:
        """Bytes, and what comes back."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError as error:
            self.statuses[type(error).__name__] += 1
            return
        try:
            async with asyncio.timeout(leave_s or READ_S):
                with contextlib.suppress(OSError):  # an early refusal may close it while we write
                    writer.write(data)
                    await writer.drain()
                first = await reader.readline() if read else b""
                self.statuses[first.split(b" ")[1].decode() if first.count(b" ") else "closed"] += 1
                while await reader.read(1 << 16):
                    pass
        except TimeoutError:
            self.statuses["left" if leave_s else "no answer"] += 1
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            self.statuses[type(error).__name__] += 1
        finally:
            writer.close()

    def chat(self, text: str, **more: Any) -> dict[str, Any]:
        """A dialog of one turn."""
        return {"model": self.model, "messages": [{"role": "user", "content": text}], "max_tokens": 8, **more}


Kind = Callable[[Target, int], Awaitable[None]]
KINDS: dict[str, Kind] = {}


def kind(name: str) -> Callable[[Kind], Kind]:
    """Enter a kind into the table."""

    def enter(found: Kind) -> Kind:
        KINDS[name] = found
        return found

    return enter


async def together(*work: Awaitable[None]) -> None:
    """All at once."""
    await asyncio.gather(*work)


CHAT = "/v1/chat/completions"

# -- bodies ------------------------------------------------------------------------------------------------------------


@kind("a string of escaped quotes without an end")
async def _(t: Target, size: int) -> None:
    await together(*(t.send(CHAT, b'{"model": "' + b'\\"' * (size // 2)) for _ in range(4)))


@kind("a name that stands twice, late")
async def _(t: Target, size: int) -> None:
    names = ",".join(f'"n{i}":0' for i in range(size // 10))
    await together(*(t.send(CHAT, f'{{{names},"n0":1}}'.encode()) for _ in range(4)))


@kind("numbers of many digits")
async def _(t: Target, size: int) -> None:
    digits = "9" * size
    await t.send("/api/chat", {"model": t.model, "keep_alive": digits})
    await t.send(CHAT, f'{{"model": "x", "seed": {digits}}}'.encode())


@kind("values and nesting")
async def _(t: Target, size: int) -> None:
    await t.send(CHAT, b'{"x": ' + b"[" * size)
    await t.send(CHAT, b'{"x": [' + b"1," * (size // 2) + b"1]}")
    await t.send(CHAT, b'{"x": [' + b"{}," * (size // 3) + b"1]}")


@kind("chunks of one byte")
async def _(t: Target, size: int) -> None:
    await t.raw(t.head(CHAT, None) + b"1\r\na\r\n" * (size // 6) + b"0\r\n\r\n")


@kind("names of models")
async def _(t: Target, size: int) -> None:
    await t.send(CHAT, {**t.chat("Hi"), "model": "a" * size})
    await t.raw(t.head("/v1/models/" + "a" * min(size, 60_000), 0, "GET"))


@kind("both framings, and other heads")
async def _(t: Target, size: int) -> None:
    more = "Transfer-Encoding: chunked\r\n"
    await t.raw(t.head(CHAT, 10, more=more) + b"0\r\n\r\n")
    await t.raw(t.head(CHAT, 0, more="".join(f"x{i}: y\r\n" for i in range(size // 8))))
    await t.raw(random.Random(size).randbytes(min(size, 1 << 20)))


# -- text --------------------------------------------------------------------------------------------------------------

FILLERS = ("a ", " ", "1", "\ufdfa", "e\u0301\u0302", "\U0001f600", "<|eot|>", "password=", "a@", "\u3042", '\\"')


def _filled(size: int) -> Iterator[str]:
    for filler in FILLERS:
        yield filler * (size // len(filler.encode()))


@kind("long dialogs")
async def _(t: Target, size: int) -> None:
    for text in _filled(size // 6):
        await together(*(t.send(CHAT, t.chat(text)) for _ in range(2)))


@kind("six long dialogs at once")
async def _(t: Target, size: int) -> None:
    text = "word " * (size // 5 // 3)
    await together(*(t.send(CHAT, t.chat(text)) for _ in range(6)))


@kind("texts to count")
async def _(t: Target, size: int) -> None:
    for text in _filled(size // 4):
        await t.send("/tokenize", {"model": t.model, "prompt": text})
    await t.send("/v1/messages/count_tokens", {"model": t.model, "messages": [{"role": "user", "content": "a" * size}]})


@kind("ids to spell")
async def _(t: Target, size: int) -> None:
    await t.send("/detokenize", {"model": t.model, "tokens": [1] * (size // 3)})


@kind("ten texts to moderate")
async def _(t: Target, size: int) -> None:
    texts = list(_filled(size // 12))[:10]
    await together(*(t.send("/v1/moderations", {"input": text}) for text in texts))


@kind("texts to embed")
async def _(t: Target, size: int) -> None:
    await t.send("/v1/embeddings", {"model": t.model, "input": ["word " * 8] * max(1, min(size // 50, 256))})
    await t.send("/v1/embeddings", {"model": t.model, "input": "word " * (size // 5)})


@kind("prompts of ids")
async def _(t: Target, size: int) -> None:
    await t.send("/v1/completions", {"model": t.model, "prompt": [7] * (size // 3), "max_tokens": 1})


@kind("many turns, tools and stops")
async def _(t: Target, size: int) -> None:
    turns = [{"role": "user" if i % 2 == 0 else "assistant", "content": "a"} for i in range(size // 40)]
    await t.send(CHAT, {"model": t.model, "messages": turns, "max_tokens": 1})
    tool = {"name": "t", "description": "a" * 4096, "parameters": {"type": "object", "properties": {}}}
    tools = [{"type": "function", "function": {**tool, "name": f"t{i}"}} for i in range(size // 4200)]
    await t.send(CHAT, t.chat("Hi", tools=tools))
    await t.send(CHAT, t.chat("Hi", stop=["a" * 200] * (size // 200)))
    await t.send(CHAT, t.chat("Hi", logit_bias={str(i): 1 for i in range(size // 8)}))


# -- schemas -----------------------------------------------------------------------------------------------------------


def _schemas(size: int) -> Iterator[dict[str, Any]]:
    nested: dict[str, Any] = {"type": "string", "maxLength": min(99, size)}
    for _ in range(5):
        nested = {"type": "array", "items": nested, "minItems": min(99, size), "maxItems": min(99, size)}
    yield {"type": "integer", "multipleOf": 1299709 if size > 1 << 12 else size + 1}
    yield nested
    yield {"type": "object", "properties": {f"p{i}": {"type": "integer"} for i in range(min(size // 16, 2000))}}
    yield {"type": "string", "pattern": "(a{1,99}b{1,99}){1,99}" * max(1, min(size // 64, 40))}
    yield {"allOf": [{"multipleOf": p} for p in (7919, 7907, 7901, 7883, 7879)[: max(1, size % 6)]]}
    yield {"enum": [f"{i}" * 20 for i in range(size // 30)]}
    yield {"anyOf": [{"type": "object", "properties": {f"a{i}": {"const": i}}, "required": [f"a{i}"]}
                     for i in range(size // 80)]}  # fmt: skip


@kind("schemas, left after a moment")
async def _(t: Target, size: int) -> None:
    asks = []
    for schema in _schemas(size):
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        asks.append(t.send(CHAT, t.chat("Hi", response_format=form), leave_s=3))
    await together(*asks)


@kind("schemas, waited for")
async def _(t: Target, size: int) -> None:
    for schema in _schemas(size):
        await t.send("/api/chat", {**t.chat("Hi"), "stream": False, "format": schema, "options": {"num_predict": 8}})


# -- pictures ----------------------------------------------------------------------------------------------------------


def _png(side: int) -> str:
    """A picture of zeros, small as a file."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes((side * 3 + 1) * side), 1)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return base64.b64encode(data).decode()


@kind("pictures")
async def _(t: Target, size: int) -> None:
    side = min(int((size / 3) ** 0.5) + 1, 6000)
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + _png(side)}}
    noise = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * min(size, 20 << 20)}}
    ask = {"model": t.model, "messages": [{"role": "user", "content": [part] * 16}]}
    await together(*(t.send(CHAT, ask) for _ in range(4)))
    await t.send(CHAT, {"model": t.model, "messages": [{"role": "user", "content": [noise] * 4}]})


@kind("addresses of pictures")
async def _(t: Target, size: int) -> None:
    urls = [f"http://{'a' * 60}.{i}.invalid/{'x' * min(size, 7000)}" for i in range(16)]
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    ask = {"model": t.model, "messages": [{"role": "user", "content": parts}]}
    await together(*(t.send(CHAT, ask) for _ in range(16)))


# -- how it is sent ----------------------------------------------------------------------------------------------------


@kind("a flood")
async def _(t: Target, size: int) -> None:
    count = max(4, min(size >> 12, 400))
    await together(*(t.send(CHAT, t.chat("Hi", max_tokens=4)) for _ in range(count)))


@kind("uploads that never end")
async def _(t: Target, size: int) -> None:
    count = max(4, min(size >> 10, 5007))
    await _held(t, [t.head(CHAT, TAKEN - 4096) + b'{"model": "' + b"a" * 100] * count)


@kind("heads that never end")
async def _(t: Target, size: int) -> None:
    await _held(t, [b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"] * max(4, min(size >> 10, 5007)))


async def _held(t: Target, starts: list[bytes], hold_s: float = 5.0) -> None:
    """Connections that are begun, all of them, and left open for a while."""
    opened: list[asyncio.StreamWriter] = []

    async def begin(data: bytes) -> None:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", t.port)
            writer.write(data)
            opened.append(writer)
        except OSError as error:
            t.statuses[type(error).__name__] += 1

    for i in range(0, len(starts), 100):
        await together(*(begin(data) for data in starts[i : i + 100]))
    t.statuses["begun"] += len(opened)
    await asyncio.sleep(hold_s)
    for writer in opened:
        writer.close()


@kind("answers that nobody reads")
async def _(t: Target, size: int) -> None:
    asks = []
    for stream in (True, False):
        body = json.dumps(t.chat("Go on.", max_tokens=256, n=8, logprobs=True, top_logprobs=20, stream=stream)).encode()
        asks += [t.head(CHAT, len(body)) + body] * max(1, min(size >> 16, 12))
    await _held(t, asks, hold_s=8.0)


@kind("responses that are kept")
async def _(t: Target, size: int) -> None:
    for background in (False, True):
        ask = {"model": t.model, "input": "a " * (size // 64), "max_output_tokens": 2, "background": background}
        await together(*(t.send("/v1/responses", ask) for _ in range(8)))


@kind("many answers to one prompt")
async def _(t: Target, size: int) -> None:
    n = max(1, min(size >> 12, 16))
    await t.send(CHAT, t.chat("Go on.", n=n, max_tokens=64, logprobs=True, top_logprobs=20))
    prompts = ["Go on."] * max(1, min(size >> 12, 64))
    await t.send("/v1/completions", {"model": t.model, "prompt": prompts, "n": n, "max_tokens": 4})
