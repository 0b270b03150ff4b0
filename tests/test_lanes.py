"""Nobody's work waits behind another's."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
import regex

from helpers import PATIENCE_S
from herd import lanes as lanes_room
from herd.lanes import FIRST, LARGE, FirstThread, Lanes
from herd.safety.cues import first_match
from herd.safety.views import fold
from herd.server.http.long_strings import LongStrings
from herd.text import splits


def held(lanes: Lanes, owner: str, gate: threading.Event, count: int, size_bytes: int = 0) -> list[Future[bool]]:
    """Work of one owner that lasts until the gate opens."""
    return [lanes.submit(owner, lambda: gate.wait(PATIENCE_S), size_bytes) for _ in range(count)]


@pytest.mark.parametrize("size_bytes", [0, LARGE])
def test_an_owner_with_much_work_keeps_nobody_waiting(size_bytes: int) -> None:
    lanes, gate = Lanes("test", threads=8, each=2, large=3), threading.Event()
    begun = held(lanes, "many", gate, 100, size_bytes)
    assert lanes.submit("one", lambda: 7, size_bytes).result(PATIENCE_S) == 7
    assert lanes.submit("many", lambda: 8, 0 if size_bytes else LARGE).result(PATIENCE_S) == 8, "its other lane is free"
    gate.set()
    assert all(future.result(PATIENCE_S) for future in begun)


def test_large_work_of_all_together_leaves_threads_for_small() -> None:
    lanes, gate = Lanes("test", threads=8, each=2, large=3), threading.Event()
    begun = [held(lanes, f"owner{i}", gate, 4, LARGE) for i in range(10)]
    assert lanes.submit("owner3", lambda: 1).result(PATIENCE_S) == 1
    gate.set()
    assert all(future.result(PATIENCE_S) for some in begun for future in some)


def test_owners_take_turns() -> None:
    lanes, gate, order = Lanes("test", threads=2, each=1, large=1), threading.Event(), list[str]()
    begun = held(lanes, "x", gate, 1) + held(lanes, "y", gate, 1)
    waiting = [lanes.submit(owner, lambda owner=owner: order.append(owner)) for owner in "aaaaabc"]
    gate.set()
    for future in [*begun, *waiting]:
        future.result(PATIENCE_S)
    assert max(order.index("b"), order.index("c")) <= 3, order


def test_what_was_cancelled_in_the_queue_never_begins() -> None:
    lanes, gate, ran = Lanes("test", threads=2, each=1, large=1), threading.Event(), list[int]()
    begun = held(lanes, "a", gate, 1)

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(lanes.run("a", lambda: ran.append(1)), 0.01)

    asyncio.run(give_up())
    gate.set()
    assert begun[0].result(PATIENCE_S)
    assert lanes.submit("a", lambda: 2).result(PATIENCE_S) == 2
    assert not ran


def test_an_error_is_the_callers() -> None:
    with pytest.raises(ZeroDivisionError):
        Lanes("test", threads=2, each=1, large=1).submit("a", lambda: 1 // 0).result(PATIENCE_S)


def elsewhere(call: Callable[[], Any]) -> None:
    """Call it on a thread of its own."""
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


def test_long_work_gives_way_until_the_first_thread_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    first = FirstThread()
    first.give_way()
    monkeypatch.setattr(lanes_room, "WAY_S", 3600)
    first.works()
    first.give_way()  # its own work waits for nobody
    elsewhere(first.works)
    threading.Timer(0.01, first.rests).start()
    first.give_way()
    monkeypatch.setattr(lanes_room, "WAY_S", 0.02)
    elsewhere(first.works)
    begun_s = time.monotonic()
    first.give_way()
    assert time.monotonic() - begun_s >= 0.01, "a part of the work goes on at last"


TEXT = "Ein Wort, two words. " * 50_000
WORKS: dict[str, Callable[[], Any]] = {
    "searches": lambda: first_match(regex.compile("no such"), TEXT, 0, len(TEXT), 16),
    "folding": lambda: fold(TEXT, "folded"),
    "splitting": lambda: list(splits.batches("llama4", TEXT)),
    "strings of bodies": lambda: LongStrings(b'{"a":"' + TEXT.encode() + b'"}'),
}


@pytest.mark.parametrize("name", WORKS)
def test_long_work_is_done_in_parts_that_give_way(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(
        FIRST, "_rests", type("Never", (), {"is_set": lambda _: False, "wait": lambda _, s: waited.append(s)})()
    )
    monkeypatch.setattr(FIRST, "_thread", 0)
    WORKS[name]()
    assert len(waited) >= len(TEXT) >> 19
