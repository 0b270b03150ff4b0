"""Lark grammars before they become masks: schemas inside them are checked as schemas are, nesting has a bound.

    start: "get(" %json { "type": "integer" } ")"      llguidance's dialect: a schema wherever a terminal may be

What it is not: a parser of Lark; it tells text from strings, regular expressions and comments.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from herd.errors import UsageError, fail
from herd.grammar.regexes import MAX_REPEATS, repeats

MAX_NESTING = 64
_PIECES = re.compile(
    r'"(?:[^"\\\n]++|\\.)*+(?P<string>"?)'
    r"|/(?![/*])(?P<regex>(?:[^/\\]++|\\.)++)(?P<end>/?)"
    r"|//[^\n]*|\#[^\n]*"  # a comment
    r"|%(?:json|lark|regex)\b|%[a-z]+|[(\[{]|[)\]}]",
)
"""A string or an expression without an end is met once: nothing is looked for behind it."""
_SPACE = re.compile(r"\s*")
_ESCAPED = re.compile(r"\\.|.", re.DOTALL)
"""A character, or two where the first one escapes the second."""
_BETWEEN_SLASHES = {"/": r"\/", "\n": r"\n", "\\\n": r"\n", "\r": r"\r", "\\\r": r"\r"}


def enforceable(text: str, schema: Callable[[str], Any]) -> str:
    """The grammar with every schema in it rewritten by `schema`. Raises UsageError, and what that raises."""
    out: list[str] = []
    at = depth = 0
    decoder = json.JSONDecoder()
    while (found := _PIECES.search(text, at)) is not None:
        out.append(text[at : found.end()])
        at = found.end()
        word = found[0]
        if "" in (found["string"], found["end"]):
            fail(UsageError, "lark", got="a string or expression without an end", expected="a closing quote or slash")
        if found["regex"] is not None and repeats(found["regex"]) > MAX_REPEATS:
            many = f"counts inside counts that multiply to more than {MAX_REPEATS}"
            fail(UsageError, "lark", got=many, expected="smaller ones")
        if word in ("(", "[", "{"):
            depth += 1
        elif word in (")", "]", "}"):
            depth -= 1
        elif word == "%json":
            begin = _end_of_space(text, at)
            end = _end_of_json(decoder, text, begin)
            out.append(" " + json.dumps(schema(text[begin:end])))
            at = end
        elif word in ("%lark", "%regex"):
            fail(UsageError, "lark", got=f"{word} inside a grammar", expected="rules, terminals and %json")
        if depth > MAX_NESTING:
            fail(UsageError, "lark", got=f"more than {MAX_NESTING} open brackets", expected=f"at most {MAX_NESTING}")
    return "".join(out) + text[at:]


def as_expression(regex: str) -> str:
    """A regular expression as it stands between two slashes: slashes in it are escaped, line ends written out."""
    return "".join(_BETWEEN_SLASHES.get(piece, piece) for piece in _ESCAPED.findall(regex))


def _end_of_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


def _end_of_json(decoder: json.JSONDecoder, text: str, begin: int) -> int:
    try:
        return decoder.raw_decode(text, begin)[1]
    except (ValueError, RecursionError) as error:
        fail(UsageError, "lark", got=f"%json without a schema ({error})", expected='%json { "type": ... }')
