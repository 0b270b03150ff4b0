"""schemathesis on our own OpenAPI document: requests that fit it and requests that do not, on every route; no 5xx but
those that are planned (501 for what is not there, 503 for what cannot be now). HERD_FUZZ_CASES: a dialect (300)."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from serving import fake_service, running

from helpers import PATIENCE_S
from herd.server.app import ROUTES
from herd.server.openapi import describe

schemathesis = pytest.importorskip("schemathesis")
pytestmark = pytest.mark.slow

CASES = int(os.environ.get("HERD_FUZZ_CASES", "300"))
SCHEMA = schemathesis.openapi.from_dict(describe(ROUTES))
PLANNED = {501, 503, 507}


def per_route(dialect: str) -> int:
    return max(5, CASES // sum(route.dialect == dialect for route in ROUTES))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(fake_service(tmp_path_factory.mktemp("home"), names=("fake",))) as found:
        yield found


def check(case: Any, address: str) -> None:
    if isinstance(case.body, dict) and "model" in case.body:
        case.body["model"] = "fake"
    if isinstance(case.body, dict) and case.path == "/api/pull":
        case.body.update(model="none", name="none")
    reply = case.call(base_url=address, timeout=PATIENCE_S)
    assert reply.status_code < 500 or reply.status_code in PLANNED, (reply.status_code, reply.text[:500])
    assert len(reply.text) < 10_000_000


OPTIONS: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@SCHEMA.include(tag="openai").parametrize()
@settings(max_examples=per_route("openai"), **OPTIONS)
def test_openai(case: Any, address: str) -> None:
    check(case, address)


@SCHEMA.include(tag="ollama").parametrize()
@settings(max_examples=per_route("ollama"), **OPTIONS)
def test_ollama(case: Any, address: str) -> None:
    check(case, address)


@SCHEMA.include(tag="anthropic").parametrize()
@settings(max_examples=per_route("anthropic"), **OPTIONS)
def test_anthropic(case: Any, address: str) -> None:
    check(case, address)
