"""GET /v1/models and /v1/models/{id}."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from herd.errors import HerdError
from herd.llm.loading import context_for
from herd.plan.available import available_bytes
from herd.server.catalogue import Listed
from herd.server.service import Caller, Service
from herd.server.wire import encode


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


def model_object(service: Service, listed: Listed) -> dict[str, Any]:
    """A model, with what clients look for to learn its context: vLLM's, LM Studio's and OpenRouter's names.

    Of one that is not loaded it is the context that loading it now would give, roughly: its cache may be of a smaller
    type.
    """
    held = next((h for h in service.models.held if h.name == listed.base and h.llm is not None), None)
    found: dict[str, Any] = {
        "id": listed.name,
        "object": "model",
        "created": int(listed.added_s),
        "owned_by": "herd",
        "loaded": held is not None,
    }
    try:
        config = service.models.catalogue.about(listed.name).config
    except HerdError:
        return found  # its files are gone or broken: whoever asks it is told so
    if held is not None and held.llm is not None:
        now = held.llm.context
    else:
        now = context_for(service.context, config, listed.size_bytes, available_bytes())
    taken = ["text", *(["image"] if config.vision is not None else [])]
    return {
        **found,
        "max_model_len": now,
        "context_length": now,
        "max_context_length": config.max_context,
        "architecture": {"input_modalities": taken, "output_modalities": ["text"]},
    }
