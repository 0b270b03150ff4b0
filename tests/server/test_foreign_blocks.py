"""What Anthropic's clients bring that is not known here: blocks and tools of any type refuse nothing, and are told."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import client_of, fake_service

from herd.server.anthropic.client_tools import FAMILIES, served
from herd.server.anthropic.foreign import without_foreign
from herd.server.app import ROUTES
from herd.server.limits import Limits

USER = {"role": "user", "content": "Hi"}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
VERSION = {"anthropic-version": "2023-06-01"}
PDF = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0x"}
SEARCH = {
    "type": "search_result",
    "title": "Oslo",
    "source": "https://a.example",
    "content": [TEXT := {"type": "text", "text": "Rain."}],
}
FOUND = {"type": "web_search_result", "url": "https://b.example", "title": "Snow", "encrypted_content": "c2VjcmV0"}
RAN = {"type": "code_execution_result", "stdout": "42\n", "stderr": "", "return_code": 0, "content": []}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with client_of(fake_service(tmp_path_factory.mktemp("home"), 'So: [weather(city="Oslo")]')) as found:
        yield found


def ask(client: httpx.Client, **body: Any) -> httpx.Response:
    return client.post("/v1/messages", json={"model": "fake", "max_tokens": 60, "messages": [USER], **body})


def read(block: Any, role: str = "user") -> tuple[list[Any], str]:
    """What becomes of a block, and what is told."""
    body, notes = without_foreign({"messages": [{"role": role, "content": [block]}]})
    return body["messages"][0]["content"], "; ".join(notes)


@pytest.mark.parametrize(
    ("block", "role", "text", "note"),
    [
        (SEARCH, "user", "Oslo\nhttps://a.example\nRain.", "blocks read as text: search_result"),
        (
            {"type": "web_search_tool_result", "tool_use_id": "a", "content": [FOUND]},
            "assistant",
            "https://b.example\nSnow",
            "blocks read as text: web_search_tool_result",
        ),
        (
            {"type": "code_execution_tool_result", "tool_use_id": "a", "content": RAN},
            "assistant",
            "42\n",
            "blocks read as text: code_execution_tool_result",
        ),
        ({"type": "server_tool_use", "input": {"query": "c"}}, "assistant", None, "blocks left out: server_tool_use"),
        ({"type": "container_upload", "file_id": "a"}, "assistant", None, "blocks left out: container_upload"),
        (
            {"type": "container_upload", "file_id": "a"},
            "user",
            "[container_upload: this cannot be read here]",
            "blocks left out: container_upload",
        ),
        (
            {"type": "document", "source": PDF},
            "user",
            "[document (application/pdf): this cannot be read here]",
            "blocks left out: document (application/pdf)",
        ),
        (
            {"type": "document", "title": "a", "source": {"type": "content", "content": [TEXT]}},
            "user",
            "a\nRain.",
            "blocks read as text: document",
        ),
        (
            {"type": "image", "source": {"type": "file", "file_id": "a"}},
            "user",
            "[image (file): this cannot be read here]",
            "blocks left out: image (file)",
        ),
        ({"type": "next;\r\n,\u00e9 year"}, "assistant", None, "blocks left out: next year"),
    ],
)  # fmt: skip
def test_a_block_is_read_as_its_text_or_left_out_and_told(block: Any, role: str, text: str | None, note: str) -> None:
    found, told = read(block, role)
    assert found == ([] if text is None else [{"type": "text", "text": text}])
    assert told == note
    inside, told = read({"type": "tool_result", "tool_use_id": "x", "content": [block, TEXT]})
    assert inside[0]["content"][-1] == TEXT and all(one["type"] == "text" for one in inside[0]["content"])
    assert told == note, "in a tool's result, too"


def test_what_is_known_or_broken_stays_as_it_is() -> None:
    blocks = [
        TEXT, {"type": "image", "source": {"type": "url", "url": "https://a.example"}}, {"type": "image", "source": 3},
        {"type": "document", "source": {"type": "text", "data": "a"}}, {"type": 3}, {}, None, 5, "a", {"type": "text"},
    ]  # fmt: skip
    body = {"messages": [{"role": "user", "content": blocks}, USER, 7, {}], "system": [TEXT], "tools": [None, {}, 3]}
    assert without_foreign(body) == (body, ())
    assert without_foreign({"messages": 3, "tools": "x", "system": None})[1] == ()


@pytest.mark.parametrize("stream", [False, True])
def test_a_dialog_with_foreign_blocks_and_tools_goes_on(client: httpx.Client, stream: bool) -> None:
    assistant = [{"type": "server_tool_use", "id": "a", "name": "web_search", "input": {}}, TEXT]
    result = {
        "type": "tool_result",
        "tool_use_id": "t",
        "content": [SEARCH, {"type": "tool_reference", "tool_name": "x"}],
    }
    dialog = [
        USER,
        {"role": "assistant", "content": assistant},
        {"role": "user", "content": [{"type": "document", "source": PDF}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "weather", "input": None}]},
        {"role": "user", "content": [result]},
    ]
    tools = [{"name": "weather", "input_schema": CITY}, {"type": "web_search_20250305", "name": "web_search"}]
    body = {
        "messages": dialog,
        "tools": tools,
        "mcp_servers": [{"type": "url", "url": "x", "name": "y"}],
        "container": "c",
    }
    reply = ask(client, **body, stream=stream)
    assert reply.status_code == 200, reply.text
    notes = (
        "blocks read as text: search_result, tool_reference",
        "blocks left out: server_tool_use, document (application/pdf)",
        "tools left out: web_search_20250305",
    )
    assert reply.headers["x-herd-note"] == "; ".join(notes)
    assert {"mcp_servers", "container"} <= set(reply.headers["x-herd-ignored"].split(", "))
    counted = client.post("/v1/messages/count_tokens", json={"model": "fake", **body})
    assert counted.json()["input_tokens"] > 0 and counted.headers["x-herd-note"] == reply.headers["x-herd-note"]
    if not stream:
        usage = reply.json()["usage"]
        assert counted.json()["input_tokens"] == usage["input_tokens"] + usage["cache_read_input_tokens"]


def test_strict_refuses_what_would_be_left_out(tmp_path: Path) -> None:
    with client_of(fake_service(tmp_path, strict=True)) as client:
        for more in ({"tools": [{"type": "x_20990101"}]}, {"messages": [{"role": "user", "content": [SEARCH]}]}):
            refused = ask(client, **more)
            assert refused.status_code == 400 and ("x_20990101" in refused.text or "search_result" in refused.text)


# -- tools that clients run --------------------------------------------------------------------------------------------

NAMES = {
    "bash_20241022": "bash", "bash_20250124": "bash", "memory_20250818": "memory",
    "text_editor_20241022": "str_replace_editor", "text_editor_20250124": "str_replace_editor",
    "text_editor_20250429": "str_replace_based_edit_tool", "text_editor_20250728": "str_replace_based_edit_tool",
    "text_editor_20990101": "str_replace_based_edit_tool",
}  # fmt: skip
CALLS = {
    "bash": [{"command": "ls"}, {"command": "", "restart": True}],
    "text_editor": [
        {"command": "view", "path": "/a", "view_range": [1, -1]},
        {"command": "create", "path": "/a", "file_text": "b"},
        {"command": "str_replace", "path": "/a", "old_str": "b", "new_str": "c"},
    ],
    "memory": [
        {"command": "view", "path": "/memories"},
        {"command": "create", "path": "/memories/a", "file_text": "b"},
        {"command": "str_replace", "path": "/memories/a", "old_str": "b", "new_str": "c"},
        {"command": "insert", "path": "/memories/a", "insert_line": 0, "insert_text": "b"},
        {"command": "delete", "path": "/memories/a"},
        {"command": "rename", "old_path": "/memories/a", "new_path": "/memories/b"},
    ],
}
"""Inputs as the clients that run these tools take them."""


@pytest.mark.parametrize("kind", NAMES)
def test_a_clients_tool_is_a_function_with_the_parameters_that_it_takes(kind: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    tool = served({"type": kind, "cache_control": {"type": "ephemeral"}, "name": None})
    assert tool is not None and tool["name"] == NAMES[kind] and tool["cache_control"]
    family, _, version = kind.rpartition("_")
    inserted = "new_str" if version < "20250728" and family == "text_editor" else "insert_text"
    insert = {"command": "insert", "path": "/memories/a", "insert_line": 0, inserted: "b"}
    undo = {"command": "undo_edit", "path": "/a"}
    closed = {**tool["input_schema"], "additionalProperties": False}
    for call in [*CALLS[family], *([insert] if family != "bash" else [])]:
        jsonschema.validate(call, closed)
    can_undo = family == "text_editor" and version <= "20250124"
    assert jsonschema.Draft202012Validator(closed).is_valid(undo) == can_undo
    assert {k: v for k, v in served({"type": kind, "name": "mine"}).items() if k == "name"} == {"name": "mine"}


def test_every_family_is_tried_and_nothing_else_is_one() -> None:
    assert {kind.rpartition("_")[0] for kind in NAMES} == set(FAMILIES) == set(CALLS)
    for kind in (
        "bash",
        "bash_",
        "bash_2025",
        "bash_2025012x",
        "web_search_20250305",
        "text_editor_code_execution",
        3,
        None,
    ):
        assert served({"type": kind, "name": "a"}) is None


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("call", ['bash(command="ls")', 'memory(command="view", path="/memories")'])
def test_a_clients_tool_is_called_like_any_other(call: str, stream: bool, tmp_path: Path) -> None:
    tools = [{"type": "bash_20250124", "name": "bash"}, {"type": "memory_20250818", "name": "memory"}]
    with client_of(fake_service(tmp_path, f"[{call}]")) as client:
        reply = ask(client, tools=tools, stream=stream)
        assert reply.status_code == 200 and "x-herd-note" not in reply.headers, reply.text
        name = call.partition("(")[0]
        if stream:
            assert f'"name":"{name}"' in reply.text and '"stop_reason":"tool_use"' in reply.text
        else:
            assert [b["name"] for b in reply.json()["content"] if b["type"] == "tool_use"] == [name]


def test_names_of_tools_have_128_characters_and_there_may_be_many(client: httpx.Client) -> None:
    tool = {"name": "t" * 128, "input_schema": {"type": "object"}}
    assert ask(client, tools=[tool]).status_code == 200
    assert ask(client, tools=[{**tool, "name": "t" * 129}]).status_code == 400
    many = ask(client, tools=[{**tool, "name": f"t{i}"} for i in range(Limits().tools)])
    assert "prompt is too long" in many.text, "not too many: here a byte is a token"
    assert "tools: got" in ask(client, tools=[{**tool, "name": f"t{i}"} for i in range(Limits().tools + 1)]).text


# -- forms of replies --------------------------------------------------------------------------------------------------


def nulls(value: Any, path: str = "") -> Iterator[str]:
    """Where null stands, but for the input of a call, which is the model's own."""
    if value is None:
        yield path
    elif isinstance(value, dict):
        for name, member in value.items():
            if name != "input":
                yield from nulls(member, f"{path}.{name}")
    elif isinstance(value, list):
        for member in value:
            yield from nulls(member, f"{path}[]")


