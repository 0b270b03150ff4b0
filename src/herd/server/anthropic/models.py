"""GET /v1/models and /v1/models/{id}: OpenAI's form, and Anthropic's for its clients, which send a header of their own.

Source: Anthropic's Python client (`types.ModelInfo`, `pagination.SyncPage`).
"""

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from herd.server.catalogue import CatalogueEntry
from herd.server.http.host_check import ANTHROPIC_VERSION
from herd.server.ollama.common import stamp
from herd.server.openai import models as openai_models
from herd.server.requests.fields import Refused, within
from herd.server.service import Caller, Service
from herd.server.shared.facts import facts_of
from herd.server.shared.replies import json_response

PAGE, MOST_PAGE = 20, 1000
"""Models of one page: unless a request says, and at most."""


async def list_models(service: Service, request: Request, caller: Caller) -> Response:
    """All models that can be asked for; for Anthropic's clients a page of them."""
    if ANTHROPIC_VERSION not in request.headers:
        return await openai_models.list_models(service, request, caller)
    known = service.models.catalogue.names()
    names = [*known]
    begin, end = _page(names, request)
    listed = [known[name] for name in names[begin:end]]
    data = await service.compute(caller, lambda: [model_info(service, one) for one in listed])
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
    is_backwards = "before_id" in request.query_params
    return json_response({"data": data, "has_more": begin > 0 if is_backwards else end < len(names), **ends})


async def show_model(service: Service, request: Request, caller: Caller) -> Response:
    """One model."""
    if ANTHROPIC_VERSION not in request.headers:
        return await openai_models.show_model(service, request, caller)
    one = service.models.catalogue.find(request.path_params["model"])
    found = await service.compute(caller, lambda: model_info(service, one))  # headers of files may have to be read
    return json_response(found)


def _page(names: Sequence[str], request: Request) -> tuple[int, int]:
    """Where a page of names begins and ends. Raises Refused."""
    asked = request.query_params
    limit = asked.get("limit", str(PAGE))
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 9 and int(limit)):
        raise Refused(f"limit: got {limit[:20]!r}, expected 1 to {MOST_PAGE}", "limit")
    within("limit", int(limit), MOST_PAGE)
    if "before_id" in asked:
        end = _place(names, asked["before_id"], "before_id")
        return max(0, end - int(limit)), end
    begin = _place(names, asked["after_id"], "after_id") + 1 if "after_id" in asked else 0
    return begin, min(len(names), begin + int(limit))


def _place(names: Sequence[str], name: str, what: str) -> int:
    if name not in names:
        raise Refused(f"{what}: got {name[:64]!r}, expected the id of a model that is listed", what)
    return names.index(name)


def model_info(service: Service, listed: CatalogueEntry) -> dict[str, Any]:
    """A model as Anthropic's clients know it; what is not known is left out."""
    facts = facts_of(service, listed)
    found: dict[str, Any] = {
        "id": listed.name,
        "type": "model",
        "display_name": listed.name,
        "created_at": stamp(int(listed.added_s)),
        "lifecycle": "active",
    }
    if facts.context is not None:
        found |= {"max_input_tokens": facts.context, "max_tokens": facts.context}
    if facts.capabilities is not None:
        found["capabilities"] = _capabilities(images=facts.capabilities.images, schemas=facts.capabilities.schemas)
    return found


def _capabilities(*, images: bool, schemas: bool) -> dict[str, Any]:
    """All that the vendor tells of its own models."""
    yes, no = {"supported": True}, {"supported": False}
    return {
        **dict.fromkeys(("batch", "citations", "code_execution", "context_management", "pdf_input"), no),
        "effort": {**no, **dict.fromkeys(("low", "medium", "high", "max"), no)},
        "image_input": yes if images else no,
        "server_tools": {**no, "code_execution": no, "web_search": no},
        "structured_outputs": yes if schemas else no,
        "thinking": {
            **no,
            "types": {**dict.fromkeys(("adaptive", "between_tools", "enabled"), no), "disabled": yes},
        },
    }
