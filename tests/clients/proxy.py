"""A proxy that takes one field out of every reply, so that a test can show who needs it.

    http://127.0.0.1:PORT/without/choices.*.index/v1/chat/completions
                                  the field        what is asked of the service

A field is a path of names; `*` is every member of a list. It is taken out of a JSON body, and out of each line of a
stream (server-sent events and lines of JSON) that has it; all else passes as it came.

What it is not: a proxy for anything but these tests. One request at a time per connection, bodies are whole.
"""

import http.client
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

KEPT = ("content-type", "retry-after", "x-request-id")
PREFIX = "/without/"


def without(value: Any, path: Sequence[str]) -> Any:
    """A JSON value less the member at a path."""
    name, *rest = path
    if name == "*":
        return [without(one, rest) for one in value] if isinstance(value, list) else value
    if not isinstance(value, dict) or name not in value:
        return value
    if not rest:
        return {key: one for key, one in value.items() if key != name}
    return {**value, name: without(value[name], rest)}


def line_without(line: bytes, path: Sequence[str]) -> bytes:
    """A line of a stream less the member: `data: {...}` or `{...}`; any other line as it is."""
    head = b"data: " if line.startswith(b"data: ") else b""
    try:
        value = json.loads(line[len(head) :])
    except ValueError:
        return line
    return head + json.dumps(without(value, path)).encode() + b"\n"


class Handler(BaseHTTPRequestHandler):
    """Passes a request on, and the reply back less the field."""

    protocol_version = "HTTP/1.1"
    server: "Proxy"

    def do_GET(self) -> None:
        self._pass()

    do_POST = do_DELETE = do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def _pass(self) -> None:
        field, _, rest = self.path.removeprefix(PREFIX).partition("/")
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection", "accept-encoding")}
        upstream = http.client.HTTPConnection(self.server.host, self.server.port, timeout=120)
        try:
            upstream.request(self.command, f"/{rest}", body, headers)
            self._answer(upstream.getresponse(), unquote(field).split("."))
        finally:
            upstream.close()

    def _answer(self, reply: http.client.HTTPResponse, path: Sequence[str]) -> None:
        kind = reply.headers.get("content-type", "")
        self.send_response(reply.status)
        for name in KEPT:
            if name in reply.headers:
                self.send_header(name, reply.headers[name])
        if kind.startswith(("text/event-stream", "application/x-ndjson")):
            self.send_header("connection", "close")  # a stream ends with its connection: no length, no chunks
            self.end_headers()
            for line in reply:
                self.wfile.write(line_without(line, path))
                self.wfile.flush()
            self.close_connection = True
            return
        body = reply.read()
        if kind.startswith("application/json"):
            body = json.dumps(without(json.loads(body), path)).encode()
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Proxy(ThreadingHTTPServer):
    """In front of one service."""

    daemon_threads = True

    def __init__(self, url: str) -> None:
        found = urlsplit(url)
        assert found.hostname is not None and found.port is not None, url
        self.host, self.port = found.hostname, found.port
        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that broke off has what it needs."""


@contextmanager
def proxy_of(url: str) -> Iterator[str]:
    """A proxy in front of the service at `url`; its own address."""
    server = Proxy(url)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
