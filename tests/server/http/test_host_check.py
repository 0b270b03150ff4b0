"""Who is let in: every route, spelt in every way, asks for its key; hosts and origins are this machine's."""

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import client_of, fake_service, running

from helpers import PATIENCE_S, until
from herd.server.app import ROUTES
from herd.server.keys import plain_key
from herd.server.limits import Limits

SECRET = "a-secret-of-some-length"
CLOSED = sorted({(r.method, r.path.replace("{id}", "x").replace("{digest}", "x").replace("{model:path}", "fake"))
                 for r in ROUTES if r.right is not None})  # fmt: skip
SPELLINGS = (
    "{path}", "{path}/", "/{path}", "//{path}", "/.{path}", "/./{path}", "/x/..{path}", "/health/..{path}",
    "/health/../..{path}", "/health;{path}", "/health%2f..{path}", "/health%00{path}", "{path}%00", "{path}%20",
    "{path}?x=/health", "{path}#/health", "{path};/health", "{upper}", "{coded}", "{path}.json", "{path}%2f",
    "/%2e%2e{path}", "/page/..{path}", "/page{path}", "http://localhost{path}", "http://evil.example{path}",
    "http://localhost:1/health{path}", "{path}\\", "/\\{path}", "{path}%c0%af", "/health{path}",
)  # fmt: skip


def raw(address: str, data: bytes) -> bytes:
    """What comes back of these bytes."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as s:
        s.sendall(data)
        found = b""
        try:
            while part := s.recv(65536):
                found += part
        except (ConnectionResetError, TimeoutError):
            pass
        return found


def status(reply: bytes) -> int:
    return int(reply.split(b" ")[1]) if reply.startswith(b"HTTP/1.1 ") else 0


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(fake_service(tmp_path_factory.mktemp("home"), keys=(plain_key(SECRET),))) as address:
        yield address


def test_there_are_many_routes() -> None:
    assert len(CLOSED) > 30
    assert [r.path for r in ROUTES if r.right is None and not r.path.startswith("/page") and r.path != "/"] == [
        "/health"
    ]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_spelling_of_any_route_is_answered_without_its_key(keyed: str, spelling: str) -> None:
    for method, path in CLOSED:
        coded = "/" + "".join(f"%{ord(c):02x}" if c.isalpha() else c for c in path[1:])
        target = spelling.format(path=path, upper=path.upper(), coded=coded).replace("#", "%23").replace("\\", "%5c")
        for headers in ("", "Authorization: Bearer wrong-secret-of-length\r\n", "x-api-key: \r\n"):
            request = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: 2\r\n"
            reply = raw(keyed, f"{request}Connection: close\r\n\r\n{{}}".encode())
            assert status(reply) in (400, 401, 403), (method, target, reply[:200])
            assert b'"fake"' not in reply


def test_with_its_key_each_route_is_reached(keyed: str) -> None:
    with httpx.Client(base_url=keyed, headers={"authorization": f"Bearer {SECRET}"}) as client:
        for method, path in CLOSED:
            found = client.request(method, path, json={} if method == "POST" else None)
            assert found.status_code not in (401, 403, 405, 500), (method, path, found.text)
        assert client.get("/v1/none").status_code == 404
        assert client.put("/v1/models").status_code == 405
    with httpx.Client(base_url=keyed) as client:
        assert client.get("/health").status_code == 200
        wrong = client.get("/v1/models")
        assert (wrong.status_code, wrong.headers["www-authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", 200), ("LOCALHOST:8484", 200), ("localhost.", 200), ("127.0.0.1:1", 200), ("[::1]:8484", 200),
        ("192.168.0.7", 200), ("app.localhost", 200), ("evil.example", 403), ("evil.example:8484", 403),
        ("localhost.evil.example", 403), ("127.0.0.1.evil.example", 403), ("localhost:x", 400), ("", 400),
        ("local host", 400), ("localhost@evil.example", 400), ("localhost/evil", 400), ("[::1", 400), ("[x]", 400),
        ("known.example", 200), ("big.local:8484", 200), ("A.Big.LOCAL.", 200), ("ollama.internal", 200),
        ("host.docker.internal:11434", 200), ("OWN", 200), ("own:8484", 200), ("own.evil.example", 403),
        ("x.own", 403), ("local", 403), ("internal", 403), ("biglocal", 403), ("a.local.evil.example", 403),
        ("host.docker.internal.evil.example", 403), ("a.localx", 403), ("docker.internal@evil.example", 400),
    ],
)  # fmt: skip
def test_a_host_header_names_this_machine(named: tuple[str, str], host: str, expected: int) -> None:
    for address, key in zip(named, ("", f"x-api-key: {SECRET}\r\n"), strict=True):
        head = f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\n{key}Connection: close\r\n\r\n"
        reply = raw(address, head.encode())
        assert status(reply) == expected, reply[:300]


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Services on a machine called Own, without a key and with one."""
    options: dict[str, Any] = {"allow_hosts": ("known.example",)}
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setattr(socket, "gethostname", lambda: "Own")
        services = [fake_service(tmp_path_factory.mktemp("a"))]
        services += [fake_service(tmp_path_factory.mktemp("b"), keys=(plain_key(SECRET),))]
        first, second = (stack.enter_context(running(service, **options)) for service in services)
        yield first, second


def test_no_host_or_two_are_refused(tmp_path: Path) -> None:
    with running(fake_service(tmp_path)) as address:
        for hosts in ("", "Host: localhost\r\nHost: localhost\r\n"):
            assert status(raw(address, f"GET /health HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n".encode())) == 400


