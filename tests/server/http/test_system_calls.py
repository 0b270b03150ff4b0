"""System calls that keep the interpreter, beside those of the standard library."""

import contextlib
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import PATIENCE_S
from herd.server.http.system_calls import Connected, Epoll, accept

FAMILIES = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


@contextlib.contextmanager
def pair(family: int = socket.AF_INET) -> Iterator[tuple[socket.socket, Connected]]:
    """A client, and its connection as it was accepted."""
    with socket.create_server((FAMILIES[socket.AddressFamily(family)], 0), family=family) as listening:
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            accept(listening)
        with socket.create_connection(listening.getsockname()[:2]) as client:
            select.select([listening], [], [], PATIENCE_S)
            with accept(listening) as found:
                yield client, found


@pytest.mark.parametrize("family", [pytest.param(family, id=host) for family, host in FAMILIES.items()])
def test_a_connection_is_accepted_as_the_library_does(family: int) -> None:
    try:
        socket.create_server((FAMILIES[socket.AddressFamily(family)], 0), family=family).close()
    except OSError as error:
        pytest.skip(f"no such addresses here: {error}")
    with pair(family) as (client, found):
        assert found.getpeername() == client.getsockname() == socket.socket.getpeername(found)
        assert found.getsockname() == client.getpeername()
        assert (found.family, found.type) == (client.family, client.type)
        with pytest.raises(BlockingIOError):
            found.recv(1)


def test_bytes_come_and_go_in_order() -> None:
    with pair() as (client, found):
        client.sendall(b"hello")
        select.select([found], [], [], PATIENCE_S)
        assert found.recv(3, socket.MSG_PEEK) == b"hel"
        assert found.recv(100) == b"hello"
        assert found.send(b"a\0b") == 3
        assert found.send(bytearray(b"c")) == 1
        assert client.recv(4, socket.MSG_WAITALL) == b"a\0bc"
        client.close()
        select.select([found], [], [], PATIENCE_S)
        assert found.recv(100) == b""


def fill(connection: Connected, data: bytes) -> None:
    """Send until that fails."""
    for _ in range(10_000):
        connection.send(data)


def test_a_connection_that_cannot_send_says_so() -> None:
    with pair() as (client, found):
        with pytest.raises(BlockingIOError):
            fill(found, bytes(65_536))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()  # with a reset
        select.select([found], [], [], PATIENCE_S)
        with pytest.raises(ConnectionError):
            fill(found, b"x")


def test_a_connection_is_closed_once_nothing_uses_it() -> None:
    with pair() as (client, found):
        file = found.makefile("rb")
        found.close()
        assert found.fileno() >= 0
        file.close()
        assert found.fileno() == -1
        assert client.recv(1) == b""
        found.close()


STEPS = st.lists(st.tuples(st.sampled_from(["register", "modify", "unregister", "poll"]), st.integers(0, 3)))


@given(STEPS)
def test_epoll_is_the_librarys(steps: list[tuple[str, int]]) -> None:
    masks = {0: select.EPOLLIN, 1: select.EPOLLOUT, 2: select.EPOLLIN | select.EPOLLOUT, 3: 0}
    theirs, ours = select.epoll(), Epoll()
    pairs = [socket.socketpair() for _ in range(4)]
    pairs[0][1].send(b"x")
    pairs[1][1].close()

    def look(epoll: Any) -> list[tuple[int, int]]:
        return sorted(epoll.poll(8) if epoll is ours else epoll.poll(0, 8))

    def done(epoll: Any, what: str, i: int) -> Any:
        arguments = () if what == "unregister" else (masks[i],)
        try:
            return look(epoll) if what == "poll" else getattr(epoll, what)(pairs[i][0].fileno(), *arguments)
        except OSError as error:
            return type(error), error.errno

    for what, i in steps:
        assert done(ours, what, i) == done(theirs, what, i)
    assert done(ours, "poll", 0) == done(theirs, "poll", 0)
    theirs.close()
    ours.close()
    ours.close()
    for one in [x for both in pairs for x in both]:
        one.close()


def test_epoll_waits_for_what_comes() -> None:
    ours, (a, b) = Epoll(), socket.socketpair()
    with a, b:
        ours.register(a.fileno(), select.EPOLLIN)
        assert ours.wait(0.001, 8) == []
        threading.Timer(0.01, b.send, [b"x"]).start()
        assert ours.wait(PATIENCE_S, 8) == [(a.fileno(), select.EPOLLIN)]
    ours.close()


def turns_of_another(call: Callable[[], Any], calls: int = 1000) -> int:
    """How often another thread goes on during so many calls, or until it does, where it may only when it is let."""
    turns, over = 0, False

    def other() -> None:
        nonlocal turns
        while not over:
            turns += 1
            time.sleep(0)

    thread, interval = threading.Thread(target=other), sys.getswitchinterval()
    sys.setswitchinterval(3600)
    try:
        thread.start()
        begun = turns
        for _ in range(calls):
            call()
            if turns > begun:
                break
        return turns - begun
    finally:
        over = True
        sys.setswitchinterval(interval)
        thread.join()


def test_calls_keep_the_interpreter() -> None:
    ours = Epoll()
    with pair() as (client, found), socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        client.sendall(b"x")
        select.select([found], [], [], PATIENCE_S)
        ours.register(found.fileno(), select.EPOLLIN)
        calls: dict[str, Callable[[], Any]] = {
            "recv": lambda: found.recv(1, socket.MSG_PEEK),
            "send": lambda: found.send(b""),
            "getpeername": found.getpeername,
            "setblocking": lambda: found.setblocking(False),
            "poll": lambda: ours.poll(8),
            "modify": lambda: ours.modify(found.fileno(), select.EPOLLIN),
        }

        def accepted() -> None:
            with contextlib.suppress(BlockingIOError):
                accept(listening)

        assert {name: turns_of_another(call) for name, call in (calls | {"accept": accepted}).items()} == dict.fromkeys(
            [*calls, "accept"], 0
        )
        assert turns_of_another(lambda: socket.socket.recv(found, 1, socket.MSG_PEEK), 10_000_000) > 0, (
            "the library's do not"
        )
    ours.close()
