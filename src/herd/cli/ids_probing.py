"""`herd backend test` of a backend by token ids: what its engine is, whether it
encodes alike, answers, keeps to schemas.

What it is not: the test of one by chat (`herd.backends.probing`).
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from herd.backends import ids_engines
from herd.backends.failures import Absent, Denied, Withdrawn
from herd.backends.probing import SCHEMA, Tell
from herd.backends.settings import Backends
from herd.errors import HerdError

if TYPE_CHECKING:
    from herd.llm import LLM

CHECKS = ("reached", "key", "model", "tokenizer", "streams", "schema", "scores")
NEEDED = CHECKS[:5]
"""Checks without which nothing is answered."""
PROMPT = "Say yes."
MOST_TOKENS = 16


def probe(name: str, tell: Tell) -> dict[str, dict[str, str]]:
    """Each check with its result and a few words. tell: hears of each as it is known. Raises NotFound, UsageError."""
    from herd.llm import by_ids

    found: dict[str, dict[str, str]] = {}

    def say(check: str, result: Any, words: str = "") -> None:
        found[check] = {"result": result, "words": words}
        tell(check, result, words)

    backend = Backends().find(name)
    target, engine = ids_engines.ids_target(name, backend), ids_engines.ENGINES[backend.preset]
    try:
        facts = asyncio.run(ids_engines.asked(target, engine))
    except HerdError as error:
        kinds = {Absent: "reached", Denied: "key", Withdrawn: "model"}
        say(next((check for kind, check in kinds.items() if isinstance(error, kind)), "reached"), "failed", str(error))
        return found
    say("reached", "ok", f"{target.host}, {engine.engine}")
    say("key", "ok", "kept" if target.key is not None else "none is wanted")
    say("model", "ok", f"{facts.model or target.model}, context {facts.context}")
    with by_ids(name, asks=False) as model:
        _try("tokenizer", say, lambda: _alike(name, backend.tokenizer, target, engine, model))
        _try("streams", say, lambda: _answers(model))
        if model.capabilities.schemas:
            _try("schema", say, lambda: _keeps(model))
        else:
            say("schema", "lacks", f"it is not {engine.guided}")
        if model.capabilities.scores:
            _try("scores", say, lambda: f"{model.score([(PROMPT, ' Yes.')])[0].logprob:.2f} for a word")
        else:
            say("scores", "lacks", f"{engine.engine} tells none")
    return {check: found[check] for check in CHECKS if check in found}


def _try(check: str, say: Callable[[str, Any, str], None], what: Callable[[], str]) -> None:
    try:
        words = what()
    except HerdError as error:
        say(check, "failed", str(error))
    else:
        say(check, "ok", words)


def _alike(name: str, tokenizer: str, target: Any, engine: Any, model: "LLM") -> str:
    found = asyncio.run(ids_engines.compared(target, engine, model.tokenizer))
    ids_engines.check_alike(name, tokenizer, found)
    return f"{found.tried} texts as {tokenizer} encodes them"


def _answers(model: "LLM") -> str:
    reply = model.complete(PROMPT, temperature=0, max_tokens=MOST_TOKENS)
    return f"{reply.usage.output_tokens} tokens"


def _keeps(model: "LLM") -> str:
    reply = model.complete(PROMPT, temperature=0, max_tokens=4 * MOST_TOKENS, schema=SCHEMA)
    return f"answered {reply.text[:40]!r}" if reply.finish_reason == "stop" else "begun, and not at its end in time"
