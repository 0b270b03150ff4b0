"""Policies of the service: what they change, what they only note, in every dialect."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import client_of, fake_service

from herd.safety import Audit
from herd.server.keys import Key, digest_of
from herd.server.run import policies_of

MAIL = "jane.doe@example.org"
SAID = f"Write to {MAIL} soon."
TURNS = [{"role": "user", "content": f"My mail is {MAIL}"}]


def clients(tmp_path: Path, mode: str, answer: str = SAID, **arguments: Any) -> Any:
    service = fake_service(tmp_path, answer, **arguments)
    service.policies = policies_of(mode, Audit(tmp_path / "audit.jsonl"))
    return client_of(service)


def answers(client: httpx.Client, **more: Any) -> dict[str, str]:
    """What each way of asking says."""
    base = {"model": "fake", **more}
    found = {}
    chat = client.post("/v1/chat/completions", json={**base, "messages": TURNS}).json()
    found["chat"] = chat["choices"][0]["message"]["content"]
    stream = client.post("/v1/chat/completions", json={**base, "messages": TURNS, "stream": True}).text
    data = [json.loads(x[6:]) for x in stream.splitlines() if x.startswith("data: {")]
    found["stream"] = "".join(x["choices"][0]["delta"].get("content") or "" for x in data)
    responses = client.post("/v1/responses", json={**base, "input": TURNS[0]["content"]}).json()
    found["responses"] = responses["output"][0]["content"][0]["text"]
    ollama = client.post("/api/chat", json={**base, "messages": TURNS, "stream": False}).json()
    found["ollama"] = ollama["message"]["content"]
    generate = client.post("/api/generate", json={**base, "prompt": TURNS[0]["content"], "stream": False}).json()
    found["generate"] = generate["response"]
    messages = client.post("/v1/messages", json={**base, "messages": TURNS, "max_tokens": 200}).json()
    found["messages"] = messages["content"][0]["text"]
    return found


def test_observe_changes_no_byte_and_tells_what_it_saw(tmp_path: Path) -> None:
    with clients(tmp_path, "observe") as client:
        assert set(answers(client).values()) == {SAID}
        chat = client.post("/v1/chat/completions", json={"model": "fake", "messages": TURNS}).json()
    notes = chat["herd"]["policy"]
    assert {(n["layer"], n["decision"], n["where"]) for n in notes} == {
        ("rules", "observe", "input"),
        ("rules", "observe", "output"),
    }
    assert MAIL not in json.dumps(notes)
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert lines
    assert MAIL not in json.dumps(lines)


def test_redact_lets_the_find_out_nowhere_and_not_in(tmp_path: Path) -> None:
    asked: list[bytes] = []

    def say(ids: list[int]) -> int:
        text = bytes(i for i in ids if i < 256)
        asked.append(text)
        said = SAID.encode()
        head = text.rfind(b"assistant\n\n") + len(b"assistant\n\n")
        rest = len(text) - head
        return said[rest] if rest < len(said) else 265

    with clients(tmp_path, "redact", say) as client:  # type: ignore[arg-type]
        for name, text in answers(client, max_tokens=len(SAID), options={"num_predict": len(SAID)}).items():
            assert MAIL not in text, name
            assert text.startswith("Write to ["), (name, text)
    prompts = {text.split(b"assistant\n\n")[0] for text in asked}
    assert prompts
    assert not any(MAIL.encode() in prompt for prompt in prompts)


def test_block_refuses_at_the_door_and_says_which_layer(tmp_path: Path) -> None:
    with clients(tmp_path, "block") as client:
        for name, text in answers(client).items():
            assert "stopped by a safety policy (rules" in text, (name, text)
        found = client.post("/v1/chat/completions", json={"model": "fake", "messages": TURNS}).json()
        assert found["choices"][0]["finish_reason"] == "content_filter"
        refused = client.post("/v1/messages", json={"model": "fake", "messages": TURNS, "max_tokens": 9}).json()
        assert refused["stop_reason"] == "refusal"
        clean = [{"role": "user", "content": "Hi"}]
        cut = client.post("/v1/chat/completions", json={"model": "fake", "messages": clean}).json()
        assert MAIL not in cut["choices"][0]["message"]["content"]


def test_a_key_may_have_a_policy_of_its_own(tmp_path: Path) -> None:
    keys = (Key("strict", digest_of("s" * 20), policy="block"), Key("plain", digest_of("p" * 20), policy="off"))
    with clients(tmp_path, "observe", keys=keys) as client:
        body = {"model": "fake", "messages": TURNS}
        strict = client.post("/v1/chat/completions", json=body, headers={"x-api-key": "s" * 20}).json()
        plain = client.post("/v1/chat/completions", json=body, headers={"x-api-key": "p" * 20}).json()
    assert strict["choices"][0]["finish_reason"] == "content_filter"
    assert plain["choices"][0]["message"]["content"] == SAID
    assert "herd" not in plain


@pytest.mark.parametrize("given", ["x", ["x", f"mail {MAIL}"], [{"type": "text", "text": "x"}]])
def test_moderations_judge_nothing_without_a_guard_and_say_so(tmp_path: Path, given: Any) -> None:
    with clients(tmp_path, "observe") as client:
        found = client.post("/v1/moderations", json={"input": given}).json()
    assert len(found["results"]) == (len(given) if isinstance(given, list) else 1)
    assert not any(r["flagged"] or r["herd"]["judged"] for r in found["results"])
    assert len(found["results"][0]["category_scores"]) == 13
    if len(found["results"]) == 2:
        assert [f["kind"] for f in found["results"][1]["herd"]["findings"]] == ["personal"]
