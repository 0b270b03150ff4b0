"""Whether what a service is asked may leave the house: the strictest of key, profile and stored responses, as a model
is told it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import running, service_of

import herd
from fake_chat_model import DoesAll
from helpers import PATIENCE_S, until
from herd.backends.gate import allow
from herd.chat_model import ChatStream, Turns
from herd.errors import BadMedia
from herd.server.keys import RIGHTS, Key, Keyring, digest_of, plain_key
from herd.server.requests import fetcher
from herd.server.requests.admission import Spending
from herd.server.service import Caller, Service

INSIDE, OUTSIDE = "i" * 16, "o" * 16


class Far(DoesAll):
    """A model outside of the house: it asks the gate as whoever connects does."""

    name = base_url = "https://far.example/v1"
    in_house = False

    def astream(self, messages: Turns, **options: Any) -> ChatStream:
        allow(self, leave=options.get("leave", False))
        return super().astream(messages, **options)


class House:
    """A service over a model far away, whose one key gets the right to leave later."""

    def __init__(self, address: str, service: Service, model: Far, key: Key) -> None:
        self.service, self.model, self.key = service, model, key
        self.client = httpx.Client(base_url=address, timeout=PATIENCE_S, headers={"x-api-key": "k" * 16})

    def may_leave(self, may: bool) -> None:
        self.key.become(Key("k", digest_of("k" * 16), frozenset((*RIGHTS, *(["leave"] if may else ())))))

    def respond(self, text: Any = "Hi", **fields: Any) -> httpx.Response:
        self.model.asked.clear()
        return self.client.post("/v1/responses", json={"model": "far", "input": text, **fields})


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setenv("HERD_HOME", str(tmp_path))
    model = Far(name="far")
    key = Key("k", digest_of("k" * 16), frozenset((*RIGHTS, "leave")))
    service = service_of(model, keys=(key,))
    with running(service) as address:
        found = House(address, service, model, key)
        with found.client:
            yield found


def stayed(house: House, reply: httpx.Response, why: str) -> None:
    """The reply says so, and the model was not asked."""
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["type"]) == (403, "stays_here", "permission_error")
    assert "outside of the house" in error["message"] and error["message"].endswith(f"({why})")
    assert house.model.asked == []


STORED = "a stored response in it is private"


def test_a_key_without_the_right_is_told_so_in_every_dialect(house: House) -> None:
    house.may_leave(False)
    stayed(house, house.respond(), "key k has no right to leave")
    turns = [{"role": "user", "content": "Hi"}]
    for path in ("/v1/messages", "/api/chat"):
        reply = house.client.post(path, json={"model": "far", "messages": turns, "max_tokens": 5})
        assert reply.status_code == 403 and "key k has no right to leave" in reply.text and house.model.asked == []


def test_a_response_that_was_private_stays_so_when_its_key_may_leave(house: House) -> None:
    house.model.in_house = True
    house.may_leave(False)
    first = house.respond("secret").json()["id"]
    second = house.respond("more", previous_response_id=first).json()["id"]
    house.model.in_house = False
    house.may_leave(True)
    for last in (first, second):
        stayed(house, house.respond(previous_response_id=last), STORED)
        stayed(house, house.respond(previous_response_id=last, store=False), STORED)
        stayed(house, house.respond(previous_response_id=last, stream=True), STORED)
    assert house.respond().status_code == 200


def test_an_item_that_a_request_refers_to_keeps_it_in_the_house(house: House) -> None:
    house.model.in_house = True
    house.may_leave(False)
    private = house.respond("secret").json()["id"]
    house.may_leave(True)
    open_ = house.respond("open").json()["id"]
    house.model.in_house = False
    for one, stays in ((private, True), (open_, False)):
        for item in house.client.get(f"/v1/responses/{one}/input_items").json()["data"]:
            reply = house.respond([{"type": "item_reference", "id": item["id"]}, {"role": "user", "content": "Hi"}])
            stayed(house, reply, STORED) if stays else reply.raise_for_status()


def test_what_goes_on_in_private_is_private_from_there_on(house: House) -> None:
    open_ = house.respond("open").json()["id"]
    house.model.in_house = True
    house.may_leave(False)
    private = house.respond("secret", previous_response_id=open_).json()["id"]
    house.model.in_house = False
    house.may_leave(True)
    stayed(house, house.respond(previous_response_id=private), STORED)
    assert house.respond(previous_response_id=open_).status_code == 200


def test_in_the_background_it_stays_as_well(house: House) -> None:
    def over(id_: str) -> dict[str, Any]:
        found: dict[str, Any] = house.client.get(f"/v1/responses/{id_}").json()
        return found

    def background(**fields: Any) -> dict[str, Any]:
        id_ = house.respond(background=True, **fields).json()["id"]
        until("it is not over", lambda: over(id_)["status"] not in ("queued", "in_progress"))
        return over(id_)

    house.model.in_house = True
    house.may_leave(False)
    private = background()
    house.model.in_house = False
    house.may_leave(True)
    assert private["status"] == "completed"
    found = background(previous_response_id=private["id"])
    assert found["status"] == "failed" and found["error"]["message"].endswith(f"({STORED})")
    assert house.model.asked == []
    assert background()["status"] == "completed"


def test_a_private_profile_stays_in_and_so_does_what_is_made_of_it(house: House) -> None:
    def make(path: str, **body: Any) -> None:
        house.client.post(path, json=body).raise_for_status()

    make("/api/create", model="notes", **{"from": "far"}, private=True)
    make("/api/create", model="pirate", **{"from": "notes"}, system="Arr.", private=False)
    make("/api/copy", source="notes", destination="twin")
    make("/api/create", model="open", **{"from": "far"}, system="Arr.")
    for name in ("notes", "pirate", "twin", "notes:latest"):
        stayed(house, house.respond(model=name), f"the profile {name} is private")
    assert house.respond(model="open").status_code == 200
    make("/api/create", model="notes", **{"from": "far"}, system="Other words.")  # as a client does it again
    stayed(house, house.respond(model="notes"), "the profile notes is private")
    make("/api/copy", source="open", destination="twin")
    stayed(house, house.respond(model="twin"), "the profile twin is private")
    make("/api/create", model="twin", **{"from": "open"}, private=False)
    assert house.respond(model="twin").status_code == 200
    house.model.in_house = True
    kept = house.respond(model="notes").json()["id"]
    house.model.in_house = False
    stayed(house, house.respond(previous_response_id=kept), STORED)


def test_a_profile_that_is_gone_when_it_is_sent_is_as_private_as_it_was(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its text is in the prompt by then. One that is gone before that is told as not there."""
    made = {"model": "notes", "from": "far", "system": "canary", "private": True}
    profiles = house.service.models.catalogue.profiles
    house.client.post("/api/create", json=made).raise_for_status()

    def meanwhile(*_: Any, **__: Any) -> None:
        profiles.remove("notes")

    monkeypatch.setattr("herd.server.service.without_effect", meanwhile)
    stayed(house, house.respond(model="notes"), "the profile notes is private")
    assert not house.service.leaving(Caller(house.key, "r", "/v1/responses"), "notes").leave
    assert house.respond(model="notes").status_code == 404


