"""Anthropic's routes."""

from herd.server.anthropic.messages import count_tokens, messages
from herd.server.anthropic.models import list_models, show_model
from herd.server.routes import Route

ROUTES: tuple[Route, ...] = (
    Route("POST", "/v1/messages", messages, "chat", "anthropic"),
    Route("POST", "/v1/messages/count_tokens", count_tokens, "chat", "anthropic"),
    Route("GET", "/v1/models", list_models, "models"),
    Route("GET", "/v1/models/{model:path}", show_model, "models"),
)
