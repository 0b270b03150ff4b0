"""How much of a prompt is read, in the streams of every dialect: as llama.cpp tells it, to whoever asks, and in no
other stream."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import client_of, fake_service

from fake_chat_model import DoesAll, OnlyChats
from herd.chat_model import ChatStream, Turns
from herd.event_stream import EventStream
from herd.events import ProgressEvent
from herd.policies import Policy
from herd.server.service import Service
from herd.server.tables import TABLES

QUESTION = "a" * 1200
TURNS = [{"role": "user", "content": QUESTION}]
BODIES: dict[str, dict[str, Any]] = {
    "POST /v1/chat/completions": {"messages": TURNS},
    "POST /v1/completions": {"prompt": QUESTION, "max_tokens": 5},
    "POST /v1/responses": {"input": QUESTION},
    "POST /v1/messages": {"messages": TURNS, "max_tokens": 50},
    "POST /api/chat": {"messages": TURNS},
    "POST /api/generate": {"prompt": QUESTION},
}
"""A streamed answer in every dialect."""
OTHERS = {"POST /api/create", "POST /api/pull"}
"""Streams that are no answers."""
NAMES = ("type", "object", "delta", "text", "content", "message", "response", "done", "finish_reason", "choices")
"""Members of chunks that make up what they are, beside ids and times."""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with client_of(fake_service(tmp_path_factory.mktemp("home"), chunk=None)) as found:
        yield found


def asked(client: httpx.Client, name: str, salt: str, **fields: Any) -> httpx.Response:
    """The reply to a streamed request; salt: what its prompt begins with."""
    body = json.loads(json.dumps(BODIES[name]).replace(QUESTION, salt + QUESTION))
    reply = client.post(name.partition(" ")[2], json={"model": "fake", "stream": True, **body, **fields})
    assert reply.status_code == 200, reply.text
    return reply


def chunks(reply: httpx.Response) -> list[Any]:
    """Its objects, in order, but for those that only keep a connection alive."""
    found = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith(("data: ", "{"))]
    return [json.loads(data) for data in found if data not in ("[DONE]", '{"type":"ping"}')]


def progress_in(found: list[Any]) -> list[dict[str, int]]:
    return [chunk["prompt_progress"] for chunk in found if "prompt_progress" in chunk]


def kind(chunk: dict[str, Any]) -> Any:
    """What a chunk is, without ids and times."""
    whole = json.dumps({name: chunk[name] for name in NAMES if name in chunk})
    return chunk.get("type"), len(whole)


def test_every_stream_of_an_answer_is_asked() -> None:
    streamed = {name for name, table in TABLES.items() if "stream" in table.honoured.__struct_fields__}
    assert streamed - OTHERS == BODIES.keys()
    for name in BODIES:
        assert "return_progress" in TABLES[name].honoured.__struct_fields__, name


@pytest.mark.parametrize("name", BODIES)
def test_a_stream_tells_what_is_read_as_llama_cpp_does(client: httpx.Client, name: str) -> None:
    salt = chr(ord("b") + list(BODIES).index(name))
    for again in (False, True):
        found = chunks(asked(client, name, salt, return_progress=True))
        told = progress_in(found)
        assert all(one.keys() == {"total", "cache", "processed", "time_ms"} for one in told)
        assert all(type(number) is int for one in told for number in one.values())
        total, cache = told[0]["total"], told[0]["cache"]
        assert {(one["total"], one["cache"]) for one in told} == {(total, cache)}
        assert cache == total - 1 if again else cache < 100
        read = [cache, total] if again else [cache, cache + 512, cache + 1024, total]
        assert [one["processed"] for one in told] == read, "what the cache holds, then pass by pass"
        assert [one["time_ms"] for one in told] == sorted(one["time_ms"] for one in told)
        first, last = (found.index(next(c for c in way if "prompt_progress" in c)) for way in (found, found[::-1]))
        assert last - first == len(told) - 1, "one after the other"
        assert "Hello" not in json.dumps(found[:last]), "before the answer"


@pytest.mark.parametrize("name", BODIES)
def test_no_other_stream_holds_any_of_it(client: httpx.Client, name: str) -> None:
    asked(client, name, name)  # all that follow find it in the cache
    with_progress = chunks(asked(client, name, name, return_progress=True))
    without = [chunk for chunk in with_progress if "prompt_progress" not in chunk]
    for fields in ({}, {"return_progress": False}, {"return_progress": None}):
        reply = asked(client, name, name, **fields)
        assert 'progress"' not in reply.text.replace("in_progress", "")
        assert list(map(kind, chunks(reply))) == list(map(kind, without)), "and else it is the same"
        assert "x-herd-ignored" not in reply.headers
    whole = asked(client, name, name, stream=False, return_progress=True)
    assert "prompt_progress" not in whole.text


def test_each_choice_tells_its_own(client: httpx.Client) -> None:
    found = chunks(asked(client, "POST /v1/chat/completions", "several", return_progress=True, n=2))
    for index in (0, 1):
        own = [c for c in found if c["choices"] and c["choices"][0]["index"] == index]
        told = [c["prompt_progress"] for c in own if "prompt_progress" in c]
        assert (told[0]["processed"], told[-1]["processed"]) == (told[0]["cache"], told[-1]["total"])
        assert {json.dumps(c["choices"][0]["delta"]) for c in own if "prompt_progress" in c} == {"{}"}


def test_each_of_several_prompts_tells_its_own(client: httpx.Client) -> None:
    prompts = ["first" + QUESTION, "and another" + QUESTION]
    found = chunks(asked(client, "POST /v1/completions", "", prompt=prompts, return_progress=True))
    for index, prompt in enumerate(prompts):
        told = progress_in([c for c in found if c["choices"] and c["choices"][0]["index"] == index])
        assert {one["total"] for one in told} == {told[-1]["processed"]}
        assert told[0]["processed"] == told[0]["cache"] < 100
        assert len(prompt) <= told[-1]["total"] <= len(prompt) + 1, "a byte is a token here, and one may begin the text"


# -- models that are no files ------------------------------------------------------------------------------------------


class Talkative(DoesAll):
    """Tells how much it has read, whether or not it is asked."""

    def astream(self, messages: Turns, **options: Any) -> ChatStream:
        inner = super().astream(messages, **options)

        async def events() -> Any:
            for read in (0, 7):
                yield ProgressEvent(read, 7, 0, 0.5 * read)
            async for event in inner:
                yield event

        return EventStream(events())


class Nothing:
    """A policy that lets everything through."""

    hold_tokens = 1

    def before(self, messages: Any) -> None:
        return None

    def window(self, text: str, shown: int) -> None:
        return None

    def after(self, reply: Any) -> None:
        return None


def serving(home: Path, model: Any, *, strict: bool = False, policy: Policy | None = None) -> Service:
    service = fake_service(home, strict=strict, load=lambda path: model)
    service.policies = lambda caller, ask: policy
    return service


@pytest.mark.parametrize("policy", [None, Nothing()])
def test_what_another_model_tells_goes_to_whoever_asked_past_any_policy(tmp_path: Path, policy: Any) -> None:
    model = Talkative()
    with client_of(serving(tmp_path, model, policy=policy)) as client:
        for name in BODIES:
            found = progress_in(chunks(asked(client, name, "", return_progress=True)))
            assert found == [
                {"total": 7, "cache": 0, "processed": 0, "time_ms": 0},
                {"total": 7, "cache": 0, "processed": 7, "time_ms": 3500},
            ]
            assert model.asked[-1][1]["progress"] is True
            assert progress_in(chunks(asked(client, name, ""))) == []
            assert "progress" not in model.asked[-1][1]


def test_a_model_that_tells_nothing_answers_and_the_header_says_so(tmp_path: Path) -> None:
    model = OnlyChats()
    names = [name for name in BODIES if name != "POST /v1/completions"]
    with client_of(serving(tmp_path / "a", model)) as client:
        for name in names:
            reply = asked(client, name, "", return_progress=True)
            assert reply.headers["x-herd-ignored"] == "return_progress"
            assert progress_in(chunks(reply)) == []
            assert "progress" not in model.asked[-1][1]
    with client_of(serving(tmp_path / "b", model, strict=True)) as client:
        body = {"model": "fake", "stream": True, "return_progress": True, **BODIES["POST /v1/chat/completions"]}
        refused = client.post("/v1/chat/completions", json=body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "return_progress")
