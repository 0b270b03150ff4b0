"""Requests and connections that end leave nothing to the collector of garbage, which holds up everybody."""

import gc
import json
import socket
import time
from collections.abc import Iterator

import pytest
from serving import fake_service, running

from helpers import PATIENCE_S

MANY = 40
MESSAGES = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}


def head(length: int) -> bytes:
    path = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    return path + b"Content-Length: %d\r\n\r\n" % length


def chat(**more: object) -> bytes:
    body = json.dumps({**MESSAGES, **more}).encode()
    return head(len(body)) + body


KINDS = {
    "nothing is asked": (b"", 0),
    "health": (b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 0),
    "an upload that is cut": (head(1000) + b"{", 0),
    "a bad request": (head(2) + b"{}", 0),
    "a chat": (chat(), 40),
    "a streamed chat": (chat(stream=True), 40),
}
"""What is sent, and how many objects the collector may find for each: a chat's weak reference to a method is some."""


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with running(fake_service(tmp_path_factory.mktemp("home"))) as url:
        yield int(url.rstrip("/").rsplit(":", 1)[1])


def ask(port: int, sent: bytes, times: int) -> None:
    for _ in range(times):
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
            connection.sendall(sent)
            if sent.startswith(head(1000)) or not sent:
                time.sleep(0.005)
            else:
                while connection.recv(1 << 16):
                    pass


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_ended_leaves_no_garbage(port: int, kind: str) -> None:
    sent, most = KINDS[kind]
    ask(port, sent, 5)
    tries = [collected(port, sent) for _ in range(3)]  # other tests' threads may leave something meanwhile, once
    assert min(tries) <= MANY * most + 20, f"{min(tries) / MANY:.0f} objects a connection"


def collected(port: int, sent: bytes) -> int:
    """Objects that the collector finds after many connections."""
    time.sleep(0.3)
    gc.collect()
    gc.disable()
    try:
        ask(port, sent, MANY)
        time.sleep(0.3)
        return gc.collect()
    finally:
        gc.enable()
