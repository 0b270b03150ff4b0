"""Structured output, as it is asked for and sent: what a text must be.

JSON is written on one line, with at most one space after `,` and `:` (as models and `json.dumps` write it). No other
white space is allowed, so that no model can go on with it for ever. Masks are made by `herd.grammar.masks`; schemas are
checked by `herd.grammar.json_schema`. What it is not: a compiler, a parser.
"""

from typing import Literal, cast

import msgspec

from herd.errors import UsageError, fail

MAX_TEXT_BYTES = 64 << 10
Kind = Literal["json", "schema", "lark", "regex"]


class Grammar(msgspec.Struct, frozen=True):
    """What a text must be. The same text is compiled once. Raises UsageError when it is too long."""

    kind: Kind
    """json: any JSON object (no text). schema: a JSON schema. lark: llguidance's dialect of Lark. regex: a regular
    expression that the whole text matches."""
    text: str = ""

    @classmethod
    def read(cls, text: str) -> "Grammar":
        """A grammar from one string: json, schema:TEXT, lark:TEXT or regex:TEXT. Raises UsageError."""
        kind, _, rest = text.partition(":")
        return cls(cast(Kind, kind), rest)

    def __post_init__(self) -> None:
        if self.kind not in ("json", "schema", "lark", "regex"):
            fail(UsageError, "grammar kind", got=self.kind, expected="json, schema, lark or regex")
        if self.kind == "json" and self.text:
            fail(UsageError, "json", got="a text", expected="none: it is any JSON object", do="use schema")
        if not isinstance(self.text, str):
            fail(UsageError, self.kind, got=type(self.text).__name__, expected="a text")
        try:
            size = len(self.text.encode())
        except UnicodeEncodeError:
            fail(UsageError, self.kind, got="a lone surrogate", expected="a text")
        if size > MAX_TEXT_BYTES:
            fail(UsageError, self.kind, got=f"{size} bytes", expected=f"at most {MAX_TEXT_BYTES}")
