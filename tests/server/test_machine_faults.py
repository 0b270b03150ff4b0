"""What the machine does to a service: no descriptors left, a disk that takes nothing, a clock that jumps."""

import os
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from serving import client_of, fake_service
from test_process import Served, Streaming, ask, free_port

from helpers import PATIENCE_S, TINY_TEXT, hf_folder, until

DAY_S = 86_400.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf_folder(tmp_path_factory.mktemp("models") / "tiny", TINY_TEXT)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="the limit of another process is set by Linux alone")
def test_without_descriptors_idle_connections_make_room(model: Path) -> None:
    served = Served(str(model))
    try:
        pid, url = served.process.pid, served.client.base_url
        answer = Streaming(served.client, tokens=600)
        taken = len(os.listdir(f"/proc/{pid}/fd"))
        hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (taken + 3, hard))
        began_s = time.monotonic()
        idle = [socket.create_connection((url.host, url.port or 80)) for _ in range(12)]
        try:
            until("nothing was said", lambda: any("no file descriptors" in line for line in served.lines))
            assert answer.wait()[-1] == "[DONE]", "an answer under way was cut"
            assert httpx.get(f"{url}/health", timeout=PATIENCE_S).status_code == 200
        finally:
            for one in idle:
                one.close()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(1024, hard), hard))
        until("it did not recover", lambda: ask(served.client).status_code == 200)
        told = sum("no file descriptors" in line for line in served.lines)
        assert told < 10 + 2 * (time.monotonic() - began_s), "a line for every attempt"
    finally:
        served.end()


def test_a_disk_that_takes_nothing_is_said_in_one_line(model: Path, tmp_path: Path) -> None:
    """Models answer all the same; only what has to be written fails, without the path of anything."""
    home = tmp_path / "home"
    home.mkdir()
    mount = 'mount -t tmpfs -o ro none "$HERD_HOME"'
    env = {**os.environ, "HERD_HOME": str(home)}
    may = subprocess.run(["unshare", "-m", "sh", "-c", mount], env=env, capture_output=True, check=False, text=True)
    if may.returncode:
        pytest.skip(f"a read-only disk cannot be mounted here: {may.stderr.strip()}")
    line = f'{mount} && exec "$0" -m herd serve "$1" --port "$2" --no-ollama-port --threads 1'
    port = str(free_port())
    command = ["unshare", "-m", "sh", "-c", line, sys.executable, str(model), port]
    process = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as client:
            until("it does not answer", lambda: process.poll() is not None or _is_ready(client))
            assert ask(client).status_code == 200
            for path, body in (
                ("/api/copy", {"source": "tiny", "destination": "other"}),
                ("/api/create", {"model": "other", "from": "tiny", "system": "Be brief."}),
                ("/api/pull", {"model": "smollm2", "stream": False}),
            ):
                refused = client.post(path, json=body)
                assert refused.status_code == 500, path
                assert "Read-only file system" in refused.json()["error"], path
                assert str(home) not in refused.text, path
            assert ask(client).status_code == 200
    finally:
        process.kill()
        process.wait(PATIENCE_S)


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/ready").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S])
def test_a_jump_of_the_clock_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float) -> None:
    service = fake_service(tmp_path, "x" * 400)
    service.models.keep_alive_s = 1800.0
    right = time.time
    with client_of(service) as client:
        body = {"model": "fake", "input": "Hi", "max_output_tokens": 5}
        kept = client.post("/v1/responses", json=body).json()["id"]
        (held,) = service.models.held
        left_s = held.expires_in_s
        chat = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": 300}
        with client.stream("POST", "/v1/chat/completions", json=chat) as reply:
            lines = reply.iter_lines()
            next(lines)
            monkeypatch.setattr(time, "time", lambda: right() + jump_s)
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert service.models.held == [held] and held.model is not None
        assert abs(held.expires_in_s - left_s) < DAY_S / 2
        assert client.get(f"/v1/responses/{kept}").status_code == 200
        assert client.post("/v1/responses", json=body).json()["created_at"] == pytest.approx(
            right() + jump_s, abs=DAY_S / 2
        )
