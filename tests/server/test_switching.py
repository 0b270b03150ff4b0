"""A name of the store comes to mean another version while a service serves it: no request fails, and each answer is of
one version alone.
"""

import asyncio
import io
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import client_of, fake_llm

from helpers import PATIENCE_S, until
from herd.errors import BadCheckpoint, DoesNotFit
from herd.llm import LLM
from herd.server.catalogue import StoreCatalogue
from herd.server.log import Log
from herd.server.models import FOREVER, Models
from herd.server.service import Service
from herd.store import registry, stored
from herd.store.registry import Version

SAYS = {"old": "the old one", "new": "the new one"}


@pytest.fixture(autouse=True)
def versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of the store with two versions; the old one is in use."""
    monkeypatch.setenv("HERD_HOME", str(tmp_path / "home"))
    for name in SAYS:
        (tmp_path / name).mkdir()
        registry.add("tiny", Version(name * 4, str(tmp_path / name), {}, "import", in_place=True))
    switch("old")


def switch(to: str) -> None:
    stored.use(f"tiny@{to}")


class Loads:
    """A loader with room for so many, which may wait or fail. It knows what is in memory."""

    def __init__(self, room: int = 9) -> None:
        self.room = room
        self.alive: list[str] = []
        self.most = 0
        self.fails: dict[str, Exception] = {}
        self.on = threading.Event()
        self.on.set()
        self.waits = 0

    def __call__(self, path: str) -> LLM:
        name = Path(path).name
        self.waits += 1
        assert self.on.wait(PATIENCE_S)
        if name in self.fails:
            raise self.fails[name]
        if len(self.alive) >= self.room:
            raise DoesNotFit("no room")
        self.alive.append(name)
        self.most = max(self.most, len(self.alive))
        found = fake_llm(SAYS[name], name)
        close = found.close

        def closed() -> None:
            self.alive.remove(name)
            close()

        found.close = closed  # type: ignore[method-assign]
        return found


def service_of(loads: Loads, said: io.StringIO | None = None) -> Service:
    log = Log("off" if said is None else "json", said)
    return Service(Models(StoreCatalogue(), loads, keep_alive_s=FOREVER, log=log), log=log)


def asked(client: httpx.Client, **more: Any) -> str:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Who?"}], **more}
    found = client.post("/v1/chat/completions", json=body)
    assert found.status_code == 200, found.text
    text: str = found.json()["choices"][0]["message"]["content"]
    return text


def streamed(client: httpx.Client) -> str:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Who?"}], "stream": True}
    pieces = []
    with client.stream("POST", "/v1/chat/completions", json=body) as reply:
        assert reply.status_code == 200
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                pieces += [c["delta"].get("content") or "" for c in json.loads(line[6:])["choices"]]
    return "".join(pieces)


def events(said: io.StringIO) -> list[str]:
    return [json.loads(line)["event"] for line in said.getvalue().splitlines()]


@pytest.mark.parametrize(("room", "requests"), [(9, 120), (1, 80)], ids=["beside", "drained"])
def test_a_client_that_hammers_sees_no_failure_across_switches_back_and_forth(room: int, requests: int) -> None:
    """200 requests, half of them streams, eight at a time; five switches, each seen to arrive."""
    loads = Loads(room)
    answers: list[str] = []
    over = threading.Event()
    with client_of(service_of(loads)) as client, ThreadPoolExecutor(8) as pool:
        asked(client)

        def ask(number: int) -> None:
            answers.append(streamed(client) if number % 2 else asked(client))

        def switches() -> None:
            for turn in range(5):
                name = ("new", "old")[turn % 2]
                switch(name)
                until("no switch", lambda name=name: asked(client) == SAYS[name])
            over.set()

        switching = pool.submit(switches)
        asking = [pool.submit(ask, number) for number in range(requests)]
        switching.result(PATIENCE_S)
        for one in asking:
            one.result(PATIENCE_S)
        assert asked(client) == SAYS["new"]
        until("the old one stays", lambda: loads.alive == ["new"])
    assert len(answers) == requests and set(answers) <= set(SAYS.values())
    assert loads.most <= max(1, min(room, 3))


def test_a_switch_is_noticed_without_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("herd.server.models.WATCH_S", 0.01)
    loads = Loads()
    with client_of(service_of(loads)) as client:
        assert asked(client) == SAYS["old"]
        switch("new")
        until("not noticed", lambda: loads.alive == ["new"])
        assert asked(client) == SAYS["new"]


async def becomes(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():
            await asyncio.sleep(0.005)


async def used(models: Models) -> str:
    async with models.use("tiny") as model:
        return (await model.achat("hi")).text


def test_an_answer_under_way_ends_with_its_model_and_so_does_all_of_one_request(tmp_path: Path) -> None:
    loads = Loads()
    models = Models(StoreCatalogue(), loads, keep_alive_s=FOREVER, log=Log("off"))
    pins: list[Any] = []

    async def run() -> None:
        async with models.use("tiny", None, pins) as old:
            switch("new")
            await used(models)
            await becomes(lambda: models.held[0].mark == (str(tmp_path / "new"), "new" * 4))
            assert loads.alive == ["old", "new"]
            assert await used(models) == SAYS["new"]
            async with models.use("tiny", None, pins) as same:
                assert same is old
            assert (await old.achat("hi")).text == SAYS["old"]
        assert loads.alive == ["new"]
        async with models.use("tiny", None, pins) as now:
            assert now is not old, "what it used is gone"
        await models.close()
        assert not loads.alive

    asyncio.run(run())


def test_where_memory_holds_one_who_asks_waits_until_the_old_one_s_requests_have_ended() -> None:
    loads, said = Loads(1), io.StringIO()
    models = Models(StoreCatalogue(), loads, keep_alive_s=FOREVER, log=Log("json", said))

    async def run() -> None:
        async with models.use("tiny") as old:
            switch("new")
            assert await used(models) == SAYS["old"], "the load has only begun"
            await becomes(lambda: models.held[0].state == "loading")
            waiting = [asyncio.create_task(used(models)) for _ in range(3)]
            assert (await old.achat("hi")).text == SAYS["old"]
            assert not any(one.done() for one in waiting) and loads.alive == ["old"]
        assert await asyncio.gather(*waiting) == [SAYS["new"]] * 3
        assert loads.alive == ["new"]
        await models.close()

    asyncio.run(run())
    until("not told", lambda: "switch waits" in events(said))


@pytest.mark.parametrize("room", [9, 1], ids=["beside", "drained"])
def test_a_version_that_cannot_be_loaded_leaves_the_old_one_and_is_tried_again_later(
    room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads, said = Loads(room), io.StringIO()
    models = Models(StoreCatalogue(), loads, keep_alive_s=FOREVER, log=Log("json", said))

    async def run() -> None:
        assert await used(models) == SAYS["old"]
        loads.fails["new"] = BadCheckpoint("broken") if room > 1 else DoesNotFit("far too large")
        switch("new")
        assert await asyncio.gather(*(used(models) for _ in range(4))) == [SAYS["old"]] * 4
        await becomes(lambda: models.held[0].refused is not None and models.held[0].state == "ready")
        tries = loads.waits
        assert await used(models) == SAYS["old"]
        assert loads.waits == tries, "tried again at once"
        switch("old")
        assert await used(models) == SAYS["old"] and models.held[0].refused is None
        switch("new")  # somebody mended it, and says so
        await used(models)
        await becomes(lambda: models.held[0].refused is not None and models.held[0].state == "ready")
        assert loads.waits > tries
        loads.fails.clear()
        models.held[0].refused = None  # the wait is over
        await used(models)
        await becomes(lambda: loads.alive == ["new"])
        assert await used(models) == SAYS["new"]
        await models.close()

    asyncio.run(run())
    until("not told", lambda: "switch failed" in events(said))


def test_what_nobody_wants_any_more_while_it_is_loaded_goes_again() -> None:
    loads = Loads()
    models = Models(StoreCatalogue(), loads, keep_alive_s=FOREVER, log=Log("off"))

    async def begun(name: str) -> None:
        loads.on.clear()
        tries = loads.waits
        switch(name)
        assert await used(models) == SAYS["old"]
        await becomes(lambda: loads.waits > tries)

    async def run() -> None:
        assert await used(models) == SAYS["old"]
        await begun("new")
        switch("old")  # back, before the other one was there
        loads.on.set()
        await becomes(lambda: models.held[0].next is None)
        assert loads.alive == ["old"] and await used(models) == SAYS["old"]
        await begun("new")
        assert await models.unload("tiny")
        loads.on.set()
        await becomes(lambda: not loads.alive)
        assert not models.held
        assert await used(models) == SAYS["new"]
        await models.close()

    asyncio.run(run())


def test_a_context_that_is_short_beside_the_old_one_is_a_reason_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that took what memory there was leaves little context to the next; alone it gets as much."""
    loads = Loads()

    contexts: list[int] = []

    def load(path: str) -> LLM:
        found = loads(path)
        found.context = 1000 if len(loads.alive) == 1 else 100
        contexts.append(found.context)
        return found

    catalogue = StoreCatalogue()
    about = type("About", (), {"config": type("Config", (), {"max_context": 5000})})
    monkeypatch.setattr(catalogue, "about", lambda name: about)
    models = Models(catalogue, load, keep_alive_s=FOREVER, log=Log("off"))

    async def run() -> None:
        await used(models)
        switch("new")
        await used(models)
        await becomes(lambda: models.held[0].mark is not None and models.held[0].mark[1] == "new" * 4)
        async with models.use("tiny") as model:
            assert model.context == 1000 and (await model.achat("hi")).text == SAYS["new"]
        assert contexts == [1000, 100, 1000] and loads.alive == ["new"]
        await models.close()

    asyncio.run(run())
