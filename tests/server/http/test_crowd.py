"""Who goes when all places are taken: never somebody who is being answered, never a newcomer before what does nothing,
and of those that upload the slowest of whoever has most."""

import asyncio
import contextlib
import json
import math
import random
import select
import socket
import threading
import time
from collections.abc import Hashable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import httpx
import pytest
from serving import client_of, fake_service, running

from helpers import PATIENCE_S, until
from herd.server.http.connection import Connection
from herd.server.http.crowd import ConnectionState, Crowd
from herd.server.http.framing import Framing
from herd.server.http.turns import STARTS, Turns
from herd.server.keys import Key, digest_of, plain_key
from herd.server.limits import Limits

SECRET = "a-secret-of-some-length"
BEGUN = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{"


class Fake:
    """A connection that notes how it ended."""

    def __init__(self, peer: Hashable = "a", owner: Hashable = "a", rate: float = 0.0) -> None:
        self.peer, self.owner = peer, owner
        self.end = ""
        self._rate = rate

    def rate(self) -> float:
        return self._rate

    def cut(self) -> None:
        self.end = "cut"

    def give_way(self) -> None:
        self.end = "gave way"


def crowd_of(most: int, **members: tuple[ConnectionState, Fake]) -> Crowd:
    crowd = Crowd(most, 8)
    for does, fake in members.values():
        crowd.move(fake, does)
    return crowd


def test_what_lingers_goes_first_then_what_is_idle_longest_then_heads() -> None:
    fakes = {name: Fake() for name in ("works", "head", "idle", "later", "lingers")}
    crowd = crowd_of(
        5,
        works=(ConnectionState.WORKS, fakes["works"]),
        head=(ConnectionState.HEAD, fakes["head"]),
        idle=(ConnectionState.IDLE, fakes["idle"]),
        later=(ConnectionState.IDLE, fakes["later"]),
        lingers=(ConnectionState.LINGERS, fakes["lingers"]),
    )
    for gone in ("lingers", "idle", "later", "head"):
        assert crowd.make_room(1) == 1
        assert fakes.pop(gone).end == "cut"
        assert not any(fake.end for fake in fakes.values())
    assert crowd.make_room(1) == 0, "who is answered stays"


def test_a_peer_that_has_most_loses_first() -> None:
    crowd = Crowd(100, 8)
    alone, many = Fake(peer="alone"), [Fake(peer="many") for _ in range(5)]
    for fake in (alone, *many):
        crowd.move(fake, ConnectionState.IDLE)
    assert crowd.make_room(4) == 4
    assert [fake.end for fake in many] == ["cut"] * 4 + [""] and not alone.end


def test_the_slowest_upload_of_who_has_most_gives_way() -> None:
    crowd = Crowd(8, 8)
    mine = Fake(owner="mine", rate=1.0)
    theirs = [Fake(owner="theirs", rate=rate) for rate in (9.0, 3.0, 5.0)]
    for fake in (mine, *theirs):
        crowd.move(fake, ConnectionState.UPLOADS)
    for _ in range(3):
        crowd.move(Fake(), ConnectionState.WORKS)
    newcomer = Fake()
    crowd.move(newcomer, ConnectionState.IDLE)
    assert crowd.admit(newcomer)
    assert [fake.end for fake in theirs] == ["", "gave way", ""] and not mine.end


def test_a_request_that_waits_for_its_turn_is_no_slow_upload() -> None:
    held = SimpleNamespace(_held=b"POST / HTTP/1.1", _framing=Framing(Limits()))
    assert Connection.rate(cast(Connection, held)) == math.inf


def test_requests_under_way_leave_a_share_and_are_never_ended() -> None:
    crowd = Crowd(16, 8)
    working = [Fake() for _ in range(14)]
    for fake in working:
        assert crowd.admit(fake)
        crowd.move(fake, ConnectionState.WORKS)
    assert not crowd.admit(Fake())
    assert not any(fake.end for fake in working)


def test_any_course_of_things_keeps_the_count() -> None:
    rng = random.Random(5)
    crowd, here = Crowd(20, 4), list[Fake]()
    for _ in range(5000):
        if rng.random() < 0.5:
            new = Fake(rng.randrange(3), rng.randrange(3), rng.random())
            crowd.move(new, ConnectionState.IDLE)
            if crowd.make_room_for(new):
                here.append(new)
            else:
                crowd.leave(new)
        elif here:
            one, does = rng.choice(here), rng.choice([*ConnectionState, None])
            if does is None:
                crowd.leave(one)
                here.remove(one)
            elif (does not in (ConnectionState.UPLOADS, ConnectionState.WORKS) or crowd.admit(one)) and not one.end:
                crowd.move(one, does)
        here = [fake for fake in here if not fake.end]
        assert len(crowd) == len(here) == sum(crowd.count(does) for does in ConnectionState) <= 20
        assert crowd.count(ConnectionState.UPLOADS) + crowd.count(ConnectionState.WORKS) <= crowd.busiest


# -- whose turn it is ----------------------------------------------------------------------------------------------


class Waiting:
    """A request that notes in which turn of the event loop it began."""

    def __init__(self, owner: str, began: list[str], wanted: bool = True) -> None:
        self.owner = owner
        self._began, self._wanted = began, wanted

    def start(self) -> bool:
        if self._wanted:
            self._began.append(self.owner)
        return self._wanted


def test_the_first_request_of_another_key_waits_for_a_handful() -> None:
    async def run() -> list[list[str]]:
        turns, began, found = Turns(), list[str](), list[list[str]]()
        for owner in ["a"] * 100 + ["b", "c", "b"]:
            one = Waiting(owner, began)
            if turns.enter(one):
                one.start()
        while len(began) < 103:
            found.append(began[sum(map(len, found)) :])
            await asyncio.sleep(0)
        return found

    first, second, *others = asyncio.run(run())
    assert first == ["a"] * STARTS
    assert second == ["a", "b", "c", "a"]
    assert others[0] == ["b", "a", "a", "a"]
    assert all(len(turn) <= STARTS for turn in others), "a bounded number in a turn"


def test_who_has_gone_takes_nobodys_turn() -> None:
    async def run() -> int:
        turns, began = Turns(), list[str]()
        for i in range(1000):
            one = Waiting("a", began, wanted=i < STARTS or i >= 990)
            if turns.enter(one):
                one.start()
        for count in range(20):
            if len(began) == STARTS + 10:
                return count
            await asyncio.sleep(0)
        return 20

    assert asyncio.run(run()) <= 5


# -- over sockets --------------------------------------------------------------------------------------------------


def opened(client: httpx.Client, data: bytes = b"") -> socket.socket:
    found = socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=PATIENCE_S)
    with contextlib.suppress(ConnectionError):
        found.sendall(data)
    return found


