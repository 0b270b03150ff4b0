"""Stored responses: bounded in bytes a key and in all, the oldest go, and a dialog is held once however it grows."""

import gc
import random
import socket
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from serving import client_of, fake_service

from helpers import until
from herd.errors import NotFound, TooLarge
from herd.server.keys import Key, Keyring
from herd.server.limits import Limits
from herd.server.openai import response_requests, stored_responses
from herd.server.response_store import Items, ResponseStore, StoredResponse

A, B = Key("a"), Key("b")


def _kept(number: int, size: int, before: Items | None = None, id_: str = "") -> StoredResponse:
    body = {"id": f"resp_{number}", "status": "in_progress"}
    return StoredResponse(
        body, Items(before, [{"role": "user", "content": "x" * size, **({"id": id_} if id_ else {})}])
    )


def _counted(store: ResponseStore, key: Key) -> int:
    """What a key's responses take, counted anew: every link of a dialog once."""
    mine = store._keys[key.name]
    return sum(kept.size_bytes for kept in mine.kept.values()) + sum(link.size_bytes for link in _links(store, key))


def _links(store: ResponseStore, key: Key) -> list[Items]:
    """Every link of a key's dialogs, once."""
    chains = [link for kept in store._keys[key.name].kept.values() for link in kept.items.chain()]
    return [*{id(link): link for link in chains}.values()]


def test_a_dialog_that_grows_is_held_once() -> None:
    store, before = ResponseStore(1000, 10 << 20, 10 << 20), None
    for i in range(500):
        kept = _kept(i, 1000, before)
        store.keep(A, kept)
        kept.items = Items(kept.items, [{"type": "message", "content": "y" * 1000}])
        kept.say(status="completed")
        store.changed(A, kept)
        before = kept.items
    assert len(store) == 500, "half a million characters: far below the limit"
    assert store.size_bytes == _counted(store, A) < 500 * 10_000
    assert len(kept.items.all()) == 1000
    store.drop(A, "resp_3")
    assert len(kept.items.all()) == 1000, "what a later one goes on from stays"


def test_the_oldest_go_and_other_keys_keep_theirs() -> None:
    store = ResponseStore(1000, 1 << 20, 10 << 20)
    store.keep(B, _kept(0, 1000))
    for i in range(100):
        store.keep(A, _kept(i, 100_000))
        assert store.find(A, f"resp_{i}") and _counted(store, A) <= 1 << 20
    assert store.find(B, "resp_0")
    with pytest.raises(NotFound):
        store.find(A, "resp_80")


def test_of_all_keys_the_one_that_has_most_gives_way() -> None:
    store = ResponseStore(1000, 1 << 20, 2 << 20)
    keys = [Key(str(i)) for i in range(5)]
    store.keep(B, _kept(0, 1000))
    for i in range(50):
        for key in keys:
            store.keep(key, _kept(i, 50_000))
    assert store.size_bytes <= 2 << 20 and store.find(B, "resp_0")
    shares = [store._keys[key.name].size_bytes for key in keys]
    assert max(shares) < 2 * min(shares)


def test_what_can_never_be_kept_is_refused_with_what_to_do() -> None:
    store = ResponseStore(1000, 1 << 20, 2 << 20)
    store.keep(A, _kept(0, 900_000))
    with pytest.raises(TooLarge, match='"store": false'):
        store.keep(A, _kept(1, 900_000, store.find(A, "resp_0").items))
    assert store.find(A, "resp_0")


def test_counts_are_right_after_any_history() -> None:
    drawn = random.Random(5)
    store, alive = ResponseStore(20, 400_000, 600_000), {A: list[StoredResponse](), B: list[StoredResponse]()}
    for i in range(2000):
        key = drawn.choice([A, B])
        held = [k for k in alive[key] if k.id in store._keys[key.name].kept] if alive[key] else []
        before = drawn.choice([None, *(k.items for k in held)])
        kept = _kept(i, drawn.choice([10, 1000, 50_000]), before, drawn.choice("abc"))
        match drawn.randrange(4):
            case 0 if held:
                store.drop(key, drawn.choice(held).id)
            case 1 if held:
                changed = drawn.choice(held)
                changed.items = Items(changed.items, ["z" * drawn.randrange(20_000)])
                changed.say(status="completed", output="o" * drawn.randrange(20_000))
                try:
                    store.changed(key, changed)
                except TooLarge:
                    assert changed.id not in store._keys[key.name].kept
            case _:
                try:
                    store.keep(key, kept)
                    alive[key] = [*held, kept]
                except TooLarge:
                    assert kept.size_bytes + kept.items.whole_bytes > 400_000
        for one in (A, B):
            if one.name in store._keys:
                assert store._keys[one.name].size_bytes == _counted(store, one) <= 400_000
                assert store._keys[one.name].having.keys() == {i for link in _links(store, one) for i in link.ids}
        assert store.size_bytes <= 600_000


