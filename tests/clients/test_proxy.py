"""The proxy takes away the field it is told and nothing else, in whole replies and in streams."""

import json
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from proxy import proxy_of, without

from helpers import PATIENCE_S

REPLY = {"id": "a", "choices": [{"index": 0, "text": "x"}, {"index": 1, "text": "y"}], "usage": {"n": 1}}
BODIES = {
    "/whole": ("application/json", json.dumps(REPLY)),
    "/events": ("text/event-stream", f"event: one\ndata: {json.dumps(REPLY)}\n\ndata: [DONE]\n\n"),
    "/lines": ("application/x-ndjson", f"{json.dumps(REPLY)}\n{json.dumps(REPLY)}\n"),
    "/text": ("text/plain", json.dumps(REPLY)),
}


class Echo(BaseHTTPRequestHandler):
    """Answers with what BODIES says, or with what it was sent."""

    def do_GET(self) -> None:
        kind, text = BODIES[self.path]
        self._send(kind, text.encode())

    def do_POST(self) -> None:
        self._send("application/json", self.rfile.read(int(self.headers["content-length"])))

    def _send(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with proxy_of(f"http://127.0.0.1:{server.server_port}") as found:
        yield found
    server.shutdown()
    server.server_close()
    thread.join()


def fetched(url: str, body: bytes | None = None) -> str:
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=PATIENCE_S) as reply:
        return reply.read().decode()


@pytest.mark.parametrize(
    ("field", "left"),
    [
        ("nothing", REPLY),
        ("usage.n", {**REPLY, "usage": {}}),
        ("choices.*.index", {**REPLY, "choices": [{"text": "x"}, {"text": "y"}]}),
        ("id.deeper", REPLY),
        ("*.id", REPLY),
    ],
)
def test_one_field_is_taken_away_and_nothing_else(url: str, field: str, left: dict[str, Any]) -> None:
    assert without(REPLY, field.split(".")) == left
    assert json.loads(fetched(f"{url}/without/{field}/whole")) == left
    assert json.loads(fetched(f"{url}/without/{field}/posted", json.dumps(REPLY).encode())) == left
    event, data, *rest = fetched(f"{url}/without/{field}/events").splitlines()
    assert (event, rest) == ("event: one", ["", "data: [DONE]", ""])
    assert json.loads(data.removeprefix("data: ")) == left
    assert [json.loads(line) for line in fetched(f"{url}/without/{field}/lines").splitlines()] == [left, left]
    assert json.loads(fetched(f"{url}/without/{field}/text")) == REPLY