def rest_of(s: socket.socket) -> bytes:
    found = b""
    with contextlib.suppress(ConnectionError):
        while part := s.recv(65536):
            found += part
    return found


def told(asked: list[socket.socket]) -> list[socket.socket]:
    """Who has got an answer."""
    return select.select(asked, [], [], 0)[0]


def send_for_a_while(s: socket.socket, data: bytes) -> None:
    """Until the other side has had enough."""
    s.setblocking(False)
    end_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < end_s:
        with contextlib.suppress(BlockingIOError):
            s.sendall(data)
        time.sleep(0.05)


def test_begun_uploads_neither_fill_the_places_nor_end_an_answer(tmp_path: Path) -> None:
    gate = threading.Event()

    def slow(ids: list[int]) -> int:
        gate.wait(2 * PATIENCE_S)
        return 65

    chat = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    with client_of(fake_service(tmp_path, slow, limits=Limits(connections=40, body_timeout_s=600))) as client:
        data = json.dumps(chat).encode()
        head = (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        )
        answered = opened(client, head % len(data) + data)
        begun = [opened(client, BEGUN) for _ in range(150)]
        for _ in range(3):
            fresh = httpx.get(f"{client.base_url}/health", timeout=PATIENCE_S)
            assert fresh.status_code == 200
        wrong = httpx.post(f"{client.base_url}/v1/chat/completions", json={"model": "none"}, timeout=PATIENCE_S)
        assert wrong.status_code == 400, "a whole request of a newcomer has a place"
        gate.set()
        assert rest_of(answered).startswith(b"HTTP/1.1 200 ")
        until("over the share of requests under way", lambda: len(told(begun)) >= 150 - 35)
        for s in told(begun):
            reply = rest_of(s)
            assert reply.startswith(b"HTTP/1.1 503 ") and reply.endswith(b"}"), reply
        for s in begun:
            s.close()


