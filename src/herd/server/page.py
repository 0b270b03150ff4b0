"""The web page at `/`: static files, read once and kept in memory, compressed.

It holds no secret, so it is open without a key; what it asks the service for is not. The policy below lets it load from
this service alone and run no code but these files; nothing that a model says can add any (no HTML is ever parsed).
"""

import gzip
import hashlib
from functools import lru_cache
from importlib import resources
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from herd.server.routes import Handler, Route
from herd.server.service import Caller, Service

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:; "
    "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Content-Security-Policy, https://www.w3.org/TR/CSP3/."""
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
"""File types that the page is made of."""
INDEX = "index.html"


class Asset(NamedTuple):
    """One file of the page."""

    body: bytes
    packed: bytes
    """gzip of the body."""
    etag: str
    """Weak, since it stands for both."""
    media_type: str


@lru_cache(maxsize=1)
def assets() -> dict[str, Asset]:
    """All files of the page by name, `vendor/` in front of those that are not ours."""
    folder = resources.files("herd.server") / "page"
    found = {}
    for prefix, place in (("", folder), ("vendor/", folder / "vendor")):
        for file in place.iterdir():
            media_type = TYPES.get(file.name[file.name.rfind(".") :])
            if file.is_file() and media_type is not None:
                found[prefix + file.name] = _asset(file.read_bytes(), media_type)
    return found


def _asset(body: bytes, media_type: str) -> Asset:
    digest = hashlib.sha256(body).hexdigest()[:32]
    return Asset(body, gzip.compress(body, mtime=0), f'W/"{digest}"', media_type)


def _home(root: Handler) -> Route:
    """The route `/`: the page for a browser; for other programs the reply of `root`."""

    async def home(service: Service, request: Request, caller: Caller) -> Response:
        if "text/html" in request.headers.get("accept", ""):
            reply = _reply(request, assets()[INDEX])
        else:
            reply = await root(service, request, caller)
        reply.headers.add_vary_header("Accept")
        return reply

    return Route("GET", "/", home, None)


def _file(name: str, asset: Asset) -> Route:
    """The route to one file: no path that a client writes is ever opened or looked up."""

    async def file(service: Service, request: Request, caller: Caller) -> Response:
        return _reply(request, asset)

    return Route("GET", f"/page/{name}", file, None)


def routes(root: Handler, *, page: bool) -> list[Route]:
    """The routes of the page. Without it (--no-page) only `/` stays, which `root` answers."""
    if not page:
        return [Route("GET", "/", root, None)]
    return [_home(root), *(_file(name, asset) for name, asset in assets().items())]


def _reply(request: Request, asset: Asset) -> Response:
    """The file, compressed if the browser accepts that; 304 if it has this very one. Browsers ask again each time, so
    that a new version of Herd never runs with half of an old page."""
    headers = {
        "etag": asset.etag,
        "cache-control": "no-cache",
        "vary": "Accept-Encoding",
        "content-security-policy": POLICY,
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
    }
    if asset.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    body = asset.body
    if accepts_gzip(request.headers.get("accept-encoding", "")):
        body, headers["content-encoding"] = asset.packed, "gzip"
    return Response(body, headers={**headers, "content-type": asset.media_type})


def accepts_gzip(value: str) -> bool:
    """Whether an Accept-Encoding header names gzip, and not with weight 0."""
    for one in value.lower().split(","):
        name, _, weight = one.partition(";")
        if name.strip() == "gzip":
            return weight.replace(" ", "").rstrip("0").rstrip(".") not in ("q=", "q=0")
    return False
