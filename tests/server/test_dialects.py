"""Each dialect's ordinary answers, over real sockets and FakeModel."""

import base64
import itertools
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from serving import BYTES, client_of, fake_llm, fake_service, running

from helpers import PATIENCE_S, until
from herd import __version__
from herd.server.openai.response_items import name_in

TURNS = [{"role": "user", "content": "Hi"}]
WEATHER = {
    "name": "weather",
    "description": "of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALL = 'Let me see. [weather(city="Oslo")]'


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with client_of(fake_service(tmp_path_factory.mktemp("home"))) as found:
        yield found


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with client_of(fake_service(tmp_path_factory.mktemp("home"), CALL)) as found:
        yield found


def events(reply: httpx.Response) -> list[Any]:
    """Data of server-sent events."""
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"].startswith("text/event-stream")
    data = [line[6:] for line in reply.text.splitlines() if line.startswith("data: ")]
    return [x if x == "[DONE]" else json.loads(x) for x in data]


def lines(reply: httpx.Response) -> list[Any]:
    assert reply.status_code == 200, reply.text
    return [json.loads(line) for line in reply.text.splitlines()]


def ok(reply: httpx.Response) -> Any:
    assert reply.status_code == 200, reply.text
    return reply.json()


# -- OpenAI --------------------------------------------------------------------------------------------------------


def test_chat(client: httpx.Client) -> None:
    found = ok(client.post("/v1/chat/completions", json={"model": "fake", "messages": TURNS}))
    assert found["object"] == "chat.completion"
    assert found["choices"][0]["message"] == {"role": "assistant", "content": "Hello there.", "refusal": None}
    assert found["choices"][0]["finish_reason"] == "stop"
    usage = found["usage"]
    assert usage["completion_tokens"] == len("Hello there.") + 1
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_chat_stream(client: httpx.Client) -> None:
    body = {"model": "fake", "messages": TURNS, "stream": True, "stream_options": {"include_usage": True}}
    found = events(client.post("/v1/chat/completions", json=body))
    assert found[-1] == "[DONE]"
    assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(x["choices"][0]["delta"].get("content", "") for x in found[:-2]) == "Hello there."
    assert [x["choices"][0]["finish_reason"] for x in found[:-2]][-1] == "stop"
    assert found[-2]["choices"] == []
    assert found[-2]["usage"]["completion_tokens"] == 13
    assert all(x["usage"] is None for x in found[:-2])


def test_chat_samples_and_logprobs(client: httpx.Client) -> None:
    body = {"model": "fake", "messages": TURNS, "n": 3, "logprobs": True, "top_logprobs": 2, "max_tokens": 2}
    found = ok(client.post("/v1/chat/completions", json=body))
    assert [c["index"] for c in found["choices"]] == [0, 1, 2]
    tokens = found["choices"][2]["logprobs"]["content"]
    assert [t["token"] for t in tokens] == ["H", "e"]
    assert len(tokens[0]["top_logprobs"]) == 2
    assert tokens[0]["bytes"] == [72]


def test_chat_calls(caller: httpx.Client) -> None:
    tools = [{"type": "function", "function": WEATHER}]
    body: dict[str, Any] = {"model": "fake", "messages": TURNS, "tools": tools}
    (choice,) = ok(caller.post("/v1/chat/completions", json=body))["choices"]
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"city": "Oslo"}
    assert choice["message"]["content"] == "Let me see. "

    found = events(caller.post("/v1/chat/completions", json={**body, "stream": True}))[:-1]
    deltas = [c for x in found for c in x["choices"][0]["delta"].get("tool_calls", [])]
    assert [d["function"].get("name") for d in deltas] == ["weather", *[None] * (len(deltas) - 1)]
    assert json.loads("".join(d["function"]["arguments"] for d in deltas)) == {"city": "Oslo"}
    assert found[-1]["choices"][0]["finish_reason"] == "tool_calls"

    history = [
        *TURNS,
        {"role": "assistant", "content": None, "tool_calls": choice["message"]["tool_calls"]},
        {"role": "tool", "tool_call_id": call["id"], "content": "Rain."},
    ]
    assert ok(caller.post("/v1/chat/completions", json={**body, "messages": history}))["choices"]


