"""Ollama's routes."""

from herd.server.ollama.chat import chat, generate
from herd.server.ollama.embed import embed, embed_old
from herd.server.ollama.models import blob, copy, create, delete, ps, pull, push, show, tags, version
from herd.server.routes import Route

ROUTES: tuple[Route, ...] = (
    Route("POST", "/api/chat", chat, "chat", "ollama"),
    Route("POST", "/api/generate", generate, "chat", "ollama"),
    Route("POST", "/api/embed", embed, "embed", "ollama"),
    Route("POST", "/api/embeddings", embed_old, "embed", "ollama"),
    Route("GET", "/api/tags", tags, "models", "ollama"),
    Route("POST", "/api/show", show, "models", "ollama"),
    Route("GET", "/api/ps", ps, "models", "ollama"),
    Route("GET", "/api/version", version, "models", "ollama"),
    Route("POST", "/api/copy", copy, "manage", "ollama"),
    Route("POST", "/api/create", create, "manage", "ollama"),
    Route("DELETE", "/api/delete", delete, "manage", "ollama"),
    Route("POST", "/api/pull", pull, "manage", "ollama"),
    Route("POST", "/api/push", push, "manage", "ollama"),
    Route("GET", "/api/blobs/{digest}", blob, "manage", "ollama"),
    Route("POST", "/api/blobs/{digest}", blob, "manage", "ollama"),
)
