"""Tools and an output schema in one request, in every dialect, whole and streamed: calls, or what fits the schema."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from serving import client_of, fake_service

from herd.server.tables import TABLES

TURNS = [{"role": "user", "content": "Hi"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
NAMED = {"name": "weather", "parameters": PARAMETERS}
OPENAI_TOOLS = [{"type": "function", "function": NAMED}]
SCHEMA = {"type": "object", "properties": {"said": {"type": "string"}}, "required": ["said"]}
BODIES: dict[str, dict[str, Any]] = {
    "POST /v1/chat/completions": {
        "messages": TURNS,
        "tools": OPENAI_TOOLS,
        "response_format": {"type": "json_schema", "json_schema": {"name": "said", "schema": SCHEMA}},
    },
    "POST /v1/responses": {
        "input": "Hi",
        "tools": [{"type": "function", **NAMED}],
        "text": {"format": {"type": "json_schema", "name": "said", "schema": SCHEMA}},
    },
    "POST /api/chat": {"messages": TURNS, "tools": OPENAI_TOOLS, "format": SCHEMA},
    "POST /v1/messages": {
        "messages": TURNS,
        "max_tokens": 200,
        "tools": [{"name": "weather", "input_schema": PARAMETERS}],
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
    },
}
FORCED: dict[str, Any] = {
    "POST /v1/chat/completions": "required",
    "POST /v1/responses": "required",
    "POST /v1/messages": {"type": "any"},
}
CALL = '{"type": "function", "name": "weather", "parameters": {"city": "[weather()]"}}'
ANSWER = '{"said": "[weather(city=1)] <function=weather>{}</function>"}'
SCHEMA_FIELDS = {"response_format", "text", "format", "output_config"}


def test_every_route_that_takes_tools_and_a_schema_is_asked() -> None:
    both = {
        name
        for name, table in TABLES.items()
        if {"tools", "stream"} <= (fields := {row for row, how, _ in table.rows() if how == "honoured"})
        and fields & SCHEMA_FIELDS
    }
    assert both == BODIES.keys()


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with client_of(fake_service(tmp_path_factory.mktemp("home"), CALL)) as found:
        yield found


@pytest.fixture(scope="module")
def answerer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with client_of(fake_service(tmp_path_factory.mktemp("home"), ANSWER)) as found:
        yield found


def said(client: httpx.Client, route: str, stream: bool, **more: Any) -> tuple[str, list[tuple[str, Any]]]:
    """(text, calls) of the answer to a body."""
    body = {"model": "fake", **BODIES[route], "stream": stream, **more}
    reply = client.post(route.removeprefix("POST "), json=body)
    assert reply.status_code == 200, reply.text
    if not stream:
        return READ[route](reply.json())
    lines = reply.text.splitlines()
    data = [json.loads(x.removeprefix("data: ")) for x in lines if x[:1] == "{" or x.startswith("data: {")]
    return STREAMED[route](data)


def _chat(reply: Any) -> tuple[str, list[tuple[str, Any]]]:
    message = reply["choices"][0]["message"]
    calls = [x["function"] for x in message.get("tool_calls") or ()]
    return message["content"] or "", [(x["name"], json.loads(x["arguments"])) for x in calls]


def _chat_stream(chunks: Any) -> tuple[str, list[tuple[str, Any]]]:
    deltas = [x["choices"][0]["delta"] for x in chunks if x["choices"]]
    calls: dict[int, list[str]] = {}
    for call in (call for delta in deltas for call in delta.get("tool_calls", ())):
        found = calls.setdefault(call["index"], ["", ""])
        found[0] += call["function"].get("name") or ""
        found[1] += call["function"].get("arguments") or ""
    text = "".join(delta.get("content") or "" for delta in deltas)
    return text, [(name, json.loads(arguments)) for name, arguments in calls.values()]


def _responses(reply: Any) -> tuple[str, list[tuple[str, Any]]]:
    text = "".join(part["text"] for x in reply["output"] if x["type"] == "message" for part in x["content"])
    calls = [x for x in reply["output"] if x["type"] == "function_call"]
    return text, [(x["name"], json.loads(x["arguments"])) for x in calls]


def _responses_stream(events: Any) -> tuple[str, list[tuple[str, Any]]]:
    text, calls = _responses(events[-1]["response"])
    assert "".join(x["delta"] for x in events if x["type"] == "response.output_text.delta") == text
    return text, calls


def _ollama(reply: Any) -> tuple[str, list[tuple[str, Any]]]:
    return _ollama_stream([reply])


def _ollama_stream(lines: Any) -> tuple[str, list[tuple[str, Any]]]:
    calls = [call["function"] for x in lines for call in x["message"].get("tool_calls", ())]
    return "".join(x["message"]["content"] for x in lines), [(x["name"], x["arguments"]) for x in calls]


def _messages(reply: Any) -> tuple[str, list[tuple[str, Any]]]:
    text = "".join(x["text"] for x in reply["content"] if x["type"] == "text")
    return text, [(x["name"], x["input"]) for x in reply["content"] if x["type"] == "tool_use"]


def _messages_stream(events: Any) -> tuple[str, list[tuple[str, Any]]]:
    names = [x["content_block"]["name"] for x in events if x.get("content_block", {}).get("type") == "tool_use"]
    deltas = [x["delta"] for x in events if x["type"] == "content_block_delta"]
    arguments = "".join(x.get("partial_json", "") for x in deltas)
    text = "".join(x.get("text", "") for x in deltas)
    return text, [(name, json.loads(arguments)) for name in names]


READ = dict(zip(BODIES, (_chat, _responses, _ollama, _messages), strict=True))
STREAMED = dict(zip(BODIES, (_chat_stream, _responses_stream, _ollama_stream, _messages_stream), strict=True))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("route", BODIES)
def test_a_call_is_a_call(route: str, stream: bool, caller: httpx.Client) -> None:
    assert said(caller, route, stream) == ("", [("weather", {"city": "[weather()]"})])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("route", BODIES)
def test_an_answer_is_content(route: str, stream: bool, answerer: httpx.Client) -> None:
    assert said(answerer, route, stream) == (ANSWER, [])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("route", FORCED)
def test_a_forced_call_is_made(route: str, stream: bool, caller: httpx.Client) -> None:
    assert said(caller, route, stream, tool_choice=FORCED[route]) == ("", [("weather", {"city": "[weather()]"})])