def replies(client: httpx.Client) -> Iterator[tuple[str, httpx.Response]]:
    """One of each kind that an Anthropic client can get, by its path."""
    tools = [{"name": "weather", "input_schema": CITY}]
    for more in (
        {},
        {"tools": tools},
        {"max_tokens": 2},
        {"stop_sequences": ["o"]},
        {"model": "none"},
        {"max_tokens": "x"},
    ):
        for stream in (False, True):
            yield "/v1/messages", ask(client, **{"stream": stream, **more})
    for more in ({}, {"model": "none"}):
        body = {"model": "fake", "messages": [USER], **more}
        yield "/v1/messages/count_tokens", client.post("/v1/messages/count_tokens", json=body)
    for path in ("/v1/models", "/v1/models/fake", "/v1/models/none", "/v1/models?limit=0", "/v1/files"):
        yield path.partition("?")[0].replace("/fake", "/{model:path}"), client.get(path, headers=VERSION)


def test_nothing_that_is_null_is_sent_and_every_reply_has_an_id(client: httpx.Client) -> None:
    asked = set()
    for path, reply in replies(client):
        asked.add(path)
        objects = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: ")] or [
            reply.json()
        ]
        assert [*nulls(objects)] == [], (path, reply.text)
        assert reply.headers["request-id"].startswith("req_")
        if reply.status_code >= 400:
            assert reply.json()["type"] == "error"
            assert reply.json()["request_id"] == reply.headers["request-id"]
    assert asked >= {route.path for route in ROUTES if route.dialect == "anthropic" or "/v1/models" in route.path}


