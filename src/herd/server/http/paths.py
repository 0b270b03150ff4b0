"""Paths as routes have them: a slash at the end of one says nothing, as clients that join a base to a path write it."""

from starlette.types import ASGIApp, Receive, Scope, Send


class WithoutSlash:
    """ASGI middleware: `/v1/models/` is `/v1/models`. Nobody is sent elsewhere: a redirect would answer before any key
    was asked for, and many clients do not follow one with a body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] == "http" and scope["path"].endswith("/"):
            scope = {**scope, "path": scope["path"].rstrip("/") or "/"}
        await self._app(scope, receive, send)
