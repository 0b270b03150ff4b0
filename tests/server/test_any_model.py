"""A service over models that are no LLM: every route answers well or says in one line what the model cannot do.

The routes are those of `herd.server.app.ROUTES`, what a model may be able to do the fields of Capabilities.
"""

import asyncio
import base64
import contextlib
import io
import json
import re
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from PIL import Image
from serving import client_of, running, service_of

from fake_chat_model import ALL, CONTROL, CONTROL_ID, DoesAll, OnlyChats, ids_of, said, words
from helpers import PATIENCE_S, until
from herd.backends.route import Route as BackendRoute
from herd.chat_model import CANNOT, Capabilities, ChatModel, ChatStream, Turns, only
from herd.errors import NetworkError, NotFound, Unsupported, UsageError
from herd.event_stream import EventStream
from herd.events import Event, TextEvent
from herd.server.app import ROUTES
from herd.server.catalogue import RegisteredModel, StoreCatalogue
from herd.server.keys import RIGHTS, Key, digest_of
from herd.server.log import Log
from herd.server.routes import Route

DOCS = Path(__file__).parents[2] / "docs" / "serve.md"
TURNS = [{"role": "user", "content": "Hi"}]
BEGUN = [*TURNS, {"role": "assistant", "content": "He"}]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
KEY = "sk-" + "a1B2c3D4e5F6g7H8i9J0k1L2"
MAIL = "jane.doe@mail.example.org"


def png() -> str:
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


@pytest.fixture(autouse=True)
def _empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERD_HOME", str(tmp_path))


@pytest.fixture
def client() -> Iterator[Callable[..., httpx.Client]]:
    """A client of a service over models."""
    with contextlib.ExitStack() as stack:
        yield lambda *models, **how: stack.enter_context(client_of(service_of(*models, **how)))


class Shared(NamedTuple):
    """One service for many tests; each lets it know models of its own."""

    client: httpx.Client
    catalogue: StoreCatalogue


@pytest.fixture(scope="module")
def shared() -> Iterator[Shared]:
    service = service_of(OnlyChats(), DoesAll(name="duck"))
    assert isinstance(service.models.catalogue, StoreCatalogue)
    with client_of(service) as found:
        yield Shared(found, service.models.catalogue)


# -- every route -------------------------------------------------------------------------------------------------------

CHAT = {"model": "fake", "messages": TURNS}
ASKED: dict[str, tuple[dict[str, Any] | None, int]] = {
    "GET /health": (None, 200),
    "GET /ready": (None, 200),
    "GET /metrics": (None, 200),
    "GET /openapi.json": (None, 200),
    "POST /tokenize": ({"model": "fake", "prompt": "Hi"}, 501),
    "POST /detokenize": ({"model": "fake", "tokens": ids_of("Hi")}, 501),
    "POST /v1/chat/completions": (CHAT, 200),
    "POST /v1/completions": ({"model": "fake", "prompt": "Hi"}, 501),
    "POST /v1/embeddings": ({"model": "fake", "input": "Hi"}, 501),
    "POST /v1/moderations": ({"input": "Hi"}, 200),
    "POST /v1/responses": ({"model": "fake", "input": "Hi"}, 200),
    "POST /v1/responses/input_tokens": ({"model": "fake", "input": "Hi"}, 501),
    "GET /v1/responses/{id}": (None, 404),
    "DELETE /v1/responses/{id}": (None, 404),
    "POST /v1/responses/{id}/cancel": (None, 404),
    "GET /v1/responses/{id}/input_items": (None, 404),
    "POST /v1/files": (None, 501),
    "GET /v1/files": (None, 501),
    "GET /v1/files/{id}": (None, 501),
    "DELETE /v1/files/{id}": (None, 501),
    "GET /v1/files/{id}/content": (None, 501),
    "POST /v1/batches": ({"input_file_id": "file-x", "endpoint": "/v1/completions", "completion_window": "24h"}, 501),
    "GET /v1/batches": (None, 501),
    "GET /v1/batches/{id}": (None, 501),
    "POST /v1/batches/{id}/cancel": (None, 501),
    "GET /v1/models": (None, 200),
    "GET /v1/models/{model:path}": (None, 200),
    "POST /api/chat": ({**CHAT, "stream": False}, 200),
    "POST /api/generate": ({"model": "fake", "prompt": "Hi", "stream": False}, 200),
    "POST /api/embed": ({"model": "fake", "input": "Hi"}, 501),
    "POST /api/embeddings": ({"model": "fake", "prompt": "Hi"}, 501),
    "GET /api/tags": (None, 200),
    "POST /api/show": ({"model": "fake"}, 200),
    "GET /api/ps": (None, 200),
    "GET /api/version": (None, 200),
    "POST /api/copy": ({"source": "fake", "destination": "twin"}, 200),
    "POST /api/create": ({"model": "made", "from": "fake", "system": "Arr.", "stream": False}, 200),
    "DELETE /api/delete": ({"model": "fake"}, 400),
    "POST /api/pull": ({"model": "fake", "stream": False}, 200),
    "POST /api/push": ({"model": "fake"}, 501),
    "GET /api/blobs/{digest}": (None, 404),
    "POST /api/blobs/{digest}": (None, 501),
    "POST /v1/messages": ({**CHAT, "max_tokens": 9}, 200),
    "POST /v1/messages/count_tokens": (CHAT, 501),
}
"""A request of every route, and how a model that can only chat answers it."""
NEVER = {"POST /api/push", "POST /api/blobs/{digest}"} | {
    name for name in ASKED if "/v1/files" in name or "/v1/batches" in name
}
"""What no model can do anything about."""


