"""What clients write in ways of their own is understood alike in every dialect, and told where it comes to less."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from serving import END, client_of, fake_service

from helpers import until
from herd.server.anthropic.messages import MESSAGES
from herd.server.ollama.chat import CHAT as OLLAMA_CHAT
from herd.server.ollama.chat import GENERATE
from herd.server.ollama.common import Options
from herd.server.openai.chat import CHAT
from herd.server.openai.response_requests import RESPONSES

CONTEXT = 2048
SAID = "Hello there."
TURNS = [{"role": "user", "content": "Hi"}]
LIMITS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "chat": ("/v1/chat/completions", {"messages": TURNS}, ("max_tokens",)),
    "chat's newer name": ("/v1/chat/completions", {"messages": TURNS}, ("max_completion_tokens",)),
    "responses": ("/v1/responses", {"input": "Hi"}, ("max_output_tokens",)),
    "messages": ("/v1/messages", {"messages": TURNS, "max_tokens": 40}, ("max_tokens",)),
    "Ollama's chat": ("/api/chat", {"messages": TURNS}, ("options", "num_predict")),
    "Ollama's generate": ("/api/generate", {"prompt": "Hi"}, ("options", "num_predict")),
}
"""Dialect -> path, body, and where the most tokens of an answer stand."""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with client_of(fake_service(tmp_path_factory.mktemp("home"), SAID, context=CONTEXT)) as found:
        yield found


def ask(client: httpx.Client, name: str, value: Any, *place: str, stream: bool = False) -> httpx.Response:
    """An answer of one dialect, with something at a place of the body."""
    path, body, _ = LIMITS[name]
    where = place if path.startswith("/v1") or place[0] == "options" else ("options", *place)
    inner = value
    for key in reversed(where[1:]):
        inner = {key: inner}
    found = client.post(path, json={"model": "fake", "stream": stream, **body, where[0]: inner})
    assert found.status_code == 200, (name, value, found.text)
    return found


@pytest.mark.parametrize("name", LIMITS)
def test_the_context_is_a_ceiling_for_the_tokens_of_an_answer_and_that_is_told(client: httpx.Client, name: str) -> None:
    place = LIMITS[name][2]
    for stream in (False, True):
        for most in (CONTEXT + 1, 10_485_760, 2**63, 4096.0):
            found = ask(client, name, most, *place, stream=stream)
            assert f"context of {CONTEXT} tokens" in found.headers["x-herd-note"]
            assert SAID in "".join(texts(found.text)) or SAID in found.text
        for most in (CONTEXT, 100, 40.0, -1, -1.0):
            assert "x-herd-note" not in ask(client, name, most, *place, stream=stream).headers


@pytest.mark.parametrize("name", ["Ollama's chat", "Ollama's generate"])
def test_a_num_ctx_beyond_the_context_is_none(client: httpx.Client, name: str) -> None:
    for beyond in (CONTEXT, CONTEXT + 1, 131_072, 10_485_760):
        found = ask(client, name, beyond, "options", "num_ctx").json()
        assert (found.get("response") or found["message"]["content"], found["done_reason"]) == (SAID, "stop")


def places_of(name: str) -> list[tuple[str, ...]]:
    """Where a dialect has its options: the honoured fields of its table, those of Ollama's options in theirs."""
    tables = {table.name.split()[1]: table for table in (CHAT, RESPONSES, MESSAGES, OLLAMA_CHAT, GENERATE)}
    honoured = msgspec.structs.fields(tables[LIMITS[name][0]].honoured)
    inner = [("options", one.name) for one in msgspec.structs.fields(Options)] if "Ollama" in name else []
    return [*((one.encode_name,) for one in honoured), *inner]


@pytest.mark.parametrize("name", LIMITS)
def test_what_is_refused_has_the_name_that_the_client_gave_it(client: httpx.Client, name: str) -> None:
    path, body, most = LIMITS[name]
    refused = set()
    for place in places_of(name):
        for value in (0, -7_000_000, 7_000_000, 2**70, ["x"] * 40, [-1]):
            inner = {place[-1]: value}
            asked = {"model": "fake", "stream": False, "logprobs": True, **body}
            if path == "/v1/messages" or path == "/v1/responses":
                del asked["logprobs"]
            found = client.post(path, json={**asked, **({place[0]: inner} if len(place) > 1 else inner)})
            if found.status_code == 400:
                error = found.json()["error"]
                message = error if isinstance(error, str) else error["message"]
                assert message.startswith(".".join(place)), (place, value, message)
                refused.add(place)
    assert most in refused
    assert len(refused) > 4


