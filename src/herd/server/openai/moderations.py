"""POST /v1/moderations. Rules know shapes, not content: without a guard no category is ever set (docs/safety.md)."""

import secrets
from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from herd.safety import Moderation, moderate
from herd.safety.moderation import OPENAI
from herd.server.common import json_response
from herd.server.fields import Refused, Table, within
from herd.server.intake import read_as
from herd.server.service import Caller, Service

CHARACTERS = 4
"""That count as a token of a key's quota: rules have no vocabulary."""
RULES, GUARD = "herd-rules", "herd-guard"
"""What judges, where no model is named."""


class Part(msgspec.Struct, tag_field="type", tag="text"):
    """Text among parts; images need a guard that sees."""

    text: str


class ModerationRequest(msgspec.Struct, kw_only=True):
    """The fields that have an effect."""

    input: str | list[Any]
    """A text, texts, or parts."""
    model: str | None = None


MODERATIONS: Table[ModerationRequest] = Table("POST /v1/moderations", ModerationRequest)


async def moderations(service: Service, request: Request, caller: Caller) -> Response:
    """Judge texts, each by itself."""
    texts = await read_as(service, request, caller, lambda body: _read(service, body))
    service.charge(caller, sum(len(text) for text in texts) // CHARACTERS)
    size = caller.admission.size_bytes
    moderated = [await service.compute(caller, partial(moderate, text, service.guard), size) for text in texts]
    results = [_result(one) for one in moderated]
    return json_response(
        {"id": "modr-" + secrets.token_hex(12), "model": RULES if service.guard is None else GUARD, "results": results}
    )


def _read(service: Service, body: dict[str, Any]) -> list[str]:
    """The texts to judge. Raises Refused."""
    asked, _ = MODERATIONS.read(body, strict=service.strict)
    texts = texts_of(asked.input)
    within("input", len(texts), service.limits.prompts)
    return texts


def texts_of(given: str | list[Any]) -> list[str]:
    """The texts. Raises Refused."""
    if isinstance(given, str):
        return [given]
    if given and all(isinstance(one, str) for one in given):
        return given
    try:
        return [part.text for part in msgspec.convert(given, list[Part])] or [""]
    except msgspec.ValidationError:
        raise Refused("input: expected a text, texts, or parts of type text", "input") from None


def _result(found: Moderation) -> dict[str, Any]:
    """As OpenAI's clients know it, and what the rules found."""
    return {
        "flagged": found.flagged,
        "categories": {name: bool(found.categories.get(name, False)) for name in OPENAI},
        "category_scores": {name: float(found.scores.get(name, 0.0)) for name in OPENAI},
        "category_applied_input_types": {name: ["text"] if found.judged else [] for name in OPENAI},
        "herd": {
            "judged": found.judged,
            "findings": [
                {"rule": f.rule.id, "kind": f.rule.kind, "start": f.start, "end": f.end} for f in found.findings[:100]
            ],
        },
    }
