"""Who comes waits as a bare socket, is counted, and is heard a few at a time: newcomers do not wait for thousands."""

import asyncio
import contextlib
import errno
import select
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from helpers import PATIENCE_S
from herd.errors import UsageError
from herd.server.http import accepting, system_calls
from herd.server.http.accepting import HANDED, LOOKS, UNHEARD_TURNS, Acceptor, Arrival
from herd.server.http.crowd import ConnectionState, Crowd
from herd.server.http.event_loop import new_event_loop
from herd.server.run import bind

pytestmark = pytest.mark.skipif(not hasattr(select, "epoll"), reason="elsewhere asyncio accepts")
NO_PLACE = b"no place"


class Heard(asyncio.Protocol):
    """A connection that notes what it was sent and how long it may take."""

    arrival: Arrival | None = None

    def __init__(self, place: "Place") -> None:
        self._place = place

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert self.arrival is not None and isinstance(transport, asyncio.Transport)
        assert self.arrival.is_gone or self._place.crowd.state_of(self.arrival) is self.arrival.state, (
            "its place is kept"
        )
        self.left_s = self.arrival.take()
        self.peer = self.owner = self.arrival.peer
        self._transport = transport
        self._place.made.append(self)
        if self.left_s is None:
            self.cut()
        else:
            self._place.crowd.move(self, self.arrival.state)

    def data_received(self, data: bytes) -> None:
        self._place.heard.append(data)
        if self._place.crowd.admit(self):
            self._place.crowd.move(self, ConnectionState.WORKS)
        else:
            self._transport.write(NO_PLACE)
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._place.crowd.leave(self)

    def rate(self) -> float:
        return 0.0

    def cut(self) -> None:
        self._transport.abort()

    give_way = cut


class Place:
    """Listening sockets with their acceptors, and clients."""

    def __init__(self, most: int = 1000, timeout_s: float = 60.0) -> None:
        self.crowd = Crowd(most, 8)
        self.made = list[Heard]()
        self.heard = list[bytes]()
        self.serve = partial(Acceptor, crowd=self.crowd, timeout_s=timeout_s, no_place=NO_PLACE)
        self._ends = contextlib.ExitStack()

    @contextlib.asynccontextmanager
    async def listening(self, sock: socket.socket | None = None) -> AsyncIterator[tuple[asyncio.Server, Any]]:
        sock = sock or bind("127.0.0.1", 0)
        with self._ends, sock:
            loop = asyncio.get_running_loop()
            server = await loop.create_server(lambda: Heard(self), sock=sock)
            assert isinstance(server, Acceptor)
            yield server, sock.getsockname()
            server.close()
            await server.wait_closed()
            assert not server.is_serving()

    def come(self, address: Any, sent: bytes = b"", source: str | None = None) -> socket.socket:
        client = socket.create_connection(address[:2], source_address=(source, 0) if source else None)
        self._ends.enter_context(client)
        client.sendall(sent)
        return client


def run(place: Place, main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=partial(new_event_loop, place.serve)) as runner:
        runner.run(asyncio.wait_for(main, PATIENCE_S))


async def turns_until(holds: Callable[[], bool], each: Callable[[], None] = lambda: None) -> None:
    """Until it is so, within the runner's time-out."""
    while not holds():
        await asyncio.sleep(0)
        each()


async def end_of(client: socket.socket) -> bytes:
    """What it is told before its end."""
    client.setblocking(False)
    found = b""
    with contextlib.suppress(ConnectionError):
        while part := await asyncio.get_running_loop().sock_recv(client, 1000):
            found += part
    return found


def test_a_few_in_a_turn_who_asks_for_health_first_then_oldest_and_newest_by_turns() -> None:
    place = Place()

    async def main() -> None:
        async with place.listening() as (_, address):
            for i in range(30):
                place.come(address, b"%d" % i)
            place.come(address, LOOKS + b" HTTP/1.1")
            for i in range(30, 60):
                place.come(address, b"%d" % i)
            counts = [0]
            await turns_until(lambda: len(place.heard) == 61, lambda: counts.append(len(place.made)))
            assert max(b - a for a, b in pairwise(counts)) <= 2 * HANDED
            assert place.heard[0].startswith(LOOKS)
            assert place.heard[1:7] == [b"0", b"59", b"1", b"58", b"2", b"57"]

    run(place, main())


def test_addresses_take_turns() -> None:
    place = Place()

    async def main() -> None:
        async with place.listening() as (_, address):
            for _ in range(30):
                place.come(address, b"many")
            place.come(address, b"alone", "127.0.0.2")
            for _ in range(30):
                place.come(address, b"many")
            await turns_until(lambda: len(place.heard) == 61)
            assert b"alone" in place.heard[:HANDED]

    run(place, main())


def test_who_sends_nothing_is_no_connection_and_is_cut_at_the_time_out() -> None:
    place = Place(timeout_s=2.0)

    async def main() -> None:
        async with place.listening() as (_, address):
            silent = [place.come(address) for _ in range(20)]
            late = place.come(address)
            await turns_until(lambda: len(place.crowd) == 21)
            assert place.crowd.count(ConnectionState.HEAD) == 21, "it is counted all the same"
            late.sendall(b"late")
            await turns_until(lambda: place.heard == [b"late"])
            left_s = place.made[0].left_s
            assert left_s is not None and left_s < 2.0, "it has waited already"
            assert [await end_of(client) for client in silent] == [b""] * 20
            assert len(place.crowd) == 1 and len(place.made) == 1

    run(place, main())


