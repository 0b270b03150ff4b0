"""POST /v1/embeddings: means of a generative model, weak beside those of a model made for it (docs/serve.md)."""

import base64
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from starlette.requests import Request
from starlette.responses import Response

from herd.server.http.wire import encode
from herd.server.openai.chat import notes_of
from herd.server.requests.fields import FieldTable, Name, Refused, told, within
from herd.server.service import Caller, Service
from herd.server.shared.intake import read_as


class EmbeddingRequest(msgspec.Struct, kw_only=True):
    """The fields that have an effect."""

    model: Name
    input: str | list[Any]
    """Texts; ids are refused."""
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None


EMBEDDINGS: FieldTable[EmbeddingRequest] = FieldTable(
    "POST /v1/embeddings",
    EmbeddingRequest,
    reported={"user": "embeddings are not shared out by users"},
    refused=dict.fromkeys(("truncate", "truncate_prompt_tokens"), "what is too long is an error; see /api/embed"),
)


async def embed(service: Service, request: Request, caller: Caller) -> Response:
    """Vectors of unit length, one a text, in their order."""
    asked, ignored, texts = await read_as(service, request, caller, lambda body: _read(service, body))
    embedded = await service.embed(caller, asked.model, texts)
    vectors, tokens, _ = embedded

    def written() -> bytes:
        chosen = vectors if asked.dimensions is None else shortened(vectors, asked.dimensions)
        data = [
            {"object": "embedding", "index": i, "embedding": _written(vector, asked.encoding_format)}
            for i, vector in enumerate(chosen)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return encode({"object": "list", "data": data, "model": asked.model, "usage": usage, **notes_of(embedded)})

    data = await service.compute(caller, written, vectors.nbytes)
    return Response(data, media_type="application/json", headers=told(ignored))


def _read(service: Service, body: dict[str, Any]) -> tuple[EmbeddingRequest, tuple[str, ...], list[str]]:
    """What is asked. Raises Refused."""
    asked, ignored = EMBEDDINGS.read(body, strict=service.strict)
    texts = texts_of(asked.input)
    within("input", len(texts), service.limits.embed_inputs)
    return asked, ignored, texts


def texts_of(given: str | Sequence[Any]) -> list[str]:
    """Texts. Raises Refused for ids: they are of OpenAI's vocabulary when they come from LangChain."""
    texts = [given] if isinstance(given, str) else list(given)
    if any(not isinstance(text, str) for text in texts):
        raise Refused("input: got token ids, expected text; LangChain: check_embedding_ctx_length=False", "input")
    if not texts or not all(texts):
        raise Refused("input: got an empty text, expected at least one character", "input")
    return texts


def shortened(vectors: npt.NDArray[np.float32], dimensions: int) -> npt.NDArray[np.float32]:
    """The first `dimensions` numbers of each, of unit length again. Raises Refused."""
    width = vectors.shape[1]
    if not 1 <= dimensions <= width:
        raise Refused(f"dimensions: got {dimensions}, expected 1 to {width}", "dimensions")
    cut = vectors[:, :dimensions]
    found: npt.NDArray[np.float32] = cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12)
    return found


def _written(vector: npt.NDArray[np.float32], form: str | None) -> list[float] | str:
    """Numbers, or little-endian float32 in base64."""
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    found: list[float] = vector.tolist()
    return found