def ask(client: httpx.Client, route: Route, model: str) -> httpx.Response:
    body, _ = ASKED[f"{route.method} {route.path}"]
    body = body and {name: model if value == "fake" else value for name, value in body.items()}
    path = route.path.replace("{model:path}", model).replace("{id}", "resp_none").replace("{digest}", "sha256:0")
    return client.request(route.method, path, json=body)


def line_of(reply: httpx.Response, route: Route) -> str:
    """The message of an error, in the form of its dialect."""
    error = reply.json()["error"]
    if route.dialect == "ollama":
        assert isinstance(error, str)
        return error
    assert reply.json().keys() == ({"error"} if route.dialect == "openai" else {"type", "error", "request_id"})
    found: str = error["message"]
    return found


def test_every_route_has_a_request_here() -> None:
    assert ASKED.keys() == {f"{route.method} {route.path}" for route in ROUTES}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_a_model_that_only_chats_answers_or_says_what_it_cannot_do(route: Route, shared: Shared) -> None:
    reply = ask(shared.client, route, "fake")
    assert reply.status_code == ASKED[f"{route.method} {route.path}"][1], reply.text
    if reply.status_code == 501:
        line = line_of(reply, route)
        assert "\n" not in line
        assert f"{route.method} {route.path}" in NEVER or line.startswith("fake cannot "), line
        assert reply.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_a_model_that_derives_from_nothing_can_do_everything(route: Route, shared: Shared) -> None:
    reply = ask(shared.client, route, "duck")
    wanted = ASKED[f"{route.method} {route.path}"][1]
    assert reply.status_code == (200 if wanted == 501 and f"{route.method} {route.path}" not in NEVER else wanted)


class House(NamedTuple):
    """A service over a model that writes down what it is asked, and two keys for it."""

    client: httpx.Client
    model: DoesAll


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    model = DoesAll()
    rights = frozenset(RIGHTS)
    keys = Key("in", digest_of("i" * 16), rights), Key("out", digest_of("o" * 16), rights | {"leave"})
    with client_of(service_of(model, keys=keys)) as found:
        yield House(found, model)


WORKING = {
    "POST /v1/chat/completions", "POST /v1/completions", "POST /v1/embeddings", "POST /v1/responses", "POST /api/chat",
    "POST /api/generate", "POST /api/embed", "POST /api/embeddings", "POST /v1/messages",
}  # fmt: skip
"""Routes that have a model do something, which may be somewhere else."""


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_tells_a_model_whether_its_request_may_leave_the_house(route: Route, house: House) -> None:
    works = f"{route.method} {route.path}" in WORKING
    for secret, may_leave in (("i" * 16, False), ("o" * 16, True)):
        house.model.asked.clear()
        house.client.headers["authorization"] = f"Bearer {secret}"
        ask(house.client, route, "fake")
        if route.path == "/v1/completions":
            scored = {"model": "fake", "prompt": "Hi there", "echo": True, "logprobs": 1, "max_tokens": 1}
            assert house.client.post(route.path, json=scored).status_code == 200
            assert len(house.model.asked) == 3
        assert bool(house.model.asked) == works
        assert [options.get("leave", False) for _, options in house.model.asked] == [may_leave] * len(house.model.asked)


# -- who answered ------------------------------------------------------------------------------------------------------


class Elsewhere(DoesAll):
    """Answers as a backend does."""

    def astream(self, messages: Turns, **options: Any) -> ChatStream:
        stream = super().astream(messages, **options)
        assert isinstance(stream, EventStream)
        stream.answered_by = "near"
        return stream


class Down(OnlyChats):
    """A backend that is not there."""

    def astream(self, messages: Turns, **options: Any) -> ChatStream:
        raise NetworkError("nobody is there")


ANSWERING = {
    "POST /v1/chat/completions", "POST /v1/completions", "POST /v1/responses", "POST /api/chat", "POST /api/generate",
    "POST /v1/messages",
}  # fmt: skip
"""Routes that answer, whatever the dialect; all others know of nobody who did."""


class Logged(NamedTuple):
    """A service over such a model, and what it logs."""

    client: httpx.Client
    lines: io.StringIO


