"""Pulling from a hub, against a stand-in on this machine that speaks as much of the protocol as a pull needs."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import herd
from helpers import PATIENCE_S, until
from herd.errors import NotFound, UsageError
from herd.store.hub import RemoteFile, _forget_others, choose

pytest.importorskip("huggingface_hub")

SOURCES = Path(herd.__file__).parent

REPO = "some-org/Tiny-Llama"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = bytes(range(256)) * (24 << 12)
"""24 MiB: the library hands on what it receives in pieces of 10 MiB."""


class Hub(ThreadingHTTPServer):
    """What the repository holds, what was asked, and how the next big answer misbehaves."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = {
            "config.json": b"{}",
            "model.safetensors": WEIGHTS,
            "README.md": b"---\nlicense: other\nlicense_name: llama4\n---\n",
            "pytorch_model.bin": b"never fetched",
            "modeling_evil.py": b"never fetched",
            "original/params.json": b"never fetched",
        }
        self.digests = {"model.safetensors": hashlib.sha256(WEIGHTS).hexdigest()}
        self.ranges: list[str | None] = []
        self.fetched: list[str] = []
        self.stall_after: int | None = None
        self.stalled = threading.Event()
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if self.server.status != 200:
            self.reply(b"{}", self.server.status, {"X-Error-Code": "GatedRepo"} if self.server.status == 403 else {})
        elif path.startswith(f"/api/models/{REPO}"):
            self.reply(json.dumps(self.listing()).encode())
        elif path.startswith(f"/{REPO}/resolve/{COMMIT}/"):
            self.file(path.rpartition(COMMIT + "/")[2])
        else:
            self.reply(b"{}", 404, {"X-Error-Code": "RepoNotFound"})

    def listing(self) -> dict[str, Any]:
        siblings = []
        for name, data in self.server.files.items():
            one: dict[str, Any] = {"rfilename": name, "size": len(data)}
            one["blobId"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            if name in self.server.digests:
                one["lfs"] = {"sha256": self.server.digests[name], "size": len(data), "pointerSize": 130}
            siblings.append(one)
        card = {"license": "other", "license_name": "llama4"}
        return {"id": REPO, "sha": COMMIT, "siblings": siblings, "cardData": card, "tags": [], "downloads": 0}

    def file(self, name: str) -> None:
        data = self.server.files[name]
        asked = self.headers.get("Range")
        self.server.fetched.append(name)
        if name == "model.safetensors":
            self.server.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(data) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        stop = self.server.stall_after
        if stop is not None and len(data) > stop:
            self.wfile.write(data[start:stop])
            self.wfile.flush()
            self.server.stalled.wait(PATIENCE_S)
            return
        self.wfile.write(data[start:])

    def reply(self, data: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server
    server.stalled.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def command(hub: Hub, tmp_path: Path) -> tuple[list[str], dict[str, str]]:
    """`herd pull` as a process of its own: the library reads its address when it is imported."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and not k.lower().endswith("_proxy")}
    environment |= {"HF_ENDPOINT": hub.url, "HERD_HOME": str(tmp_path / "home"), "HF_HOME": str(tmp_path / "hf")}
    return [sys.executable, "-m", "herd", "pull", REPO], environment


def pull(command: tuple[list[str], dict[str, str]], *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command[0], *more], env=command[1], capture_output=True, text=True, timeout=PATIENCE_S)


def placed(home: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (home / "models").rglob("*") if p.is_file()}


def test_a_pull_brings_the_model_s_files_and_no_code(hub: Hub, command: Any, tmp_path: Path) -> None:
    done = pull(command, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["licence"] == "llama4"
    assert told["source"] == f"hub {REPO}@{COMMIT[:12]}"
    assert placed(tmp_path / "home") == {n: hub.files[n] for n in ("config.json", "model.safetensors", "README.md")}
    hub.fetched.clear()
    assert pull(command).returncode == 0
    assert hub.fetched == []  # all there: nothing is fetched again


def test_a_killed_pull_goes_on_where_it_stopped(hub: Hub, command: Any, tmp_path: Path) -> None:
    hub.stall_after = 15 << 20
    partial = tmp_path / "home" / "partial" / f"some-org--Tiny-Llama-{COMMIT[:12]}" / "model.safetensors"
    process = subprocess.Popen(command[0], env=command[1], stderr=subprocess.PIPE)
    try:
        until("it has begun", lambda: process.poll() is not None or (partial.exists() and partial.stat().st_size > 0))
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    assert not (tmp_path / "home" / "models").exists()
    have = partial.stat().st_size
    assert 0 < have <= hub.stall_after

    hub.stall_after = None
    hub.stalled.set()
    done = pull(command)
    assert done.returncode == 0, done.stderr
    assert hub.ranges == [None, f"bytes={have}-"]
    assert placed(tmp_path / "home")["model.safetensors"] == WEIGHTS
    assert not partial.parent.exists()


def test_a_disk_that_runs_full_is_told_and_the_pull_goes_on_later(hub: Hub, command: Any, tmp_path: Path) -> None:
    """What was fetched stays, nothing is registered."""
    most = 5 << 20
    limited = f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({most}, {most}))"
    python = [sys.executable, "-c", f"{limited}; from herd.cli import main; sys.exit(main())"]
    done = subprocess.run([*python, "pull", REPO], env=command[1], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 4, done.stderr
    last = done.stderr.splitlines()[-1]
    assert "model.safetensors: the disk is full (File too large); make room: the same command goes on where" in last
    assert not (tmp_path / "home" / "models").exists()
    assert not (tmp_path / "home" / "models.json").exists()
    assert pull(command).returncode == 0
    assert hub.ranges == [None, f"bytes={most}-"]
    assert placed(tmp_path / "home")["model.safetensors"] == WEIGHTS


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_other_bytes_than_promised_are_thrown_away(hub: Hub, command: Any, tmp_path: Path, name: str) -> None:
    good = hub.files[name]
    promised = Answer.listing

    def lying(self: Answer) -> dict[str, Any]:
        found = promised(self)
        for one in found["siblings"]:
            if one["rfilename"] == name:
                one["blobId"] = "0" * 40
                if "lfs" in one:
                    one["lfs"]["sha256"] = "0" * 64
        return found

    Answer.listing = lying  # type: ignore[method-assign]
    try:
        done = pull(command)
    finally:
        Answer.listing = promised  # type: ignore[method-assign]
    assert done.returncode == 2
    assert f"{name}: digest" in done.stderr
    assert not (tmp_path / "home" / "models").exists()
    assert pull(command).returncode == 0
    assert placed(tmp_path / "home")[name] == good


@pytest.mark.parametrize(
    ("status", "exit_status", "says"), [(404, 3, "no such repository"), (403, 5, "HF_TOKEN"), (500, 5, "goes on where")]
)
def test_refusals_of_the_hub_are_one_line(hub: Hub, command: Any, status: int, exit_status: int, says: str) -> None:
    hub.status = status
    if status == 404:
        hub.status = 200
        command = ([*command[0][:-1], "some-org/Other"], command[1])
    done = pull(command)
    assert done.returncode == exit_status, done.stderr
    assert says in done.stderr
    assert done.stderr.startswith("herd: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_no_hub_at_all_is_one_line(command: Any) -> None:
    command[1]["HF_ENDPOINT"] = "http://127.0.0.1:1"
    done = pull(command)
    assert done.returncode == 5, done.stderr
    assert done.stderr.count("\n") == 1


def remote(*names: str) -> list[RemoteFile]:
    return [RemoteFile(name, 1, None, None) for name in names]


def test_of_several_gguf_files_one_must_be_named() -> None:
    files = remote("a-Q4_0.gguf", "a-Q8_0.gguf", "README.md")
    with pytest.raises(UsageError, match=r"--file a-Q4_0\.gguf"):
        choose("o/n", files, None)
    assert [f.name for f in choose("o/n", files, "*Q8*")] == ["a-Q8_0.gguf"]
    with pytest.raises(UsageError, match="matches 2 files"):
        choose("o/n", files, "*")
    with pytest.raises(NotFound, match="neither"):
        choose("o/n", remote("README.md", "model.bin"), None)
    assert [f.name for f in choose("o/n", remote("a.gguf", "x.py"), None)] == ["a.gguf"]


def test_a_vision_part_comes_along_with_its_gguf() -> None:
    parts = ("mmproj-BF16.gguf", "mmproj-F16.gguf")
    files = remote("a-Q4_0.gguf", "a-Q8_0.gguf", *parts, "sub/a-IQ1.gguf")
    assert [f.name for f in choose("o/n", files, "*Q8*")] == ["a-Q8_0.gguf", "mmproj-F16.gguf"]
    assert [f.name for f in choose("o/n", files, "mmproj-B*")] == ["mmproj-BF16.gguf"]
    assert [f.name for f in choose("o/n", remote("a.gguf", *parts), None)] == ["a.gguf", "mmproj-F16.gguf"]
    with pytest.raises(UsageError, match=r"2 GGUF models.*--file a-Q4_0\.gguf"):
        choose("o/n", remote("a-Q4_0.gguf", "a-Q8_0.gguf", *parts), None)


def test_what_was_begun_of_another_commit_is_forgotten(tmp_path: Path) -> None:
    names = ["a--b-0123456789ab", "a--b-ba9876543210", "a--b-c-0123456789ab", "a--b", "x--a--b-0123456789ab"]
    for name in names:
        (tmp_path / name).mkdir()
    _forget_others(tmp_path / names[0])
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names[:1] + names[2:])


def names_in_sources() -> set[str]:
    """Names of small files that readers of folders, and what is copied with a model, are written with."""
    found: set[str] = set()
    for path in (*SOURCES.glob("text/**/*.py"), *SOURCES.glob("checkpoint/**/*.py"), SOURCES / "convert.py"):
        found |= set(re.findall(r'"(\w[\w.]*\.(?:json|jinja|model|txt|md))"', path.read_text(encoding="utf-8")))
    return found


def test_all_that_readers_of_folders_look_for_is_fetched() -> None:
    others = {"adapter_config.json", "params.json", "tokenizer.ggml.model"}  # no model; Meta's form; a key of GGUF
    names = names_in_sources() - others
    assert {"added_tokens.json", "hf_quant_config.json", "chat_template.jinja", "tokenizer.model"} <= names
    files = [RemoteFile(name, 1, None, None) for name in (*sorted(names), "model.safetensors")]
    assert {f.name for f in choose(REPO, files, None)} == {f.name for f in files}
