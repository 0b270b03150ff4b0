"""Stored responses as streams, by item and by count: what a client that went away, or comes back, gets of them."""

import asyncio
import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import client_of, fake_service

from helpers import PATIENCE_S, until
from herd.events import Reply
from herd.server.http.wire import encode
from herd.server.keys import Key, digest_of
from herd.server.limits import Limits
from herd.server.openai.response_events import Said
from herd.server.openai.stored_responses import _events
from herd.server.response_log import ResponseLog
from herd.server.response_store import Items, StoredResponse
from herd.server.service import Caller, Service

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "name": "weather", "parameters": CITY}
SPACE = {"type": "namespace", "name": "sky", "tools": [WEATHER]}
CALL = 'Let me see. [sky__weather(city="Oslo")]'


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with client_of(fake_service(tmp_path_factory.mktemp("home"), CALL)) as found:
        yield found


def ask(client: httpx.Client, asked: Any = "Hi", **more: Any) -> Any:
    reply = client.post("/v1/responses", json={"model": "fake", "input": asked, "tools": [SPACE], **more})
    assert reply.status_code == 200, reply.text
    return events(reply) if more.get("stream") else reply.json()


def events(reply: httpx.Response) -> list[dict[str, Any]]:
    assert reply.status_code == 200, reply.text
    found = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: ")]
    names = [line[7:] for line in reply.text.splitlines() if line.startswith("event: ")]
    assert names == [one["type"] for one in found]
    return found


def streamed(client: httpx.Client, id_: str, after: int | None = None) -> list[dict[str, Any]]:
    more = {} if after is None else {"starting_after": after}
    return events(client.get(f"/v1/responses/{id_}", params={"stream": "true", **more}))


def kinds(found: list[dict[str, Any]]) -> list[str]:
    """Types of events, those that follow each other once."""
    return [kind for kind, _ in itertools.groupby(one["type"] for one in found)]


def numbers(found: list[dict[str, Any]]) -> list[int]:
    return [one["sequence_number"] for one in found]


# -- in the background, as a stream ------------------------------------------------------------------------------------


def test_a_background_response_is_streamed_and_again_from_any_event_on(client: httpx.Client) -> None:
    seen = ask(client, background=True, stream=True)
    assert [one["type"].removeprefix("response.") for one in seen[:3]] == ["created", "queued", "in_progress"]
    assert [one["response"]["status"] for one in seen[:3]] == ["queued", "queued", "in_progress"]
    assert numbers(seen) == list(range(len(seen)))
    last = seen[-1]["response"]
    assert seen[-1]["type"] == "response.completed" and [item["type"] for item in last["output"]] == [
        "message",
        "function_call",
    ]
    assert client.get(f"/v1/responses/{last['id']}").json() == last
    for after in (None, 0, 4, len(seen) - 2, len(seen) - 1):
        assert streamed(client, last["id"], after) == seen[0 if after is None else after + 1 :]
    plain = ask(client, background=True)
    assert plain["status"] == "queued"
    whole = streamed(client, plain["id"])
    assert kinds(whole) == kinds(seen), "whether it was asked for as one or not"


