"""Words that nothing else says, in every field of random requests to a service over a host outside of the house: of
what is private none leaves, and no name is looked up and no connection made; what may leave arrives once, and whole.

HERD_LEAVING_CASES sets how many requests (2,000 by hand).
"""

import asyncio
import base64
import contextlib
import io
import itertools
import json
import os
import random
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import frames_there as converse
import httpx
import pytest
import test_replicate as replicate
from fake_host import FakeHost, Script, answer, hosting
from PIL import Image, PngImagePlugin
from serving import running, service_of

from helpers import PATIENCE_S, until
from herd.backends import gate
from herd.backends.model import BackendModel
from herd.backends.target import Target
from herd.backends.transport import Transport
from herd.chat_model import Capabilities
from herd.errors import StaysHere
from herd.server.app import ROUTES
from herd.server.file_store import FileStore
from herd.server.keys import RIGHTS, Key, digest_of
from herd.server.service import Service

CASES = int(os.environ.get("HERD_LEAVING_CASES", "300"))
IN, OUT = "i" * 16, "o" * 16
"""Keys without and with the right to leave."""
NAME = "far.example"
"""The host's name, which leads to this machine when somebody looks it up."""


@dataclass
class Asked:
    """A request: where to, its body, and the canaries in it. sent: those that the model is to read; kept: others."""

    path: str
    body: dict[str, Any]
    sent: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


