"""`herd serve` as a process: signals, sockets, a closed stderr, an engine that is killed. A tiny checkpoint answers."""

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from helpers import PATIENCE_S, TINY_TEXT, hf_folder, until

LONG = 3500
"""Tokens of an answer that is under way for a while; the context has 4096."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf_folder(tmp_path_factory.mktemp("models") / "tiny", TINY_TEXT)


class Served:
    """A running `herd serve`, what it has said so far, and an HTTP client for it."""

    def __init__(self, *words: str) -> None:
        command = [sys.executable, "-m", "herd", "serve", *words, "--port", "0", "--no-ollama-port", "--threads", "1"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self._told = threading.Event()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        assert self._told.wait(PATIENCE_S), self.lines
        found = re.search(r"Herd at (http://\S+): ", self.lines[0])
        assert found is not None, self.lines
        self.client = httpx.Client(base_url=found[1], timeout=PATIENCE_S)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            self._told.set()
        self._told.set()

    def wait(self) -> int:
        """For its end; the exit status."""
        status = self.process.wait(PATIENCE_S)
        self.reader.join(PATIENCE_S)
        return status

    def end(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait(PATIENCE_S)


@pytest.fixture
def served(model: Path) -> Iterator[Served]:
    found = Served(str(model))
    try:
        yield found
    finally:
        found.end()


class Streaming:
    """An answer under way, read on a thread."""

    def __init__(self, client: httpx.Client, tokens: int = LONG) -> None:
        self.data: list[str] = []
        self.begun = threading.Event()
        self.broken: BaseException | None = None
        body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": tokens}
        self._body = {**body, "stream": True, "ignore_eos": True, "seed": 1}
        self._client = client
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()
        assert self.begun.wait(PATIENCE_S)

    def _read(self) -> None:
        try:
            with self._client.stream("POST", "/v1/chat/completions", json=self._body) as reply:
                assert reply.status_code == 200
                for line in reply.iter_lines():
                    if line.startswith("data: "):
                        self.data.append(line.removeprefix("data: "))
                        if len(self.data) > 2:
                            self.begun.set()
        except httpx.HTTPError as error:
            self.broken = error
        finally:
            self.begun.set()

    def wait(self) -> list[str]:
        """For its end; its events."""
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()
        return self.data


def ask(client: httpx.Client) -> httpx.Response:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    return client.post("/v1/chat/completions", json=body)


def free_port() -> int:
    """A port that no other process is given meanwhile: those that ask for any get higher ones."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def engines(pid: int) -> list[int]:
    """Children of a process."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found += map(int, (thread / "children").read_text().split())
    return found


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_answers_end(served: Served, which: signal.Signals) -> None:
    answer = Streaming(served.client, tokens=1000)
    children = engines(served.process.pid)
    served.process.send_signal(which)
    *_, finish, done = answer.wait()
    assert (answer.broken, done) == (None, "[DONE]")
    assert json.loads(finish)["choices"][0]["finish_reason"] == "length"
    assert served.wait() == 0
    assert len(children) == 1
    until("the engine outlives its service", lambda: not alive(children[0]))


def test_the_second_signal_ends_it_now(served: Served) -> None:
    answer = Streaming(served.client)
    children = engines(served.process.pid)
    os.kill(children[0], signal.SIGSTOP)  # the answer goes on for as long as this test looks
    served.process.send_signal(signal.SIGTERM)
    until("it still listens", lambda: refused(served.client))
    assert served.process.poll() is None, "it did not wait for the answer"
    served.process.send_signal(signal.SIGTERM)
    os.kill(children[0], signal.SIGCONT)
    assert served.wait() == 130
    assert "[DONE]" not in answer.wait()
    until("the engine outlives its service", lambda: not alive(children[0]))
    assert not any("Traceback" in line for line in served.lines), served.lines


def refused(client: httpx.Client) -> bool:
    try:
        with httpx.Client(base_url=client.base_url) as another:
            return another.get("/health").status_code == 503
    except httpx.HTTPError:
        return True


def test_an_idle_service_ends_in_silence(served: Served) -> None:
    assert ask(served.client).status_code == 200
    served.process.send_signal(signal.SIGTERM)
    assert served.wait() == 0
    assert not any(word in line for line in served.lines for word in ("Traceback", "Error")), served.lines


def test_the_file_of_keys_is_read_again_at_a_signal(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.touch(0o600)
    line = '[[key]]\nname = "{0}"\nsecret = "{1}"\n'
    file.write_text(line.format("old", "o" * 20) + line.format("stays", "s" * 20))
    served = Served(str(model), "--keys", str(file))

    def status(letter: str) -> int:
        return served.client.get("/v1/models", headers={"x-api-key": letter * 20}).status_code

    try:
        assert [status(letter) for letter in "osn"] == [200, 200, 401]
        file.write_text(line.format("stays", "s" * 20) + line.format("new", "n" * 20))
        served.process.send_signal(signal.SIGHUP)
        until("the new key does not act", lambda: status("n") == 200)
        assert [status(letter) for letter in "os"] == [401, 200]
        file.write_text("[[key")
        served.process.send_signal(signal.SIGHUP)
        until("nothing was said", lambda: any("keys stay as they were" in line for line in served.lines))
        assert [status(letter) for letter in "osn"] == [401, 200, 200]
        served.process.send_signal(signal.SIGTERM)
        assert served.wait() == 0
    finally:
        served.end()


def test_the_log_tells_the_context_that_was_chosen(served: Served) -> None:
    assert ask(served.client).status_code == 200
    until("no line of the load", lambda: any(f"context={TINY_TEXT.max_context}" in line for line in served.lines))


SLOW = """
import sys, time
from pathlib import Path
from herd.server.options import ServerOptions
from herd.server.run import serve

