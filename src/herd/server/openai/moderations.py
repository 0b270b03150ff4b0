"""POST /v1/moderations. Rules know shapes, not content: without a guard no category is ever set (docs/safety.md)."""

import secrets
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from herd.events import Note
from herd.safety import Layers, Moderation, moderate
from herd.safety.moderation import OPENAI
from herd.server.requests.fields import FieldTable, Name, Refused, told, within
from herd.server.requests.generate_request import GenerateRequest
from herd.server.requests.policed import checked_texts
from herd.server.requests.sizes import PREPARED_BYTES
from herd.server.service import Caller, Service
from herd.server.shared.intake import read_as
from herd.server.shared.replies import json_response

CHARACTERS = 4
"""Characters that count as a token of a key's quota: rules have no vocabulary."""
RULES, GUARD = "herd-rules", "herd-guard"
"""What judges, where no model is named."""


class Part(msgspec.Struct, tag_field="type", tag="text"):
    """Text among parts; images need a guard that sees."""

    text: str


class ModerationRequest(msgspec.Struct, kw_only=True):
    """The fields that have an effect."""

    input: str | list[Any]
    """A text, texts, or parts."""
    model: Name | None = None


MODERATIONS: FieldTable[ModerationRequest] = FieldTable("POST /v1/moderations", ModerationRequest)


async def moderations(service: Service, request: Request, caller: Caller) -> Response:
    """Judge texts, each by itself."""
    texts, ignored = await read_as(service, request, caller, lambda body: _read(service, body))
    service.charge(caller, sum(len(text) for text in texts) // CHARACTERS)
    size = caller.admission.size_bytes
    caller.admission.made.hold(PREPARED_BYTES * await service.text_size(caller, texts))
    results = [await service.compute(caller, partial(_judged, service, caller, text), size) for text in texts]
    found = {"id": "modr-" + secrets.token_hex(12), "model": RULES if service.guard is None else GUARD}
    return json_response({**found, "results": results}, headers=told(ignored))


def _read(service: Service, body: dict[str, Any]) -> tuple[list[str], Sequence[str]]:
    """The texts to judge, and fields without effect. Raises Refused."""
    asked, ignored = MODERATIONS.read(body, strict=service.strict)
    texts = texts_of(asked.input)
    within("input", len(texts), service.limits.prompts)
    if (count := sum(map(len, texts))) > service.limits.moderated:
        expected = f"at most {service.limits.moderated} in one request"
        raise Refused(f"input: got {count} characters, expected {expected}", "input")
    return texts, ignored


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


def _judged(service: Service, caller: Caller, text: str) -> dict[str, Any]:
    """One text, past the policy of whoever asks: what it keeps from models the guard does not see either."""
    policy = service.policies(caller, GenerateRequest(model="", prompt=""))
    passed = checked_texts(policy.without_guard() if isinstance(policy, Layers) else policy, [text])
    service.count_notes(passed.notes)
    if passed.refusal is not None:
        return _result(replace(moderate(text), flagged=True), passed.notes)
    return _result(moderate(text, service.guard, shown=passed.texts[0]), passed.notes)


def _result(found: Moderation, notes: Sequence[Note]) -> dict[str, Any]:
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
            **({"policy": msgspec.to_builtins(notes)} if notes else {}),
        },
    }