def test_an_answer_before_the_body_arrives_and_ends_the_connection(tmp_path: Path) -> None:
    """The client goes on sending for a while; it is read and thrown away, so that nothing is reset."""
    with client_of(fake_service(tmp_path, keys=(plain_key(SECRET),))) as client:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8000000\r\n\r\n"
        with opened(client, head) as s:
            assert s.recv(1, socket.MSG_PEEK) == b"H"
            for _ in range(80):
                s.sendall(b" " * 100_000)
            reply = rest_of(s)
            assert reply.startswith(b"HTTP/1.1 401 ") and b"\r\nconnection: close\r\n" in reply and reply.endswith(b"}")


def test_a_key_that_has_its_share_is_told_before_its_body_is_read(tmp_path: Path) -> None:
    """Nor is it asked to send one: there is no 100 Continue."""
    keys = (Key("a", digest_of(SECRET), at_once=2), plain_key("b" * 20, "b"))
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nx-api-key: %b\r\nContent-Length: 1000\r\n%b\r\n"
    with client_of(fake_service(tmp_path, keys=keys)) as client:
        begun = [opened(client, head % (SECRET.encode(), b"") + b"{") for _ in range(2)]
        mine = {"x-api-key": SECRET}
        until("both", lambda: client.post("/v1/chat/completions", json={}, headers=mine).status_code == 429)
        for expectation in (b"", b"Expect: 100-continue\r\n"):
            with opened(client, head % (SECRET.encode(), expectation)) as s:
                reply = rest_of(s)
                assert reply.startswith(b"HTTP/1.1 429 ") and b"\r\nconnection: close\r\n" in reply
        with opened(client, head % (b"b" * 20, b"Expect: 100-continue\r\n")) as s:
            assert s.recv(100).startswith(b"HTTP/1.1 100 "), "another key has its own share"
        for s in begun:
            s.close()


def test_who_sends_on_without_end_after_its_answer_is_cut(tmp_path: Path) -> None:
    limits = Limits(linger_bytes=1 << 20, linger_s=600)
    with client_of(fake_service(tmp_path, keys=(plain_key(SECRET),), limits=limits)) as client:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000000\r\n\r\n"
        with opened(client, head) as s, pytest.raises(ConnectionError):
            s.sendall(b" " * 90_000_000)


def test_who_does_not_leave_after_its_answer_is_cut(tmp_path: Path) -> None:
    with client_of(fake_service(tmp_path, limits=Limits(linger_s=1))) as client, opened(client, b"\x00") as s:
        assert rest_of(s).startswith(b"HTTP/1.1 400 ")
        with pytest.raises(ConnectionError):
            send_for_a_while(s, b"x")


def test_a_whole_reply_that_nobody_reads_is_dropped(tmp_path: Path) -> None:
    limits = Limits(write_timeout_s=1)
    with client_of(fake_service(tmp_path, limits=limits)) as client:
        get = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.connect((client.base_url.host, client.base_url.port or 80))
        with s, pytest.raises(ConnectionError):
            send_for_a_while(s, get * 100)


def test_many_small_chunks_let_others_go_first(tmp_path: Path) -> None:
    """A body in chunks of a byte each is read in turns: the event loop answers others between them."""
    head = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b'{"model": "fake", "prompt": "' + b"x" * 60_000 + b'"}'
    with client_of(fake_service(tmp_path)) as client, opened(client, head) as s:
        sender = threading.Thread(target=s.sendall, args=(b"".join(b"1\r\n%c\r\n" % c for c in body) + b"0\r\n\r\n",))
        sender.start()
        for _ in range(5):
            assert client.get("/health").status_code == 200
        assert rest_of(s).startswith(b"HTTP/1.1 200 ")
        sender.join(PATIENCE_S)


def test_a_newcomer_is_the_last_to_go_among_heads_that_never_end(tmp_path: Path) -> None:
    """Connections that sent half a head fill all places; one that has sent nothing yet is answered all the same."""
    service = fake_service(tmp_path, limits=Limits(connections=16, header_timeout_s=600))
    with running(service) as address:
        host, port = address.removeprefix("http://").split(":")
        with contextlib.ExitStack() as stack:
            for _ in range(40):
                begun = stack.enter_context(socket.create_connection((host, int(port))))
                begun.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n")
            newcomer = stack.enter_context(socket.create_connection((host, int(port)), timeout=PATIENCE_S))
            assert httpx.get(f"{address}/health", timeout=PATIENCE_S).status_code == 200, "meanwhile another one comes"
            newcomer.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert b"200 OK" in newcomer.recv(100)