def load(path):
    print("loads", file=sys.stderr, flush=True)
    time.sleep(600)

model = Path(sys.argv[1])
options = ServerOptions(port=0, ollama_port=None, served={"tiny": model}, preload=("tiny",))
serve(options, load, lambda line: None)
"""


def test_a_model_that_is_still_loading_is_not_waited_for(model: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(model)], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert process.stderr.readline() == "loads\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE_S)


def test_a_port_that_is_taken_is_one_line_and_status_2(model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "herd", "serve", str(model), "--port", port, "--no-ollama-port"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert f"127.0.0.1:{port}" in ended.stderr and "--port" in ended.stderr


def test_a_reader_of_the_log_that_goes_away_stops_nothing(model: Path) -> None:
    command = [sys.executable, "-m", "herd", "serve", str(model), "--port", "0", "--no-ollama-port", "--threads", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        found = re.search(r"Herd at (http://\S+): ", process.stderr.readline())
        assert found is not None
        process.stderr.close()
        with httpx.Client(base_url=found[1], timeout=PATIENCE_S) as client:
            for _ in range(3):
                assert ask(client).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait(PATIENCE_S)


def test_it_serves_without_any_standard_stream(model: Path) -> None:
    """As a shell starts it with `<&- >&- 2>&-`: what it opens must not become its stderr."""
    port = free_port()
    line = '"$0" -m herd serve "$1" --port "$2" --no-ollama-port --threads 1 <&- >&- 2>&-'
    process = subprocess.Popen(["sh", "-c", f"exec {line}", sys.executable, str(model), str(port)])
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as client:
            until("it does not answer", lambda: process.poll() is not None or listens(client))
            assert ask(client).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait(PATIENCE_S)


def listens(client: httpx.Client) -> bool:
    with contextlib.suppress(httpx.ConnectError):
        return client.get("/health").status_code == 200
    return False


def test_an_engine_that_is_killed_ends_its_streams_with_an_error_and_another_takes_its_place(served: Served) -> None:
    answer = Streaming(served.client)
    (child,) = engines(served.process.pid)
    os.kill(child, signal.SIGKILL)
    *_, last = answer.wait()
    assert answer.broken is None
    assert json.loads(last)["error"]["code"] == "engine_died"
    until("no other engine", lambda: served.client.get("/ready").status_code == 200)
    assert ask(served.client).status_code == 200
    assert engines(served.process.pid) != [child]
    assert served.client.get("/health").status_code == 200


def test_nothing_is_forked(served: Served) -> None:
    """A fork of a process with threads has their locks and not the threads: the engine is a program of its own."""
    assert ask(served.client).status_code == 200
    (child,) = engines(served.process.pid)
    program = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
    assert b"herd.llm.child" in program[2] and b"serve" not in program[1]
    listening = {
        os.readlink(f"/proc/{served.process.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{served.process.pid}/fd")
    }
    theirs = {os.readlink(f"/proc/{child}/fd/{fd}") for fd in os.listdir(f"/proc/{child}/fd")}
    assert not {name for name in listening & theirs if name.startswith("socket:")}
