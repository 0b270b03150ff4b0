"""OpenAI's routes."""

from herd.server.openai.chat import chat
from herd.server.openai.completions import complete
from herd.server.openai.embeddings import embed
from herd.server.openai.models import list_models, show_model
from herd.server.routes import Route

ROUTES: tuple[Route, ...] = (
    Route("POST", "/v1/chat/completions", chat, "chat"),
    Route("POST", "/v1/completions", complete, "chat"),
    Route("POST", "/v1/embeddings", embed, "embed"),
    Route("GET", "/v1/models", list_models, "models"),
    Route("GET", "/v1/models/{model:path}", show_model, "models"),
)