ORIGINS = {
    **dict.fromkeys(
        ("https://app.example", "https://app.example/", "vscode-webview://abc", "vscode-file://vscode-app"), 1
    ),
    **dict.fromkeys(("app://obsidian.md", "tauri://localhost", "capacitor://localhost", "ionic://localhost"), 1),
    **{
        f"{scheme}://{place}{port}": 1
        for scheme in ("http", "https")
        for place in ("localhost", "127.0.0.1", "0.0.0.0", "LOCALHOST")
        for port in ("", ":1", ":3000", ":65535")
    },
    **dict.fromkeys(("null", "NULL", "file://", "http://evil.example", "https://app.example.evil.example"), 0),
    **dict.fromkeys(("http://localhost.evil.example", "http://localhost:3000.evil.example", "http://localhost:"), 0),
    **dict.fromkeys(("http://evil.example:8484", "http://127.0.0.1.evil.example", "http://localhost@evil.example"), 0),
    **dict.fromkeys(("http://localhost:80@evil.example", "http://127.0.0.11", "http://127.1", "http://10.0.0.2"), 0),
    **dict.fromkeys(("ftp://localhost", "chrome-extension://abc", "http://localhost:1 http://evil.example"), 0),
    **dict.fromkeys(
        ("http://big.local", "http://evil.localhost.example", "//localhost", "localhost", "http:localhost"), 0
    ),
}
"""Origin -> whether its pages are let in, where https://app.example is allowed by name."""


@pytest.mark.parametrize("key", [None, SECRET], ids=["without a key", "with one"])
def test_pages_of_other_origins_are_refused_unless_a_program_here_serves_them(tmp_path: Path, key: str | None) -> None:
    keys = () if key is None else (plain_key(key),)
    headers = {} if key is None else {"x-api-key": key}
    with client_of(fake_service(tmp_path, keys=keys), allow_origins=("https://app.example",)) as client:
        own = f"http://{client.base_url.netloc.decode()}"
        for origin, is_let_in in {own: 1, **ORIGINS}.items():
            found = client.get("/v1/models", headers={"origin": origin, **headers})
            asked = client.options("/v1/chat/completions", headers={"origin": origin})
            assert (found.status_code, asked.status_code) == ((200, 204) if is_let_in else (403, 403)), origin
            for reply in (found, asked):
                cors = {name: value for name, value in reply.headers.items() if name.startswith("access-control-")}
                assert cors.get("access-control-allow-origin") == (origin if is_let_in else None), origin
                assert bool(cors) == bool(is_let_in), (origin, cors)
                assert "Origin" in reply.headers["vary"]
        other_host = client.get("/v1/models", headers={"origin": own, "host": "evil.example", **headers})
        assert other_host.status_code == 403
        assert "access-control-allow-origin" not in other_host.headers


def test_null_and_any_origin_are_let_in_where_they_are_named(tmp_path: Path) -> None:
    for named in ("null", "*"):
        keys = (plain_key(SECRET),)
        with client_of(fake_service(tmp_path, keys=keys), allow_origins=(named,)) as client:
            found = client.get("/v1/models", headers={"origin": "null", "x-api-key": SECRET})
            assert (found.status_code, found.headers["access-control-allow-origin"]) == (200, "null")


# -- what is slow, large or idle ---------------------------------------------------------------------------------


def test_slow_headers_and_slow_bodies_are_cut(tmp_path: Path) -> None:
    limits = Limits(header_timeout_s=2, body_timeout_s=2)
    with client_of(fake_service(tmp_path, limits=limits)) as client:
        host, port = str(client.base_url).removeprefix("http://").split(":")
        began_s = time.monotonic()
        slow = [socket.create_connection((host, int(port)), timeout=PATIENCE_S) for _ in range(2)]
        slow[0].sendall(b"GET /health HT")
        slow[1].sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        assert client.get("/health").status_code == 200
        assert slow[0].recv(1000).startswith(b"HTTP/1.1 408 ")
        assert b" 504 " in slow[1].recv(1000)
        assert time.monotonic() - began_s < Limits().body_timeout_s, "by other limits than these"
        for s in slow:
            s.close()


def test_a_body_that_drips_is_cut_in_all(tmp_path: Path) -> None:
    with client_of(fake_service(tmp_path, limits=Limits(body_timeout_s=1))) as client:
        host, port = str(client.base_url).removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as s:
            s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
            s.settimeout(0.2)
            reply = b""
            for _ in range(600):
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    s.sendall(b" ")
                with contextlib.suppress(TimeoutError, ConnectionResetError):
                    reply += s.recv(1000)
                if reply:
                    break
        assert status(reply) == 504


def test_bodies_over_the_limit_are_refused_before_they_are_read(tmp_path: Path) -> None:
    limits = Limits(body_bytes=1000, media_body_bytes=1000)
    with running(fake_service(tmp_path, limits=limits)) as address:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        assert status(raw(address, head + b"Content-Length: 1001\r\n\r\n")) == 413
        chunk = b"400\r\n" + b" " * 1024 + b"\r\n"
        assert status(raw(address, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk)) == 413


def is_cut(s: socket.socket) -> bool:
    try:
        return s.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_idle_connections_are_capped_and_health_answers(tmp_path: Path) -> None:
    with client_of(fake_service(tmp_path, limits=Limits(connections=50, header_timeout_s=600))) as client:
        host, port = str(client.base_url).removeprefix("http://").split(":")
        idle = [socket.create_connection((host, int(port)), timeout=PATIENCE_S) for _ in range(120)]
        assert client.get("/health").status_code == 200
        for s in idle:
            s.setblocking(False)
        until("more idle ones stay than may", lambda: sum(map(is_cut, idle)) >= 70)
        for s in idle:
            s.close()
        assert client.get("/health").status_code == 200
