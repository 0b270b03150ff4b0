"""Models of a service: loaded once, kept, let go, and loaded again when what computes dies."""

import asyncio
import errno
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import FakeCatalogue, client_of, fake_llm, fake_service

from helpers import PATIENCE_S, TINY_TEXT, hf_folder, until
from herd import errors
from herd.engine.executors.child import ChildExecutor
from herd.engine.executors.thread import ThreadExecutor
from herd.errors import BadCheckpoint, DoesNotFit, EngineDied, FilesChanged, NotFound, NotReady, PassFailed
from herd.llm import LLM, load
from herd.server.log import Log
from herd.server.models import FOREVER, Models

TURNS = [{"role": "user", "content": "Hi"}]


class Loads:
    """A loader that counts, and has room for so many."""

    def __init__(self, room: int = 9, wait_s: float = 0.0) -> None:
        self.names: list[str] = []
        self.alive: set[str] = set()
        self.room, self.wait_s = room, wait_s

    def __call__(self, path: str) -> LLM:
        name = Path(path).name
        time.sleep(self.wait_s)
        if len(self.alive) >= self.room:
            raise DoesNotFit("no room")
        self.names.append(name)
        self.alive.add(name)
        found = fake_llm("ok", name)
        close = found.close

        def closed() -> None:
            self.alive.discard(name)
            close()

        found.close = closed  # type: ignore[method-assign]
        return found


def models(loads: Loads, tmp_path: Path, keep_alive_s: float = FOREVER) -> Models:
    return Models(FakeCatalogue("a", "b", "c", folder=tmp_path), loads, keep_alive_s=keep_alive_s, log=Log("off"))


async def used(all_models: Models, name: str, **arguments: Any) -> str:
    async with all_models.use(name, **arguments) as llm:
        return (await llm.achat("hi")).text


def test_many_at_once_load_a_model_once(tmp_path: Path) -> None:
    loads = Loads(wait_s=0.05)

    async def run() -> list[str]:
        found = models(loads, tmp_path)
        texts = await asyncio.gather(*(used(found, "a") for _ in range(20)))
        await found.close()
        return texts

    assert asyncio.run(run()) == ["ok"] * 20
    assert loads.names == ["a"]
    assert not loads.alive


