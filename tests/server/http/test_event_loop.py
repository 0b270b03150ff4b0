"""A turn of the event loop has few events, a newcomer's first, and nobody is left out."""

import asyncio
import contextlib
import selectors
import socket
from collections.abc import Iterator

import pytest

from herd.lanes import FIRST
from herd.server.http.event_loop import EVENTS, FairSelector, new_event_loop

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


@pytest.fixture
def pairs() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    made = [socket.socketpair() for _ in range(3 * EVENTS)]
    yield made
    for pair in made:
        for end in pair:
            end.close()


@pytest.fixture
def selector() -> Iterator[FairSelector]:
    with contextlib.closing(FairSelector()) as made:
        yield made


def told(selector: FairSelector) -> list[int]:
    return [key.fd for key, _ in selector.select(0)]


def test_everybody_is_told_of_in_turns_of_a_bounded_size(
    selector: FairSelector, pairs: list[tuple[socket.socket, socket.socket]]
) -> None:
    for ours, theirs in pairs:
        selector.register(ours, READ)
        theirs.send(b"x")
    for _ in range(3):  # nothing is read: all stay ready
        seen: set[int] = set()
        while len(seen) < len(pairs):
            turn = told(selector)
            assert 0 < len(turn) <= 2 * EVENTS
            assert not seen.issuperset(turn), "somebody is told of again before others were"
            seen.update(turn)


def test_a_newcomer_is_told_of_in_the_next_turn(
    selector: FairSelector, pairs: list[tuple[socket.socket, socket.socket]]
) -> None:
    for ours, theirs in pairs[1:]:
        selector.register(ours, READ)
        theirs.send(b"x")
    for _ in range(9):
        told(selector)
    ours, theirs = pairs[0]
    selector.register(ours, READ)
    theirs.send(b"x")
    assert told(selector)[0] == ours.fileno()
    assert told(selector)[0] != ours.fileno(), "it is new no longer"


def test_a_socket_that_accepts_stays_first(
    selector: FairSelector, pairs: list[tuple[socket.socket, socket.socket]]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()):
        selector.register(listening, READ)
        for ours, theirs in pairs:
            selector.register(ours, READ)
            theirs.send(b"x")
        for _ in range(4):  # the others were new, too
            told(selector)
        for _ in range(9):
            assert listening.fileno() in told(selector)


def test_events_are_those_of_the_standard_library(
    selector: FairSelector, pairs: list[tuple[socket.socket, socket.socket]]
) -> None:
    plain = selectors.DefaultSelector()
    for i, (ours, theirs) in enumerate(pairs[:8]):
        events = (READ, WRITE, READ | WRITE)[i % 3]
        for one in (selector, plain):
            one.register(ours, events, i)
        if i % 2:
            theirs.send(b"x")
        if i >= 6:
            theirs.close()
    expected = sorted((key.data, events) for key, events in plain.select(0))
    for _ in range(2):
        assert sorted((key.data, events) for key, events in selector.select(0)) == expected
    for ours, _ in pairs[:8]:
        assert selector.modify(ours, WRITE, "w") == plain.modify(ours, WRITE, "w")
    assert {(k.fd, e) for k, e in selector.select(0)} == {(k.fd, e) for k, e in plain.select(0)}
    for ours, _ in pairs[:8]:
        assert selector.unregister(ours).fd == ours.fileno()
    assert selector.select(0) == [] and not selector.get_map()
    plain.close()


def test_what_is_not_registered_is_a_key_error_and_what_is_closed_can_be_let_go(
    selector: FairSelector, pairs: list[tuple[socket.socket, socket.socket]]
) -> None:
    ours = pairs[0][0]
    for ask in (selector.unregister, selector.get_key, lambda one: selector.modify(one, READ)):
        with pytest.raises(KeyError):
            ask(ours)
    selector.register(ours, READ)
    with pytest.raises(KeyError):
        selector.register(ours, READ)
    ours.close()
    selector.unregister(ours)
    with pytest.raises(ValueError, match="no open file"):
        selector.register(ours, READ)


def test_a_loop_over_it_serves_many_at_once() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(5))
        await writer.drain()
        writer.close()

    async def ask(port: int, i: int) -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        sent = b"%5d" % i
        writer.write(sent)
        found = await reader.read()
        writer.close()
        return found == sent

    async def serve() -> list[bool]:
        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            return await asyncio.gather(*(ask(port, i) for i in range(200)))

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        assert all(runner.run(serve()))


def test_long_work_gives_way_to_a_loop_that_has_work_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(FIRST, "works", lambda: said.append("works"))
    monkeypatch.setattr(FIRST, "rests", lambda: said.append("rests"))
    loop = new_event_loop()

    async def main() -> None:
        said.clear()
        await asyncio.sleep(0)
        assert said == [], "it has not waited"
        await asyncio.sleep(0.01)
        assert (said[0], said[-1]) == ("rests", "works")

    loop.run_until_complete(main())
    assert said[-1] == "rests", "a loop that has stopped keeps nobody"
    loop.close()
