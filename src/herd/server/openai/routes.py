"""OpenAI's routes."""

from herd.server.openai.chat import chat
from herd.server.openai.completions import complete
from herd.server.openai.embeddings import embed
from herd.server.openai.moderations import moderations
from herd.server.openai.responses import count_input, respond
from herd.server.openai.stored_responses import cancel, delete, input_items, retrieve
from herd.server.routes import Route

ROUTES: tuple[Route, ...] = (
    Route("POST", "/v1/chat/completions", chat, "chat"),
    Route("POST", "/v1/completions", complete, "chat"),
    Route("POST", "/v1/embeddings", embed, "embed"),
    Route("POST", "/v1/moderations", moderations, "chat"),
    Route("POST", "/v1/responses", respond, "chat"),
    Route("POST", "/v1/responses/input_tokens", count_input, "chat"),
    Route("GET", "/v1/responses/{id}", retrieve, "chat"),
    Route("DELETE", "/v1/responses/{id}", delete, "chat"),
    Route("POST", "/v1/responses/{id}/cancel", cancel, "chat"),
    Route("GET", "/v1/responses/{id}/input_items", input_items, "chat"),
)
