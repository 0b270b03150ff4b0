"""POST /api/embed and the older /api/embeddings."""

import time

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from herd.server.body import read_json
from herd.server.common import json_response
from herd.server.fields import Refused, Table, within
from herd.server.ollama.common import OPTIONS_REPORTED, Options, keep_alive_of
from herd.server.openai.embeddings import shortened
from herd.server.service import Caller, Service


class EmbedRequest(msgspec.Struct, kw_only=True):
    """The fields that have an effect."""

    model: str
    input: str | list[str]
    dimensions: int | None = None
    keep_alive: float | str | None = None


class OldRequest(msgspec.Struct, kw_only=True):
    """The fields that have an effect."""

    model: str
    prompt: str
    keep_alive: float | str | None = None


NO_SAMPLING = {
    **OPTIONS_REPORTED,
    **{f"options.{name}": "nothing is sampled" for name in Options.__struct_fields__},
    "options": "nothing is sampled",
    "truncate": "a text that is too long is an error, never cut",
}
EMBED: Table[EmbedRequest] = Table("POST /api/embed", EmbedRequest, reported=NO_SAMPLING)
OLD: Table[OldRequest] = Table("POST /api/embeddings", OldRequest, reported=NO_SAMPLING)


async def embed(service: Service, request: Request, caller: Caller) -> Response:
    """Vectors of unit length, one a text."""
    began_s = time.monotonic()
    asked, _ = EMBED.read(await read_json(request, service.limits), strict=service.strict)
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    within("input", len(texts), service.limits.embed_inputs)
    if not texts or not all(texts):
        raise Refused("input: got an empty text, expected at least one character", "input")
    vectors, tokens = await service.embed(caller, asked.model, texts, keep_alive_of(asked.keep_alive))
    if asked.dimensions is not None:
        vectors = shortened(vectors, asked.dimensions)
    return json_response(
        {
            "model": asked.model,
            "embeddings": vectors.tolist(),
            "total_duration": int((time.monotonic() - began_s) * 1e9),
            "load_duration": 0,
            "prompt_eval_count": tokens,
        }
    )


async def embed_old(service: Service, request: Request, caller: Caller) -> Response:
    """One vector."""
    asked, _ = OLD.read(await read_json(request, service.limits), strict=service.strict)
    if not asked.prompt:
        raise Refused("prompt: got an empty text, expected at least one character", "prompt")
    vectors, _ = await service.embed(caller, asked.model, [asked.prompt], keep_alive_of(asked.keep_alive))
    return json_response({"embedding": vectors[0].tolist()})
