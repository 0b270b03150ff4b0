"""Requests to every route cost time in proportion to their length, whatever stands in which of their places.

The places come from the tables of fields, the routes from the application, which is asked itself. Time is that of the
process, so that a request's other threads count and other programs do not.
"""

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from places import HOLE, bodies
from serving import fake_service

from costs import grows, seconds
from fillers import FEW_UNITS, JSON, UNITS, json_text, text
from herd.server.app import ROUTES, create_app
from herd.server.options import ServerOptions
from herd.server.tables import TABLES

SIZE = 1 << 13
SEEN_S = 0.05
"""What takes this much of a processor for SIZE is measured again, at other sizes."""
EVERY = int(os.environ.get("HERD_COSTS_EVERY", "4"))
"""Of the slow tier; 1: whatever can stand in a place stands in all of them."""
PARSED = (
    "escaped quotes",
    "escapes",
    "pairs of brackets",
    "zeros",
    "numbers",
    "texts that begin alike",
    "objects",
    "names",
)
"""JSON that a route gets to see."""
HEADERS = (
    "host",
    "origin",
    "authorization",
    "x-api-key",
    "accept",
    "accept-encoding",
    "content-length",
    "content-type",
)
PREFLIGHT = ("access-control-request-headers", "access-control-request-method", "if-none-match", "user-agent", "cookie")


class Asker:
    """Sends requests to the application, without a socket."""

    def __init__(self, folder: Path) -> None:
        self._runner = asyncio.Runner()
        self._service = fake_service(folder, "a", names=("fake",))
        self._app = create_app(self._service, ServerOptions(log="off"))
        self.statuses: dict[int, int] = {}

    def close(self) -> None:
        self._runner.run(self._service.models.close())
        self._runner.close()

    def ask(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> int:
        """The status of the reply."""
        return self._runner.run(self._ask(method, path, body, {"host": "localhost", **(headers or {})}))

    async def _ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> int:
        scope = {
            **{"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b""},
            **{"http_version": "1.1", "scheme": "http", "server": ("localhost", 1), "client": ("127.0.0.1", 1)},
            "headers": [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()],
        }
        sent = asyncio.Event()
        status = 0

        async def receive() -> dict[str, Any]:
            if sent.is_set():
                await asyncio.Event().wait()
            sent.set()
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)

        asked: Callable[..., Awaitable[None]] = self._app
        await asyncio.wait_for(asked(scope, receive, send), 120)
        self.statuses[status] = self.statuses.get(status, 0) + 1
        return status


@pytest.fixture(scope="module")
def asker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asker]:
    found = Asker(tmp_path_factory.mktemp("home"))
    yield found
    found.close()


def worse(run: Callable[[Any], object], make: Callable[[int], Any], size: int) -> list[float]:
    """Seconds of two sizes that do not fit together; empty: they do, or there is nothing to measure."""
    if seconds(run, make(size), time.process_time) < SEEN_S * size / SIZE:
        return []
    return grows(run, make, first=size // 16, most=size * 4, clock=time.process_time)


def fills(units: tuple[str, ...], names: tuple[str, ...]) -> dict[str, Callable[[int], str]]:
    return {name: JSON[name] for name in names} | {ascii(unit): json_text(unit) for unit in units}


def check(asker: Asker, table: str, size: int, chosen: dict[str, Callable[[int], str]], every: int = 1) -> None:
    """every: of what is not among the few, a place gets one in so many, each place others."""
    method, path = table.split(" ")
    found = {}
    few = fills(FEW_UNITS, PARSED)
    for at, (place, body) in enumerate(bodies(TABLES[table])):
        outside = json.dumps(body).replace(f'"{HOLE}": "{HOLE}"', f'"{HOLE}": 1').replace(json.dumps(HOLE), HOLE)
        for number, (name, fill) in enumerate(chosen.items()):
            if name not in few and (at + number) % every:
                continue
            if place == HOLE and not fill(1).startswith('"'):
                continue  # a name is a text

            def make(n: int, outside: str = outside, fill: Callable[[int], str] = fill) -> bytes:
                return outside.replace(HOLE, fill(n)).encode()

            if times := worse(lambda data: asker.ask(method, path, data), make, size):
                found[place, name] = times
    assert not found, f"{table}: seconds for a body and for one four times as long: {found}"


@pytest.mark.brief
@pytest.mark.parametrize("table", TABLES)
def test_a_body_costs_its_length_whatever_stands_in_it(table: str, asker: Asker) -> None:
    check(asker, table, SIZE, fills(FEW_UNITS, PARSED))


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES)
def test_a_longer_body_costs_its_length_whatever_stands_in_it(table: str, asker: Asker) -> None:
    check(asker, table, 2 * SIZE, fills(UNITS, tuple(JSON)), EVERY)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_a_path_and_headers_cost_their_length(route: Any, asker: Asker) -> None:
    found = {}
    for unit in FEW_UNITS:
        for place in (*HEADERS, *PREFLIGHT, *(["path"] if "{" in route.path else [])):
            path = route.path.replace("{id}", "a").replace("{model}", "a").replace("{name}", "a").replace(":path", "")

            def run(value: str, place: str = place, path: str = path) -> int:
                if place == "path":
                    return asker.ask(route.method, route.path.partition("{")[0] + value, b"{}")
                method = "OPTIONS" if place in PREFLIGHT else route.method
                return asker.ask(method, path, b"{}", {"origin": "http://localhost", place: value})

            if times := worse(run, text(unit), SIZE):
                found[place, unit] = times
    assert not found, f"{route.path}: seconds for a text and for one four times as long: {found}"


def test_the_places_are_those_of_the_tables_and_their_smallest_bodies_are_answered(asker: Asker) -> None:
    """So that what is measured is work on a field and not a refusal before it."""
    answered = {}
    for name, table in TABLES.items():
        method, path = name.split(" ")
        paths = {place for place, _ in bodies(table)}
        assert {row for row, what, _ in table.rows() if what == "honoured"} <= {
            p.partition(".")[0].partition("[")[0] for p in paths
        }
        smallest = next(body for place, body in bodies(table) if place == "an_unknown_one")
        answered[name] = asker.ask(method, path, json.dumps(smallest).encode())
    refused = {name for name, status in answered.items() if status != 200}
    assert refused <= {"POST /api/pull", "DELETE /api/delete", "POST /api/show", "POST /v1/batches"}, answered
