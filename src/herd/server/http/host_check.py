"""The outermost layer: allowed hosts and origins, an id for each request, and a reply for every unforeseen error.

Without keys a web page anywhere could reach a service on this machine through the visitor's browser: by another
origin's script, or by a name that its owner lets point here (DNS rebinding). So a page of another origin is refused
unless a program on this machine serves it or it is allowed by name, and a Host header must be an address, a name that
nobody can register, or one that is known to be this machine's. With keys it is the same.
"""

import ipaddress
import secrets
import socket
import time
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from herd.errors import Forbidden, HerdError, UsageError, fail
from herd.server.http.error_bodies import Dialect, problem
from herd.server.log import Log

LOCAL_ENDINGS = (".localhost", ".local", ".internal")
"""Endings of names that no public name server answers for: this machine's (RFC 6761), its network's (RFC 6762), and
private ones, among them `host.docker.internal`."""
LOCAL_PLACES = ("localhost", "127.0.0.1", "0.0.0.0")
"""Hosts of origins that are allowed with any port: pages that programs on this machine serve."""
APP_SCHEMES = ("app", "tauri", "vscode-webview", "vscode-file", "capacitor", "ionic")
"""Origins of programs that run on this machine, not of pages from elsewhere. `null` is none of them: a frame in a
sandbox sends it, whatever site it is of."""
ALLOWED_METHODS = "GET, HEAD, POST, DELETE, OPTIONS"
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}
"""Headers of every reply that does not set them itself."""
EXPOSED = "x-request-id, request-id, x-herd-ignored, x-herd-note, x-herd-answered-by, retry-after"
"""Headers that a page of an allowed origin may read. The id of a request has OpenAI's and Anthropic's name."""
ANTHROPIC_VERSION = "anthropic-version"
"""The header of every request of Anthropic's clients; on routes that two dialects share it says whose form is meant."""


class HostCheck:
    """ASGI middleware that checks hosts and origins. hosts, origins: allowed beside this machine's own."""

    def __init__(self, app: ASGIApp, *, log: Log, hosts: Collection[str] = (), origins: Collection[str] = ()) -> None:
        self._app = app
        self._log = log
        self._hosts = {"localhost", socket.gethostname().lower(), *(host.lower() for host in hosts)}
        self._origins = {origin.lower().rstrip("/") for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = "req_" + secrets.token_hex(12)
        scope.setdefault("state", {})["request_id"] = request_id
        began_s, status, started = time.monotonic(), 0, False
        headers = Headers(scope=scope)
        origin, allowed = headers.get("origin", ""), ""

        async def reply(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                finished = MutableHeaders(scope=message)
                self._finish_headers(finished, request_id, allowed)
                if origin and not allowed:
                    finished.add_vary_header("Origin")
            await send(message)

        try:
            self._check_host(headers, scope["http_version"])
            self._check_origin(headers, origin)
            allowed = origin
            if scope["method"] == "OPTIONS" and (origin or scope["path"] == "*"):
                await _preflight(reply, headers)
            else:
                await self._app(scope, receive, reply)
        except HerdError as error:
            await problem(error, dialect_of(scope["path"], headers), request_id)(scope, receive, reply)
        except Exception as error:
            hidden = self._log.mistake(request_id, error)
            if started:
                raise
            await problem(hidden, dialect_of(scope["path"], headers), request_id)(scope, receive, reply)
        finally:
            if scope["path"] not in ("/health", "/ready", "/metrics"):
                facts = scope["state"].get("facts", {})
                took_ms = (time.monotonic() - began_s) * 1e3
                route = scope["state"].get("route", "-")
                self._log.event(
                    "request", id=request_id, method=scope["method"], route=route, status=status, ms=took_ms, **facts
                )

    def _check_host(self, headers: Headers, version: str) -> None:
        """Raise UsageError for no or several Host headers, Forbidden for a name that is not known to be this
        machine's. HTTP/1.0 needs none: balancers look with it whether this is there; browsers always send it."""
        given = headers.getlist("host")
        if not given and version == "1.0":
            return
        if len(given) != 1:
            fail(UsageError, "Host headers", got=len(given), expected="one")
        host = host_name(given[0])
        if host in self._hosts or host.endswith(LOCAL_ENDINGS) or _is_address(host):
            return
        fail(Forbidden, "Host header", got=given[0], expected="this machine", do="allow it with --allow-host NAME")

    def _check_origin(self, headers: Headers, origin: str) -> None:
        """Raise Forbidden for a page of another origin."""
        if not origin or self._allows(headers, origin):
            return
        fail(
            Forbidden, "Origin", got=origin, expected="this service's own", do=f"allow it with --allow-origin {origin}"
        )

    def _allows(self, headers: Headers, origin: str) -> bool:
        given = origin.lower().rstrip("/")
        scheme, _, place = given.partition("://")
        same = scheme in ("http", "https") and place == headers["host"].lower()
        here = scheme in ("http", "https") and _is_local(place)
        return same or here or given in self._origins or "*" in self._origins or scheme in APP_SCHEMES

    def _finish_headers(self, headers: MutableHeaders, request_id: str, origin: str) -> None:
        for name, value in HEADERS.items():
            headers.setdefault(name, value)
        headers["x-request-id"] = headers["request-id"] = request_id
        if origin:
            headers["access-control-allow-origin"] = origin
            headers["access-control-expose-headers"] = EXPOSED
            headers.add_vary_header("Origin")


async def _preflight(send: Send, headers: Headers) -> None:
    """Answer a browser's preflight request, whose origin is checked already, or an OPTIONS request for *."""
    asked = headers.get("access-control-request-headers", "")
    allowed = ", ".join(h for h in (x.strip() for x in asked.split(",")) if h.replace("-", "").isalnum())[:2048]
    found = [
        (b"allow", ALLOWED_METHODS.encode()),
        (b"access-control-allow-methods", ALLOWED_METHODS.encode()),
        (b"access-control-allow-headers", allowed.encode()),
        (b"access-control-max-age", b"600"),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": found})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def host_name(value: str) -> str:
    """The host of a Host header, without its port, in lower case. Raises UsageError for an invalid one."""
    host, port = value.strip().lower(), ""
    if host.startswith("["):
        host, bracket, port = host.partition("]")
        host, port = host[1:], port[1:] if port.startswith(":") else port
        if not bracket or not _is_address(host) or (port and not port.isdigit()):
            fail(UsageError, "Host header", got=value, expected="HOST or HOST:PORT")
        return host
    host, colon, port = host.partition(":")
    host = host.removesuffix(".")
    if not host or (colon and not port.isdigit()) or not all(c.isalnum() or c in "-._" for c in host):
        fail(UsageError, "Host header", got=value, expected="HOST or HOST:PORT")
    return host


def _is_local(place: str) -> bool:
    """Whether the host of an origin, with or without a port, is one of LOCAL_PLACES."""
    host, colon, port = place.partition(":")
    return host in LOCAL_PLACES and (not colon or (port.isascii() and port.isdigit()))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def dialect_of(path: str, headers: Headers) -> Dialect:
    """The dialect in which errors of this path are written for a request with these headers."""
    if path.startswith("/api/"):
        return "ollama"
    is_theirs = path.startswith("/v1/messages") or (path.startswith("/v1/") and ANTHROPIC_VERSION in headers)
    return "anthropic" if is_theirs else "openai"
