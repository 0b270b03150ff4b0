"""docs/safety.md's tables of places: every way in and out, under every policy, asked of the whole application.

The tables are the list of what is tested: a row or a way that no request here can be made for fails.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from serving import BYTES, END, client_of, fake_llm, fake_service

from herd.llm import LLM
from herd.server.app import ROUTES
from herd.server.run import policies_of
from herd.text.chat import Llama4

DOCS = Path(__file__).parents[2] / "docs" / "safety.md"
MAIL = "jane.doe@mail.example.org"
KEY = "sk-" + "a1B2c3D4e5F6g7H8i9J0k1L2"
BOTH = f"mail {MAIL} and key {KEY} so"
START = "tell me more"
MODES = ("observe", "redact", "block")


class Row(NamedTuple):
    """A row of a table, for one way."""

    place: str
    way: str
    told: str
    redact: str


def rows(title: str) -> list[Row]:
    """The table after a line, a row a way."""
    table = DOCS.read_text().split(title)[1].split("\n\n")[1]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return [Row(place, way, told, redact) for place, ways, told, redact in cells for way in ways.split(", ")]


IN, OUT = rows("In, and what is told of it"), rows("\nOut:")


# -- requests, by what is planted where --------------------------------------------------------------------------------


class Turn(NamedTuple):
    """A turn of a dialog in no dialect."""

    role: str
    texts: tuple[str, ...] = ()
    call: dict[str, Any] | None = None
    name: str | None = None
    document: tuple[str, str] | None = None


def tool(**more: Any) -> dict[str, Any]:
    return {"name": "send", "description": "sends", "parameters": {"type": "object", "properties": {}}, **more}


def parameter(name: str = "to", **more: Any) -> dict[str, Any]:
    return tool(parameters={"type": "object", "properties": {name: {"type": "string", **more}}})


USER = Turn("user", ("go on",))
PLACES: dict[str, tuple[list[Turn], list[dict[str, Any]]]] = {
    "text of a user": ([Turn("user", (BOTH,))], []),
    "text over two parts of a turn": ([Turn("user", (f"it is {KEY[:9]}", f"{KEY[9:]} so"))], []),
    "text over two turns": ([Turn("user", (f"it is {KEY[:9]}",)), Turn("user", (f"{KEY[9:]} so",))], []),
    "text of a document": ([Turn("user", ("read",), document=("title", BOTH))], []),
    "title of a document": ([Turn("user", ("read",), document=(BOTH, "text"))], []),
    "name of a turn": ([Turn("user", ("hi",), name=KEY)], []),
    "text of an earlier answer": ([USER, Turn("assistant", (BOTH,)), USER], []),
    "argument of an earlier call": ([USER, Turn("assistant", (), {"a": [BOTH]}), Turn("tool", ("ok",)), USER], []),
    "name in an earlier call's arguments": (
        [USER, Turn("assistant", (), {BOTH: 1}), Turn("tool", ("ok",)), USER],
        [],
    ),
    "result of a tool": ([USER, Turn("assistant", (), {"a": 1}), Turn("tool", (BOTH,)), USER], []),
    "description of a tool": ([USER], [tool(description=BOTH)]),
    "description of a parameter": ([USER], [parameter(description=BOTH)]),
    "default of a parameter": ([USER], [parameter(default=BOTH)]),
    "value that a parameter may have": ([USER], [parameter(enum=["x", BOTH])]),
    "name of a parameter": ([USER], [parameter(BOTH)]),
    "name of a tool": ([USER], [tool(name=KEY)]),
    "items of a stored response": ([Turn("user", (BOTH,))], []),
    "text of the system": ([Turn("system", (BOTH,)), USER], []),
}


def chat(turns: list[Turn], tools: list[dict[str, Any]]) -> dict[str, Any]:
    said = []
    for turn in turns:
        parts = [{"type": "text", "text": text} for text in turn.texts]
        one: dict[str, Any] = {
            "role": turn.role,
            "content": parts if len(parts) > 1 else turn.texts[0] if parts else None,
        }
        if turn.call is not None:
            function = {"name": "send", "arguments": json.dumps(turn.call)}
            one["tool_calls"] = [{"id": "c", "type": "function", "function": function}]
        if turn.role == "tool":
            one["tool_call_id"] = "c"
        if turn.name is not None:
            one["name"] = turn.name
        said.append(one)
    return {"messages": said, **({"tools": [{"type": "function", "function": t} for t in tools]} if tools else {})}


def ollama(turns: list[Turn], tools: list[dict[str, Any]]) -> dict[str, Any]:
    asked = chat(turns, tools)
    for turn in asked["messages"]:
        for call in turn.get("tool_calls", ()):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return {**asked, "stream": False}


def responses(turns: list[Turn], tools: list[dict[str, Any]]) -> dict[str, Any]:
    items: list[dict[str, Any]] = []
    for turn in turns:
        if turn.call is not None:
            items.append({"type": "function_call", "call_id": "c", "name": "send", "arguments": json.dumps(turn.call)})
        elif turn.role == "tool":
            items.append({"type": "function_call_output", "call_id": "c", "output": turn.texts[0]})
        else:
            kind = "output_text" if turn.role == "assistant" else "input_text"
            items.append({"role": turn.role, "content": [{"type": kind, "text": text} for text in turn.texts]})
    return {"input": items, **({"tools": [{"type": "function", **t} for t in tools]} if tools else {})}


def messages(turns: list[Turn], tools: list[dict[str, Any]]) -> dict[str, Any]:
    said: list[dict[str, Any]] = []
    for turn in turns:
        blocks: list[dict[str, Any]] = [{"type": "text", "text": text} for text in turn.texts]
        if turn.call is not None:
            blocks.append({"type": "tool_use", "id": "c", "name": "send", "input": turn.call})
        if turn.role == "tool":
            blocks = [{"type": "tool_result", "tool_use_id": "c", "content": blocks}]
        if turn.document is not None:
            title, text = turn.document
            blocks.append({"type": "document", "source": {"type": "text", "data": text}, "title": title})
        said.append({"role": "user" if turn.role == "tool" else turn.role, "content": blocks})
    found = [{"name": t["name"], "description": t["description"], "input_schema": t["parameters"]} for t in tools]
    return {"messages": said, "max_tokens": 400, **({"tools": found} if found else {})}


DIALECTS: dict[str, tuple[str, Callable[[list[Turn], list[dict[str, Any]]], dict[str, Any]]]] = {
    "chat": ("/v1/chat/completions", chat),
    "responses": ("/v1/responses", responses),
    "messages": ("/v1/messages", messages),
    "ollama": ("/api/chat", ollama),
}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": [BOTH]}}}
STRUCTURED = {**chat([USER], []), "response_format": SCHEMA, "max_tokens": 3}
TAGGED = {**responses([USER], []), "metadata": {"a": BOTH}, "user": BOTH}
LIKELY = {"prompt": BOTH, "echo": True, "logprobs": 1}
ALONE = ("text to embed", "prompt scored without an answer")
"""What is blocked there is an error: there is no answer to stand for it."""
RAW = {"prompt": BOTH, "options": {"num_predict": 3}}
OTHERS: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {
    ("text of a user", "generate"): ("/api/generate", {"prompt": BOTH, "stream": False}),
    ("text of the system", "generate"): ("/api/generate", {"prompt": "hi", "system": BOTH, "stream": False}),
    ("prompt as text", "completions"): ("/v1/completions", {"prompt": BOTH}),
    ("prompt as text", "raw"): ("/api/generate", {**RAW, "raw": True, "stream": False}),
    ("prompt as ids", "completions"): ("/v1/completions", {"prompt": BYTES.encode(BOTH)}),
    ("prompt asked back", "completions"): ("/v1/completions", {"prompt": BOTH, "echo": True}),
    ("prompt asked back with log-probabilities", "completions"): ("/v1/completions", LIKELY),
    ("prompt scored without an answer", "completions"): ("/v1/completions", {**LIKELY, "max_tokens": 0}),
    ("text to embed", "embeddings"): ("/v1/embeddings", {"input": ["x", BOTH]}),
    ("text to embed", "embed"): ("/api/embed", {"input": BOTH}),
    ("text to embed", "ollama embeddings"): ("/api/embeddings", {"prompt": BOTH}),
    ("text to judge", "moderations"): ("/v1/moderations", {"input": BOTH}),
    ("text to count", "tokenize"): ("/tokenize", {"prompt": BOTH}),
    ("text to count", "count_tokens"): ("/v1/messages/count_tokens", messages([Turn("user", (BOTH,))], [])),
    ("text to count", "input_tokens"): ("/v1/responses/input_tokens", {"input": BOTH}),
    ("schema of the answer", "chat"): ("/v1/chat/completions", STRUCTURED),
    ("stop string", "chat"): ("/v1/chat/completions", {**chat([USER], []), "stop": [MAIL, KEY]}),
    ("metadata and users", "chat"): ("/v1/chat/completions", {**chat([USER], []), "user": BOTH}),
    ("metadata and users", "responses"): ("/v1/responses", TAGGED),
    ("metadata and users", "messages"): ("/v1/messages", {**messages([USER], []), "metadata": {"user_id": BOTH}}),
}  # fmt: skip


def request_of(row: Row) -> tuple[str, dict[str, Any]]:
    """Route and body of what a row says."""
    if (row.place, row.way) in OTHERS:
        return OTHERS[row.place, row.way]
    path, made = DIALECTS[row.way]
    return path, made(*PLACES[row.place])


# -- the application ---------------------------------------------------------------------------------------------------


class App(NamedTuple):
    """A service with one policy, and what its model has read."""

    mode: str
    client: httpx.Client
    models: list[LLM]

    def ask(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return self.client.post(path, json={"model": "fake", **body})

    def read(self) -> str:
        """All that the model was given so far."""
        passes = [piece for llm in self.models for some in llm._running().runner.passes for piece in some]
        return bytes(i for ids in passes for i in ids if i < 256).decode("utf-8", "replace")


def speaker(answer: str) -> Callable[[list[int]], int]:
    """Says it after the open header of an answer, or after the words of a prompt without a chat format."""
    ends, said = (Llama4(BYTES)._open(), BYTES.encode(START)), [*answer.encode(), END]

    def next_id(ids: list[int]) -> int:
        found = [i + len(end) for end in ends for i in range(len(ids)) if ids[i : i + len(end)] == end]
        return said[min(len(ids) - max(found, default=len(ids)), len(said) - 1)]

    return next_id


def apps(folder: Path, answer: str) -> Iterator[dict[str, App]]:
    with contextlib.ExitStack() as stack:
        found = {}
        for mode in MODES:
            models: list[LLM] = []

            def load(path: str, models: list[LLM] = models) -> LLM:
                models.append(fake_llm(speaker(answer), "fake"))
                return models[-1]

            (folder / mode).mkdir()
            service = fake_service(folder / mode, load=load)
            service.policies = policies_of(mode, None)
            found[mode] = App(mode, stack.enter_context(client_of(service)), models)
        yield found


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, App]]:
    yield from apps(tmp_path_factory.mktemp("in"), "Fine.")


def notes_in(value: Any) -> list[dict[str, Any]]:
    """All notes of a reply, wherever its dialect has them."""
    if isinstance(value, dict):
        own = value.get("policy")
        return [*(own if isinstance(own, list) else ()), *(n for v in value.values() for n in notes_in(v))]
    return [note for element in value for note in notes_in(element)] if isinstance(value, list) else []


def decided(row: Row, mode: str) -> str:
    return row.redact.replace("mark", "redact") if mode == "redact" else mode


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("row", [row for row in IN if row.redact != "-"], ids=lambda r: f"{r.place}, {r.way}")
def test_what_comes_in_is_noted_marked_or_blocked(row: Row, mode: str, asked: dict[str, App]) -> None:
    app, decision = asked[mode], decided(row, mode)
    path, body = request_of(row)
    if row.place == "items of a stored response":
        first = app.ask(path, body)
        path, body = "/v1/responses", {"input": "and?", "previous_response_id": first.json()["id"]}
    reply = app.ask(path, body)
    notes = notes_in(reply.json())
    if decision == "block" and row.place in ALONE:
        assert (reply.status_code, "content_filter" in reply.text or path.startswith("/api")) == (400, True)
        notes = [{"decision": "block", "where": "input", "place": "text"}]
    else:
        assert reply.status_code == 200, reply.text
    assert {(n["decision"], f"{n['where']} {n['place']}") for n in notes} == {(decision, row.told)}
    refused = "stopped by a safety policy" in reply.text or '"flagged":true' in reply.text
    assert refused is (decision == "block")
    if mode != "observe":
        assert MAIL not in app.read() and KEY not in app.read()
        assert row.way == "responses" or (MAIL not in reply.text and KEY not in reply.text)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("row", [row for row in IN if row.redact == "-"], ids=lambda r: f"{r.place}, {r.way}")
def test_what_is_not_looked_at_by_design_is_not_noted(row: Row, mode: str, asked: dict[str, App]) -> None:
    reply = asked[mode].ask(*request_of(row))
    assert reply.status_code == 200 and row.told.startswith("nothing: ")
    assert [n for n in notes_in(reply.json()) if n["where"] != "output"] == []


# -- what goes out -----------------------------------------------------------------------------------------------------


def call(**arguments: Any) -> str:
    return json.dumps({"name": "send", "parameters": arguments})


SAID = {
    "text": (f"It is {BOTH}.", False),
    "argument of a call": (call(to=[BOTH]), True),
    "name in a call's arguments": (call(**{BOTH: 1}), True),
    "half in text, half in a call": (f"It is {KEY[:9]}{call(to=KEY[9:])}", True),
    "answer that follows a schema": (json.dumps({"to": BOTH}), False),
    "stop string": (f"It is {MAIL} and more", False),
}
FORMS = {
    "chat": {"response_format": {"type": "json_object"}},
    "responses": {"text": {"format": {"type": "json_object"}}},
    "ollama": {"format": "json"},
}
SHOWN = ("content", "text", "delta", "arguments", "partial_json", "response", "name", "input", "stop_sequence", "to")


def strings(value: Any, key: str = "") -> Iterator[str]:
    """Texts of a reply that its reader is shown, in order; names in arguments as well."""
    if isinstance(value, dict):
        for name, member in value.items():
            yield from (name,) if KEY in name else ()
            yield from strings(member, name)
    elif isinstance(value, list):
        for element in value:
            yield from strings(element, key)
    elif isinstance(value, str) and key in SHOWN:
        yield value


def shown_of(reply: httpx.Response) -> str:
    lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if re.match(r"(data: )?\{", line)]
    return "".join(text for line in lines for text in strings(json.loads(line)))


@pytest.fixture(scope="module", params=sorted({row.place for row in OUT}))
def speaking(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Any]]:
    for found in apps(tmp_path_factory.mktemp("out"), SAID[request.param][0]):
        yield request.param, found


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_what_goes_out_is_noted_marked_or_blocked(
    mode: str, stream: bool, speaking: tuple[str, dict[str, App]]
) -> None:
    place, found = speaking
    for row in (row for row in OUT if row.place == place):
        path, body = answer_to(row)
        reply = found[mode].ask(path, {**body, "stream": stream})
        assert reply.status_code == 200, (row, reply.text)
        lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if re.match(r"(data: )?\{", line)]
        notes = [note for line in lines for note in notes_in(json.loads(line))]
        decision = decided(row, mode)
        assert {(n["decision"], f"{n['where']} {n['place']}") for n in notes} == {(decision, row.told)}, row
        assert ("stopped by a safety policy" in shown_of(reply)) is (decision == "block"), (row, reply.text)
        if mode != "observe":
            assert KEY not in shown_of(reply) and MAIL not in shown_of(reply), row
            assert KEY not in reply.text and MAIL not in reply.text, row
        elif place != "half in text, half in a call":
            assert MAIL in shown_of(reply), (row, reply.text)


def answer_to(row: Row) -> tuple[str, dict[str, Any]]:
    """A request whose answer says what a row is about."""
    if row.way == "generate":
        return "/api/generate", {"prompt": "go on"}
    if row.way == "completions":
        return "/v1/completions", {"prompt": START, "max_tokens": 400}
    path, made = DIALECTS[row.way]
    body = made([USER], [tool()] if SAID[row.place][1] else [])
    if row.place == "answer that follows a schema":
        body |= FORMS[row.way]
    if row.place == "stop string":
        body |= {"stop_sequences": [MAIL]}
    return path, body


def test_every_route_that_takes_text_for_a_model_has_a_row() -> None:
    asked = {request_of(row)[0] for row in IN} | {"/detokenize", "/v1/responses/{id}/cancel"}  # ids, and nothing
    asked |= {"/v1/files", "/v1/batches", "/v1/batches/{id}/cancel"}  # lines of a batch are requests of these routes
    assert {r.path for r in ROUTES if r.method == "POST" and r.right in ("chat", "embed")} == asked
    assert len(IN) > 60 and len(OUT) > 20
