"""`herd ps` and `herd stop`: what a running service holds in memory, and letting go of it, over Ollama's routes."""

import contextlib
import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import SplitResult, urlsplit

import click

from herd.cli import console
from herd.errors import (
    Busy,
    Forbidden,
    HerdError,
    NetworkError,
    NotFound,
    NotReady,
    Unauthorised,
    UsageError,
    fail,
    printable,
)

URL = "http://127.0.0.1:8484"
TIMEOUT_S = 30.0
"""The longest silence."""
LONGEST_S = 120.0
"""The longest answer: one that comes byte by byte ends there."""
ANSWER_BYTES = 8 << 20
SAID = 2048
"""Characters of a service's error that are told."""
FOREVER_S = 10 * 365 * 86400.0
"""A model that stays longer has no end; a service writes a year far ahead."""
BY_STATUS: dict[int, type[HerdError]] = {
    error.http_status: error for error in (UsageError, Unauthorised, Forbidden, NotFound, Busy, NotReady)
}

url_option = click.option("--url", envvar="HERD_URL", default=URL, show_default=True, help="Where the service is.")


@click.command("ps")
@url_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def ps(url: str, as_json: bool) -> None:
    """Show the models that a running service holds in memory. HERD_API_KEY: its key, if it has keys."""
    models = ask("GET", "/api/ps", url).get("models")
    try:
        rows = [row(m, time.time()) for m in models] if isinstance(models, list) else None
    except (AttributeError, TypeError, ValueError, OverflowError):
        rows = None
    if rows is None:
        fail(NetworkError, f"what answers at {url} is no Herd", do="name another with --url")
    if as_json:
        console.print_json("ps", {"models": models})
    elif rows:
        console.table(("NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"), rows)
    else:
        console.note("no model is loaded; the first request loads one")


@click.command("stop")
@click.argument("model")
@url_option
def stop(model: str, url: str) -> None:
    """Let go of MODEL: it leaves the service's memory as soon as nobody uses it. The service goes on."""
    ask("POST", "/api/generate", url, {"model": model, "keep_alive": 0, "stream": False})
    console.note(f"{model} is let go of; the next request for it loads it again")


def row(model: Mapping[str, Any], now_s: float) -> tuple[str, ...]:
    """A line of the table for one model of /api/ps."""
    size = int(model.get("size", 0))
    return (
        str(model.get("name", "")).removesuffix(":latest"),
        str(model.get("digest", ""))[:12],
        console.size(size),
        processor(size, int(model.get("size_vram", 0))),
        str(model.get("context_length", "")),
        until(str(model.get("expires_at", "")), now_s),
    )


def processor(size: int, on_card: int) -> str:
    """How much of a model's bytes is where, as Ollama says it: 100% CPU, 25%/75% CPU/GPU."""
    percent = round(100 * on_card / size) if size else 0
    if percent in (0, 100):
        return "100% GPU" if percent else "100% CPU"
    return f"{100 - percent}%/{percent}% CPU/GPU"


def until(stamp: str, now_s: float) -> str:
    """How long a model stays, for people, from RFC 3339 text."""
    try:
        left_s = datetime.fromisoformat(stamp).timestamp() - now_s
    except (ValueError, OverflowError):
        return ""
    if left_s > FOREVER_S:
        return "for ever"
    if left_s < 60:
        return f"{max(0.0, left_s):.0f} s"
    return f"{left_s / 60:.0f} min" if left_s < 7200 else f"{left_s / 3600:.0f} h"


def ask(method: str, path: str, url: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """One request to a service, its JSON object. The key comes from HERD_API_KEY.

    Raises UsageError for an address that is none, NetworkError when nothing answers there, and what the service said
    in its own kind (NotFound, Unauthorised, ...).
    """
    parts = split_url(url)
    connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    assert parts.hostname is not None
    connection = connect(parts.hostname, parts.port, timeout=TIMEOUT_S)
    try:
        sent = None if body is None else json.dumps(body)
        connection.connect()
        with _ended_in_time(connection.sock):
            connection.request(method, parts.path.rstrip("/") + path, sent, headers())
            response = connection.getresponse()
            status, raw = response.status, _content(response)
    except OSError as error:
        do = "start one with herd serve, or name another with --url"
        fail(NetworkError, f"no service answers at {url} ({error.strerror or error})", do=do)
    except http.client.HTTPException as error:
        fail(
            NetworkError, f"what answers at {url} speaks no HTTP ({type(error).__name__})", do="name another with --url"
        )
    finally:
        connection.close()
    return checked(status, raw, url)


@contextlib.contextmanager
def _ended_in_time(sock: socket.socket) -> Iterator[None]:
    """A context after LONGEST_S of which a connection ends, whatever still comes."""

    def end() -> None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(LONGEST_S, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _content(response: http.client.HTTPResponse) -> bytes:
    """The first ANSWER_BYTES; whatever sizes chunks claim (of less than none `read` takes all)."""
    room = bytearray(ANSWER_BYTES)
    return bytes(room[: response.readinto(room)])


def split_url(url: str) -> SplitResult:
    """The parts of http(s)://HOST[:PORT][/PATH]. Raises UsageError."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for one that is no number
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isascii() or not url.isprintable():
        fail(UsageError, "url", got=url, expected=f"http(s)://HOST:PORT, like {URL}")
    return parts


def headers() -> dict[str, str]:
    """Headers of a request; of several keys in HERD_API_KEY (`herd serve` takes them so) the first is sent."""
    keys = os.environ.get("HERD_API_KEY", "").split()
    given = {"content-type": "application/json"}
    return {**given, "authorization": f"Bearer {keys[0]}"} if keys else given


def checked(status: int, raw: bytes, url: str) -> dict[str, Any]:
    """The object of a reply; an error's text is raised as the error that it is."""
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        fail(NetworkError, f"what answers at {url} is no Herd (status {status})", do="name another with --url")
    if status < 400:
        return found
    said = found.get("error")
    text = printable(str((said.get("message") if isinstance(said, dict) else said) or "")[:SAID])
    hint = "; set HERD_API_KEY" if status == Unauthorised.http_status else ""
    raise BY_STATUS.get(status, NetworkError)(f"{text or f'status {status}'}{hint}")