def test_completions(client: httpx.Client, tmp_path: Path) -> None:
    with client_of(fake_service(tmp_path, lambda ids: 65)) as plain:
        body = {"model": "fake", "prompt": ["one", "two"], "max_tokens": 3, "echo": True, "logprobs": 1}
        found = ok(plain.post("/v1/completions", json=body))
        assert [c["text"] for c in found["choices"]] == ["oneAAA", "twoAAA"]
        logprobs = found["choices"][0]["logprobs"]
        assert logprobs["tokens"] == ["o", "n", "e", "A", "A", "A"]
        assert logprobs["text_offset"] == [0, 1, 2, 3, 4, 5]
        assert [x is None for x in logprobs["token_logprobs"]] == [True] + [False] * 5
        assert [None if x is None else len(x) for x in logprobs["top_logprobs"]] == [None, 2, 2, 1, 1, 1]
        assert logprobs["top_logprobs"][1].keys() == {"n", "A"}, "the token that stands there, and the likeliest"
        assert found["usage"]["completion_tokens"] == 6
        streamed = events(plain.post("/v1/completions", json={"model": "fake", "prompt": [66, 66], "stream": True}))
        assert "".join(x["choices"][0]["text"] for x in streamed[:-1]) == "A" * 16
        image = plain.post("/v1/completions", json={"model": "fake", "prompt": [BYTES.specials["<|image|>"]]})
        assert image.status_code == 400


def key_of(token_id: int) -> str:
    """A byte of the test vocabulary as OpenAI's completions name it."""
    return (
        chr(token_id) if token_id < 128 else BYTES.decode([token_id]) if token_id > 255 else f"bytes:\\x{token_id:02x}"
    )


@pytest.mark.parametrize("prompt", ["Grüße", [66, 67, 68], [66]])
def test_a_prompt_is_told_with_its_log_probabilities_and_nothing_is_made(prompt: Any, tmp_path: Path) -> None:
    """As lm-evaluation-harness asks; checked against the model's own logits."""
    rng = np.random.default_rng(1)
    table = rng.normal(size=(320, 320)).round(2)
    service = fake_service(tmp_path, lambda ids: table[ids[-1]].tolist())
    ids = BYTES.encode(prompt) if isinstance(prompt, str) else prompt
    seen = [BYTES.bos_id, *ids] if isinstance(prompt, str) and BYTES.add_bos else ids
    logp = table - np.log(np.exp(table).sum(axis=1, keepdims=True))
    body = {"model": "fake", "prompt": prompt, "echo": True, "logprobs": 2, "max_tokens": 0}
    with client_of(service) as client:
        found = ok(client.post("/v1/completions", json=body))
        more = ok(client.post("/v1/completions", json={**body, "max_tokens": 1, "n": 2}))
        streamed = events(client.post("/v1/completions", json={**body, "max_tokens": 1, "stream": True}))
    (choice,) = found["choices"]
    told = choice["logprobs"]
    assert (choice["text"], choice["finish_reason"]) == (BYTES.decode(ids), "length")
    assert told["tokens"] == [key_of(i) for i in ids]
    assert told["token_logprobs"][0] is None
    assert told["top_logprobs"][0] is None
    expected = [logp[a, b] for a, b in itertools.pairwise(ids)]
    np.testing.assert_allclose(told["token_logprobs"][1:], expected, atol=1e-5)
    for (a, b), top in zip(itertools.pairwise(ids), told["top_logprobs"][1:], strict=True):
        best = {key_of(int(i)): logp[a, i] for i in (*np.argsort(logp[a])[-2:], b)}
        assert top == pytest.approx(best, abs=1e-5)
    assert len(told["text_offset"]) == len(ids)
    assert found["usage"] == {**found["usage"], "prompt_tokens": len(seen), "completion_tokens": 0}
    for one in more["choices"]:
        assert {name: x[:-1] for name, x in one["logprobs"].items()} == told
        assert one["logprobs"]["token_logprobs"][-1] is not None
    assert streamed[0]["choices"][0]["logprobs"] == told


