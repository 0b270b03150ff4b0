"""The type of a route, and its check of keys. A route without a right is open to everybody; all others need a key.

The check sits at the handler, not at a path: whatever spelling reaches the handler has passed it.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Literal, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute
from starlette.types import Receive, Scope, Send

from herd.errors import HerdError, NotFound
from herd.server.http.error_bodies import Dialect, of_machine, problem
from herd.server.http.host_check import dialect_of
from herd.server.http.streams import PIECE
from herd.server.keys import Right
from herd.server.requests.admission import Holding
from herd.server.requests.fields import answered
from herd.server.service import Caller, Service

Reply = Response | Callable[[Scope, Receive, Send], Awaitable[None]]
Handler = Callable[[Service, Request, Caller], Awaitable[Any]]
"""Answers a request with a Response or a Stream."""
Method = Literal["GET", "POST", "DELETE"]


class Route(NamedTuple):
    """A route: methods, path, handler and the right that it needs."""

    method: Method
    path: str
    handler: Handler
    right: Right | None
    """None: open to everybody."""
    dialect: Dialect = "openai"

    @property
    def enters(self) -> bool:
        """Whether its requests count as under way: all but short reads of state."""
        return self.right is not None and not (self.method == "GET" and self.right in ("models", "metrics"))


def caller_of(service: Service, request: Request, route: str = "-") -> Caller:
    """The caller of a request, by its key. Raises Unauthorised."""
    headers = request.headers
    key = service.keyring.find(headers.get("authorization", ""), headers.get("x-api-key", ""))
    return Caller(key, request.state.request_id, route, request=request)


class _Sent:
    """A reply with a function to call once it has been sent, or cannot be."""

    def __init__(self, reply: Reply, then: Callable[[], None]) -> None:
        self._reply, self._then = reply, then

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the reply."""
        try:
            await self._reply(scope, receive, send)
        finally:
            self._then()


def endpoint(service: Service, route: Route) -> Callable[[Request], Awaitable[Any]]:
    """The handler of a route behind its check of keys. The key is checked before anything of a body is read."""

    async def answer(request: Request) -> Any:
        request.state.route = f"{route.method} {route.path}"
        try:
            if route.right is None:
                caller = Caller(service.nobody, request.state.request_id, request.state.route)
            else:
                caller = caller_of(service, request, request.state.route)
                caller.key.check_right(route.right)
            request.state.facts = caller.facts
            if route.enters:
                return await _admitted(service, route, request, caller)
            return _held(service, caller, await _handled(service, route, request, caller))
        except HerdError as error:
            told = error.with_traceback(None)  # which holds this frame, which holds the error
        except Exception as error:  # its text may quote a prompt: the log gets kind and place alone
            hidden = service.log.mistake(request.state.request_id, error)
            told = of_machine(error) or hidden
        service.metrics.failed.labels(told.code).inc()
        dialect = dialect_of(route.path, request.headers) if route.dialect == "openai" else route.dialect
        return problem(told, dialect, request.state.request_id)

    return answer


async def _handled(service: Service, route: Route, request: Request, caller: Caller) -> Any:
    """The reply of a route's handler, with a header that says which backends answered, where some did: whatever the
    dialect, and before the first piece of a stream."""
    reply = await route.handler(service, request, caller)
    headers = answered(caller.answered_by)
    if headers and isinstance(reply, Response):
        reply.headers.update(headers)
    elif headers:
        reply.add_headers(headers)
    return reply


async def _admitted(service: Service, route: Route, request: Request, caller: Caller) -> _Sent:
    """The reply to a request that holds its place until the reply is sent."""
    admission = caller.enter(service)
    try:
        reply = await _handled(service, route, request, caller)
        if not admission.goes_on:
            admission.let_go()  # what was asked has been read, and nobody holds it any more
            if isinstance(reply, Response):
                admission.made.let_go()  # it is bytes now
                admission.made.hold(_held_bytes(reply))
    except BaseException:
        admission.close()
        raise
    return _Sent(reply, lambda: None if admission.goes_on else admission.close())


def _held(service: Service, caller: Caller, reply: Any) -> Any:
    """A reply that does not count as a request under way; a long one counts in bytes. Raises Busy."""
    if not isinstance(reply, Response) or len(reply.body) <= PIECE:
        return reply
    holding = Holding(service.answering, caller.key)
    holding.hold(_held_bytes(reply))
    return _Sent(reply, holding.let_go)


def _held_bytes(reply: Response) -> int:
    """Bytes of a reply until it is sent: what an encoder returns may lie in half as many again."""
    return len(reply.body) * 3 // 2


def starlette_routes(service: Service, routes: Iterable[Route]) -> list[StarletteRoute]:
    """The routes for Starlette. Methods of one path share a StarletteRoute, or Starlette would answer 405 at the
    first."""
    found = []
    for route in routes:
        found.append(StarletteRoute(route.path, endpoint(service, route), methods=[route.method]))
    return found


def elsewhere(service: Service, status: int, message: str) -> Callable[[Request, Exception], Awaitable[Response]]:
    """The handler for paths without a route: that a path does not exist is told only to callers with a key."""

    async def answer(request: Request, _error: Exception) -> Response:
        whose = dialect_of(request.url.path, request.headers), request.state.request_id
        try:
            caller_of(service, request)
        except HerdError as error:
            return problem(error, *whose)
        found = problem(NotFound(message), *whose)
        found.status_code = status
        return found

    return answer
