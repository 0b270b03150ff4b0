"""Lark grammars before they become masks: schemas inside them are checked as schemas are, nesting has a bound.

    start: "get(" %json { "type": "integer" } ")"      llguidance's dialect: a schema wherever a terminal may be

What it is not: a parser of Lark; it tells text from strings, regular expressions and comments.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from herd.errors import UsageError, fail

MAX_NESTING = 64
_PIECES = re.compile(
    r'"(?:[^"\\\n]|\\.)*"'  # a string
    r"|/(?![/*])(?:[^/\\\n]|\\.)+/"  # a regular expression
    r"|//[^\n]*|\#[^\n]*"  # a comment
    r"|%(?:json|lark|regex)\b|%[a-z]+|[(\[{]|[)\]}]",
)


def enforceable(text: str, schema: Callable[[str], Any]) -> str:
    """The grammar with every schema in it rewritten by `schema`. Raises UsageError, and what that raises."""
    out: list[str] = []
    at = depth = 0
    decoder = json.JSONDecoder()
    while (found := _PIECES.search(text, at)) is not None:
        out.append(text[at : found.end()])
        at = found.end()
        word = found[0]
        if word in ("(", "[", "{"):
            depth += 1
        elif word in (")", "]", "}"):
            depth -= 1
        elif word == "%json":
            begin = at + len(text[at:]) - len(text[at:].lstrip())
            end = _end_of_json(decoder, text, begin)
            out.append(" " + json.dumps(schema(text[begin:end])))
            at = end
        elif word in ("%lark", "%regex"):
            fail(UsageError, "lark", got=f"{word} inside a grammar", expected="rules, terminals and %json")
        if depth > MAX_NESTING:
            fail(UsageError, "lark", got=f"more than {MAX_NESTING} open brackets", expected=f"at most {MAX_NESTING}")
    return "".join(out) + text[at:]


def _end_of_json(decoder: json.JSONDecoder, text: str, begin: int) -> int:
    try:
        return decoder.raw_decode(text, begin)[1]
    except (ValueError, RecursionError) as error:
        fail(UsageError, "lark", got=f"%json without a schema ({error})", expected='%json { "type": ... }')