def test_events_in_the_background_are_those_of_any_stream(client: httpx.Client) -> None:
    """Names, places and texts; ids are made of the response's."""

    def bare(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        id_ = found[0]["response"]["id"].removeprefix("resp_")
        told: list[dict[str, Any]] = []
        for one in found:
            kept = {k: v for k, v in one.items() if k not in ("response", "sequence_number", "item")}
            if told and kept["type"] == told[-1]["type"] and "delta" in kept:  # pieces are as they come
                told[-1]["delta"] += kept["delta"]
            elif kept["type"] != "response.queued":
                told.append(kept)
        return [json.loads(json.dumps(one).replace(id_, "")) for one in told]

    assert bare(ask(client, background=True, stream=True)) == bare(ask(client, stream=True))


class Gate:
    """A model that waits at its fifth token until it may go on."""

    def __init__(self) -> None:
        self.on, self.waits = threading.Event(), threading.Event()
        self._said = 0

    def __call__(self, ids: list[int]) -> int:
        self._said += 1
        if self._said == 5:
            self.waits.set()
            assert self.on.wait(PATIENCE_S)
        return 65


def test_whoever_leaves_a_background_stream_finds_the_rest_later(tmp_path: Path) -> None:
    gate = Gate()
    service = fake_service(tmp_path, gate)
    with client_of(service) as client:
        body = {"model": "fake", "input": "Hi", "max_output_tokens": 9, "background": True, "stream": True}
        with client.stream("POST", "/v1/responses", json=body) as reply:
            lines = (json.loads(line[6:]) for line in reply.iter_lines() if line.startswith("data: "))
            seen = [next(lines)]
            while seen[-1]["type"] != "response.output_text.delta":
                seen.append(next(lines))
        assert gate.waits.wait(PATIENCE_S)
        id_ = seen[0]["response"]["id"]
        assert client.get(f"/v1/responses/{id_}").json()["status"] == "in_progress"
        early = client.post("/v1/responses", json={"model": "fake", "input": "And?", "previous_response_id": id_})
        assert early.status_code == 400 and "not come yet" in early.text, "a dialog without its answer is another one"
        rest: list[dict[str, Any]] = []
        reader = threading.Thread(target=lambda: rest.extend(streamed(client, id_, seen[-1]["sequence_number"])))
        reader.start()
        gate.on.set()
        reader.join(PATIENCE_S)
        assert numbers(seen + rest) == list(range(len(seen + rest)))
        assert rest[-1]["type"] == "response.incomplete" and rest[-1]["response"]["status"] == "incomplete"
        text = "".join(one["delta"] for one in seen + rest if one["type"] == "response.output_text.delta")
        assert text == "A" * 9 == rest[-1]["response"]["output"][0]["content"][0]["text"]
        settled(service)


def test_a_long_log_is_told_again_between_other_work(tmp_path: Path) -> None:
    """Its reader may take it as fast as it comes, or be gone."""
    service = fake_service(tmp_path)

    async def read() -> tuple[int, int]:
        log = ResponseLog()
        kept = StoredResponse({"id": "resp_1", "status": "queued"}, Items(None, []), log)
        for text in ("a", "b") * 500:
            log.add(encode(Said(text)))
        kept.say(status="completed", output=[])
        log.end()
        turns = events = 0

        async def work() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        working = asyncio.create_task(work())
        async for _ in _events(service, Caller(service.nobody, "req_1", "-"), kept, -1):
            events += 1
        working.cancel()
        return events, turns

    events, turns = asyncio.run(read())
    assert turns >= events > 1000


class LastWord:
    """A policy that looks at the whole."""

    hold_tokens = 1

    def before(self, messages: Any) -> None:
        return None

    def window(self, text: str, shown: int) -> None:
        return None

    def after(self, reply: Reply) -> str:
        return "Withheld."


def test_a_policys_last_word_stands_for_all_of_a_background_response(tmp_path: Path) -> None:
    service = fake_service(tmp_path, "the secret word")
    service.policies = lambda caller, ask: LastWord()
    with client_of(service) as client:
        id_ = ask(client, background=True, tools=[])["id"]
        place = f"/v1/responses/{id_}"
        until("it goes on", lambda: client.get(place).json()["status"] not in ("queued", "in_progress"))
        found = client.get(place).json()
        assert found["output"][0]["content"][0]["text"] == "Withheld."
        assert found["incomplete_details"] == {"reason": "content_filter"}
        assert "secret" not in json.dumps(streamed(client, id_))


def test_a_background_response_that_was_cancelled_holds_nothing_but_itself(tmp_path: Path) -> None:
    gate = Gate()
    service = fake_service(tmp_path, gate)
    with client_of(service) as client:
        id_ = client.post("/v1/responses", json={"model": "fake", "input": "Hi", "background": True}).json()["id"]
        assert gate.waits.wait(PATIENCE_S)
        kept = service.responses.find(service.keyring.find("", ""), id_)
        task = kept.task
        assert task is not None
        for _ in range(2):
            assert client.post(f"/v1/responses/{id_}/cancel").json()["status"] == "cancelled"
        gate.on.set()
        until("it goes on", task.done)
        until("its task is kept with all that it had", lambda: kept.task is None)
        assert client.post(f"/v1/responses/{id_}/cancel").json()["status"] == "cancelled", "again"


def settled(service: Service) -> None:
    until("it is held for ever", lambda: (service.in_flight.held, service.answering.held) == (0, 0))


@pytest.mark.parametrize("how", ["cancel", "delete"])
def test_a_background_stream_ends_with_its_response(how: str, tmp_path: Path) -> None:
    gate = Gate()
    service = fake_service(tmp_path, gate)
    with client_of(service) as client:
        id_ = client.post("/v1/responses", json={"model": "fake", "input": "Hi", "background": True}).json()["id"]
        assert gate.waits.wait(PATIENCE_S)
        path, begun, found = f"/v1/responses/{id_}", threading.Event(), list[dict[str, Any]]()

        def read() -> None:
            with client.stream("GET", path, params={"stream": "true"}) as reply:
                for line in reply.iter_lines():
                    begun.set()
                    found.extend([json.loads(line[6:])] if line.startswith("data: ") else [])

        reader = threading.Thread(target=read)
        reader.start()
        assert begun.wait(PATIENCE_S)
        (client.post(f"{path}/cancel") if how == "cancel" else client.delete(path)).raise_for_status()
        gate.on.set()
        reader.join(PATIENCE_S)
        assert not reader.is_alive()
        assert (found[-1]["type"], found[-1]["response"]["status"]) == ("response.failed", "cancelled")
        settled(service)


def test_a_log_that_cannot_be_kept_is_dropped_and_the_response_is_not(tmp_path: Path) -> None:
    service = fake_service(tmp_path, "long " * 100, limits=Limits(key_stored_bytes=8_000))
    with client_of(service) as client:
        id_ = ask(client, background=True, tools=[])["id"]
        place = f"/v1/responses/{id_}"
        until("it goes on", lambda: client.get(place).json()["status"] not in ("queued", "in_progress"))
        found = client.get(place).json()
        assert found["status"] == "completed" and found["output"][0]["content"][0]["text"] == "long " * 100
        assert service.responses.size_bytes <= 8_000
        assert [one["type"] for one in streamed(client, id_)][-1] == "response.completed"


def test_a_log_is_read_by_many_while_it_is_written_and_counts_what_it_takes() -> None:
    async def main() -> list[list[bytes]]:
        log = ResponseLog()
        log.add(b"0")

        async def read() -> list[bytes]:
            return [line async for line in log.lines()]

        readers = [asyncio.create_task(read()) for _ in range(3)]
        for i in range(1, 500):
            log.add(b"%d" % i)
            if i % 50 == 0:
                await asyncio.sleep(0)
                readers.append(asyncio.create_task(read()))
            assert log._data.__sizeof__() <= log.size_bytes
        log.end()
        log.end()
        return await asyncio.gather(*readers, read())

    assert all(found == [b"%d" % i for i in range(500)] for found in asyncio.run(main()))


# -- stored ones -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"stream": True}, {"max_output_tokens": 3}, {"top_logprobs": 1}])
def test_a_stored_response_is_streamed_with_its_own_items(more: dict[str, Any], client: httpx.Client) -> None:
    found = ask(client, **more)
    body = found[-1]["response"] if isinstance(found, list) else found
    seen = streamed(client, body["id"])
    assert numbers(seen) == list(range(len(seen)))
    assert seen[0]["response"]["status"] == "in_progress" and "usage" not in seen[0]["response"]
    assert seen[-1] == {**seen[-1], "type": f"response.{body['status']}", "response": body}
    assert [one["item"] for one in seen if one["type"] == "response.output_item.done"] == body["output"]
    assert streamed(client, body["id"], 3) == seen[4:] and streamed(client, body["id"], len(seen) - 1) == []
    for wrong in ({"stream": "true", "starting_after": len(seen)}, {"starting_after": 1}, {"stream": "x"}):
        assert client.get(f"/v1/responses/{body['id']}", params=wrong).status_code == 400, wrong
    for wrong in ("-1", "x", "1" * 20):
        assert client.get(f"/v1/responses/{body['id']}?stream=true&starting_after={wrong}").status_code == 400


@pytest.mark.parametrize("stream", [False, True])
def test_an_item_that_was_cut_says_so(stream: bool, client: httpx.Client) -> None:
    found = ask(client, max_output_tokens=3, stream=stream)
    body = found[-1]["response"] if stream else found
    assert body["status"] == "incomplete" and [item["status"] for item in body["output"]] == ["incomplete"]
    if stream:
        assert [one["item"]["status"] for one in found if "item" in one] == ["in_progress", "incomplete"]
    whole = ask(client, stream=stream)
    body = whole[-1]["response"] if stream else whole
    assert {item["status"] for item in body["output"]} == {"completed"}


# -- items -------------------------------------------------------------------------------------------------------------


def said(client: httpx.Client, response: Any) -> list[str]:
    """What led to a response, in its order."""
    items = client.get(f"/v1/responses/{response['id']}/input_items?order=asc").json()["data"]
    return [json.dumps(item.get("content") or item.get("output") or item["arguments"]) for item in items]


@pytest.mark.parametrize("kind", ["item_reference", None, "-"])
def test_a_dialog_goes_on_by_references_to_its_items(kind: str | None, client: httpx.Client) -> None:
    """As AI SDK asks: of each earlier answer the id alone."""
    first = ask(client)
    text, call = ({"id": item["id"], **({} if kind == "-" else {"type": kind})} for item in first["output"])
    result = {"type": "function_call_output", "call_id": first["output"][1]["call_id"], "output": "Rain."}
    turns = [{"role": "user", "content": "Hi"}, text, call, result]
    second = ask(client, turns)
    plain = ask(client, [turns[0], *first["output"], result])
    assert second["usage"]["input_tokens"] == plain["usage"]["input_tokens"]
    assert said(client, second) == said(client, plain)
    third = ask(client, [*turns, {"id": second["output"][0]["id"]}, {"role": "user", "content": "And now?"}])
    assert len(said(client, third)) == 6
    client.delete(f"/v1/responses/{first['id']}")
    again = ask(client, [turns[0], text, call, result])
    assert said(client, again) == said(client, plain), "a later response has them, too"


def test_what_a_dialog_has_is_there_once(client: httpx.Client) -> None:
    first = ask(client, tools=[])
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    next_turn = {"role": "user", "content": "And now?"}
    on = ask(client, [reference, next_turn], previous_response_id=first["id"], tools=[])
    assert len(said(client, on)) == 3
    twice = ask(client, [{"role": "user", "content": "Hi"}, reference, reference, next_turn], tools=[])
    assert said(client, twice) == said(client, on)


def test_an_item_is_found_by_the_key_alone_whose_it_is(tmp_path: Path) -> None:
    secrets = "a-secret-of-some-length", "another-secret-of-a-key"
    keys = tuple(Key(name, digest_of(secret)) for name, secret in zip("ab", secrets, strict=True))
    with client_of(fake_service(tmp_path, keys=keys)) as client:

        def asked(secret: str, items: Any, **more: Any) -> httpx.Response:
            body = {"model": "fake", "input": items, **more}
            return client.post("/v1/responses", json=body, headers={"x-api-key": secret})

        first = asked(secrets[0], "Hi").json()
        reference = [{"type": "item_reference", "id": first["output"][0]["id"]}, {"role": "user", "content": "x"}]
        assert asked(secrets[0], reference).status_code == 200
        refused = asked(secrets[1], reference)
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")
        assert (
            asked(secrets[0], [{"type": "item_reference", "id": "msg_none"}]).text.partition("got")[0]
            == (refused.text.partition("got")[0])
        )
        gone = asked(secrets[0], "Hi", store=False).json()["output"][0]["id"]
        refused = asked(secrets[0], [{"type": "item_reference", "id": gone}])
        assert refused.status_code == 404 and "send the item itself" in refused.text
        for wrong in ({"type": "item_reference"}, {"type": "item_reference", "id": 3}, {"id": None}, {}):
            assert asked(secrets[0], [wrong]).status_code == 400, wrong


def test_input_items_are_what_led_to_a_response_in_pages(client: httpx.Client) -> None:
    first = ask(client, "One", tools=[])
    turns = [{"role": "user", "content": f"{i}"} for i in range(25)]
    second = ask(client, turns, previous_response_id=first["id"], tools=[])
    place = f"/v1/responses/{second['id']}/input_items"
    items = client.get(place, params={"order": "asc", "limit": 100}).json()["data"]
    assert [item["role"] for item in items] == ["user", "assistant", *["user"] * 25]
    assert [item["content"][0]["text"] for item in items[2:]] == [f"{i}" for i in range(25)]
    assert all(item["status"] == "completed" and item["type"] == "message" for item in items)
    ids = [item["id"] for item in items]
    assert len(set(ids)) == 27 and ids[1] == first["output"][0]["id"]
    page = client.get(place).json()
    assert [item["id"] for item in page["data"]] == ids[:-21:-1], "the latest first, twenty of them"
    assert (page["has_more"], page["first_id"], page["last_id"]) == (True, ids[-1], ids[-20])
    rest = client.get(place, params={"after": page["last_id"], "limit": 7}).json()
    assert [item["id"] for item in rest["data"]] == ids[:-20][::-1] and rest["has_more"] is False
    named = [{"type": "item_reference", "id": ids[2]}, turns[1]]
    assert [
        item["id"]
        for item in client.get(f"/v1/responses/{ask(client, named, tools=[])['id']}/input_items").json()["data"]
    ][1] == ids[2], "listed items can be referred to"
    for wrong in ("order=x", "limit=0", "limit=101", "limit=x", "after=none"):
        assert client.get(f"{place}?{wrong}").status_code == 400, wrong


# -- counts and tools --------------------------------------------------------------------------------------------------


def test_a_request_is_counted_as_it_is_charged(client: httpx.Client) -> None:
    def counted(**body: Any) -> Any:
        reply = client.post("/v1/responses/input_tokens", json=body)
        assert reply.status_code == 200, reply.text
        assert reply.json()["object"] == "response.input_tokens"
        return reply.json()["input_tokens"]

    first = ask(client, tools=[])
    reference = {"id": first["output"][0]["id"]}
    for body in (
        {"input": "Hi"},
        {"input": "Hi", "instructions": "Be kind.", "tools": [SPACE, WEATHER]},
        {"input": [{"role": "user", "content": "a"}, reference, {"role": "user", "content": "b"}]},
        {"input": "b", "previous_response_id": first["id"]},
        {"input": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    ):
        whole = client.post("/v1/responses", json={"model": "fake", **body}).json()
        assert counted(model="fake", **body) == whole["usage"]["input_tokens"]
    assert counted(previous_response_id=first["id"], input="b") > counted(model="fake", input="b")
    for wrong in ({"input": "Hi"}, {"model": "fake"}, {"model": "fake", "input": "Hi", "conversation": "x"}):
        assert client.post("/v1/responses/input_tokens", json=wrong).status_code == 400, wrong
    assert client.post("/v1/responses/input_tokens", json={"model": "none", "input": "Hi"}).status_code == 404


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/responses/input_tokens"])
def test_an_earlier_response_that_is_not_there_is_told_by_its_field(path: str, client: httpx.Client) -> None:
    reply = client.post(path, json={"model": "fake", "input": "Hi", "previous_response_id": "resp_none"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (404, "previous_response_id")


def test_items_and_tools_of_other_types_are_left_out_and_told(client: httpx.Client, tmp_path: Path) -> None:
    others = [{"type": "mcp", "server_label": "a"}, {"type": "custom", "name": "b"}, {"type": "next\r\nyear"}]
    space = {**SPACE, "tools": [WEATHER, {"type": "custom", "name": "c"}]}
    items = [{"role": "user", "content": "Hi"}, {"type": "web_search_call", "id": "ws_1", "status": "completed"}]
    body = {"model": "fake", "input": items, "tools": [*others, space]}
    for path in ("/v1/responses", "/v1/responses/input_tokens"):
        reply = client.post(path, json=body)
        assert reply.status_code == 200, reply.text
        assert reply.headers["x-herd-ignored"] == "tools[].mcp, tools[].custom, tools[].nextyear"
        assert reply.headers["x-herd-note"] == "items left out: web_search_call"
    found = client.post("/v1/responses", json=body).json()
    assert [tool["type"] for tool in found["tools"]] == ["namespace"] and len(found["tools"][0]["tools"]) == 1
    for choice in ("required", {"type": "custom", "name": "b"}, {"type": "mcp"}):
        refused = client.post("/v1/responses", json={**body, "tools": others, "tool_choice": choice})
        assert refused.status_code == 400 and "tool_choice" in refused.text
    with client_of(fake_service(tmp_path, strict=True)) as strict:
        for more in ({"tools": others}, {"input": items, "tools": []}):
            assert strict.post("/v1/responses", json={"model": "fake", "input": "Hi", **more}).status_code == 400


def test_a_request_has_so_many_items_at_most(tmp_path: Path) -> None:
    with client_of(fake_service(tmp_path, limits=Limits(messages=3))) as client:
        items = [{"role": "user", "content": "a"}] * 4
        for path in ("/v1/responses", "/v1/responses/input_tokens"):
            assert client.post(path, json={"model": "fake", "input": items[:3]}).status_code == 200
            refused = client.post(path, json={"model": "fake", "input": items})
            assert refused.status_code == 400 and "input: got 4, expected at most 3" in refused.text


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat"])
def test_chats_leave_out_tools_of_other_types_and_tell_them(path: str, client: httpx.Client, tmp_path: Path) -> None:
    function = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
    tools = [{"type": "custom", "custom": {"name": "a"}}, {"type": "web_search_preview"}, function]
    body = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}], "tools": tools, "stream": False}
    reply = client.post(path, json=body)
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-herd-ignored"] == "tools[].custom, tools[].web_search_preview"
    if path.startswith("/v1"):
        refused = client.post(path, json={**body, "tools": tools[:2], "tool_choice": "required"})
        assert refused.status_code == 400 and "tool_choice" in refused.text
    with client_of(fake_service(tmp_path, strict=True)) as strict:
        assert strict.post(path, json=body).status_code == 400
