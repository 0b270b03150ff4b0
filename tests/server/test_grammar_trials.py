"""Schemas that would compile without end: refused in every dialect by the name of the limit, and nobody waits."""

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import client_of, fake_llm, fake_service, running

from helpers import PATIENCE_S, until
from herd.llm import LLM
from herd.server.app import ROUTES
from herd.server.keys import plain_key

ENDLESS = {
    "type": "object",
    "properties": {"a": {"type": "integer", "allOf": [{"multipleOf": 1299.709}]}},
    "required": ["a"],
}
TURNS = [{"role": "user", "content": "Hi"}]
FUNCTION = {"name": "f", "parameters": ENDLESS}
TOOL = {"type": "function", "function": FUNCTION}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": ENDLESS}}
CHAT: dict[str, Any] = {"model": "fake", "messages": TURNS, "max_tokens": 8}
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat: response_format": ("/v1/chat/completions", {**CHAT, "response_format": FORMAT}),
    "chat: tools": ("/v1/chat/completions", {**CHAT, "tools": [TOOL], "tool_choice": "required"}),
    "chat: a tool": (
        "/v1/chat/completions",
        {**CHAT, "tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
    ),
    "responses: text.format": (
        "/v1/responses",
        {"model": "fake", "input": "Hi", "text": {"format": {"type": "json_schema", "name": "x", "schema": ENDLESS}}},
    ),
    "responses: tools": (
        "/v1/responses",
        {"model": "fake", "input": "Hi", "tools": [{"type": "function", **FUNCTION}], "tool_choice": "required"},
    ),
    "messages: tools": (
        "/v1/messages",
        {**CHAT, "tools": [{"name": "f", "input_schema": ENDLESS}], "tool_choice": {"type": "any"}},
    ),
    "api/chat: format": ("/api/chat", {"model": "fake", "messages": TURNS, "format": ENDLESS}),
    "api/generate: format": ("/api/generate", {"model": "fake", "prompt": "Hi", "format": ENDLESS}),
}
BAD, GOOD = "herd-" + "b" * 32, "herd-" + "g" * 32
HOURS = 3600.0


def loaded(seconds: float) -> LLM:
    llm = fake_llm('{"a": 1}')
    llm._trials._seconds = seconds
    return llm


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    service = fake_service(tmp_path_factory.mktemp("home"), load=lambda path: loaded(0.5))
    with client_of(service) as found:
        yield found


@pytest.mark.parametrize("way", WAYS)
def test_every_dialect_refuses_it_by_the_name_of_the_limit(client: httpx.Client, way: str) -> None:
    path, body = WAYS[way]
    assert path in {route.path for route in ROUTES}
    reply = client.post(path, json=body)
    assert reply.status_code == 400, reply.text
    assert "takes over 0.5 s (grammar_s)" in reply.text


def test_endless_schemas_of_one_key_that_hangs_up_stop_nobody_and_end(tmp_path: Path) -> None:
    held: list[LLM] = []
    others = processes()
    service = fake_service(
        tmp_path,
        load=lambda path: held.append(loaded(HOURS)) or held[0],
        keys=(plain_key(BAD, "bad"), plain_key(GOOD, "good")),
    )
    path, body = WAYS["chat: response_format"]

    leave = threading.Event()

    def hang_up(address: str, number: int) -> None:
        own = {**FORMAT, "json_schema": {"name": f"x{number}", "schema": {**ENDLESS, "title": str(number)}}}
        data = json.dumps({**body, "response_format": own, "stream": bool(number % 2)})
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {BAD}\r\n"
        place = httpx.URL(address)
        with socket.create_connection((place.host, place.port or 80)) as connection:
            connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n{data}".encode())
            assert leave.wait(PATIENCE_S)
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):
                connection.recv(1)

    good: dict[str, Any] = {"headers": {"authorization": f"Bearer {GOOD}"}, "timeout": PATIENCE_S}
    easy = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    with running(service) as address:
        assert httpx.post(address + path, json=CHAT, **good).status_code == 200  # it is loaded
        hanging = [threading.Thread(target=hang_up, args=(address, n)) for n in range(6)]
        for thread in hanging:
            thread.start()
        until("they are tried", lambda: processes() - others)
        assert httpx.get(address + "/health", timeout=PATIENCE_S).status_code == 200
        for asked in (CHAT, {**CHAT, "response_format": easy}):
            assert httpx.post(address + path, json=asked, **good).status_code == 200
        leave.set()
        for thread in hanging:
            thread.join(PATIENCE_S)
        until("what they left has ended", lambda: len(processes() - others) == len(held[0]._trials._idle))
        bad = {"headers": {"authorization": f"Bearer {BAD}"}, "timeout": PATIENCE_S}
        assert httpx.post(address + path, json={**CHAT, "response_format": easy}, **bad).status_code == 200


def processes() -> set[str]:
    """Ids of those of this process that try grammars, or could; other tests may have left some."""
    listed = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True
    )
    return {line.split()[0] for line in listed.stdout.splitlines() if "herd.engine.side_process" in line}