def texts(body: str) -> Iterator[str]:
    """All pieces of text in a stream."""
    for line in body.split("\n"):
        data = line.removeprefix("data: ")
        if data.startswith("{"):
            one = json.loads(data)
            choice = (one.get("choices") or [{}])[0]
            delta = one.get("delta") if isinstance(one.get("delta"), str) else (one.get("delta") or {}).get("text")
            message = one.get("message") if isinstance(one.get("message"), dict) else {}
            found = (choice.get("delta") or {}).get("content") or choice.get("text") or delta
            yield (
                found or one.get("response")
                if isinstance(one.get("response"), str)
                else found or message.get("content") or ""
            )


@pytest.mark.parametrize("name", ["Ollama's chat", "Ollama's generate"])
def test_no_number_of_tokens_to_predict_is_no_limit(client: httpx.Client, name: str) -> None:
    for most in (0, 0.0, -1, -2, -5.0):
        found = ask(client, name, most, "options", "num_predict").json()
        assert (found.get("response") or found["message"]["content"], found["done_reason"]) == (SAID, "stop")


@pytest.mark.parametrize("name", LIMITS)
def test_the_likeliest_token_is_left_where_none_may_be_drawn(client: httpx.Client, name: str) -> None:
    for value in (0, 0.0):
        assert SAID in ask(client, name, value, "top_p").text


def test_nothing_has_no_vectors(client: httpx.Client) -> None:
    for given in ({"input": ""}, {"input": []}, {"input": None}, {}, {"input": "", "dimensions": 4}):
        found = client.post("/api/embed", json={"model": "fake", **given})
        assert (found.status_code, found.json()["embeddings"]) == (200, []), found.text
    for given in ({"prompt": ""}, {"prompt": None}, {}):
        found = client.post("/api/embeddings", json={"model": "fake", **given})
        assert (found.status_code, found.json()) == (200, {"embedding": []}), found.text
    assert client.post("/api/embed", json={"model": "none", "input": ""}).status_code == 404
    beside = client.post("/api/embed", json={"model": "fake", "input": ["a", ""]})
    assert (beside.status_code, "input[1]" in beside.text) == (400, True)


def test_what_a_schema_asks_in_vain_is_told(client: httpx.Client) -> None:
    schema = {
        "type": "object",
        "properties": {
            "a\n\u00e9": {"type": "array", "items": {"type": "string", "format": "zip"}, "uniqueItems": True}
        },
    }
    asked: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        },
        "/v1/completions": {"prompt": "Hi", "guided_json": json.dumps(schema)},
        "/v1/responses": {"input": "Hi", "text": {"format": {"type": "json_schema", "name": "x", "schema": schema}}},
        "/v1/messages": {"output_config": {"format": {"type": "json_schema", "schema": schema}}, "max_tokens": 9},
        "/api/chat": {"format": schema, "stream": False, "options": {"num_predict": 9}},
    }
    for path, more in asked.items():
        dialog = {} if "prompt" in more or "input" in more else {"messages": TURNS}
        for stream in (False, True):
            body = {"model": "fake", **dialog, **more, "stream": stream}
            with client.stream("POST", path, json=body) as found:
                assert found.status_code == 200, (path, found.read())
                note = found.headers["x-herd-note"]
            assert "/uniqueItems" in note and "/items/format" in note, (path, note)


# -- several prompts of one request --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def completing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A model that says the last character of a prompt again and again."""
    with client_of(fake_service(tmp_path_factory.mktemp("home"), lambda ids: ids[-1], context=CONTEXT)) as found:
        yield found


PROMPTS = {
    "texts": ["a", "bb", "ccc"],
    "ids": [[97], [98, 98], [99, 99, 99]],
    "ids with a fraction": [[97.0], [98.0, 98], [99]],
}


