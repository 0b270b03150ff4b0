"""The application: every route behind its key, the checks around it, and its life from start to drain."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from starlette.applications import Starlette
from starlette.types import ASGIApp

from herd.errors import HerdError
from herd.server import openapi, own_routes, page
from herd.server.anthropic import routes as anthropic
from herd.server.batches import routes as batches
from herd.server.batches.worker import Worker
from herd.server.http.host_check import HostCheck
from herd.server.http.paths import WithoutSlash
from herd.server.http.streams import InPieces
from herd.server.ollama import routes as ollama
from herd.server.ollama.models import root
from herd.server.openai import routes as openai_routes
from herd.server.options import ServerOptions
from herd.server.routes import Route, elsewhere, starlette_routes
from herd.server.service import Service

COMMON = (
    Route("GET", "/health", own_routes.health, None),
    Route("GET", "/ready", own_routes.ready, "models"),
    Route("GET", "/metrics", own_routes.metrics, "metrics"),
    openapi.route_of(lambda: ROUTES),
    Route("POST", "/tokenize", own_routes.tokenize, "chat"),
    Route("POST", "/detokenize", own_routes.detokenize, "chat"),
)
ROUTES: tuple[Route, ...] = (*COMMON, *openai_routes.ROUTES, *batches.ROUTES, *ollama.ROUTES, *anthropic.ROUTES)
"""All ways in, but those of the web page."""


def create_app(
    service: Service, options: ServerOptions, failed: Callable[[HerdError], None] = lambda error: None
) -> ASGIApp:
    """The ASGI application of a service. failed: called when a model could not be loaded at the start."""

    @contextlib.asynccontextmanager
    async def life(_app: Starlette) -> AsyncIterator[None]:
        watch = asyncio.create_task(service.models.watch())
        worker = None if service.files is None else Worker(service, service.files)
        batch = asyncio.create_task(worker.run() if worker is not None else asyncio.sleep(0))
        loads = [asyncio.create_task(_preload(service, name, failed)) for name in service.preload]
        try:
            yield
        finally:
            service.stopping = True
            for task in (watch, *loads, batch):
                task.cancel()
            await asyncio.gather(batch, return_exceptions=True)
            if service.files is not None:
                service.files.close()
            await service.models.close()
            service.log.close()

    app = Starlette(
        routes=starlette_routes(service, (*ROUTES, *page.routes(root, page=options.page))),
        lifespan=life,
        exception_handlers={
            404: elsewhere(service, 404, "no such route; /openapi.json lists what there is"),
            405: elsewhere(service, 405, "this route does not take that method; /openapi.json lists what there is"),
        },
    )
    app.router.redirect_slashes = False  # a redirect would answer before any key was asked for
    checked = HostCheck(InPieces(app), log=service.log, hosts=options.allow_hosts, origins=options.allow_origins)
    return WithoutSlash(checked)


async def _preload(service: Service, name: str, failed: Callable[[HerdError], None]) -> None:
    """Load a model at the start. A failure is logged as well, and told to every client that asks for the model."""
    try:
        await service.models.load(name)
    except HerdError as error:
        if service.models.failure(name) is not None:  # else it was let go meanwhile
            failed(error)