class Writer:
    """Writes random requests."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.numbers = itertools.count(1)
        self.asked = Asked("", {})

    def maybe(self) -> bool:
        return self.rng.random() < 0.6

    def sent(self) -> str:
        """A canary that the model is to read."""
        word = f"canary{next(self.numbers):06d}end"
        self.asked.sent.append(word)
        return word

    def kept(self) -> str:
        """A canary that no model reads."""
        word = f"canary{next(self.numbers):06d}end"
        self.asked.kept.append(word)
        return word

    def image(self) -> str:
        """A small image with a canary in it, as base64."""
        data, told = io.BytesIO(), PngImagePlugin.PngInfo()
        told.add_text("Comment", f"canary{next(self.numbers):06d}end")
        Image.new("RGB", (4, 4)).save(data, "PNG", pnginfo=told)
        text = base64.b64encode(data.getvalue()).decode()
        self.asked.sent.append(text)
        return text

    def schema(self) -> dict[str, Any]:
        return {"type": "object", "properties": {"a": {"type": "string", "description": self.sent()}}}

    def function(self) -> dict[str, Any]:
        return {"name": f"f{next(self.numbers)}", "description": self.sent(), "parameters": self.schema()}


def chat(w: Writer) -> None:
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{w.image()}"}} if w.maybe() else None
    said: Any = [{"type": "text", "text": w.sent()}, *([part] if part else [])]
    turns: list[Any] = [{"role": "system", "content": w.sent()}] if w.maybe() else []
    turns.append({"role": "user", "content": said if part or w.maybe() else w.sent()})
    if not isinstance(turns[-1]["content"], list):
        w.asked.sent.remove(said[0]["text"])
    body: dict[str, Any] = {"messages": turns, "stream": w.maybe()}
    if w.maybe():
        call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": json.dumps({"a": w.sent()})}}
        turns += [
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": w.sent()},
        ]
    if w.maybe():
        body["tools"] = [{"type": "function", "function": w.function()}]
    elif w.maybe():
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "n", "schema": w.schema()}}
    if w.maybe():
        body |= {"user": w.kept(), "metadata": {"a": w.kept()}}
    w.asked.path, w.asked.body = "/v1/chat/completions", body


def responses(w: Writer) -> None:
    items: list[Any] = [{"role": "user", "content": [{"type": "input_text", "text": w.sent()}]}]
    if w.maybe():
        items[0]["content"].append({"type": "input_image", "image_url": f"data:image/png;base64,{w.image()}"})
    body: dict[str, Any] = {"input": items, "stream": w.maybe()}
    if w.maybe():
        items += [
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": json.dumps({"a": w.sent()})},
            {"type": "function_call_output", "call_id": "c", "output": w.sent()},
        ]
    if w.maybe():
        body["instructions"] = w.sent()
    if w.maybe():
        body["tools"] = [{"type": "function", **w.function()}]
    elif w.maybe():
        body["text"] = {"format": {"type": "json_schema", "name": "n", "schema": w.schema()}}
    if w.maybe():
        body |= {"user": w.kept(), "metadata": {"a": w.kept()}}
    w.asked.path, w.asked.body = "/v1/responses", body


def messages(w: Writer) -> None:
    said: list[Any] = [{"type": "text", "text": w.sent()}]
    if w.maybe():
        said.append({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": w.image()}})
    turns: list[Any] = [{"role": "user", "content": said}]
    if w.maybe():
        use = {"type": "tool_use", "id": "c", "name": "f", "input": {"a": w.sent()}}
        turns.append({"role": "assistant", "content": [use]})
        turns.append({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": w.sent()}]})
    body: dict[str, Any] = {"messages": turns, "max_tokens": 9, "stream": w.maybe()}
    if w.maybe():
        body["system"] = w.sent()
    if w.maybe():
        one = w.function()
        body["tools"] = [{"name": one["name"], "description": one["description"], "input_schema": one["parameters"]}]
    if w.maybe():
        body["metadata"] = {"user_id": w.kept()}
    w.asked.path, w.asked.body = "/v1/messages", body


def ollama(w: Writer) -> None:
    user: dict[str, Any] = {"role": "user", "content": w.sent()}
    if w.maybe():
        user["images"] = [w.image()]
    turns: list[Any] = [*([{"role": "system", "content": w.sent()}] if w.maybe() else []), user]
    if w.maybe():
        call = {"function": {"name": "f", "arguments": {"a": w.sent()}}}
        turns += [{"role": "assistant", "content": "", "tool_calls": [call]},
                  {"role": "tool", "tool_name": "f", "content": w.sent()}]  # fmt: skip
    body: dict[str, Any] = {"messages": turns, "stream": w.maybe()}
    if w.maybe():
        body["tools"] = [{"type": "function", "function": w.function()}]
    elif w.maybe():
        body["format"] = w.schema()
    w.asked.path, w.asked.body = "/api/chat", body


def generate(w: Writer) -> None:
    body: dict[str, Any] = {"prompt": w.sent(), "stream": w.maybe()}
    if w.maybe():
        body["system"] = w.sent()
    if w.maybe():
        body["images"] = [w.image()]
    if w.maybe():
        body["format"] = w.schema()
    w.asked.path, w.asked.body = "/api/generate", body


def elsewhere(w: Writer) -> None:
    """What this host cannot do: nothing of it arrives in any case."""
    path, name = w.rng.choice(
        [("/v1/completions", "prompt"), ("/v1/embeddings", "input"), ("/api/embed", "input"), ("/tokenize", "prompt"),
         ("/api/embeddings", "prompt"), ("/v1/moderations", "input")]
    )  # fmt: skip
    w.asked.path, w.asked.body = path, {name: w.kept()}


def counted(w: Writer) -> None:
    path = w.rng.choice(["/v1/messages/count_tokens", "/v1/responses/input_tokens"])
    said = w.kept()
    turns = {"messages": [{"role": "user", "content": said}]} if "messages" in path else {"input": said}
    w.asked.path, w.asked.body = path, turns


KINDS: tuple[Callable[[Writer], None], ...] = (chat, responses, messages, ollama, generate, elsewhere, counted)
TEXTS = {
    "/v1/chat/completions", "/v1/responses", "/v1/messages", "/api/chat", "/api/generate", "/v1/completions",
    "/v1/embeddings", "/api/embed", "/api/embeddings", "/tokenize", "/v1/moderations", "/v1/messages/count_tokens",
    "/v1/responses/input_tokens",
}  # fmt: skip
"""Routes with a body of people's texts."""
NO_TEXTS = {
    "/detokenize", "/v1/responses/{id}/cancel", "/api/show", "/api/copy", "/api/create", "/api/pull", "/api/push",
    "/api/blobs/{digest}",
}  # fmt: skip
"""Routes with a body that no model reads."""
IN_BATCHES = {"/v1/files", "/v1/batches", "/v1/batches/{id}/cancel"}
"""Routes whose texts are requests of other routes, asked later."""


