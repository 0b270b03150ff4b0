"""Paths with a slash at their end are those without it, on every route."""

from collections.abc import Iterator

import httpx
import pytest
from serving import client_of, fake_service

from herd.server.app import ROUTES
from herd.server.keys import plain_key

SECRET = "a-secret-of-some-length"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with client_of(fake_service(tmp_path_factory.mktemp("home"), keys=(plain_key(SECRET),))) as found:
        yield found


def test_a_slash_at_the_end_of_any_route_says_nothing(client: httpx.Client) -> None:
    for route in ROUTES:
        path = route.path.replace("{id}", "x").replace("{digest}", "x").replace("{model:path}", "fake")
        for headers in ({}, {"x-api-key": SECRET}):
            plain, slashed = (
                client.request(route.method, path + end, headers=headers, json={} if route.method == "POST" else None)
                for end in ("", "/")
            )
            assert not slashed.is_redirect
            assert slashed.status_code == plain.status_code, (route.path, slashed.text)
            assert slashed.headers["content-type"] == plain.headers["content-type"]
            assert "no such route" not in slashed.text


def test_what_is_no_route_stays_none(client: httpx.Client) -> None:
    for path in ("/v1/", "/api/", "/v1//models", "/v1/chat/", "/v1/models/fake//x/"):
        assert client.get(path, headers={"x-api-key": SECRET}).status_code == 404, path
    for path in ("/", "//", "///"):
        assert client.get(path).text == "Ollama is running"
