"""`herd ps` and `herd stop` against a service with real sockets."""

import json
import socket
import threading
from pathlib import Path

import httpx
import pytest
from serving import fake_service, running

from herd.cli import main
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
