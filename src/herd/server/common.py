"""Routes of no dialect: /health, /ready, /metrics, /tokenize, /detokenize."""

import time
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from herd.server.body import read_json
from herd.server.fields import Table
from herd.server.metrics import CONTENT_TYPE
from herd.server.openai.turns import Turn, dialog_of
from herd.server.service import Caller, Service
from herd.server.wire import encode


def json_response(value: Any, status: int = 200) -> Response:
    """An object as a reply."""
    return Response(encode(value), status, media_type="application/json")


async def health(service: Service, request: Request, caller: Caller) -> Response:
    """The service runs."""
    return json_response({"status": "ok"})


async def ready(service: Service, request: Request, caller: Caller) -> Response:
    """Whether what was to be loaded is loaded; 503 with what is going on while it is not."""
    held = {h.name: h for h in service.models.held}
    wanted = [service.models.catalogue.find(name).base for name in service.preload]
    loading = {
        name: round(time.monotonic() - held[name].began_s, 1) if name in held else 0.0
        for name in wanted
        if name not in held or held[name].state != "ready"
    }
    if service.stopping:
        return json_response({"status": "stopping"}, 503)
    if loading:
        return json_response({"status": "loading", "seconds": loading}, 503)
    return json_response({"status": "ready", "models": [h.name for h in held.values() if h.state == "ready"]})


async def metrics(service: Service, request: Request, caller: Caller) -> Response:
    """Counters for Prometheus."""
    return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE})


class TokenizeRequest(msgspec.Struct, kw_only=True):
    """Text, or turns as /v1/chat/completions has them."""

    model: str
    prompt: str | None = None
    content: str | None = None
    """llama.cpp's name of prompt."""
    messages: list[Turn] | None = None


class DetokenizeRequest(msgspec.Struct, kw_only=True):
    """Ids of a model's vocabulary."""

    model: str
    tokens: list[int]


TOKENIZE: Table[TokenizeRequest] = Table("POST /tokenize", TokenizeRequest)
DETOKENIZE: Table[DetokenizeRequest] = Table("POST /detokenize", DetokenizeRequest)


async def tokenize(service: Service, request: Request, caller: Caller) -> Response:
    """Ids of a text, specials never among them; or of a dialog as it would be sent."""
    asked, _ = TOKENIZE.read(await read_json(request, service.limits, media=True), strict=service.strict)
    async with service.models.use(asked.model) as llm:
        if asked.messages is not None:
            dialog = await dialog_of(asked.messages, remote_media=service.remote_media)
            ids = llm.prompt_ids(dialog)
        else:
            ids = llm.encode(asked.prompt if asked.prompt is not None else asked.content or "")
        return json_response({"tokens": ids, "count": len(ids), "max_model_len": llm.context})


async def detokenize(service: Service, request: Request, caller: Caller) -> Response:
    """Text of ids, special ones spelt out."""
    asked, _ = DETOKENIZE.read(await read_json(request, service.limits), strict=service.strict)
    async with service.models.use(asked.model) as llm:
        return json_response({"prompt": llm.decode(asked.tokens), "content": llm.decode(asked.tokens)})
