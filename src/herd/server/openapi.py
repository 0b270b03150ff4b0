"""GET /openapi.json: the routes and their requests, made from the tables that check them (OpenAPI 3.1)."""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from herd import __version__
from herd.server.routes import Route
from herd.server.service import Caller, Service
from herd.server.shared.replies import json_response
from herd.server.tables import TABLES

REF = "#/components/schemas/{name}"
ERRORS = {
    "400": "The request makes no sense; the message names the field.",
    "401": "No key, or an unknown one.",
    "403": "No right to it.",
    "404": "No such model or id.",
    "413": "A body over its limit.",
    "429": "The queue is full, or a quota is used up; see retry-after.",
    "501": "The model cannot do that; GET /v1/models tells what it can.",
    "503": "Not now: loading, stopping, or what computes has died and is being started again.",
}


def describe(routes: Iterable[Route]) -> dict[str, Any]:
    """The OpenAPI document of these routes."""
    requests = [table.honoured for table in TABLES.values()]
    _, components = msgspec.json.schema_components(requests, ref_template=REF)
    names = dict(zip((table.name for table in TABLES.values()), _names(requests), strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = route.path.replace(":path}", "}")
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, path, names)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Herd", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _names(requests: list[type[msgspec.Struct]]) -> list[str]:
    """The names that msgspec gives to the schemas of requests; equal names are told apart by their module."""
    schemas, _ = msgspec.json.schema_components(requests, ref_template=REF)
    return [schema["$ref"].rpartition("/")[2] for schema in schemas]


def _operation(route: Route, path: str, names: dict[str, str]) -> dict[str, Any]:
    said = (route.handler.__doc__ or "").strip().partition("\n")[0]
    found: dict[str, Any] = {
        "summary": said,
        "operationId": f"{route.method.lower()}_{path.strip('/').replace('/', '_').replace('{', '').replace('}', '')}",
        "tags": [route.dialect],
        "responses": {"200": {"description": "What was asked for."}},
    }
    if route.right is not None:
        found["security"] = [{"bearer": []}, {"key": []}]
        found["responses"] |= {status: {"description": text} for status, text in ERRORS.items()}
    found["parameters"] = [
        {"name": part[1:-1], "in": "path", "required": True, "schema": {"type": "string"}}
        for part in path.split("/")
        if part.startswith("{")
    ]
    table = TABLES.get(f"{route.method} {route.path}")
    if table is not None:
        schema = {"$ref": REF.format(name=names[table.name])}
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
        found["x-reported"] = dict(table.reported)
        found["x-refused"] = dict(table.refused)
    return found


def route_of(routes: Callable[[], Iterable[Route]]) -> Route:
    """The route to the document of `routes`, which may have this one among them."""

    async def openapi(service: Service, request: Request, caller: Caller) -> Response:
        """What there is to ask, as OpenAPI."""
        return json_response(describe(routes()))

    return Route("GET", "/openapi.json", openapi, "models")