def test_models_are_told_in_anthropics_form_to_its_clients_alone(client: httpx.Client) -> None:
    assert client.get("/v1/models").json()["object"] == "list"
    assert client.get("/v1/models/fake").json()["object"] == "model"
    page = client.get("/v1/models", headers=VERSION).json()
    assert [one["id"] for one in page["data"]] == ["fake", "other"]
    assert (page["has_more"], page["first_id"], page["last_id"]) == (False, "fake", "other")
    one = page["data"][0]
    assert (one["type"], one["display_name"], one["created_at"][-1]) == ("model", "fake", "Z")
    assert one["max_input_tokens"] > 0 and one["capabilities"]["structured_outputs"]["supported"]
    assert client.get("/v1/models/fake", headers=VERSION).json() == one


@pytest.mark.parametrize(
    ("query", "names", "more"),
    [
        ("limit=2", "ab", True),
        ("limit=2&after_id=b", "cd", True),
        ("limit=2&after_id=d", "e", False),
        ("after_id=e", "", False),
        ("limit=2&before_id=d", "bc", True),
        ("limit=9&before_id=c", "ab", False),
        ("limit=1000", "abcde", False),
    ],
)
def test_models_come_in_pages(query: str, names: str, more: bool, tmp_path: Path) -> None:
    with client_of(fake_service(tmp_path, names=tuple("abcde"))) as client:
        page = client.get(f"/v1/models?{query}", headers=VERSION).json()
        assert ("".join(one["id"] for one in page["data"]), page["has_more"]) == (names, more)
        for wrong in ("limit=0", "limit=1001", "limit=x", "after_id=z", "before_id=", "limit=-1"):
            assert client.get(f"/v1/models?{wrong}", headers=VERSION).status_code == 400, wrong