@pytest.mark.parametrize(("size", "ids"), [(1, 0), (100_000, 0), (1, 1), (1, 60)])
def test_what_is_counted_is_what_is_held(size: int, ids: int) -> None:
    store = ResponseStore(1000, 20 << 20, 20 << 20)
    tracemalloc.start()
    try:
        for i in range(1000):
            items = [
                {"role": "user", "content": "x" * size, **({"id": f"{i}_{j}"} if ids else {})} for j in range(ids or 1)
            ]
            store.keep(A, StoredResponse({"id": f"resp_{i}", "status": "in_progress"}, Items(None, items)))
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held <= store.size_bytes <= 20 << 20


# -- through the service ---------------------------------------------------------------------------------------------


def test_a_response_too_large_to_keep_is_413_and_can_be_had_without_store(tmp_path: Path) -> None:
    service = fake_service(tmp_path, limits=Limits(key_stored_bytes=7_000))
    with client_of(service) as client:
        body: dict[str, Any] = {"model": "fake", "input": "x" * 3_900}
        refused = client.post("/v1/responses", json={**body, "input": "x" * 30_000})
        assert refused.status_code == 413 and '\\"store\\": false' in refused.text
        assert client.post("/v1/responses", json={**body, "store": False}).status_code == 200
        first = client.post("/v1/responses", json={**body, "input": "x" * 1_000}).raise_for_status().json()
        second = {**body, "input": "x" * 2_000, "previous_response_id": first["id"]}
        assert client.post("/v1/responses", json=second).status_code == 413
        assert client.get(f"/v1/responses/{first['id']}").json() == first


@pytest.mark.parametrize("how", ["whole", "stream", "background"])
def test_an_answer_too_large_to_keep_is_told_as_such(tmp_path: Path, how: str) -> None:
    service = fake_service(tmp_path, "long " * 700, limits=Limits(key_stored_bytes=7_000))
    with client_of(service) as client:
        body: dict[str, Any] = {"model": "fake", "input": "Hi"}
        if how == "whole":
            found = client.post("/v1/responses", json=body).raise_for_status().json()
            assert found["store"] is False and len(found["output"][0]["content"][0]["text"]) == 3_500
            assert client.get(f"/v1/responses/{found['id']}").status_code == 404
        elif how == "stream":
            text = client.post("/v1/responses", json={**body, "stream": True}).text
            assert '"store":false' in text.partition("event: response.completed")[2]
        else:
            begun = client.post("/v1/responses", json={**body, "background": True}).json()
            place = f"/v1/responses/{begun['id']}"
            until("it goes on", lambda: client.get(place).json()["status"] not in ("queued", "in_progress"))
            found = client.get(place).raise_for_status().json()
            assert found["status"] == "failed" and "at most 7000" in found["error"]["message"]
        assert service.responses.size_bytes <= 7_000