@pytest.mark.parametrize("prompts", PROMPTS)
@pytest.mark.parametrize("more", [{}, {"n": 2}, {"echo": True}, {"echo": True, "logprobs": 1, "n": 2}], ids=range(4))
def test_several_prompts_are_streamed_as_they_are_answered_whole(
    completing: httpx.Client, prompts: str, more: dict[str, Any]
) -> None:
    body = {"model": "fake", "prompt": PROMPTS[prompts], "max_tokens": 5, **more}
    whole = completing.post("/v1/completions", json=body).json()
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    found = completing.post("/v1/completions", json={**body, **usage})
    assert found.status_code == 200, found.text
    *events, last, done = [line[6:] for line in found.text.split("\n") if line.startswith("data: ")]
    assert done == "[DONE]"
    said: dict[int, str] = {}
    ends: dict[int, str] = {}
    tokens: dict[int, list[str]] = {}
    for event in events:
        (choice,) = json.loads(event)["choices"]
        index = choice["index"]
        assert index not in ends, "nothing comes after its end"
        said[index] = said.get(index, "") + choice["text"]
        tokens.setdefault(index, []).extend((choice["logprobs"] or {}).get("tokens", ()))
        if choice["finish_reason"] is not None:
            ends[index] = choice["finish_reason"]
    choices = whole["choices"]
    assert [said[i] for i in range(len(choices))] == [choice["text"] for choice in choices]
    assert [ends[i] for i in range(len(choices))] == [choice["finish_reason"] for choice in choices]
    if "logprobs" in more:
        assert [tokens[i] for i in range(len(choices))] == [choice["logprobs"]["tokens"] for choice in choices]
    counted = json.loads(last)["usage"]
    assert {k: counted[k] for k in ("prompt_tokens", "completion_tokens", "total_tokens")} == {
        k: whole["usage"][k] for k in ("prompt_tokens", "completion_tokens", "total_tokens")
    }


def test_no_limit_of_a_completion_is_the_context(completing: httpx.Client) -> None:
    for most, made in ((-1, CONTEXT), (-1.0, CONTEXT), (None, 16), (3.0, 3)):
        found = completing.post("/v1/completions", json={"model": "fake", "prompt": [97], "max_tokens": most}).json()
        assert (found["usage"]["completion_tokens"], found["choices"][0]["finish_reason"]) == (made, "length")


def test_prompts_of_one_stream_are_answered_side_by_side(tmp_path: Path) -> None:
    """No answer ends before all have begun: one after the other, the first would go on to its limit."""
    begun: set[int] = set()

    def said(ids: list[int]) -> int:
        begun.add(ids[-1])
        return END if len(begun) == 3 else ids[-1]

    body = {"model": "fake", "prompt": ["a", "b", "c"], "max_tokens": 1 << 18, "stream": True}
    with client_of(fake_service(tmp_path, said, context=1 << 20)) as client:
        found = client.post("/v1/completions", json=body).text
    choices = [json.loads(line[6:])["choices"][0] for line in found.split("\n") if line.startswith("data: {")]
    ends = {choice["index"]: choice["finish_reason"] for choice in choices if choice["finish_reason"] is not None}
    assert ends == {0: "stop", 1: "stop", 2: "stop"}


def test_a_stream_of_several_prompts_that_is_left_ends_them_all(tmp_path: Path) -> None:
    service = fake_service(tmp_path, lambda ids: ids[-1], context=1 << 20)
    with client_of(service) as client:
        body = {"model": "fake", "prompt": ["a", "b", "c"], "max_tokens": 1 << 19, "stream": True}
        with client.stream("POST", "/v1/completions", json=body) as found:
            next(found.iter_lines())
        until("answers go on that nobody reads", lambda: not service.models.held[0].users)


# -- lines ----------------------------------------------------------------------------------------------------------


def test_no_character_of_an_answer_ends_a_line_of_its_stream(tmp_path: Path) -> None:
    said = "a\u2028b\u2029c\x85d"
    with client_of(fake_service(tmp_path, said)) as client:
        for name, (path, body, _) in LIMITS.items():
            with client.stream("POST", path, json={"model": "fake", **body, "stream": True}) as found:
                lines = [*found.iter_lines()]  # which ends lines as str.splitlines does
            data = [line.removeprefix("data: ") for line in lines if line and not line.startswith("event: ")]
            for line in data:
                assert line in (": ping", "[DONE]") or json.loads(line), (name, line)
            assert said in "".join(texts("\n".join(data))), name