@pytest.fixture(scope="module")
def logged() -> Iterator[Logged]:
    lines = io.StringIO()
    with client_of(service_of(Elsewhere(), log=Log("json", lines))) as found:
        yield Logged(found, lines)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_reply_says_who_answered(route: Route, streamed: bool, logged: Logged) -> None:
    """In a header before the first piece, in the body, and in the log."""
    body, _ = ASKED[f"{route.method} {route.path}"]
    body = {**body, "stream": streamed} if body and route.path not in ("/tokenize", "/detokenize") else body
    path = route.path.replace("{model:path}", "fake").replace("{id}", "resp_none").replace("{digest}", "sha256:0")
    reply = logged.client.request(route.method, path, json=body)
    answers = f"{route.method} {route.path}" in ANSWERING
    assert reply.headers.get("x-herd-answered-by") == ("near" if answers else None)
    assert ('"herd":{"answered_by":"near"}' in reply.text) == answers, reply.text
    if answers:
        mine = f'"id": "{reply.headers["x-request-id"]}"'
        until("no line of the log", lambda: mine in logged.lines.getvalue())
        (line,) = [one for one in logged.lines.getvalue().splitlines() if mine in one]
        assert json.loads(line)["answered_by"] == "near"
        assert reply.headers["content-type"].startswith(("text/event", "application/x-nd")) == streamed


@pytest.mark.parametrize("path", [one.removeprefix("POST ") for one in sorted(ANSWERING - {"POST /v1/completions"})])
def test_a_route_of_backends_says_which_one_answered(path: str, client: Callable[..., httpx.Client]) -> None:
    """Also where a policy looks at all of it."""
    for mode in ("off", "redact"):
        found = client(BackendRoute("fake", [Down(name="down"), OnlyChats(name="up")]), mode=mode)
        for streamed in (False, True):
            reply = found.post(path, json={**(ASKED[f"POST {path}"][0] or {}), "stream": streamed})
            assert (reply.status_code, reply.headers["x-herd-answered-by"]) == (200, "up")
            assert '"answered_by":"up"' in reply.text and reply.text.count('"up"') == 1


def test_a_response_in_the_background_says_it_once_it_is_there(client: Callable[..., httpx.Client]) -> None:
    found = client(Elsewhere())
    made = found.post("/v1/responses", json={"model": "fake", "input": "Hi", "background": True})
    assert "x-herd-answered-by" not in made.headers, "nobody has answered yet"
    path = f"/v1/responses/{made.json()['id']}"
    assert '"answered_by":"near"' in found.get(path, params={"stream": True}).text
    assert found.get(path).json()["herd"] == {"answered_by": "near"}


# -- what a model can do -----------------------------------------------------------------------------------------------

IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{png()}"}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
NEEDS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "completion": [
        ("/v1/completions", {"prompt": "Hi"}),
        ("/api/generate", {"prompt": "Hi", "raw": True, "stream": False}),
    ],
    "images": [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [IMAGE]}]}),
        ("/v1/responses", {"input": [{"role": "user", "content": [{**IMAGE["image_url"], "type": "input_image",  # type: ignore[dict-item]
                                                                   "image_url": IMAGE["image_url"]["url"]}]}]}),  # type: ignore[index]
        ("/api/chat", {"messages": [{"role": "user", "content": "", "images": [png()]}], "stream": False}),
        ("/api/generate", {"prompt": "Hi", "images": [png()], "stream": False}),
        ("/v1/messages", {"max_tokens": 9, "messages": [{"role": "user", "content": [
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": png()}}]}]}),
        ("/tokenize", {"messages": [{"role": "user", "content": [IMAGE]}]}),
    ],
    "tools": [
        ("/v1/chat/completions", {"messages": TURNS, "tools": [TOOL]}),
        ("/v1/responses", {"input": "Hi", "tools": [{"type": "function", **TOOL["function"]}]}),  # type: ignore[dict-item]
        ("/api/chat", {"messages": TURNS, "tools": [TOOL], "stream": False}),
        ("/v1/messages", {"max_tokens": 9, "messages": TURNS, "tools": [{"name": "weather", "input_schema": {}}]}),
    ],
    "begun": [
        ("/v1/chat/completions", {"messages": BEGUN, "continue_final_message": True}),
        ("/api/chat", {"messages": BEGUN, "stream": False}),
        ("/v1/messages", {"max_tokens": 9, "messages": BEGUN}),
        ("/v1/messages/count_tokens", {"messages": BEGUN}),
        ("/tokenize", {"messages": BEGUN, "continue_final_message": True}),
    ],
    "schemas": [
        ("/v1/chat/completions", {"messages": TURNS, "response_format": SCHEMA}),
        ("/v1/chat/completions", {"messages": TURNS, "response_format": {"type": "json_object"}}),
        ("/api/chat", {"messages": TURNS, "format": "json", "stream": False}),
    ],
    "logprobs": [
        ("/v1/chat/completions", {"messages": TURNS, "logprobs": True, "top_logprobs": 1}),
        ("/v1/completions", {"prompt": "Hi", "logprobs": 1}),
        ("/api/chat", {"messages": TURNS, "logprobs": True, "stream": False}),
    ],
    "ids": [
        ("/tokenize", {"prompt": "Hi"}),
        ("/detokenize", {"tokens": ids_of("Hi")}),
        ("/v1/completions", {"prompt": ids_of("Hi")}),
        ("/v1/chat/completions", {"messages": TURNS, "logit_bias": {"7": 1}}),
        ("/v1/chat/completions", {"messages": TURNS, "stop_token_ids": [7]}),
    ],
    "embeddings": [
        ("/v1/embeddings", {"input": "Hi"}),
        ("/api/embed", {"input": "Hi"}),
        ("/api/embeddings", {"prompt": "Hi"}),
    ],
    "template": [],  # without one, what it would be told is told to have no effect
    "scores": [],
}  # fmt: skip
"""Requests that need each capability, and no other but these."""
ALSO = {"/v1/completions": {"completion"}, "/tokenize": {"ids"}}


def test_every_capability_has_requests_that_need_it() -> None:
    assert NEEDS.keys() == CANNOT.keys() == Capabilities().to_dict().keys()


@pytest.mark.parametrize(
    ("capability", "path", "body"), [(name, *one) for name, found in NEEDS.items() for one in found]
)
def test_what_a_model_lacks_is_refused_by_name_and_with_that_alone_it_answers(
    capability: str, path: str, body: dict[str, Any], shared: Shared
) -> None:
    number = len(shared.catalogue.names())
    lacking = DoesAll(name=f"lacking{number}", capabilities=replace(ALL, **{capability: False}))
    needed = dict.fromkeys({capability, *ALSO.get(path, ())}, True)
    able = DoesAll(name=f"able{number}", capabilities=Capabilities(**needed))
    for model in (lacking, able):
        shared.catalogue.register(model.name, RegisteredModel(lambda model=model: model))  # type: ignore[misc]
    reply = shared.client.post(path, json={"model": lacking.name, **body})
    assert reply.status_code == (400 if capability == "images" else 501)
    assert f"{lacking.name} cannot {CANNOT[capability]}" in reply.text
    assert lacking.asked == [], "the model was not even asked"
    assert shared.client.post(path, json={"model": able.name, **body}).status_code == 200


def test_what_a_chat_template_is_told_reaches_a_model_that_has_one_and_is_told_to_have_no_effect_else(
    client: Callable[..., httpx.Client],
) -> None:
    body = {"messages": TURNS, "chat_template_kwargs": {"enable_thinking": False}}
    for stream in (False, True):
        able, lacking = DoesAll(), DoesAll(capabilities=replace(ALL, template=False))
        for model, told in ((able, None), (lacking, "chat_template_kwargs")):
            reply = client(model).post("/v1/chat/completions", json={"model": "fake", "stream": stream, **body})
            assert (reply.status_code, reply.headers.get("x-herd-ignored")) == (200, told)
        assert able.asked[0][1]["chat_template_kwargs"] == {"enable_thinking": False}
        assert "chat_template_kwargs" not in lacking.asked[0][1]


@pytest.mark.parametrize(("path", "body"), NEEDS["tools"])
def test_that_a_model_is_not_told_of_its_tools_is_said(path: str, body: dict[str, Any], shared: Shared) -> None:
    for told in (True, False):
        model = DoesAll(name=f"told{len(shared.catalogue.names())}", tells_tools=told)
        shared.catalogue.register(model.name, RegisteredModel(lambda model=model: model, added_s=1e9))  # type: ignore[misc]
        note = shared.client.post(path, json={"model": model.name, **body}).headers.get("x-herd-note")
        assert note == (None if told else "tools: the model's chat template leaves them out")


def test_a_strict_service_refuses_what_no_chat_template_is_told(client: Callable[..., httpx.Client]) -> None:
    body = {"model": "fake", "messages": TURNS, "chat_template_kwargs": {"enable_thinking": False}}
    lacking = DoesAll(capabilities=replace(ALL, template=False))
    reply = client(lacking, strict=True).post("/v1/chat/completions", json=body)
    assert reply.status_code == 400
    assert f"chat_template_kwargs: fake cannot {CANNOT['template']}" in reply.text
    assert lacking.asked == []


@pytest.mark.parametrize("mode", ["redact", "block"])
def test_a_policy_reads_what_a_chat_template_is_told(mode: str) -> None:
    """No mark may stand there, so that redact is block."""
    model = DoesAll()
    body = {"model": "fake", "messages": TURNS, "chat_template_kwargs": {"tone": MAIL, "n": 3}}
    with client_of(service_of(model, mode=mode)) as asked:
        reply = asked.post("/v1/chat/completions", json=body).json()
    assert reply["choices"][0]["finish_reason"] == "content_filter"
    assert model.asked == []


def test_what_models_can_do_stands_in_the_lists_in_each_dialect_s_words(client: Callable[..., httpx.Client]) -> None:
    asked = client(OnlyChats("a", "chats"), DoesAll("a", "all"))
    for name in ("chats", "all"):
        assert asked.post("/v1/chat/completions", json={"model": name, "messages": TURNS}).status_code == 200
    rows = {row["id"]: row for row in asked.get("/v1/models").json()["data"]}
    assert rows["chats"]["capabilities"] == Capabilities().to_dict()
    assert rows["all"]["capabilities"] == ALL.to_dict()
    assert rows["all"]["architecture"]["input_modalities"] == ["text", "image"]
    assert (rows["all"]["loaded"], rows["all"]["max_model_len"]) == (True, 1000)
    tags = {row["name"]: row["capabilities"] for row in asked.get("/api/tags").json()["models"]}
    assert tags == {"all:latest": ["completion", "tools", "embedding", "vision"], "chats:latest": ["completion"]}
    for name, words_ in tags.items():
        shown = asked.post("/api/show", json={"model": name}).json()
        assert shown["capabilities"] == words_
        assert shown["model_info"]["unknown.context_length"] == 1000


def test_a_class_that_defines_only_streams_says_what_it_cannot_do() -> None:
    model = OnlyChats()
    for call in (
        lambda: model.astream_complete("x"),
        lambda: model.tokenize("x"),
        lambda: model.detokenize([1]),
        lambda: model.count("x"),
        lambda: model.embed(["x"]),
        lambda: asyncio.run(model.aembed(["x"])),
        lambda: model.score([("x", "y")]),
        lambda: asyncio.run(model.ascore([("x", "y")])),
        lambda: model.embed_tokens(["x"]),
    ):
        with pytest.raises(Unsupported, match=r"^fake cannot "):
            call()
    assert asyncio.run(model.achat(TURNS)).text == "Hello there."


# -- answers -----------------------------------------------------------------------------------------------------------


def test_options_and_turns_reach_the_model_and_its_counts_come_back(client: Callable[..., httpx.Client]) -> None:
    model = DoesAll("one two three four", "fake")
    asked = {**CHAT, "max_tokens": 2, "n": 2, "temperature": 0.5, "seed": 3}
    found = client(model).post("/v1/chat/completions", json=asked).json()
    assert [choice["message"]["content"] for choice in found["choices"]] == ["one two", "one two"]
    assert [choice["finish_reason"] for choice in found["choices"]] == ["length", "length"]
    assert (found["usage"]["prompt_tokens"], found["usage"]["completion_tokens"]) == (1, 4)
    turns, options = model.asked[0]
    assert [(turn.role, turn.text) for turn in turns] == [("user", "Hi")]
    assert {name: options[name] for name in ("max_tokens", "n", "temperature", "seed")} == {
        "max_tokens": 2, "n": 2, "temperature": 0.5, "seed": 3,
    }  # fmt: skip


def test_texts_to_embed_are_the_key_s_that_sent_them(client: Callable[..., httpx.Client]) -> None:
    model = DoesAll()
    asked = client(model, keys=(Key("k", digest_of("s" * 20), priority=2),))
    found = asked.post("/v1/embeddings", json={"model": "fake", "input": "Hi"}, headers={"x-api-key": "s" * 20})
    assert found.json()["data"][0]["embedding"] == pytest.approx([0.6, 0.8])
    assert model.asked == [(["Hi"], {"client": "k/", "tenant": "k", "priority": 2})]


def test_streams_of_all_dialects_say_it_piece_by_piece(client: Callable[..., httpx.Client]) -> None:
    asked = client(OnlyChats("one two three"))
    chunks = asked.post("/v1/chat/completions", json={**CHAT, "stream": True}).text
    deltas = [json.loads(line[6:]) for line in chunks.split("\n\n") if line.startswith("data: {")]
    assert [d["choices"][0]["delta"].get("content") for d in deltas] == ["", "one", " two", " three", None]
    lines = [json.loads(line) for line in asked.post("/api/chat", json=CHAT).text.splitlines()]
    assert "".join(line["message"]["content"] for line in lines) == "one two three"
    assert lines[-1]["eval_count"] == 3
    events = asked.post("/v1/messages", json={**CHAT, "max_tokens": 9, "stream": True}).text
    assert '"text":" two"' in events
    assert "message_stop" in events
    assert "response.completed" in asked.post(
        "/v1/responses", json={"model": "fake", "input": "Hi", "stream": True}
    ).text  # fmt: skip


def test_ids_of_control_tokens_are_refused_as_the_model_names_them() -> None:
    key = Key("k", digest_of("s" * 20))
    with client_of(service_of(DoesAll(), keys=(key,))) as asked:
        body = {"model": "fake", "prompt": [5, CONTROL_ID]}
        reply = asked.post("/v1/completions", json=body, headers={"x-api-key": "s" * 20})
    assert reply.status_code == 403
    assert "the id 0 of a control token" in reply.text


class Breaks(OnlyChats):
    """Says so many words, then fails as a library does that knows no HerdError."""

    after = 0

    def astream(self, messages: Turns, **options: Any) -> ChatStream:
        async def events() -> AsyncGenerator[Event, None]:
            count = 0
            async for event in said("one two three", [], options):
                if count == self.after:
                    raise RuntimeError("the line went dead")
                count += 1
                yield event

        return EventStream(events())


def test_what_breaks_before_the_first_word_is_a_status_and_later_an_event(
    client: Callable[..., httpx.Client],
) -> None:
    model = Breaks()
    asked = client(model)
    at_once = asked.post("/v1/chat/completions", json={**CHAT, "stream": True})
    assert (at_once.status_code, at_once.json()["error"]["code"]) == (500, "pass_failed")
    model.after = 2
    later = asked.post("/v1/chat/completions", json={**CHAT, "stream": True})
    assert later.status_code == 200
    assert '"content":" two"' in later.text
    assert later.text.rstrip().endswith('"code":"pass_failed"}}')


class Waits(OnlyChats):
    """Says one word and then waits for ever; `left` is set when nobody wants more of it."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.left = asyncio.Event(), asyncio.Event()

    def astream(self, messages: Turns, **options: Any) -> ChatStream:
        async def events() -> AsyncGenerator[Event, None]:
            try:
                async for event in said("one two", [], options):
                    yield event
                    self.begun.set()
                    await asyncio.Event().wait()
            finally:
                self.left.set()

        return EventStream(events())


def test_whoever_closes_a_stream_ends_the_model_s_work_also_while_another_waits_for_it() -> None:
    async def talk() -> list[Event]:
        model = Waits()
        stream = model.astream(TURNS)
        found = [await anext(stream)]
        reader = asyncio.create_task(anext(stream, None))
        await model.begun.wait()
        await stream.aclose()
        assert await reader is None
        await asyncio.wait_for(model.left.wait(), PATIENCE_S)
        return found

    (event,) = asyncio.run(talk())
    assert getattr(event, "text", None) == "one"


@pytest.mark.parametrize("count", [0, 2])
def test_a_stream_without_an_end_is_an_error(count: int, client: Callable[..., httpx.Client]) -> None:
    class StopStrings(OnlyChats):
        def astream(self, messages: Turns, **options: Any) -> ChatStream:
            async def events() -> AsyncGenerator[Event, None]:
                for word in ("one", "two")[:count]:
                    yield TextEvent(word)

            return EventStream(events())

    reply = client(StopStrings()).post("/v1/chat/completions", json=CHAT)
    assert (reply.status_code, "broke off" in reply.text) == (500, True)


def test_fewer_answers_than_were_asked_for_are_an_error(client: Callable[..., httpx.Client]) -> None:
    class One(OnlyChats):
        def astream(self, messages: Turns, **options: Any) -> ChatStream:
            return super().astream(messages, **{**options, "n": 1})

    reply = client(One()).post("/v1/chat/completions", json={**CHAT, "n": 2})
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "pass_failed")


def test_a_prompt_whose_tokens_are_told_at_the_end_is_charged_then(client: Callable[..., httpx.Client]) -> None:
    key = Key("k", digest_of("s" * 20), tokens_per_minute=100)
    asked = client(OnlyChats("a b c"), keys=(key,))
    long = {"model": "fake", "messages": [{"role": "user", "content": "word " * 120}]}
    headers = {"x-api-key": "s" * 20}
    assert asked.post("/v1/chat/completions", json=long, headers=headers).status_code == 200
    assert asked.post("/v1/chat/completions", json=long, headers=headers).status_code == 429


def test_options_that_a_model_does_not_honour_are_refused_and_those_that_say_nothing_are_not() -> None:
    silent = {
        "n": 1,
        "tools": None,
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "schema": False,
        "ceiling": None,
    }
    assert only("m", {**silent, "client": "a/b", "tenant": "a", "priority": 1, "seed": 0}, "seed") == {"seed": 0}
    for option in ({"n": 2}, {"top_k": 0}, {"schema": True}, {"ceiling": 9}, {"stop": ["x"]}):
        with pytest.raises(Unsupported, match=f"^m has no option {next(iter(option))};"):
            only("m", {**silent, **option}, "seed")


def test_the_example_of_the_docs_runs(client: Callable[..., httpx.Client]) -> None:
    (code,) = re.findall(r"<!-- example: [^>]*-->\n```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    asked = client(names["Echo"]())
    body = {"model": "echo", "messages": [{"role": "user", "content": "one two three"}]}
    found = asked.post("/v1/chat/completions", json={**body, "max_tokens": 2}).json()
    assert found["choices"][0]["message"]["content"] == "one two "
    refused = asked.post("/v1/chat/completions", json={**body, "temperature": 1})
    assert (refused.status_code, "echo has no option temperature" in refused.text) == (501, True)


# -- policies ----------------------------------------------------------------------------------------------------------


def test_a_policy_holds_for_a_model_that_applies_none(client: Callable[..., httpx.Client]) -> None:
    model = DoesAll(f"mail {MAIL} and key {KEY} so")
    for mode, gone in (("redact", True), ("observe", False)):
        asked = client(model, mode=mode)
        for path, more in (("/v1/chat/completions", {}), ("/v1/chat/completions", {"stream": True}), ("/api/chat", {})):
            model.asked.clear()
            body = {"model": "fake", "messages": [{"role": "user", "content": f"use {KEY}"}], **more}
            reply = asked.post(path, json=body)
            text = reply.text.replace("\\", "")
            assert (KEY not in "".join(words(text))) == gone, (mode, path, text)
            (turns, options), *_ = model.asked
            assert (KEY not in turns[0].text) == gone
            assert "policy" not in options
            assert '"policy":[' in reply.text, "what was seen is told"


def test_a_policy_that_blocks_keeps_prompts_from_the_model_and_answers_from_people(
    client: Callable[..., httpx.Client],
) -> None:
    model = DoesAll(f"so {KEY} it is, and then more and more")
    asked = client(model, mode="block")
    for body in ({"messages": [{"role": "user", "content": f"use {KEY}"}]}, {"messages": TURNS}):
        for stream in (False, True):
            reply = asked.post("/v1/chat/completions", json={"model": "fake", "stream": stream, **body})
            assert reply.status_code == 200
            assert "content_filter" in reply.text
            assert KEY[:12] not in reply.text
    assert len(model.asked) == 2, "the model never saw the prompts with a key"
    ids = asked.post("/v1/completions", json={"model": "fake", "prompt": ids_of(f"use {KEY}"), "echo": True})
    assert ids.json()["choices"][0]["finish_reason"] == "content_filter"
    assert KEY not in ids.text
    assert len(model.asked) == 2


def test_calls_pass_a_policy_as_well(client: Callable[..., httpx.Client]) -> None:
    asked = client(DoesAll("Let me see. "), mode="redact")
    body = {**CHAT, "tools": [TOOL]}
    whole = asked.post("/v1/chat/completions", json=body).json()["choices"][0]
    assert whole["finish_reason"] == "tool_calls"
    assert json.loads(whole["message"]["tool_calls"][0]["function"]["arguments"]) == {"city": "Oslo"}
    assert '"arguments":"{\\"city\\": \\"Oslo\\"}"' in asked.post(
        "/v1/chat/completions", json={**body, "stream": True}
    ).text  # fmt: skip


# -- rows that are no files --------------------------------------------------------------------------------------------


def test_a_row_without_files_is_found_loaded_let_go_of_and_made_again(client: Callable[..., httpx.Client]) -> None:
    made: list[DoesAll] = []

    def load() -> ChatModel:
        made.append(DoesAll("one", "host"))
        return made[-1]

    service = service_of(OnlyChats())
    catalogue = service.models.catalogue
    assert isinstance(catalogue, StoreCatalogue)
    catalogue.register("host", RegisteredModel(load, Capabilities(images=True), context=77))
    with client_of(service) as asked:
        row = asked.get("/v1/models/host").json()
        assert (row["loaded"], row["max_model_len"], row["capabilities"]["images"]) == (False, 77, True)
        assert made == []
        for tag in ("host", "host:latest"):
            assert asked.post("/api/chat", json={"model": tag, "messages": TURNS, "stream": False}).status_code == 200
        assert [model.warm for model in made] == [True]
        assert [row["name"] for row in asked.get("/api/ps").json()["models"]] == ["host:latest"]
        assert asked.post("/api/generate", json={"model": "host", "keep_alive": 0}).status_code == 200
        assert not made[0].alive
        assert asked.get("/api/ps").json()["models"] == []
        assert asked.post("/v1/chat/completions", json={"model": "host", "messages": TURNS}).status_code == 200
        assert len(made) == 2
        assert asked.post("/v1/chat/completions", json={"model": "alias", "messages": TURNS}).status_code == 200


def test_other_names_and_profiles_of_a_row_without_files(client: Callable[..., httpx.Client]) -> None:
    model = DoesAll()
    asked = client(model)
    assert asked.post("/api/copy", json={"source": "fake", "destination": "twin"}).status_code == 200
    made = {"model": "pirate", "from": "twin", "system": "Arr.", "parameters": {"num_predict": 1}, "stream": False}
    assert asked.post("/api/create", json=made).status_code == 200
    said_ = asked.post("/v1/chat/completions", json={"model": "pirate", "messages": TURNS}).json()
    assert said_["choices"][0]["message"]["content"] == "Hello"
    turns, options = model.asked[-1]
    assert ([turn.text for turn in turns], options["max_tokens"]) == (["Arr.", "Hi"], 1)
    assert asked.get("/v1/models/pirate").json()["capabilities"] == ALL.to_dict()
    refused = asked.request("DELETE", "/api/delete", json={"model": "fake"})
    assert (refused.status_code, refused.json()["error"].startswith("fake is no model of the store")) == (400, True)
    for name in ("pirate", "twin"):
        assert asked.request("DELETE", "/api/delete", json={"model": name}).status_code == 200
    assert [row["id"] for row in asked.get("/v1/models").json()["data"]] == ["fake"]
    streamed = asked.post("/api/pull", json={"model": "fake"}).text
    assert json.loads(streamed.splitlines()[-1]) == {"status": "success"}
    taken = asked.post("/api/copy", json={"source": "fake", "destination": "fake"})
    assert (taken.status_code, "that no model has" in taken.text) == (400, True)


def test_a_name_is_registered_once_and_only_if_it_is_one() -> None:
    catalogue = StoreCatalogue(aliases={"known": "fake"})
    catalogue.register("fake", RegisteredModel(OnlyChats))
    for name in ("fake", "known", "../up", ""):
        with pytest.raises(UsageError):
            catalogue.register(name, RegisteredModel(OnlyChats))
    with pytest.raises(NotFound, match="fake"):
        catalogue.find("fakes")
    assert catalogue.about("fake") is None


def test_a_row_that_cannot_be_made_says_why_and_is_tried_again() -> None:
    tries: list[int] = []

    def load() -> ChatModel:
        tries.append(1)
        if len(tries) == 1:
            raise UsageError("no key for that host")
        return OnlyChats()

    service = service_of(OnlyChats("a", "other"))
    catalogue = service.models.catalogue
    assert isinstance(catalogue, StoreCatalogue)
    catalogue.register("host", RegisteredModel(load))
    with running(service) as address, httpx.Client(base_url=address) as asked:
        first = asked.post("/v1/chat/completions", json={"model": "host", "messages": TURNS})
        assert (first.status_code, first.json()["error"]["message"]) == (400, "no key for that host")
        assert asked.post("/v1/chat/completions", json={"model": "host", "messages": TURNS}).status_code == 200


def test_a_begun_answer_is_gone_on_with_where_that_is_asked_for_or_the_dialect_means_it(
    client: Callable[..., httpx.Client],
) -> None:
    model = DoesAll()
    asked = client(model)
    for path, body, over in (
        ("/v1/chat/completions", {"continue_final_message": True}, {}),
        ("/v1/chat/completions", {}, {"continue_final_message": False}),
        ("/api/chat", {"stream": False}, {}),
        ("/v1/messages", {"max_tokens": 9}, {}),
    ):
        assert asked.post(path, json={"model": "fake", "messages": BEGUN, **body}).status_code == 200
        assert {k: v for k, v in model.asked[-1][1].items() if k == "continue_final_message"} == over, (path, body)


@pytest.mark.parametrize("mode", ["redact", "block"])
def test_a_policy_around_a_model_reads_its_begun_part_and_its_answer_as_one(mode: str) -> None:
    """Neither half is an address by itself."""
    dialog = [*TURNS, {"role": "assistant", "content": "Write to jane.doe@exam"}]
    with client_of(service_of(DoesAll("ple.org now"), mode=mode)) as asked:
        body = {"model": "fake", "messages": dialog, "max_tokens": 99}
        reply = asked.post("/v1/messages", json=body).json()
    text = reply["content"][0]["text"]
    assert "ple" not in text.split("policy")[-1]
    assert text == "[EMAIL] now" if mode == "redact" else reply["stop_reason"] == "refusal"


@pytest.mark.parametrize("as_ids", [False, True])
@pytest.mark.parametrize("scored", [False, True])
def test_a_policy_s_changes_make_no_control_token_of_text_around_any_model(as_ids: bool, scored: bool) -> None:
    model = DoesAll()
    more = {"echo": True, "logprobs": 0, "max_tokens": 0} if scored else {"max_tokens": 1}

    def reply(text: str) -> httpx.Response:
        prompt: str | list[int] = [CONTROL_ID, *ids_of(text)] if as_ids else CONTROL + text
        body = {"model": "fake", "prompt": prompt, "raw": True, **more}
        return asked.post("/v1/completions", json=body)

    with client_of(service_of(model, mode="redact")) as asked:
        assert reply(f" {MAIL}").status_code == 200
        assert scored or model.asked[-1][1]["raw"] is True
        hidden = CONTROL if as_ids else CONTROL.replace("con", "con\u200b")
        told = reply(f" {MAIL} {hidden}")
        assert (told.status_code, "changes would not leave as they are" in told.text) == (400, True)