def test_a_whole_response_whose_reader_went_away_is_cancelled(tmp_path: Path) -> None:
    def slowly(ids: list[int]) -> int:
        time.sleep(0.02)
        return 65

    service = fake_service(tmp_path, slowly)
    with client_of(service) as client:
        client.post("/v1/responses", json={"model": "fake", "input": "Hi", "max_output_tokens": 1, "store": False})
        body = b'{"model": "fake", "input": "Hi"}'
        with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as reader:
            reader.sendall(b"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body))
            reader.sendall(body)
            until("it has not begun", lambda: len(service.responses))
        (kept,) = service.responses._keys["local"].kept.values()
        until("it goes on", lambda: kept.over)
        assert client.get(f"/v1/responses/{kept.id}").json()["status"] == "cancelled"


def test_items_of_a_dialog_are_told_in_their_order(tmp_path: Path) -> None:
    with client_of(fake_service(tmp_path)) as client:
        first = client.post("/v1/responses", json={"model": "fake", "input": "One"}).raise_for_status().json()
        body = {"model": "fake", "input": "Two", "previous_response_id": first["id"]}
        second = client.post("/v1/responses", json=body).raise_for_status().json()
        items = client.get(f"/v1/responses/{second['id']}/input_items?order=asc").json()["data"]
        assert [item["role"] for item in items] == ["user", "assistant", "user"], "what led to it, not the answer"


def test_a_long_dialog_is_read_beside_the_loop_and_held_as_if_it_had_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the request is long, but what it goes on from; most of it in what no model reads again."""
    service, seen = fake_service(tmp_path), []
    everything = Items.all

    def all_items(items: Items) -> list[Any]:
        seen.append((threading.current_thread().name, service.in_flight.held))
        return everything(items)

    monkeypatch.setattr(Items, "all", all_items)
    thought = {"type": "reasoning", "id": "r", "summary": [["a"] * 50] * 500}
    with client_of(service) as client:
        body = {"model": "fake", "input": [thought, {"role": "user", "content": "One"}]}
        first = client.post("/v1/responses", json=body).raise_for_status().json()["id"]
        whole = service.responses.find(service.keyring.find("", ""), first).items.whole_bytes
        client.post("/v1/responses", json={"model": "fake", "input": "Two", "previous_response_id": first})
        ((thread, held),) = seen
        assert thread.startswith("herd-prepare"), thread
        assert held > whole + 24 * 25_000
        until("the request is held for ever", lambda: not service.in_flight.held)
        client.get(f"/v1/responses/{first}/input_items").raise_for_status()
        assert all(thread.startswith("herd-prepare") for thread, _ in seen)
        assert seen[-1][1] > 24 * 25_000, "its list as well"


def test_a_long_answer_is_told_again_beside_the_loop_and_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long by its log-probabilities."""
    service, seen = fake_service(tmp_path, "long " * 100), []
    steps, begun = stored_responses.steps_in, StoredResponse.begun

    def noted(found: Any) -> Any:
        seen.append((threading.current_thread().name, service.answering.held))
        return found

    monkeypatch.setattr(stored_responses, "steps_in", lambda output: noted(steps(output)))
    monkeypatch.setattr(StoredResponse, "begun", lambda *given: noted(begun(*given)))
    with client_of(service) as client:
        body = {"model": "fake", "input": "One", "include": ["message.output_text.logprobs"]}
        whole = client.post("/v1/responses", json=body).raise_for_status()
        told = client.get(f"/v1/responses/{whole.json()['id']}?stream=true").raise_for_status().text
        assert "response.completed" in told and len(seen) == 3
        assert all(thread.startswith("herd-prepare") for thread, _ in seen), seen
        assert seen[-1][1] >= 5 * len(whole.content), "as often as it is told"
        until("it is held for ever", lambda: not service.answering.held)


def test_what_is_not_stored_keeps_none_of_its_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[StoredResponse] = []
    monkeypatch.setattr(
        response_requests, "StoredResponse", lambda *given: made.append(StoredResponse(*given)) or made[-1]
    )
    with client_of(fake_service(tmp_path)) as client:
        body = {"model": "fake", "input": "a" * 1000, "store": False, "stream": True}
        client.post("/v1/responses", json=body).raise_for_status()
    (kept,) = made
    assert kept.items.whole_bytes < 4096
    assert b"a" * 1000 not in b"".join(link._own for link in kept.items.chain())


def test_a_response_that_ends_after_its_key_is_gone_is_no_next_ones_of_that_name() -> None:
    store, ring, old = ResponseStore(9, 1 << 20, 1 << 20), Keyring((A,)), Key("old")
    ring.replace((A, old))
    store.keep(old, before := _kept(1, 10))
    for name in ring.replace((A,)):
        store.forget(name)
    store.keep(old, late := _kept(2, 10))
    new = Key("old")
    ring.replace((A, new))
    for kept in (before, late):
        with pytest.raises(NotFound):
            store.find(new, kept.id)
    assert (len(store), store.size_bytes) == (0, 0)
    store.keep(new, third := _kept(3, 10))
    assert store.find(new, third.id) is third