def test_an_unused_model_goes_after_its_time_and_a_used_one_never(tmp_path: Path) -> None:
    loads = Loads()

    async def becomes(alive: set[str]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while loads.alive != alive:
                await asyncio.sleep(0.01)

    async def run() -> None:
        found = models(loads, tmp_path, keep_alive_s=0.05)
        async with found.use("a"):
            await asyncio.sleep(0.2)
            assert loads.alive == {"a"}
        await used(found, "b", keep_alive_s=FOREVER)
        await becomes({"b"})
        await used(found, "b", keep_alive_s=0)
        await becomes(set())

    asyncio.run(run())


def test_where_memory_is_short_the_longest_idle_goes_and_a_used_one_stays(tmp_path: Path) -> None:
    loads = Loads(room=2)

    async def run() -> None:
        found = models(loads, tmp_path)
        await used(found, "a")
        async with found.use("b"):
            await used(found, "c")
            assert loads.alive == {"b", "c"}
            async with found.use("c"):
                with pytest.raises(DoesNotFit):
                    await used(found, "a")
        await used(found, "a")
        assert loads.alive == {"b", "a"}, "c was let go before b"
        await found.close()
        with pytest.raises(NotReady):
            await used(found, "a")

    asyncio.run(run())


def test_a_load_that_fails_is_told_to_all_who_wait_and_tried_again(tmp_path: Path) -> None:
    loads = Loads(room=0, wait_s=0.02)

    async def run() -> None:
        found = models(loads, tmp_path)
        results = await asyncio.gather(*(used(found, "a") for _ in range(3)), return_exceptions=True)
        assert [type(r) for r in results] == [DoesNotFit] * 3
        assert not found.held
        loads.room = 1
        assert await used(found, "a") == "ok"
        with pytest.raises(NotFound):
            await used(found, "none")
        with pytest.raises(NotFound):
            await used(found, "../../etc/passwd")
        await found.close()

    asyncio.run(run())


async def meets_other_files(all_models: Models) -> None:
    async with all_models.use("a"):
        raise FilesChanged("a: changed while in use")


def test_a_model_whose_files_were_replaced_is_loaded_anew_for_the_next_who_asks(tmp_path: Path) -> None:
    loads = Loads()

    async def run() -> None:
        all_models = models(loads, tmp_path)
        async with all_models.use("a") as first:
            for _ in range(2):
                with pytest.raises(FilesChanged):
                    await meets_other_files(all_models)
            assert loads.names == ["a", "a"]
            assert (await first.achat("hi")).text == "ok", "who uses the old one keeps it"
        assert await used(all_models, "a") == "ok"
        assert loads.names == ["a", "a", "a"]
        assert [held.name for held in all_models.held] == ["a"]
        await all_models.close()

    asyncio.run(run())


def test_numbers_that_are_none_cost_their_own_request_and_no_load(tmp_path: Path) -> None:
    """Loading anew would mend nothing, and be asked for again by every such request."""
    loads = Loads()

    async def run() -> None:
        all_models = models(loads, tmp_path)
        for _ in range(3):
            with pytest.raises(BadCheckpoint):
                async with all_models.use("a"):
                    raise BadCheckpoint("logits: got nan, expected finite numbers; verify the model's files")
        assert loads.names == ["a"]
        await all_models.close()

    asyncio.run(run())


class HeldLoads(Loads):
    """Each load waits until it is let on, and fails if it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Semaphore(0)
        self.on: list[threading.Event] = [threading.Event(), threading.Event()]
        self.fails: list[bool] = [False, False]
        self.count = 0

    def __call__(self, path: str) -> LLM:
        number, self.count = self.count, self.count + 1
        self.begun.release()
        assert self.on[number].wait(PATIENCE_S)
        if self.fails[number]:
            raise BadCheckpoint("broken")
        return super().__call__(path)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("let_go", ["its time", "unload", "close"])
def test_what_nobody_wants_any_more_while_it_is_loaded_does_not_stay(tmp_path: Path, let_go: str, fails: bool) -> None:
    loads = HeldLoads()
    loads.fails[0] = fails

    async def run() -> None:
        all_models = models(loads, tmp_path)
        asks = asyncio.create_task(used(all_models, "a", keep_alive_s=0 if let_go == "its time" else None))
        assert await asyncio.to_thread(loads.begun.acquire, timeout=PATIENCE_S)
        load = all_models.held[0].task
        asks.cancel()
        await asyncio.wait([asks])
        if let_go == "unload":
            assert await all_models.unload("a")
        if let_go == "close":
            await all_models.close()
        async with asyncio.timeout(PATIENCE_S):
            while all_models.held:
                await asyncio.sleep(0.01)
        again = None if let_go == "close" else asyncio.create_task(used(all_models, "a"))
        await asyncio.sleep(0)
        loads.on[0].set()
        assert load is not None
        await asyncio.wait([load])
        assert load.exception() is None or fails
        assert not loads.alive, "what was loaded for nobody is still in memory"
        if again is not None:
            loads.on[1].set()
            assert await again == "ok"
            assert [held.name for held in all_models.held] == ["a"], "the other load took its place along"
        await all_models.close()
        assert not loads.alive

    asyncio.run(run())


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"])
def test_a_service_goes_on_with_files_that_were_replaced(route: str, tmp_path: Path) -> None:
    folder = hf_folder(tmp_path / "tiny", TINY_TEXT)
    service = fake_service(tmp_path, names=("tiny",), load=lambda path: load(folder, chat_format="llama4", force=True))
    asked = {"messages": TURNS} if "chat" in route else {"prompt": "Hi"} if "completions" in route else {"input": "Hi"}
    body = {"model": "tiny", **asked}
    with client_of(service) as client:
        assert client.post(route, json=body).status_code == 200
        weights = next(folder.glob("*.safetensors"))
        weights.write_bytes(weights.read_bytes())
        os.utime(weights, ns=(1, 1))
        refused = client.post(route, json=body)
        assert refused.status_code == 422 and "changed while in use" in refused.text
        assert client.post(route, json=body).status_code == 200


def test_a_killed_engine_ends_its_streams_with_an_event_and_is_back(tmp_path: Path) -> None:
    folder = hf_folder(tmp_path / "tiny", TINY_TEXT)
    loaded: list[LLM] = []

    def start(path: str) -> LLM:
        loaded.append(load(folder, engine="child", chat_format="llama4", force=True))
        return loaded[-1]

    service = fake_service(tmp_path, names=("tiny",), load=start)
    body = {"model": "tiny", "messages": TURNS, "stream": True, "ignore_eos": True, "max_tokens": 10_000, "stop": []}
    with client_of(service) as client:
        seen: list[str] = []
        started = threading.Event()

        def read() -> None:
            with client.stream("POST", "/v1/chat/completions", json={**body, "max_tokens": 60}) as reply:
                for line in reply.iter_lines():
                    seen.append(line)
                    started.set()

        thread = threading.Thread(target=read)
        thread.start()
        assert started.wait(PATIENCE_S)
        child = loaded[0]._running().executor
        assert isinstance(child, ChildExecutor)
        os.kill(child._process.pid, signal.SIGKILL)
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
        until("not restarted", lambda: client.get("/ready").status_code == 200 and len(loaded) > 1)
        again = client.post("/v1/chat/completions", json={"model": "tiny", "messages": TURNS, "max_tokens": 2})
        assert again.status_code == 200, again.text
    data = [line for line in seen if line.startswith("data: ")]
    assert "engine_died" in data[-1] or data[-1] == "data: [DONE]"


def test_ready_tells_what_is_loading(tmp_path: Path) -> None:
    gate = threading.Event()

    def slow(path: str) -> LLM:
        assert gate.wait(PATIENCE_S)
        return fake_llm("ok", Path(path).name)

    service = fake_service(tmp_path, load=slow)
    service.preload = ("fake",)
    with client_of(service) as client:
        waiting = client.get("/ready")
        assert (waiting.status_code, waiting.json()["status"]) == (503, "loading")
        assert "fake" in waiting.json()["seconds"]
        assert client.get("/health").status_code == 200
        gate.set()
        until("it is never ready", lambda: client.get("/ready").status_code == 200)


def test_a_stopping_service_takes_no_more(tmp_path: Path) -> None:
    service = fake_service(tmp_path)
    with client_of(service) as client:
        service.stopping = True
        found: httpx.Response = client.post("/v1/chat/completions", json={"model": "fake", "messages": TURNS})
        assert (found.status_code, found.json()["error"]["code"]) == (503, "not_ready")
        assert client.get("/ready").status_code == 503


def status(client: httpx.Client) -> tuple[int, str]:
    found = client.get("/ready")
    return found.status_code, found.json()["status"]


def asked(client: httpx.Client) -> httpx.Response:
    return client.post("/v1/chat/completions", json={"model": "fake", "messages": TURNS, "max_tokens": 2})


def test_a_service_whose_model_was_let_go_is_ready_and_brings_it_back(tmp_path: Path) -> None:
    service = fake_service(tmp_path)
    service.models.keep_alive_s = 0.01
    service.preload = ("fake",)
    with client_of(service) as client:
        until("let go", lambda: not service.models.held)
        assert status(client) == (200, "ready")
        assert asked(client).status_code == 200
        until("let go again", lambda: not service.models.held)
        assert status(client) == (200, "ready")


WHY = {
    BadCheckpoint("/home/secret/model.gguf: it ends early"): (422, "model.gguf: it ends early"),
    DoesNotFit("fake needs 9 GB, there are 2"): (503, "fake needs 9 GB"),
    EngineDied("the engine's process ended (SIGKILL) while it loaded"): (503, "SIGKILL"),
    MemoryError(): (503, "memory ran out"),
    PassFailed("ZeroDivisionError: by zero"): (503, "fake could not be loaded: ZeroDivisionError"),
    RuntimeError("a secret"): (503, "fake could not be loaded: RuntimeError"),
    OSError(errno.EIO, "x", "/home/secret"): (500, "Input/output error"),
}


@pytest.mark.parametrize("error", WHY, ids=lambda e: type(e).__name__)
def test_why_a_load_failed_is_told_in_ready_in_the_log_and_to_whoever_asks(tmp_path: Path, error: Exception) -> None:
    broken = [True]

    def start(path: str) -> LLM:
        if broken:
            raise error
        return fake_llm("ok", Path(path).name)

    said = io.StringIO()
    service = fake_service(tmp_path, load=start, log=Log("json", said))
    service.preload = ("fake",)
    code, words = WHY[error]
    with client_of(service) as client:
        until("told", lambda: status(client) == (503, "failed"))
        told = [client.get("/ready").json()["reasons"]["fake"]]
        answer = asked(client)
        assert answer.status_code == code
        told.append(answer.json()["error"]["message"])
        until("logged", lambda: said.getvalue().count("load failed") >= 2)
        told += [x["reason"] for x in map(json.loads, said.getvalue().splitlines()) if x["event"] == "load failed"]
        for line in told:
            assert words in line
            assert "secret" not in line
            assert "\n" not in line
        assert client.get("/health").status_code == 200
        broken.clear()
        assert asked(client).status_code == 200, "the next request tries again"
        assert status(client) == (200, "ready")


def test_a_model_whose_engine_died_is_tried_again_until_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("herd.server.models.WATCH_S", 0.01)
    loads: list[LLM] = []
    broken: list[Exception] = []

    def start(path: str) -> LLM:
        if broken:
            raise broken.pop()
        loads.append(fake_llm("ok", Path(path).name))
        return loads[-1]

    service = fake_service(tmp_path, load=start)
    service.preload = ("fake",)
    with client_of(service) as client:
        until("loaded", lambda: status(client) == (200, "ready"))
        broken += [DoesNotFit("no room") for _ in range(4)]
        worker = loads[0]._running().executor
        assert isinstance(worker, ThreadExecutor)
        worker._over = EngineDied("it is gone")
        until("back", lambda: len(loads) == 2)
        until("ready", lambda: status(client) == (200, "ready"))


SERVE = """
from pathlib import Path
from herd import errors
from herd.server.options import ServerOptions
from herd.server.run import serve
import herd.cli.group as group
import sys

def load(path):
    raise getattr(errors, sys.argv[1])("the reason")

def run(*arguments, **options):
    served = {"m": Path(sys.argv[2])}
    serve(ServerOptions(port=0, ollama_port=None, served=served, preload=("m",), log="off"), load, print)

group.herd.main = run
sys.exit(group.run([]))
"""


@pytest.mark.parametrize("kind", ["BadCheckpoint", "DoesNotFit", "EngineDied", "NotFound"])
def test_a_service_whose_first_model_cannot_be_loaded_ends_with_the_reason(tmp_path: Path, kind: str) -> None:
    (tmp_path / "m").mkdir()
    found = subprocess.run(
        [sys.executable, "-c", SERVE, kind, str(tmp_path / "m")], capture_output=True, text=True, timeout=120
    )
    assert found.returncode == getattr(errors, kind).exit_status
    assert found.stderr.splitlines()[-1] == "herd: the reason"
    assert "Traceback" not in found.stderr


def test_herd_serve_of_a_broken_model_ends_with_the_reason(tmp_path: Path) -> None:
    folder = hf_folder(tmp_path / "tiny", TINY_TEXT)
    file = next(folder.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1000])
    command = [sys.executable, "-m", "herd", "serve", str(folder), "--port", "0", "--no-ollama-port", "--log", "json"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert found.returncode == 2, found.stderr
    last = found.stderr.splitlines()[-1]
    assert last.startswith("herd: ")
    assert file.name in last