def test_an_answer_finds_its_scored_prompt_in_the_cache(tmp_path: Path) -> None:
    body = {"model": "fake", "prompt": "b" * 100, "echo": True, "logprobs": 0, "max_tokens": 1}
    service = fake_service(tmp_path, lambda ids: 65)
    with client_of(service) as client:
        usage = ok(client.post("/v1/completions", json=body))["usage"]
    assert service.metrics.cached_tokens.labels("fake")._value.get() == usage["prompt_tokens"] - 1


@pytest.mark.parametrize("more", [{}, {"echo": True}, {"logprobs": 1}, {"echo": True, "logprobs": 1, "stream": True}])
def test_no_tokens_without_log_probabilities_of_the_prompt_are_refused(more: Any, client: httpx.Client) -> None:
    reply = client.post("/v1/completions", json={"model": "fake", "prompt": "x", "max_tokens": 0, **more})
    assert reply.status_code == 400
    assert "max_tokens: got 0, expected at least 1, or echo with logprobs" in reply.json()["error"]["message"]


def test_embeddings(client: httpx.Client) -> None:
    numbers = ok(client.post("/v1/embeddings", json={"model": "fake", "input": ["one", "two"]}))["data"]
    assert [d["index"] for d in numbers] == [0, 1]
    coded = ok(client.post("/v1/embeddings", json={"model": "fake", "input": "one", "encoding_format": "base64"}))
    vector = np.frombuffer(base64.b64decode(coded["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(vector, numbers[0]["embedding"], rtol=1e-6)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    ids = client.post("/v1/embeddings", json={"model": "fake", "input": [[1, 2]]})
    assert ids.status_code == 400
    assert "check_embedding_ctx_length" in ids.json()["error"]["message"]


def test_models(client: httpx.Client) -> None:
    found = ok(client.get("/v1/models"))["data"]
    assert [m["id"] for m in found] == ["fake", "other"]
    assert {"object", "created", "owned_by", "max_model_len", "context_length", "loaded"} <= set(found[0])
    assert ok(client.get("/v1/models/fake"))["id"] == "fake"
    missing = client.get("/v1/models/none")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")


# -- Ollama --------------------------------------------------------------------------------------------------------


def test_ollama_chat(client: httpx.Client) -> None:
    found = lines(client.post("/api/chat", json={"model": "fake:latest", "messages": TURNS}))
    assert "".join(x["message"]["content"] for x in found) == "Hello there."
    assert [x["done"] for x in found] == [False] * (len(found) - 1) + [True]
    assert found[-1]["done_reason"] == "stop"
    assert found[-1]["eval_count"] == 13
    whole = ok(client.post("/api/chat", json={"model": "fake", "messages": TURNS, "stream": False}))
    assert whole["message"]["content"] == "Hello there."
    assert whole["total_duration"] > 0


def test_ollama_generate_and_loading(client: httpx.Client) -> None:
    body = {"model": "fake", "prompt": "Hi", "system": "Be kind.", "options": {"num_predict": 5, "num_ctx": 10_485_760}}
    found = lines(client.post("/api/generate", json=body))
    assert "".join(x["response"] for x in found) == "Hello"
    assert found[-1]["done_reason"] == "length"
    assert ok(client.post("/api/generate", json={"model": "other"}))["done_reason"] == "load"
    assert {m["model"] for m in ok(client.get("/api/ps"))["models"]} == {"fake:latest", "other:latest"}
    assert ok(client.post("/api/chat", json={"model": "other", "keep_alive": 0}))["done_reason"] == "unload"
    assert [m["model"] for m in ok(client.get("/api/ps"))["models"]] == ["fake:latest"]


@pytest.mark.parametrize("keep_alive", [1e12, 1e300, "1000000000h", -1])
def test_ollama_keeps_a_model_for_ever(client: httpx.Client, keep_alive: float | str) -> None:
    ok(client.post("/api/generate", json={"model": "fake", "keep_alive": keep_alive}))
    assert ok(client.get("/api/ps"))["models"][0]["expires_at"] == "9999-12-31T23:59:59Z"


def test_ollama_num_ctx_is_a_ceiling(client: httpx.Client) -> None:
    body = {"model": "fake", "messages": [{"role": "user", "content": "a" * 100}], "stream": False}
    short = client.post("/api/chat", json={**body, "options": {"num_ctx": 50}})
    assert short.status_code == 400
    assert "num_ctx allows 50" in short.json()["error"]
    cut = ok(client.post("/api/chat", json={**body, "options": {"num_ctx": 150}}))
    assert cut["prompt_eval_count"] + cut["eval_count"] <= 150
    tools = [{"type": "function", "function": WEATHER}]
    long = client.post("/api/chat", json={**body, "tools": tools, "options": {"num_ctx": 150}})
    assert long.status_code == 400, "tools are part of the prompt"
    assert "num_ctx allows 150" in long.json()["error"]


def test_ollama_calls(caller: httpx.Client) -> None:
    body = {"model": "fake", "messages": TURNS, "tools": [{"type": "function", "function": WEATHER}]}
    calls = [c for x in lines(caller.post("/api/chat", json=body)) for c in x["message"].get("tool_calls", [])]
    assert calls == [{"function": {"name": "weather", "arguments": {"city": "Oslo"}}}]


def test_ollama_models(client: httpx.Client) -> None:
    found = ok(client.get("/api/tags"))["models"]
    assert {"name", "model", "modified_at", "size", "digest", "details"} <= set(found[0])
    shown = ok(client.post("/api/show", json={"name": "fake"}))
    assert shown["model_info"]["llama4.context_length"] > 0
    assert "completion" in shown["capabilities"]
    assert client.post("/api/copy", json={"source": "fake", "destination": "twin"}).status_code == 200
    made = {"model": "pirate", "from": "twin", "system": "Arr.", "parameters": {"num_predict": 4}, "stream": False}
    assert ok(client.post("/api/create", json=made)) == {"status": "success"}
    assert ok(client.post("/api/show", json={"model": "pirate"}))["system"] == "Arr."
    said = ok(client.post("/api/chat", json={"model": "pirate", "messages": TURNS, "stream": False}))
    assert said["message"]["content"] == "Hell"
    assert client.post("/v1/chat/completions", json={"model": "pirate", "messages": []}).status_code == 400
    assert client.request("DELETE", "/api/delete", json={"model": "pirate"}).status_code == 200
    assert client.post("/api/show", json={"model": "pirate"}).status_code == 404
    assert client.post("/api/push", json={"model": "fake"}).status_code == 501
    version = ok(client.get("/api/version"))
    assert tuple(map(int, version["version"].split("."))) >= (0, 6, 4), "VS Code refuses what is older"
    assert version["herd"] == __version__


def test_ollama_embed(client: httpx.Client) -> None:
    found = ok(client.post("/api/embed", json={"model": "fake", "input": ["a", "b"]}))
    assert len(found["embeddings"]) == 2
    assert ok(client.post("/api/embeddings", json={"model": "fake", "prompt": "a"}))["embedding"] == pytest.approx(
        found["embeddings"][0]
    )


# -- Anthropic -----------------------------------------------------------------------------------------------------


def test_messages(client: httpx.Client) -> None:
    body = {"model": "fake", "max_tokens": 50, "messages": TURNS, "system": [{"type": "text", "text": "Be kind."}]}
    found = ok(client.post("/v1/messages", json=body))
    assert found["content"] == [{"type": "text", "text": "Hello there."}]
    assert found["stop_reason"] == "end_turn" and "stop_sequence" not in found
    stopped = ok(client.post("/v1/messages", json={**body, "stop_sequences": ["there"]}))
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", "there")
    counted = ok(client.post("/v1/messages/count_tokens", json={"model": "fake", "messages": TURNS}))
    plain = ok(client.post("/v1/messages", json={"model": "fake", "max_tokens": 1, "messages": TURNS}))["usage"]
    assert counted["input_tokens"] == plain["input_tokens"] + plain["cache_read_input_tokens"]


def test_messages_stream_and_calls(caller: httpx.Client) -> None:
    tool = {"name": "weather", "input_schema": WEATHER["parameters"]}
    body = {"model": "fake", "max_tokens": 99, "messages": TURNS, "tools": [tool], "stream": True}
    found = events(caller.post("/v1/messages", json=body))
    kinds = [x["type"] for x in found if x["type"] not in ("ping", "content_block_delta")]
    block = ["content_block_start", "content_block_stop"]
    assert kinds == ["message_start", *block, *block, "message_delta", "message_stop"]
    deltas = [x["delta"] for x in found if x["type"] == "content_block_delta"]
    assert "".join(d.get("text", "") for d in deltas) == "Let me see. "
    assert json.loads("".join(d.get("partial_json", "") for d in deltas)) == {"city": "Oslo"}
    assert found[-2]["delta"]["stop_reason"] == "tool_use"
    history = [
        *TURNS,
        {"role": "assistant", "content": [{"type": "tool_use", "id": "x", "name": "weather", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x", "content": "Rain."}]},
    ]
    assert ok(caller.post("/v1/messages", json={**body, "stream": False, "messages": history}))["content"]


def test_messages_of_the_system_amid_the_dialog(client: httpx.Client) -> None:
    """Claude Code sends them."""
    said = [*TURNS, {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}]
    used = ok(client.post("/v1/messages", json={"model": "fake", "max_tokens": 9, "messages": said}))["usage"]
    counted = ok(client.post("/v1/messages/count_tokens", json={"model": "fake", "messages": said}))["input_tokens"]
    chat = ok(
        client.post(
            "/v1/chat/completions",
            json={"model": "fake", "messages": [*TURNS, {"role": "system", "content": "Be brief."}]},
        )
    )
    assert used["input_tokens"] + used["cache_read_input_tokens"] == counted == chat["usage"]["prompt_tokens"]
    result = {"type": "tool_result", "tool_use_id": "x", "content": "Rain."}
    body = {"model": "fake", "max_tokens": 9, "messages": [*TURNS, {"role": "system", "content": [result]}]}
    assert client.post("/v1/messages", json=body).status_code == 400


# -- no dialect ----------------------------------------------------------------------------------------------------


def test_tokenize_health_and_metrics(client: httpx.Client) -> None:
    ids = ok(client.post("/tokenize", json={"model": "fake", "prompt": "<|eot|>é"}))["tokens"]
    assert ids == list("<|eot|>é".encode())
    assert ok(client.post("/detokenize", json={"model": "fake", "tokens": ids}))["prompt"] == "<|eot|>é"
    ok(client.post("/v1/chat/completions", json={"model": "fake", "messages": TURNS}))
    assert ok(client.get("/health")) == {"status": "ok"}
    assert ok(client.get("/ready"))["status"] == "ready"
    text = client.get("/metrics").text
    assert 'herd_request_success_total{finished_reason="stop",model_name="fake"}' in text


# -- OpenAI's responses --------------------------------------------------------------------------------------------


def test_responses_are_stored_followed_and_forgotten(client: httpx.Client) -> None:
    first = ok(client.post("/v1/responses", json={"model": "fake", "input": "Hi", "instructions": "Be kind."}))
    assert (first["object"], first["status"]) == ("response", "completed")
    assert first["output"][0]["content"][0]["text"] == "Hello there."
    assert ok(client.get(f"/v1/responses/{first['id']}")) == first
    items = [{"role": "user", "content": [{"type": "input_text", "text": "And?"}]}]
    second = ok(
        client.post("/v1/responses", json={"model": "fake", "input": items, "previous_response_id": first["id"]})
    )
    assert second["usage"]["input_tokens"] > first["usage"]["input_tokens"]
    listed = ok(client.get(f"/v1/responses/{second['id']}/input_items"))["data"]
    assert [x.get("role") for x in listed] == ["user", "assistant", "user"], "the latest first, the answer not"
    assert ok(client.delete(f"/v1/responses/{first['id']}"))["deleted"]
    assert client.get(f"/v1/responses/{first['id']}").status_code == 404
    unstored = ok(client.post("/v1/responses", json={"model": "fake", "input": "Hi", "store": False}))
    assert client.get(f"/v1/responses/{unstored['id']}").status_code == 404


def test_responses_stream(caller: httpx.Client) -> None:
    tools = [{"type": "function", **WEATHER}]
    body = {"model": "fake", "input": "Hi", "tools": tools, "stream": True}
    found = events(caller.post("/v1/responses", json=body))
    assert [x["sequence_number"] for x in found] == list(range(len(found)))
    kinds = list(dict.fromkeys(x["type"] for x in found))
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.completed",
    ]
    message, call = found[-1]["response"]["output"]
    assert message["content"][0]["text"] == "Let me see. "
    assert json.loads(call["arguments"]) == {"city": "Oslo"}
    followed = [
        {"role": "user", "content": "Hi"},
        call,
        {"type": "function_call_output", "call_id": call["call_id"], "output": "Rain."},
    ]
    assert ok(caller.post("/v1/responses", json={"model": "fake", "input": followed}))["status"] == "completed"


@pytest.mark.parametrize("stream", [False, True])
def test_responses_of_tools_in_a_namespace(tmp_path: Path, stream: bool) -> None:
    """Codex sends tools of MCP servers so; the model has one name, the client gets its two back."""
    space = {"type": "namespace", "name": "mcp__sky", "description": "of the sky", "tools": [
        {"type": "function", **WEATHER}]}  # fmt: skip
    body = {"model": "fake", "input": "Hi", "tools": [{"type": "function", **WEATHER}, space], "stream": stream}
    with client_of(fake_service(tmp_path, '[mcp__sky__weather(city="Oslo")]')) as client:
        reply = client.post("/v1/responses", json=body)
        found = events(reply)[-1]["response"] if stream else ok(reply)
        (call,) = found["output"]
        assert (call["namespace"], call["name"]) == ("mcp__sky", "weather")
        assert found["tools"][1]["tools"][0]["name"] == "weather"
        if stream:
            named = [x for x in events(reply) if x["type"] == "response.function_call_arguments.done"]
            assert [x["name"] for x in named] == ["weather"]
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "Rain."}
        followed = {**body, "stream": False, "input": [{"role": "user", "content": "Hi"}, call, output]}
        assert ok(client.post("/v1/responses", json=followed))["status"] == "completed"
        kept = {**body, "stream": False, "input": [output], "previous_response_id": found["id"]}
        assert ok(client.post("/v1/responses", json=kept))["status"] == "completed"


def test_responses_names_of_namespaces_are_kept_apart(tmp_path: Path) -> None:
    def space(name: str, *functions: str, said: str = "") -> dict[str, Any]:
        tools = [{"type": "function", **WEATHER, "name": f} for f in functions]
        return {"type": "namespace", "name": name, "description": said, "tools": tools}

    long = space("mcp__" + 70 * "s", 70 * "t")
    with client_of(fake_service(tmp_path, "Hello.")) as client:

        def asked(*tools: Any) -> httpx.Response:
            return client.post("/v1/responses", json={"model": "fake", "input": "Hi", "tools": tools})

        for two in (
            [space("a__b", "c"), space("a", "b__c")],
            [{"type": "function", **WEATHER, "name": "sky__weather"}, space("sky", "weather")],
            [space("sky", "weather"), space("sky", "weather")],
        ):
            refused = asked(*two)
            assert refused.status_code == 400 and refused.json()["error"]["param"] == "tools", refused.text
        assert ok(asked(long))["usage"]["input_tokens"] > 0
        told, plain = (ok(asked(space("sky", "a", "b", said=x)))["usage"]["input_tokens"] for x in ("W" * 400, ""))
        assert told == plain + 400 + len(r"\n\n"), "what is said of a namespace is said once (a byte is a token here)"
    choice = {"type": "function", "name": 70 * "t", "namespace": "mcp__" + 70 * "s"}
    called = f'[{name_in(choice["namespace"], choice["name"])}(city="Oslo")]'
    with client_of(fake_service(tmp_path, called)) as client:
        body = {"model": "fake", "input": "Hi", "tools": [long, space("other", "x")]}
        assert ok(client.post("/v1/responses", json={**body, "tool_choice": choice}))["tool_choice"] == choice
        wrong = {**body, "tool_choice": {**choice, "namespace": "other"}}
        assert client.post("/v1/responses", json=wrong).status_code == 400
        (call,) = ok(client.post("/v1/responses", json=body))["output"]
        assert {"type": "function", "name": call["name"], "namespace": call["namespace"]} == choice
        history = [{"role": "user", "content": "Hi"}, call]
        assert ok(client.post("/v1/responses", json={**body, "input": history}))["status"] == "completed"


def test_responses_offered_a_search_of_the_web_say_that_there_is_none(tmp_path: Path) -> None:
    searches = [{"type": "web_search", "external_web_access": False}, {"type": "web_search_preview"}]
    body = {"model": "fake", "input": "Hi", "tools": searches}
    with client_of(fake_service(tmp_path)) as client:
        reply = client.post("/v1/responses", json=body)
        assert ok(reply)["tools"] == []
        assert {"tools[].web_search", "tools[].web_search_preview"} <= set(reply.headers["x-herd-ignored"].split(", "))
    with client_of(fake_service(tmp_path, strict=True)) as client:
        plain = {**body, "tools": [{"type": "web_search"}]}
        assert client.post("/v1/responses", json=plain).status_code == 400


def test_responses_in_the_background_can_be_cancelled(client: httpx.Client) -> None:
    body = {"model": "fake", "input": "Hi", "background": True}
    begun = ok(client.post("/v1/responses", json=body))
    for _ in range(200):
        found = ok(client.get(f"/v1/responses/{begun['id']}"))
        if found["status"] == "completed":
            break
    assert found["output"][0]["content"][0]["text"] == "Hello there."
    assert ok(client.post(f"/v1/responses/{begun['id']}/cancel"))["status"] == "completed"
    plain = ok(client.post("/v1/responses", json={"model": "fake", "input": "Hi"}))
    assert client.post(f"/v1/responses/{plain['id']}/cancel").status_code == 400


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": ["a" * 3000] * 20}),
        ("/api/embed", {"input": ["a" * 3000] * 20}),
        ("/v1/completions", {"prompt": "a" * 3000, "echo": True, "logprobs": 0, "max_tokens": 0}),
    ],
)
def test_texts_are_not_computed_for_whoever_has_left(path: str, body: dict[str, Any], tmp_path: Path) -> None:
    begun, on = threading.Event(), threading.Event()
    models: list[Any] = []

    def wait(rows: int) -> float:
        begun.set()
        return float(not on.wait(2 * PATIENCE_S))

    def load(path: str) -> Any:
        models.append(fake_llm(lambda ids: 65, "fake", cost=wait))
        return models[-1]

    service = fake_service(tmp_path, load=load)
    with running(service) as url:
        place = httpx.URL(url)
        with socket.create_connection((place.host, place.port)) as client:
            data = json.dumps({"model": "fake", **body}).encode()
            head = f"POST {path} HTTP/1.1\r\nHost: {place.netloc.decode()}\r\nContent-Type: application/json\r\n"
            client.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
            assert begun.wait(PATIENCE_S)  # it leaves when it is computed, not before
        model, runner = models[0], models[0]._running().runner
        until("it waits for the first pass", lambda: not model._running().num_under_way)
        on.set()
        httpx.get(f"{url}/health").raise_for_status()
    assert sum(len(ids) for one in runner.passes for ids in one) <= 512
