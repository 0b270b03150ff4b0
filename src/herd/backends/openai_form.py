"""OpenAI's chat completions, which most hosts and engines speak.

What it is not: the fields (`herd.backends.openai_request`), the checks of an answer (`openai_stream`).
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from herd.backends.failures import Broken, failure, of_event
from herd.backends.gate import Pass
from herd.backends.openai_request import body_of, images_in
from herd.backends.target import MOST_CONTEXT, Target
from herd.backends.transport import Transport
from herd.backends.wire import ListedModels, Sending
from herd.chat_model import Capabilities, Turns

MOST_LISTED = 10_000
"""Models of a list that are read."""
CONTEXTS = ("max_model_len", "context_length", "context_window", "max_context_length")
"""What rows of a list call their context: vLLM, SGLang and Herd; OpenRouter and Together; Groq; LM Studio. llama-server
has `meta.n_ctx`."""


class OpenAIForm:
    """See WireForm."""

    def can(self, capabilities: Capabilities) -> Capabilities:
        """See WireForm: no ids, no scores, no vectors, no text without a dialog."""
        return replace(capabilities, completion=False, ids=False, scores=False, embeddings=False)

    def forces(self, target: Target) -> bool:
        """See WireForm."""
        return "required" in target.choices

    def body_of(self, target: Target, messages: Turns, options: Mapping[str, Any]) -> dict[str, Any]:
        """See WireForm."""
        return body_of(target, messages, options)

    def images_in(self, body: Mapping[str, Any]) -> int:
        """See WireForm."""
        return images_in(body)

    async def talk(self, sending: Sending) -> AsyncGenerator[Any, None]:
        """See WireForm."""
        post = sending.transport.post("/chat/completions", sending.body, sending.passed, timeout_s=sending.timeout_s)
        async with aclosing(post):
            async for chunk in post:
                yield chunk

    async def models(self, transport: Transport, passed: Pass) -> tuple[str, ...] | None:
        """See WireForm."""
        target, found = transport.target, await transport.get("/models", passed)
        if isinstance(found, Mapping) and found.get("error") is not None:
            raise of_event(target, found)
        rows = found.get("data") if isinstance(found, Mapping) else found
        if not isinstance(rows, list):
            raise failure(Broken, target, "sent what is no list of models")
        known = [(row.get("id"), row) for row in rows[:MOST_LISTED] if isinstance(row, Mapping)]
        named = {i: row for i, row in known if isinstance(i, str) and 0 < len(i) <= 256 and i.isprintable()}
        contexts = {name: told for name, row in named.items() if (told := _context(row)) is not None}
        return ListedModels(named, contexts)


def _context(row: Mapping[str, Any]) -> int | None:
    """Tokens of context that a row of a list tells; None: it does not, or not in a number that makes sense."""
    meta = row.get("meta")
    places = [row.get(name) for name in CONTEXTS]
    places += [meta.get("n_ctx")] if isinstance(meta, Mapping) else []
    good = (one for one in places if isinstance(one, int) and not isinstance(one, bool) and 1 <= one <= MOST_CONTEXT)
    return next(good, None)
