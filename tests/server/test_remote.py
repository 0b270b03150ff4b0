"""`herd ps` and `herd stop` against a service with real sockets."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from serving import fake_service, running

from helpers import PATIENCE_S
from herd.cli import main, remote
from herd.cli.remote import processor, row, split_url, until
from herd.errors import UsageError
from herd.server.keys import plain_key

NOW_S = 1.8e9


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HERD_API_KEY", raising=False)
    monkeypatch.delenv("HERD_URL", raising=False)


def load(url: str, **headers: str) -> None:
    body = {"model": "fake", "prompt": "", "stream": False}
    assert httpx.post(f"{url}/api/generate", json=body, headers=headers).status_code == 200


def test_ps_shows_what_is_loaded_and_stop_lets_go_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(fake_service(tmp_path)) as url:
        assert main(["ps", "--url", url]) == 0
        assert "no model is loaded" in capsys.readouterr().err

        load(url)
        assert main(["ps", "--url", url]) == 0
        header, line = capsys.readouterr().out.splitlines()
        assert header.split() == ["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"]
        assert line.split()[:2] == ["fake", "d" * 12]
        assert "100% CPU" in line and line.endswith("for ever")

        assert main(["ps", "--json", "--url", url + "/"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["herd"] == "ps" and [m["name"] for m in told["models"]] == ["fake:latest"]

        assert main(["stop", "fake", "--url", url]) == 0
        assert main(["ps", "--json", "--url", url]) == 0
        assert json.loads(capsys.readouterr().out)["models"] == []


def test_the_service_and_its_key_may_be_named_by_the_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "a-key-that-is-long-enough"
    with running(fake_service(tmp_path, keys=(plain_key(key),))) as url:
        monkeypatch.setenv("HERD_URL", url)
        assert main(["ps"]) == 1
        assert "set HERD_API_KEY" in capsys.readouterr().err
        monkeypatch.setenv("HERD_API_KEY", f"{key} another-key-for-others")
        assert main(["ps"]) == 0
        load(url, authorization=f"Bearer {key}")
        assert main(["ps"]) == 0
        assert capsys.readouterr().out.splitlines()[1].startswith("fake")


def test_what_the_service_refuses_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(fake_service(tmp_path)) as url:
        assert main(["stop", "nobody", "--url", url]) == 3
    out = capsys.readouterr()
    assert out.out == "" and out.err.count("\n") == 1 and "nobody" in out.err


def test_no_service_is_one_line_and_status_5(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # taken, and nobody listens
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        for command in (["ps"], ["ps", "--json"], ["stop", "fake"]):
            assert main([*command, "--url", url]) == 5
            out = capsys.readouterr()
            assert out.out == "" and out.err.count("\n") == 1
            assert f"no service answers at {url}" in out.err and "herd serve" in out.err


@pytest.mark.parametrize("answer", [b"hello\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", b""])
def test_what_is_no_service_is_status_5(answer: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def once() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=once)
        thread.start()
        assert main(["ps", "--url", f"http://127.0.0.1:{listening.getsockname()[1]}"]) == 5
        thread.join()
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("url", ["", "127.0.0.1:8484", "ftp://x", "http://", "http://x:port", "http://x\n", "http://ü"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match=r"^url: got "):
        split_url(url)


def test_columns_in_words() -> None:
    assert processor(100, 0) == "100% CPU"
    assert processor(100, 100) == "100% GPU"
    assert processor(100, 75) == "25%/75% CPU/GPU"
    assert processor(0, 0) == "100% CPU"
    assert until("2027-01-15T08:00:00Z", NOW_S) == "0 s"
    assert until("2027-01-15T08:30:00+00:00", NOW_S) == "30 min"
    assert until("2027-01-15T13:00:00Z", NOW_S) == "5 h"
    assert until("2318-01-01T00:00:00Z", NOW_S) == "for ever"
    assert until("soon", NOW_S) == ""
    assert row({"name": "a:latest", "size": 98_400_000}, NOW_S) == ("a", "", "98.4 MB", "100% CPU", "", "")


def answered(body: bytes, head: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\n" + (head or b"Content-Length: %d\r\n" % len(body)) + b"\r\n" + body


def listing(**model: object) -> bytes:
    return answered(json.dumps({"data": [model], "models": [model]}).encode())


CHUNKS = b"Transfer-Encoding: chunked\r\n"
HOSTILE = {
    "nested": answered(b"[" * 200_000),
    "nested objects": answered(b'{"data":' * 100_000),
    "chunks of less than none": answered(b"-5\r\n" + b"x" * 100, CHUNKS),
    "a chunk of less than none and no end": answered(b"-1\r\n" + b"x" * (64 << 20), CHUNKS),
    "no end": answered(b"x" * (64 << 20), b"Connection: close\r\n"),
    "controls": listing(id="\x1b]0;a\x07\x1b[2J\nherd: all is well", name="\x1b[2J", size=5),
    "many": answered(json.dumps({"data": [{"id": f"m{i}"} for i in range(50_000)]}).encode()),
    "a size that is none": listing(id="m", name="m", size="x", max_model_len="x"),
    "a size without end": answered(b'{"models": [{"size": 1e999}], "data": [{"id": "m", "max_model_len": 1e999}]}'),
    "sizes beyond all": listing(id="m", name="m", size=10**30, size_vram=10**30, max_model_len=10**30),
    "a time before all": listing(name="m", size=5, expires_at="0001-01-01T00:00:00"),
    "no objects": answered(b'{"models": [5], "data": [5]}'),
    "a long error": b"HTTP/1.1 404 X\r\nContent-Length: 4000012\r\n\r\n" + b'{"error":"' + b"y" * 4_000_000 + b'"}',
}


@contextlib.contextmanager
def answering(sends: Callable[[socket.socket], None]) -> Iterator[str]:
    """The address of a service that sends to whoever comes."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                with listener.accept()[0] as connection, contextlib.suppress(OSError):
                    connection.recv(1 << 16)
                    sends(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("command", ["ps", "stop m", "connect codex"])
def test_whatever_answers_it_is_told_in_short_lines(
    name: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    with answering(lambda connection: connection.sendall(HOSTILE[name])) as url:
        assert main([*command.split(), "--url", url]) in (0, 3, 5)
    told = capsys.readouterr()
    assert len(told.err) < 5000 and "Traceback" not in told.err
    assert command == "ps" or not set(map(chr, range(32))) & set(told.err + told.out) - {"\n"}


def test_an_answer_that_comes_byte_by_byte_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "LONGEST_S", 0.2)
    gone = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        try:
            while True:
                connection.sendall(b" ")
                time.sleep(0.01)
        finally:
            gone.set()

    with answering(drip) as url:
        assert main(["ps", "--url", url]) == 5
        assert gone.wait(PATIENCE_S)
