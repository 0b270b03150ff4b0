"""Clients for benchmarks of the service: raw HTTP over asyncio, cheap enough for a thousand streams beside it.

A `Stream` sends one request and notes when its tokens came. As a script: a process that asks /health again and again
(see harness.Worker), so that what it measures is the service's delay and not that of a busy client.
"""

import asyncio
import json
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

TOKEN = {
    "chat": b'"delta":{"content":',
    "ollama": b'"done":false',
    "anthropic": b'"text_delta"',
    "responses": b"event: response.output_text.delta",
}
"""What stands in every chunk that holds a token, by dialect, and in no other."""
PATHS = {
    "chat": "/v1/chat/completions",
    "ollama": "/api/chat",
    "anthropic": "/v1/messages",
    "responses": "/v1/responses",
}


def request(dialect: str, model: str, tokens: int, secret: str) -> bytes:
    """A streamed request for so many tokens, as bytes on the wire. The connection ends with it."""
    turns = [{"role": "user", "content": "Go on."}]
    body: dict[str, Any] = {"model": model, "stream": True}
    match dialect:
        case "chat":
            body |= {"messages": turns, "max_tokens": tokens}
        case "ollama":
            body |= {"messages": turns, "options": {"num_predict": tokens}}
        case "anthropic":
            body |= {"messages": turns, "max_tokens": tokens}
        case "responses":
            body |= {"input": turns, "max_output_tokens": tokens, "store": False}
    data = json.dumps(body).encode()
    head = f"POST {PATHS[dialect]} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {secret}\r\n"
    return (
        f"{head}Content-Type: application/json\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode()
        + data
    )


class Stream(asyncio.Protocol):
    """One request: when its tokens came (seconds of time.monotonic), and how it ended."""

    def __init__(self, asked: bytes, marker: bytes, *, hang_up: int | None = None, reset: bool = False) -> None:
        """hang_up: bytes, of the request and then of the answer, after which the connection is cut. reset: with RST."""
        self.times: list[float] = []
        self.status = 0
        self.retry_after = False
        self.began_s = time.monotonic()
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked, self._marker, self._left, self._reset = asked, marker, hang_up, reset
        self._tail = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        if self._left is None:
            transport.write(self._asked)
            return
        transport.write(self._asked[: self._left])
        self._left -= len(self._asked)
        if self._left <= 0:
            self.cut()

    def data_received(self, data: bytes) -> None:
        now_s = time.monotonic()
        if not self.status:
            self.status = int(data[9:12])
            self.retry_after = b"\r\nretry-after:" in data.lower()
        text = self._tail + data
        count = text.count(self._marker)
        if count:
            self.times += [now_s] * count
            text = text[text.rindex(self._marker) + len(self._marker) :]
        self._tail = text[-len(self._marker) + 1 :]
        if self._left is not None:
            self._left -= len(data)
            if self._left <= 0:
                self.cut()

    def cut(self) -> None:
        """Go away; what is unsent is lost."""
        if self._reset:
            linger = b"\1\0\0\0\0\0\0\0"
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self._transport.abort()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self.over.set_result(None)


async def open_stream(port: int, make: Callable[[], Stream]) -> Stream:
    """Connect, and send."""
    _, stream = await asyncio.get_running_loop().create_connection(make, "127.0.0.1", port)
    return stream


def probe(port: int, seconds: float, every_s: float = 0.01) -> dict[str, list[float]]:
    """Seconds that GET /health took, asked again and again over one connection."""
    asked = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    found = []
    with socket.create_connection(("127.0.0.1", port)) as connection:
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            began_s = time.monotonic()
            connection.sendall(asked)
            answer = b""
            while b'"status"' not in answer:
                answer += connection.recv(4096)
            found.append(time.monotonic() - began_s)
            time.sleep(every_s)
    return {"seconds": found}


if __name__ == "__main__":
    for line in sys.stdin:
        message = json.loads(line)
        assert message.pop("do") == "probe"
        print(json.dumps(probe(**message)), flush=True)
