"""Routes of no dialect: /health, /ready, /metrics, /tokenize, /detokenize."""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from herd.chat_model import ID_BYTES, ChatModel
from herd.server.http.error_bodies import words_of
from herd.server.http.wire import encode
from herd.server.metrics import CONTENT_TYPE
from herd.server.openai.turns import OpenAIMessage, dialog_of, goes_on
from herd.server.requests.fields import FieldTable, Name, told
from herd.server.requests.media import Images
from herd.server.requests.sizes import spelt_bytes
from herd.server.service import Caller, Service
from herd.server.shared.intake import read_as
from herd.server.shared.replies import json_response


async def health(service: Service, request: Request, caller: Caller) -> Response:
    """Answer that the service runs."""
    return json_response({"status": "ok"})


async def ready(service: Service, request: Request, caller: Caller) -> Response:
    """Whether the service answers; 503 says what is going on, or why a load failed.

    503 as long as a model of the start is being loaded or could not be. A model that was unloaded is loaded for the
    next request.
    """
    held = {h.name: h for h in service.models.held}
    if service.stopping:
        return json_response({"status": "stopping"}, 503)
    loading, failed = {}, {}
    for name in service.preload:
        error = service.models.failure(name)
        if error is not None:
            failed[name] = words_of(error)
            continue
        base = service.models.catalogue.find(name).base
        if base in held and held[base].state != "ready":
            loading[base] = round(time.monotonic() - held[base].began_s, 1)
    if failed:
        return json_response({"status": "failed", "reasons": failed, "seconds": loading}, 503)
    if loading:
        return json_response({"status": "loading", "seconds": loading}, 503)
    return json_response({"status": "ready", "models": [h.name for h in held.values() if h.state == "ready"]})


async def metrics(service: Service, request: Request, caller: Caller) -> Response:
    """Counters for Prometheus."""
    return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE})


class TokenizeRequest(msgspec.Struct, kw_only=True):
    """The body of /tokenize: text, or messages as /v1/chat/completions has them."""

    model: Name
    prompt: str | None = None
    content: str | None = None
    """llama.cpp's name of prompt."""
    messages: list[OpenAIMessage] | None = None
    continue_final_message: bool | None = None
    """Whether a last answer among messages is gone on with, as /v1/chat/completions has it."""
    add_generation_prompt: bool | None = None


class DetokenizeRequest(msgspec.Struct, kw_only=True):
    """The body of /detokenize: ids of a model's vocabulary."""

    model: Name
    tokens: list[int]


TOKENIZE: FieldTable[TokenizeRequest] = FieldTable("POST /tokenize", TokenizeRequest)
DETOKENIZE: FieldTable[DetokenizeRequest] = FieldTable("POST /detokenize", DetokenizeRequest)


async def tokenize(service: Service, request: Request, caller: Caller) -> Response:
    """Ids of a text, special tokens never among them; or of a dialog as it would be sent."""
    images = Images(remote=service.remote_media)

    def read(body: dict[str, Any]) -> tuple[TokenizeRequest, Sequence[str], list[dict[str, Any]]]:
        asked, ignored = TOKENIZE.read(body, strict=service.strict)
        return asked, ignored, dialog_of(asked.messages or (), images)

    asked, ignored, dialog = await read_as(service, request, caller, read, media=True)
    size = caller.admission.size_bytes
    async with service.models.use(asked.model) as model:
        model.capabilities.require(model.name, "ids")
        if asked.messages is not None:
            begun = goes_on(asked.messages, asked.continue_final_message, asked.add_generation_prompt)
            ids = await service.of_dialog(
                caller, model, asked.model, dialog, images, model.tokenize, continue_final_message=begun
            )
            service.charge(caller, len(ids))
            data = await service.compute(caller, lambda: _counted(model, ids)[1], size)
        else:
            text = asked.prompt if asked.prompt is not None else asked.content or ""
            caller.admission.made.hold(ID_BYTES * len(text if text.isascii() else text.encode()))
            count, data = await service.compute(caller, lambda: _counted(model, model.tokenize(text)), size)
            service.charge(caller, count)
    return Response(data, media_type="application/json", headers=told(ignored))


def _counted(model: ChatModel, ids: Sequence[int]) -> tuple[int, bytes]:
    """How many ids, and the reply that holds them: a list of millions takes long to be freed, too."""
    return len(ids), encode({"tokens": ids, "count": len(ids), "max_model_len": model.context})


async def detokenize(service: Service, request: Request, caller: Caller) -> Response:
    """Text of ids, special ones spelt out."""
    read = partial(DETOKENIZE.read, strict=service.strict)
    asked, ignored = await read_as(service, request, caller, read)
    service.charge(caller, len(asked.tokens))

    def written() -> bytes:
        text = model.detokenize(asked.tokens)
        return encode({"prompt": text, "content": text})

    async with service.models.use(asked.model) as model:
        model.capabilities.require(model.name, "ids")
        caller.admission.made.hold(spelt_bytes(model, len(asked.tokens)))
        data = await service.compute(caller, written, caller.admission.size_bytes)
    return Response(data, media_type="application/json", headers=told(ignored))
