"""GET /v1/models and /v1/models/{id}."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from herd.server.catalogue import CatalogueEntry
from herd.server.http.wire import encode
from herd.server.service import Caller, Service
from herd.server.shared.facts import facts_of


async def list_models(service: Service, request: Request, caller: Caller) -> Response:
    """All models that can be asked for."""
    listed = service.models.catalogue.names().values()
    found = await service.compute(caller, lambda: [model_object(service, one) for one in listed])
    return Response(encode({"object": "list", "data": found}), media_type="application/json")


async def show_model(service: Service, request: Request, caller: Caller) -> Response:
    """One model."""
    one = service.models.catalogue.find(request.path_params["model"])
    found = await service.compute(caller, lambda: model_object(service, one))  # headers of files may have to be read
    return Response(encode(found), media_type="application/json")


def model_object(service: Service, listed: CatalogueEntry) -> dict[str, Any]:
    """A model, with what clients look for to learn its context: vLLM's, LM Studio's and OpenRouter's names; and what it
    can do, by `herd.chat_model.Capabilities`."""
    facts = facts_of(service, listed)
    found: dict[str, Any] = {
        "id": listed.name,
        "object": "model",
        "created": int(listed.added_s),
        "owned_by": "herd",
        "loaded": facts.is_loaded,
    }
    if facts.context is not None:
        found |= {
            "max_model_len": facts.context,
            "context_length": facts.context,
            "max_context_length": facts.most_context,
        }
    if facts.capabilities is not None:
        taken = ["text", *(["image"] if facts.capabilities.images else [])]
        found["architecture"] = {"input_modalities": taken, "output_modalities": ["text"]}
        found["capabilities"] = facts.capabilities.to_dict()
    return found
