"""What becomes of a request otherwise than it may be meant, in a line each: for the header x-herd-note."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import chain, islice
from typing import Any

from herd.chat_model import ChatModel
from herd.errors import UsageError
from herd.grammar.json_schema import parsed, unheld
from herd.grammars import Grammar
from herd.server.requests.generate_request import GenerateRequest

NOTED = 4
"""Places of schemas that a note names."""
MOST_PLACE = 80
"""Characters of such a place that a note names."""


def within_context(ask: GenerateRequest, context: int) -> tuple[GenerateRequest, str]:
    """A request whose answer may be no longer than the context, and what is told where it asked for more."""
    most = ask.options.get("max_tokens")
    if most is None or most <= context:
        return ask, ""
    note = f"max_tokens: more than the context of {context} tokens, which ends the answer"
    return replace(ask, options={**ask.options, "max_tokens": context}), note


def note_of_schemas(ask: GenerateRequest) -> str:
    """What a request's schemas ask and its answer is not held to; empty: nothing. Takes as long as they are."""
    found = [*islice(chain.from_iterable(map(unheld, _schemas(ask))), NOTED + 1)]
    shown = [ascii(place)[1:-1][:MOST_PLACE] for place in found[:NOTED]]
    more = " and others" if len(found) > NOTED else ""
    return f"schema: the answer is not held to {', '.join(shown)}{more}; check it" if found else ""


def note_of_calls(ask: GenerateRequest) -> str:
    """What becomes of past calls whose arguments were cut; empty: there are none."""
    calls = (call for turn in ask.messages or () for call in turn.get("tool_calls") or ())
    cut = any(isinstance(call.get("arguments"), str) for call in calls)
    return "tool_calls: arguments that are no JSON object are put in as text" if cut else ""


def note_of_tools(model: ChatModel, ask: GenerateRequest) -> str:
    """A note that nobody tells the model which tools there are; empty: it is told, or there are none."""
    return "tools: the model's chat template leaves them out" if ask.tools and not model.tells_tools else ""


def _schemas(ask: GenerateRequest) -> Iterator[Any]:
    """The schemas that masks are made of."""
    yield ask.schema
    grammar = ask.options.get("grammar")
    if isinstance(grammar, Grammar) and grammar.kind == "schema":
        with suppress(UsageError):  # whoever compiles it says what is wrong
            yield parsed(grammar.text)
    if ask.has_form or ask.tool_choice not in ("auto", "none"):
        yield from (tool.get("parameters") for tool in ask.tools)
