"""Begun answers in every dialect: who goes on, who opens another one, and what a policy reads of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import client_of, fake_service

from herd.server.run import policies_of

SAID = "Once upon a time there was a herd."
MAIL = "jane.doe@example.org"
CALL = '{"type": "function", "name": "weather", "parameters": {"city": "Oslo"}}'
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def begun(text: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": "Tell"}, {"role": "assistant", "content": text}]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with client_of(fake_service(tmp_path_factory.mktemp("begun"), SAID)) as found:
        yield found


def chat(client: httpx.Client, dialog: Any, **more: Any) -> str:
    """What /v1/chat/completions says, whole and streamed."""
    body = {"model": "fake", "messages": dialog, **more}
    reply = client.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    text = reply.json()["choices"][0]["message"]["content"]
    lines = client.post("/v1/chat/completions", json={**body, "stream": True}).text.splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == (text or "")
    return str(text)


def ollama(client: httpx.Client, dialog: Any, **more: Any) -> str:
    """What /api/chat says, whole and streamed."""
    body = {"model": "fake", "messages": dialog, **more}
    reply = client.post("/api/chat", json={**body, "stream": False})
    assert reply.status_code == 200, reply.text
    lines = [json.loads(line) for line in client.post("/api/chat", json=body).text.splitlines()]
    text = str(reply.json()["message"]["content"])
    assert "".join(line["message"]["content"] for line in lines) == text
    return text


def anthropic(client: httpx.Client, dialog: Any, **more: Any) -> str:
    """What /v1/messages says, whole and streamed."""
    body = {"model": "fake", "messages": dialog, "max_tokens": 99, **more}
    reply = client.post("/v1/messages", json=body)
    assert reply.status_code == 200, reply.text
    lines = client.post("/v1/messages", json={**body, "stream": True}).text.splitlines()
    found = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    text = str(reply.json()["content"][0]["text"])
    assert "".join(x["delta"]["text"] for x in found if x["type"] == "content_block_delta") == text
    return text


@pytest.mark.parametrize("cut", [0, 4, 5, len(SAID)])
def test_anthropic_s_and_ollama_s_clients_get_what_is_new_alone(cut: int, client: httpx.Client) -> None:
    assert anthropic(client, begun(SAID[:cut])) == SAID[cut:]
    assert ollama(client, begun(SAID[:cut])) == SAID[cut:]
    blocks = [{"type": "text", "text": SAID[:cut]}]
    assert anthropic(client, begun(blocks)) == SAID[cut:]


def test_openai_s_clients_go_on_where_they_ask_for_it(client: httpx.Client) -> None:
    dialog = begun(SAID[:7])
    assert chat(client, dialog) == SAID, "another answer is opened"
    assert chat(client, dialog, continue_final_message=False) == SAID
    assert chat(client, dialog, continue_final_message=True) == SAID[7:]
    assert chat(client, dialog, continue_final_message=True, add_generation_prompt=False) == SAID[7:]
    assert chat(client, dialog, add_generation_prompt=True) == SAID
    item = [{"role": "user", "content": "Tell"}, {"role": "assistant", "content": SAID[:7]}]
    responses = client.post("/v1/responses", json={"model": "fake", "input": item}).json()
    assert responses["output"][0]["content"][0]["text"] == SAID, "an item that is there is over"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize"])
@pytest.mark.parametrize(
    ("more", "param", "match"),
    [
        ({"continue_final_message": True, "add_generation_prompt": True}, "add_generation_prompt", "got true beside"),
        ({"add_generation_prompt": False}, "add_generation_prompt", "expected continue_final_message to be true"),
        (
            {"continue_final_message": True, "messages": [{"role": "user", "content": "Tell"}]},
            "continue_final_message",
            "got a last message of the user, expected one of the assistant",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(path: str, more: Any, param: str, match: str, client: httpx.Client) -> None:
    reply = client.post(path, json={"model": "fake", "messages": begun("Once"), **more})
    assert reply.status_code == 400
    assert match in reply.text
    assert reply.json()["error"].get("param") == param


def test_tokens_are_counted_as_they_are_sent(client: httpx.Client) -> None:
    def ids(**more: Any) -> list[int]:
        reply = client.post("/tokenize", json={"model": "fake", "messages": begun("Once"), **more})
        assert reply.status_code == 200, reply.text
        return list(reply.json()["tokens"])

    open_ids = ids(continue_final_message=True)
    assert bytes(open_ids[-6:]) == b"\n\nOnce"
    assert ids()[: len(open_ids)] == open_ids
    assert len(ids()) > len(open_ids)
    body = {"model": "fake", "messages": begun("Once")}
    assert client.post("/v1/messages/count_tokens", json=body).json()["input_tokens"] == len(open_ids)
    usage = client.post("/v1/messages", json={**body, "max_tokens": 1}).json()["usage"]
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == len(open_ids)


def test_an_answer_with_calls_is_not_gone_on_with(client: httpx.Client) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    dialog = [{"role": "user", "content": "Tell"}, {"role": "assistant", "content": "So", "tool_calls": [call]}]
    line = "messages[1]: got an answer with tool calls, expected text, or the calls' results after it"
    asked = {"model": "fake", "messages": dialog, "continue_final_message": True}
    assert line in client.post("/v1/chat/completions", json=asked).json()["error"]["message"]
    assert client.post("/v1/chat/completions", json={"model": "fake", "messages": dialog}).status_code == 200
    theirs = {**call, "function": {"name": "weather", "arguments": {}}}
    told = client.post(
        "/api/chat", json={"model": "fake", "messages": [dialog[0], {**dialog[1], "tool_calls": [theirs]}]}
    )
    assert (told.status_code, line in told.json()["error"]) == (400, True)
    use = begun([{"type": "text", "text": "So"}, {"type": "tool_use", "id": "c", "name": "weather", "input": {}}])
    told = client.post("/v1/messages", json={"model": "fake", "messages": use, "max_tokens": 9})
    assert (told.status_code, line in told.json()["error"]["message"]) == (400, True)


def test_a_schema_holds_for_the_turn_in_every_dialect(tmp_path: Path) -> None:
    text = '{"city": "Oslo"}'
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    with client_of(fake_service(tmp_path, text)) as client:
        for cut in (1, 9, len(text)):
            dialog = begun(text[:cut])
            assert chat(client, dialog, continue_final_message=True, response_format=form) == text[cut:]
            assert ollama(client, dialog, format=SCHEMA) == text[cut:]
            config = {"format": {"type": "json_schema", "schema": SCHEMA}}
            assert anthropic(client, dialog, output_config=config) == text[cut:]
        body = {"model": "fake", "messages": begun("Sure"), "format": SCHEMA, "stream": False}
        refused = client.post("/api/chat", json=body)
        assert (refused.status_code, "begun with 'Sure' at character 0" in refused.text) == (400, True)


def test_a_forced_call_that_is_begun_comes_whole(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
    body = {"model": "fake", "messages": begun(CALL[:40]), "continue_final_message": True, "tools": [tool]}
    with client_of(fake_service(tmp_path, CALL)) as client:
        reply = client.post("/v1/chat/completions", json={**body, "tool_choice": "required"}).json()
        (call,) = reply["choices"][0]["message"]["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == {"city": "Oslo"}
        theirs = {"name": "weather", "input_schema": SCHEMA}
        asked = {"model": "fake", "messages": begun(CALL[:40]), "max_tokens": 99, "tools": [theirs]}
        (use,) = client.post("/v1/messages", json={**asked, "tool_choice": {"type": "any"}}).json()["content"]
        assert use["input"] == {"city": "Oslo"}


@pytest.mark.parametrize("cut", [3, 9, len(MAIL) - 4])
def test_a_policy_reads_the_begun_part_and_the_answer_as_one(cut: int, tmp_path: Path) -> None:
    """Neither half is an address by itself, where the cut is in its host's name or before."""
    said = f"Write to {MAIL} soon."
    dialog = begun(said[: len("Write to ") + cut])
    for mode in ("redact", "block", "observe"):
        service = fake_service(tmp_path, said)
        service.policies = policies_of(mode, None)
        with client_of(service) as client:
            reply = client.post("/v1/messages", json={"model": "fake", "messages": dialog, "max_tokens": 99}).json()
            text = reply["content"][0]["text"]
            if mode == "observe":
                assert text == said[len("Write to ") + cut :]
            elif mode == "redact":
                assert text == "[EMAIL] soon."
            else:
                assert reply["stop_reason"] == "refusal"
            (note,) = [n for n in reply["herd"]["policy"] if n["where"] == "output"]
            assert (note["rule"], note["decision"], note["start"]) == ("personal.email", mode, 0)
            assert note["end"] == len(MAIL) - cut