def test_who_hangs_up_unheard_costs_no_connection() -> None:
    place = Place()

    async def main() -> None:
        async with place.listening() as (_, address):
            gone = [place.come(address) for _ in range(20)]
            await turns_until(lambda: len(place.crowd) == 20)
            for client in gone:
                client.close()
            await turns_until(lambda: len(place.crowd) == 0)
            assert not place.made

    run(place, main())


def test_places_are_counted_and_who_loses_its_own_is_told_if_it_has_sent_something() -> None:
    place = Place(most=40)

    async def main() -> None:
        async with place.listening() as (_, address):
            silent = [place.come(address) for _ in range(100)]

            def bounded() -> None:
                assert len(place.crowd) <= 40

            ended = [asyncio.create_task(end_of(client)) for client in silent]
            await turns_until(lambda: sum(task.done() for task in ended) == 60, bounded)
            assert all(task.done() for task in ended[:60]), "those that have been silent longest"
            for client in silent[60:]:
                client.sendall(b"x")
            clients = [place.come(address, b"y") for _ in range(100)]
            told = [asyncio.create_task(end_of(client)) for client in clients]
            busiest = place.crowd.busiest
            await turns_until(lambda: sum(task.done() for task in (*ended, *told)) == 200 - busiest, bounded)
            assert place.crowd.count(ConnectionState.WORKS) == busiest
            assert {task.result() for task in told if task.done()} == {NO_PLACE}
            for task in (*ended, *told):
                task.cancel()

    run(place, main())


def test_where_all_places_are_taken_few_come_in_a_turn() -> None:
    place = Place(most=160)

    async def main() -> None:
        async with place.listening() as (_, address):
            for _ in range(place.crowd.busiest):
                place.come(address, b"x")
            await turns_until(lambda: len(place.heard) == place.crowd.busiest)
            silent = [place.come(address) for _ in range(100)]
            free, cut = place.crowd.most - place.crowd.busiest, [0]

            def note() -> None:
                cut.append(len(select.select(silent, [], [], 0)[0]))

            await turns_until(lambda: cut[-1] == 100 - free, note)
            few = (place.crowd.most - place.crowd.busiest) // UNHEARD_TURNS
            assert max(b - a for a, b in pairwise(cut)) <= few

    run(place, main())


@pytest.mark.parametrize("turns", range(12))
def test_who_is_about_to_be_heard_keeps_its_place_whenever_others_come(turns: int) -> None:
    place = Place(most=40)

    async def main() -> None:
        async with place.listening() as (_, address):
            place.come(address, b"first")
            for _ in range(turns):
                await asyncio.sleep(0)
            clients = [place.come(address, b"x") for _ in range(150)]
            told = [asyncio.create_task(end_of(client)) for client in clients]
            await turns_until(lambda: sum(task.done() for task in told) >= 151 - place.crowd.busiest)
            assert b"first" in place.heard
            for task in told:
                task.cancel()

    run(place, main())


def test_without_a_descriptor_it_is_said_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "RETRY_S", 0.001)
    place, said = Place(), list[dict[str, Any]]()
    accept = system_calls.accept

    def exhausted(listening: socket.socket) -> system_calls.Connected:
        if len(said) < 3:
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(listening)

    monkeypatch.setattr(system_calls, "accept", exhausted)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
        sock = bind("127.0.0.1", 0)
        async with place.listening(sock) as (_, address):
            place.come(address, b"x")
            await turns_until(lambda: place.heard == [b"x"])
        assert [context["exception"].errno for context in said] == [errno.EMFILE] * 3
        assert all(context["socket"] is sock for context in said)

    run(place, main())


def test_at_its_end_all_who_wait_are_cut_and_nobody_is_counted() -> None:
    place = Place()

    async def main() -> None:
        async with place.listening() as (server, address):
            clients = [place.come(address, b"x" * (i % 2)) for i in range(100)]
            await turns_until(lambda: len(place.made) >= HANDED)
            assert len(place.made) < 50
            server.close()
            await server.wait_closed()
            for made in place.made:
                made.cut()
            ends: list[Awaitable[bytes]] = [end_of(client) for client in clients]
            assert set(await asyncio.gather(*ends)) == {b""}
            await turns_until(lambda: len(place.crowd) == 0)

    run(place, main())


def test_two_sockets_of_either_kind_share_their_places() -> None:
    place = Place()

    async def main() -> None:
        async with place.listening() as (_, four), place.listening(bind("::1", 0)) as (_, six):
            for address in (four, six):
                place.come(address, b"%d" % len(address))
                place.come(address)
            await turns_until(lambda: len(place.heard) == 2 and len(place.crowd) == 4)
            assert sorted(place.heard) == [b"2", b"4"]

    try:
        bind("::1", 0).close()
    except UsageError:
        pytest.skip("this system has no IPv6")
    run(place, main())