def test_every_route_with_a_body_is_asked_here_or_holds_no_texts() -> None:
    assert {route.path for route in ROUTES if route.method == "POST"} == TEXTS | NO_TEXTS | IN_BATCHES


class House(NamedTuple):
    """A service, the host outside that answers for it, and how often its name was looked up."""

    client: httpx.Client
    host: FakeHost
    looked_up: list[str]
    service: Service


CAN = Capabilities(images=True, tools=True, schemas=True)


@contextlib.contextmanager
def housed(home: Path, script: Script, **fields: Any) -> Iterator[House]:
    """A service over a host outside, whose target has these fields."""
    looked_up: list[str] = []
    resolve = socket.getaddrinfo

    def counting(host: Any, *rest: Any, **more: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name == NAME:
            looked_up.append(name)
            host = "127.0.0.1"
        return resolve(host, *rest, **more)

    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("HERD_HOME", str(home))
        patch.setattr(socket, "getaddrinfo", counting)
        host = stack.enter_context(hosting(script))
        address = host.address.replace("127.0.0.1", NAME)
        far = BackendModel(Target(**{"name": "far", "base_url": address, "model": "x", "capabilities": CAN, **fields}))
        rights = frozenset(RIGHTS)
        keys = Key("in", digest_of(IN), rights), Key("out", digest_of(OUT), rights | {"leave"})
        service = service_of(far, keys=keys)
        service.files = FileStore(home / "files", service.limits)
        client = stack.enter_context(
            httpx.Client(base_url=stack.enter_context(running(service)), timeout=PATIENCE_S, headers={"x-api-key": OUT})
        )
        for name, private in (("notes", True), ("open", False)):
            made = {"model": name, "from": "far", "private": private, "stream": False}
            client.post("/api/create", json=made).raise_for_status()
        yield House(client, host, looked_up, service)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with housed(tmp_path_factory.mktemp("home"), answer("ok")) as found:
        yield found


class Sent(NamedTuple):
    """What came of a request. seen: bodies that the host got, as text."""

    status: int
    seen: list[str]
    connections: int
    looked_up: int


def sent(house: House, asked: Asked, key: str, model: str, **more: Any) -> Sent:
    """Ask, and wait for all of the answer, in the background too."""
    house.host.asked.clear()
    house.looked_up.clear()
    before = house.host.connections
    body = {"model": model, **asked.body, **more}
    reply = house.client.post(asked.path, json=body, headers={"x-api-key": key})
    if body.get("background") and reply.is_success:
        place = f"/v1/responses/{reply.json()['id']}"
        over = lambda: house.client.get(place, headers={"x-api-key": key}).json()["status"]  # noqa: E731
        until("it is not over", lambda: over() not in ("queued", "in_progress"))
    seen = [json.dumps(one.body, ensure_ascii=False) for one in house.host.asked]
    return Sent(reply.status_code, seen, house.host.connections - before, len(house.looked_up))


def check(asked: Asked, found: Sent, *, private: bool) -> None:
    """What is private stayed, and what may leave arrived once and whole."""
    if private or not asked.sent:
        assert (found.seen, found.connections, found.looked_up) == ([], 0, 0), asked.path
        return
    assert found.status == 200 and found.connections == len(found.seen) == 1, (asked.path, found)
    assert [found.seen[0].count(word) for word in asked.sent] == [1] * len(asked.sent), asked.path
    assert not any(word in found.seen[0] for word in asked.kept), asked.path


def stored(house: House, private: bool) -> str:
    """A stored response of the key that may leave; private: one that was made while it might not."""
    key = house.service.keyring.find("", OUT)
    rights, key.rights = key.rights, key.rights - {"leave"} if private else key.rights
    try:
        reply = house.client.post("/v1/responses", json={"model": "far", "input": "earlier", "background": True})
        place = f"/v1/responses/{reply.json()['id']}"
        until("it is not over", lambda: house.client.get(place).json()["status"] not in ("queued", "in_progress"))
    finally:
        key.rights = rights
    found: str = reply.json()["id"]
    return found


def run(house: House, seed: int, cases: int) -> dict[str, int]:
    """Random requests, half of them private for one reason or another; how often for which."""
    writer, found = Writer(random.Random(seed)), dict[str, int]()
    earlier = {private: stored(house, private) for private in (True, False)}
    items = {p: house.client.get(f"/v1/responses/{i}/input_items").json()["data"][0]["id"] for p, i in earlier.items()}
    for number in range(cases):
        writer.asked = Asked("", {})
        kind = writer.rng.choice(KINDS)
        kind(writer)
        asked, private = writer.asked, number % 2 == 0
        why = writer.rng.choice(["key", "profile", *(["stored", "item", "background"] if kind is responses else [])])
        key = IN if private and why in ("key", "background") else OUT
        model = ("notes" if private else "open") if why == "profile" else "far"
        more: dict[str, Any] = {}
        if why == "stored":
            more = {"previous_response_id": earlier[private]}
        elif why == "item":
            more = {"input": [{"type": "item_reference", "id": items[private]}, *asked.body["input"]]}
        elif why == "background":
            more = {"background": True, "stream": False}
        check(asked, sent(house, asked, key, model, **more), private=private)
        found[f"{why} {private}"] = found.get(f"{why} {private}", 0) + 1
    return found


def test_no_canary_of_what_is_private_leaves_and_all_others_arrive_once(house: House) -> None:
    found = run(house, 0, CASES)
    assert len(found) == 10, "each reason, private and not"


@pytest.mark.parametrize("form", ["converse", "replicate"])
def test_no_canary_of_what_is_private_leaves_in_another_form(form: Any, tmp_path: Path) -> None:
    """What may leave, and what the form can carry, arrives once and whole; what it cannot carry does not leave."""
    writer, arrived, options = Writer(random.Random(7)), 0, frozenset({"temperature", "top_p", "max_tokens"})
    with housed(tmp_path, converse.answer("ok"), form=form, options=options, model="a/b") as house:
        for number in range(48):
            writer.asked = Asked("", {})
            kind = writer.rng.choice((chat, responses, messages, ollama, generate))
            kind(writer)
            if form == "replicate":
                if number % 4 < 2:  # what it can carry
                    writer.asked = Asked("/api/generate", {"prompt": f"{number}"})
                    writer.asked.body["prompt"] = writer.sent()
                stream = house.host.address.replace("127.0.0.1", NAME) + "/streams/x"
                steps = [replicate.made(house.host, stream), replicate.said("ok"), replicate.over()]
                house.host.scripts[:] = steps
            private, profile = number % 2 == 0, writer.rng.random() < 0.5
            key, model = (OUT, "notes" if private else "open") if profile else (IN if private else OUT, "far")
            found = sent(house, writer.asked, key, model)
            if private or found.status != 200:
                assert (found.seen, found.connections, found.looked_up) == ([], 0, 0), writer.asked
                continue
            arrived += 1
            assert found.connections == len(found.seen) == (3 if form == "replicate" else 1)
            assert [found.seen[0].count(word) for word in writer.asked.sent] == [1] * len(writer.asked.sent)
            assert not any(word in one for one in found.seen for word in writer.asked.kept)
            assert not any(word in one for one in found.seen[1:] for word in writer.asked.sent)
    assert arrived >= 8


def test_no_canary_of_a_private_batch_leaves_and_all_others_arrive_once(house: House) -> None:
    """Its key, its profile, its file, or what made it: and a key that may leave by now changes nothing."""
    writer = Writer(random.Random(9))
    file_key = house.service.keyring.find("", OUT)
    for number in range(24):
        writer.asked = Asked("", {})
        writer.rng.choice((chat, responses))(writer)
        asked, private = writer.asked, number % 2 == 0
        asked.body |= {"model": "far"}
        for option in ("stream", "background", "store"):
            asked.body.pop(option, None)
        why = ("key", "profile", "file")[number // 2 % 3] if private else "none"
        if why == "profile":
            asked.body["model"] = "notes"
        house.host.asked.clear()
        house.looked_up.clear()
        before = house.host.connections
        line = json.dumps({"custom_id": "a", "method": "POST", "url": asked.path, "body": asked.body}).encode()
        headers = {"x-api-key": IN if why == "key" else OUT}
        rights = file_key.rights
        try:
            if why == "file":
                file_key.rights = rights - {"leave"}
            form = {"data": {"purpose": "batch"}, "files": {"file": ("in.jsonl", line)}}
            file = house.client.post("/v1/files", headers=headers, **form).raise_for_status().json()["id"]
        finally:
            file_key.rights = rights
        body = {"input_file_id": file, "endpoint": asked.path, "completion_window": "24h"}
        batch = house.client.post("/v1/batches", json=body, headers=headers).raise_for_status().json()
        place = f"/v1/batches/{batch['id']}"
        told: dict[str, Any] = {}

        def over(place: str = place, headers: Any = headers, told: dict[str, Any] = told) -> bool:
            told.update(house.client.get(place, headers=headers).json())
            return told["status"] in ("completed", "failed")

        until("it is not over", over)
        seen = [json.dumps(one.body, ensure_ascii=False) for one in house.host.asked]
        status = 200 if told["request_counts"]["completed"] == 1 else 403
        check(asked, Sent(status, seen, house.host.connections - before, len(house.looked_up)), private=private)
        if private:
            kept = house.client.get(f"/v1/files/{told['error_file_id']}/content", headers=headers).text
            assert json.loads(kept)["response"]["status_code"] == 403, kept


def everything_may(*said: gate.Said) -> gate.Decision:
    return gate.Decision(True)


def any_pass(place: gate.Destination, *, leave: bool) -> gate.Pass:
    return gate.allow(place, leave=True)


@pytest.mark.parametrize(
    ("place", "bypass"),
    [("herd.server.service.strictest", everything_may), ("herd.backends.model.allow", any_pass)],
)
def test_a_bypass_of_the_gate_is_found(
    house: House, monkeypatch: pytest.MonkeyPatch, place: str, bypass: Callable[..., Any]
) -> None:
    monkeypatch.setattr(place, bypass)
    writer = Writer(random.Random(1))
    for kind in (chat, responses, messages, ollama, generate):
        writer.asked = Asked("", {})
        kind(writer)
        found = sent(house, writer.asked, IN, "far")
        with pytest.raises(AssertionError):
            check(writer.asked, found, private=True)


def test_a_connection_without_a_pass_is_not_made(house: House) -> None:
    """Whatever the service decides: one file opens connections, and with a pass to another place it opens none."""
    source = Path(gate.__file__).parent
    clients = [file.name for file in source.glob("*.py") if "AsyncClient(" in file.read_text("utf-8")]
    assert clients == ["transport.py"]
    far, other = (Target(name="far", base_url=house.host.address.replace("127.0.0.1", NAME), model="x") for _ in "ab")
    house.looked_up.clear()
    before, passed, transport = house.host.connections, gate.allow(other, leave=True), Transport(far)

    async def post() -> list[Any]:
        return [value async for value in transport.post("/chat/completions", b"{}", passed)]

    for asking in (transport.get("/models", passed), post()):
        with pytest.raises(StaysHere):
            asyncio.run(asking)
    assert (house.host.connections - before, house.looked_up) == (0, [])
