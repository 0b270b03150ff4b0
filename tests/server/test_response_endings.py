"""However a response ends, a stored one says so: nothing stays in progress."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import client_of, fake_service

from helpers import until
from herd.errors import EngineDied
from herd.llm import LLM
from herd.server.openai import responses
from herd.server.response_store import StoredResponse
from herd.server.service import ReplyInProgress, Service

BODY: dict[str, Any] = {"model": "fake", "input": "Hi", "max_output_tokens": 3000}
"""Half a minute of it, and nobody waits for its end."""


class Slow:
    """A model that says a letter now and then, and breaks where it is told to."""

    def __init__(self) -> None:
        self.broken = threading.Event()

    def __call__(self, ids: list[int]) -> int:
        time.sleep(0.01)
        if self.broken.is_set():
            raise RuntimeError("no next letter; /home/me/x")
        return 65


def only(service: Service) -> StoredResponse:
    """The response that is kept, once it is."""
    return eventually(lambda: next(iter(next(iter(service.responses._keys.values())).kept.values())))


def eventually(find: Callable[[], Any]) -> Any:
    found: list[Any] = []

    def looked() -> bool:
        with contextlib.suppress(StopIteration, KeyError):
            found.append(find())
        return bool(found) and found[-1] is not None

    until("it is not there", looked)
    return found[-1]


def ended(client: httpx.Client, service: Service) -> dict[str, Any]:
    kept = only(service)
    eventually(lambda: kept.over or None)
    found: dict[str, Any] = client.get(f"/v1/responses/{kept.id}").json()
    assert found["status"] == kept.status
    return found


def leave(client: httpx.Client, service: Service, slow: Slow) -> None:
    body = json.dumps(BODY)
    head = f"POST /v1/responses HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as connection:
        connection.sendall((head + body).encode())
        only(service)


def leave_a_stream(client: httpx.Client, service: Service, slow: Slow) -> None:
    with client.stream("POST", "/v1/responses", json={**BODY, "stream": True}) as reply:
        next(reply.iter_lines())


def break_it(client: httpx.Client, service: Service, slow: Slow) -> None:
    threading.Timer(0.1, slow.broken.set).start()
    assert client.post("/v1/responses", json=BODY).status_code == 500


def break_a_stream(client: httpx.Client, service: Service, slow: Slow) -> None:
    with client.stream("POST", "/v1/responses", json={**BODY, "stream": True}) as reply:
        lines = reply.iter_lines()
        next(lines)
        slow.broken.set()
        assert "event: response.failed" in list(lines)


def in_background(client: httpx.Client) -> str:
    id_: str = client.post("/v1/responses", json={**BODY, "background": True}).json()["id"]
    return id_


def cancel(client: httpx.Client, service: Service, slow: Slow) -> None:
    found = client.post(f"/v1/responses/{in_background(client)}/cancel").json()
    assert found["status"] == "cancelled"


def break_behind(client: httpx.Client, service: Service, slow: Slow) -> None:
    slow.broken.set()
    in_background(client)


def stop(client: httpx.Client, service: Service, slow: Slow) -> None:
    service.stopping = True
    in_background(client)


def run_out(client: httpx.Client, service: Service, slow: Slow) -> None:
    client.post("/v1/responses", json={**BODY, "max_output_tokens": 3})


ENDINGS = {
    leave: "cancelled", leave_a_stream: "cancelled", break_it: "failed", break_a_stream: "failed", cancel: "cancelled",
    break_behind: "failed", stop: "failed", run_out: "incomplete",
}  # fmt: skip


@pytest.mark.parametrize("end", ENDINGS, ids=lambda end: end.__name__)
def test_each_ending_is_told(tmp_path: Path, end: Callable[[httpx.Client, Service, Slow], None]) -> None:
    slow = Slow()
    service = fake_service(tmp_path, slow)
    with client_of(service) as client:
        end(client, service, slow)
        found = ended(client, service)
        assert found["status"] == ENDINGS[end], found
        assert (found["error"] is not None) == (found["status"] == "failed")
        assert "/home" not in str(found)
        time.sleep(0.05)
        assert only(service).status == found["status"], "an ending is one"


@pytest.mark.parametrize("extra", [{}, {"stream": True}, {"background": True}])
@pytest.mark.parametrize("error", [EngineDied("it is gone"), ValueError("a secret")])
def test_what_nobody_foresaw_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any], error: Exception
) -> None:
    async def events(self: ReplyInProgress) -> Any:
        raise error
        yield  # it is a generator

    monkeypatch.setattr(responses.ReplyInProgress, "events", events)
    service = fake_service(tmp_path)
    with client_of(service) as client:
        try:
            client.post("/v1/responses", json={**BODY, **extra})
        except httpx.RemoteProtocolError:
            assert "stream" in extra
        found = ended(client, service)
        assert found["status"] == "failed" and "a secret" not in str(found)


def test_a_model_that_cannot_be_loaded_keeps_no_response(tmp_path: Path) -> None:
    def load(path: str) -> LLM:
        raise EngineDied("not today")

    service = fake_service(tmp_path, load=load)
    with client_of(service) as client:
        assert client.post("/v1/responses", json=BODY).status_code == 503
        assert client.post("/v1/responses", json={**BODY, "stream": True}).status_code == 503
        assert len(service.responses) == 0
        in_background(client)
        assert ended(client, service)["status"] == "failed"
