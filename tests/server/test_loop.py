"""Nothing holds the event loop: the largest input of every route is read, understood and answered beside it."""

import base64
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from loop_watch import LoopWatch, watched
from serving import client_of, fake_service
from test_hostile import GOOD

from herd.server.app import ROUTES
from herd.server.file_store import FileStore
from herd.server.limits import Limits
from herd.server.routes import Route
from herd.server.tables import TABLES

YARDSTICK = json.dumps([[1, "a", None]] * 30_000)
TRIES = 20
MEDIA = ("POST /v1/chat/completions", "POST /v1/responses", "POST /api/chat", "POST /api/generate", "POST /v1/messages",
         "POST /v1/messages/count_tokens", "POST /tokenize")  # fmt: skip
LIMITS = Limits() if os.environ.get("HERD_FULL_BODIES") else Limits(body_bytes=6 << 20, media_body_bytes=8 << 20)
"""By hand with whole bodies: five minutes."""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    service = fake_service(tmp_path_factory.mktemp("home"), limits=LIMITS)
    service.files = FileStore(tmp_path_factory.mktemp("files"), LIMITS)
    with client_of(service) as found:
        yield found


def largest(name: str) -> Iterator[tuple[str, bytes]]:
    """The largest bodies that a route takes, by what they are large in."""
    good, room = GOOD[name], (LIMITS.media_body_bytes if name in MEDIA else LIMITS.body_bytes) - 4096
    yield "a field that it does not know", json.dumps({**good, "x": "a" * room}).encode()
    yield "values", json.dumps({**good, "x": [[1, "a", None]] * (LIMITS.json_values // 4)}).encode()
    yield "names", json.dumps({**good, "x": {f"name{i}": i for i in range(LIMITS.json_values // 2 - 99)}}).encode()
    for field, value in good.items():
        if isinstance(value, str):
            yield field, json.dumps({**good, field: "a b" * (room // 3)}).encode()
            yield f"{field} of many bytes", json.dumps({**good, field: "\U0001f600" * (room // 12)}).encode()
        if isinstance(value, list) and value:
            yield field, json.dumps({**good, field: value * (LIMITS.json_values // 8)}).encode()
    if "messages" in good:
        turns = [{"role": "user" if i % 2 == 0 else "assistant", "content": "a"} for i in range(LIMITS.messages)]
        yield "turns", json.dumps({**good, "messages": turns}).encode()
        yield "a turn", json.dumps({**good, "messages": [{"role": "user", "content": "a b" * (room // 3)}]}).encode()
    picture = base64.b64encode(bytes(LIMITS.media_body_bytes // 7)).decode()
    url = f"data:image/png;base64,{picture}"
    if name == "POST /v1/chat/completions":
        parts = [{"type": "image_url", "image_url": {"url": url}}] * 4
        yield "images", json.dumps({**good, "messages": [{"role": "user", "content": parts}]}).encode()
        members = {f"p{i}": {"type": "string", "description": "a" * 300} for i in range(200)}
        parameters = {"type": "object", "properties": members}
        tools = [{"type": "function", "function": {"name": f"t{i}", "parameters": parameters}} for i in range(128)]
        yield "tools", json.dumps({**good, "tools": tools}).encode()
    if name == "POST /api/chat":
        yield "images", json.dumps({**good, "messages": [{"role": "user", "images": [picture] * 4}]}).encode()


def short_s() -> float:
    """Of a processor: how long a callback may hold the loop. As long as this machine, as it is now, reads YARDSTICK."""
    found = []
    for _ in range(3):
        began_s = time.thread_time()
        json.loads(YARDSTICK)
        found.append(time.thread_time() - began_s)
    return min(found)


@pytest.fixture(scope="module")
def watch() -> Iterator[LoopWatch]:
    with watched() as found:
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_the_largest_inputs_of_a_route_hold_the_loop_for_no_time(name: str, client: httpx.Client, watch: Any) -> None:
    slow = {}
    for what, body in largest(name):
        times = []
        for _ in range(TRIES):
            watch.reset()
            method, path = name.split(" ")
            found = client.request(method, path, content=body)
            assert found.status_code < 500 or "does not fit" in found.text, found.text
            times.append((watch.longest_s / short_s(), watch.what))
            if times[-1][0] < 1:
                break
        else:
            slow[what] = min(times)
    assert not slow, f"of what a callback may take: {slow}"


def test_the_watch_sees_what_holds_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from herd.server import service as service_room

    monkeypatch.setattr(service_room, "SHORT", 1 << 40)
    with client_of(fake_service(tmp_path)) as client, watched() as watch:
        values = [[1, "a", None]] * (LIMITS.json_values // 4 - 99)
        client.post("/v1/chat/completions", json={**GOOD["POST /v1/chat/completions"], "x": values})
        assert watch.longest_s > short_s(), watch.longest_s


@pytest.mark.parametrize("route", [r for r in ROUTES if r.right == "models"], ids=lambda r: f"{r.method} {r.path}")
def test_headers_of_models_are_read_beside_the_loop(route: Route, tmp_path: Path) -> None:
    service, threads = fake_service(tmp_path), list[str]()
    about = service.models.catalogue.about

    def watched_about(name: str) -> Any:
        threads.append(threading.current_thread().name)
        return about(name)

    service.models.catalogue.about = watched_about  # type: ignore[method-assign]
    with client_of(service) as client:
        client.post("/v1/chat/completions", json=GOOD["POST /v1/chat/completions"]).raise_for_status()
        path = route.path.replace("{model:path}", "fake")
        client.request(route.method, path, json=GOOD.get(f"{route.method} {route.path}")).raise_for_status()
    assert all(name.startswith("herd-prepare") for name in threads), threads
