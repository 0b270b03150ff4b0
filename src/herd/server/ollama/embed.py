"""POST /api/embed and the older /api/embeddings."""

import time
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from herd.server.http.wire import encode
from herd.server.ollama.common import OPTIONS_REPORTED, Options, keep_alive_for
from herd.server.openai.chat import notes_of
from herd.server.openai.embeddings import shortened
from herd.server.requests.fields import FieldTable, Name, Refused, told, within
from herd.server.service import Caller, Service
from herd.server.shared.intake import read_as


class EmbedRequest(msgspec.Struct, kw_only=True):
    """The fields that have an effect."""

    model: Name
    input: str | list[str] | None = None
    """Nothing has no vectors."""
    dimensions: int | None = None
    truncate: bool | None = None
    """Whether a text that is too long is cut; unless said, it is an error."""
    keep_alive: float | str | None = None


class OldRequest(msgspec.Struct, kw_only=True):
    """The fields that have an effect."""

    model: Name
    prompt: str | None = None
    """The text; the vector of nothing is empty."""
    keep_alive: float | str | None = None


NO_SAMPLING = {
    **OPTIONS_REPORTED,
    **{f"options.{name}": "nothing is sampled" for name in Options.__struct_fields__},
    "options": "nothing is sampled",
}
EMBED: FieldTable[EmbedRequest] = FieldTable("POST /api/embed", EmbedRequest, reported=NO_SAMPLING)
OLD: FieldTable[OldRequest] = FieldTable(
    "POST /api/embeddings", OldRequest, reported=NO_SAMPLING, refused={"truncate": "see /api/embed"}
)


async def embed(service: Service, request: Request, caller: Caller) -> Response:
    """Vectors of unit length, one a text."""
    began_s = time.monotonic()
    asked, ignored, texts = await read_as(service, request, caller, lambda body: _read(service, body))
    keep_alive_s, without_effect = keep_alive_for(caller, asked.keep_alive)
    embedded = await service.embed(caller, asked.model, texts, keep_alive_s, cut=asked.truncate is True)
    vectors, tokens, _ = embedded

    def written() -> bytes:
        chosen = vectors if asked.dimensions is None else shortened(vectors, asked.dimensions)
        found = {
            "model": asked.model,
            "embeddings": chosen.tolist(),
            "total_duration": int((time.monotonic() - began_s) * 1e9),
            "load_duration": 0,
            "prompt_eval_count": tokens,
            **notes_of(embedded),
        }
        return encode(found)

    data = await service.compute(caller, written, vectors.nbytes)
    return Response(data, media_type="application/json", headers=told((*without_effect, *ignored)))


def _read(service: Service, body: dict[str, Any]) -> tuple[EmbedRequest, tuple[str, ...], list[str]]:
    """What is asked. Raises Refused."""
    asked, ignored = EMBED.read(body, strict=service.strict)
    texts = asked.input if isinstance(asked.input, list) else [asked.input] if asked.input else []
    within("input", len(texts), service.limits.embed_inputs)
    if not all(texts):
        where = f"input[{texts.index('')}]"
        raise Refused(f"{where}: got an empty text beside others, expected at least one character", "input")
    return asked, ignored, texts


async def embed_old(service: Service, request: Request, caller: Caller) -> Response:
    """One vector."""
    asked, ignored = await read_as(service, request, caller, lambda body: OLD.read(body, strict=service.strict))
    keep_alive_s, without_effect = keep_alive_for(caller, asked.keep_alive)
    embedded = await service.embed(caller, asked.model, [asked.prompt] if asked.prompt else [], keep_alive_s)
    found = {"embedding": embedded.vectors.ravel().tolist(), **notes_of(embedded)}
    return Response(encode(found), media_type="application/json", headers=told((*without_effect, *ignored)))