URL = "http://canary.example/x.png"
IMAGE = {"type": "image_url", "image_url": {"url": URL}}
BY_ADDRESS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": [IMAGE]}]},
    "/v1/responses": {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": URL}]}]},
    "/v1/responses/input_tokens": {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": URL}]}]},
    "/v1/messages": {
        "max_tokens": 5,
        "messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": URL}}]}],
    },
    "/v1/messages/count_tokens": {
        "messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": URL}}]}],
    },
    "/tokenize": {"messages": [{"role": "user", "content": [IMAGE]}]},
}


def test_an_address_that_a_private_profile_is_asked_about_is_not_looked_up(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []

    async def fetch(url: str, where: str, owner: str) -> bytes:
        fetched.append(url)
        raise BadMedia("fetched")

    monkeypatch.setattr(fetcher, "fetch", fetch)
    house.service.remote_media = house.model.in_house = True
    for name, private in (("notes", True), ("open", False)):
        made = {"model": name, "from": "far", "private": private}
        house.client.post("/api/create", json=made).raise_for_status()
    for path, body in BY_ADDRESS.items():
        reply = house.client.post(path, json={"model": "notes", **body})
        assert (reply.status_code, fetched) == (403, []), (path, reply.text)
        assert "the profile notes is private" in reply.text and "canary" not in reply.text
        assert "fetched" in house.client.post(path, json={"model": "open", **body}).text
        assert fetched.pop() == URL
        assert house.client.post(path, json={"model": "nowhere", **body}).status_code == 404 and not fetched


def test_tokens_that_no_context_holds_are_not_charged(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another engine tells of its tokens closes a key for no longer than its context is worth."""
    charged: list[int] = []
    monkeypatch.setattr(Spending, "made", lambda self, total: charged.append(total))
    monkeypatch.setattr("herd.event_stream.EventStream.made_tokens", 1 << 28)
    assert house.respond().status_code == 200
    assert charged and max(charged) == 2 * house.model.context


def test_images_are_fetched_in_one_place_which_asks_whether_they_may() -> None:
    root = Path(herd.__file__).parent / "server"
    found = {str(file.relative_to(root)): file.read_text("utf-8").count("mages.fetch(") for file in root.rglob("*.py")}
    assert {name: count for name, count in found.items() if count} == {"service.py": 1}


@pytest.mark.parametrize("leave", [False, True])
def test_without_keys_and_with_plain_ones_only_the_one_who_serves_allows_it(leave: bool) -> None:
    keyrings: list[Callable[[], Key]] = [
        lambda: Keyring(leave=leave).find("", ""),
        lambda: Keyring([plain_key("p" * 16, leave=leave)]).find(f"Bearer {'p' * 16}", ""),
    ]
    for key in keyrings:
        assert key().says_of_leaving.may_leave is leave


def test_one_function_alone_tells_models_whose_a_request_is() -> None:
    """Else a request could go past the decision of whether it may leave."""
    root = Path(herd.__file__).parent / "server"
    telling = {str(file.relative_to(root)): file.read_text("utf-8").count("tenant") for file in root.rglob("*.py")}
    assert {name: count for name, count in telling.items() if count} == {"service.py": 1}
