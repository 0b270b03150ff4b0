"""The fields of all routes, by route: what /openapi.json, docs/serve.md and tests are made from."""

from typing import Any

from herd.server.anthropic.messages import COUNT, MESSAGES
from herd.server.batches.batches import BATCHES
from herd.server.ollama.chat import CHAT as OLLAMA_CHAT
from herd.server.ollama.chat import GENERATE
from herd.server.ollama.embed import EMBED, OLD
from herd.server.ollama.models import COPY, CREATE, DELETE, PULL, SHOW
from herd.server.openai.chat import CHAT
from herd.server.openai.completions import COMPLETIONS
from herd.server.openai.embeddings import EMBEDDINGS
from herd.server.openai.moderations import MODERATIONS
from herd.server.openai.response_requests import INPUT_TOKENS, RESPONSES
from herd.server.own_routes import DETOKENIZE, TOKENIZE
from herd.server.requests.fields import FieldTable

TABLES: dict[str, FieldTable[Any]] = {
    table.name: table
    for table in (
        *(CHAT, COMPLETIONS, RESPONSES, INPUT_TOKENS, EMBEDDINGS, MODERATIONS, BATCHES),
        *(OLLAMA_CHAT, GENERATE, EMBED, OLD, SHOW, CREATE, COPY, DELETE, PULL),
        *(MESSAGES, COUNT),
        *(TOKENIZE, DETOKENIZE),
    )
}
