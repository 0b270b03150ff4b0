"""A hub on this machine that speaks as much of the protocol as a pull needs."""

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from helpers import PATIENCE_S

REPO = "some-org/Tiny-Llama"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = bytes(range(256)) * (24 << 12)
"""24 MiB: the library hands on what it receives in pieces of 10 MiB."""


class Hub(ThreadingHTTPServer):
    """What the repository holds, what was asked, and how the next big answer misbehaves."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.forget()

    def forget(self) -> None:
        """Be as at the start."""
        self.repo = REPO
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
        self.error = "GatedRepo"
        """The hub's own name of the error behind status 403."""
        self.wanted: str | None = None
        """The token without which no file is given."""
        self.claimed: dict[str, int] = {}
        """Sizes that the listing tells in the place of the true ones."""

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
            self.reply(
                b"{}", self.server.status, {"X-Error-Code": self.server.error} if self.server.status == 403 else {}
            )
        elif path.startswith(f"/api/models/{self.server.repo}"):
            self.reply(json.dumps(self.listing()).encode())
        elif self.server.wanted and "/resolve/" in path and not self.knows():
            self.reply(b"{}", 401, {"X-Error-Code": "GatedRepo"})
        elif path.startswith(f"/{self.server.repo}/resolve/{COMMIT}/"):
            self.file(path.rpartition(COMMIT + "/")[2])
        else:
            self.reply(b"{}", 404, {"X-Error-Code": "RepoNotFound"})

    def knows(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.server.wanted}"

    def listing(self) -> dict[str, Any]:
        siblings = []
        for name, data in self.server.files.items():
            one: dict[str, Any] = {"rfilename": name, "size": self.server.claimed.get(name, len(data))}
            one["blobId"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            if name in self.server.digests:
                one["lfs"] = {"sha256": self.server.digests[name], "size": len(data), "pointerSize": 130}
            siblings.append(one)
        card = {"license": "other", "license_name": "llama4"}
        return {
            "id": self.server.repo,
            "sha": COMMIT,
            "siblings": siblings,
            "cardData": card,
            "tags": [],
            "downloads": 0,
        }

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


@contextmanager
def running_hub() -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server
    server.stalled.set()
    server.shutdown()
    server.server_close()


def environment_for(hub: Hub, place: Path) -> dict[str, str]:
    """The environment of a `herd pull` of its own: the library reads its address when it is imported."""
    mine = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and not k.lower().endswith("_proxy")}
    return {**mine, "HF_ENDPOINT": hub.url, "HERD_HOME": str(place / "home"), "HF_HOME": str(place / "hf")}


def placed(home: Path) -> dict[str, bytes]:
    """Files of the store's models by their names."""
    return {p.name: p.read_bytes() for p in (home / "models").rglob("*") if p.is_file()}
