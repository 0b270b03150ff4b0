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

_YEAR = r"(?:000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
_DAY = (
    rf"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    r"|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    r"|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)-02-29)"
)
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,20}[A-Za-z0-9])?"
_HOST = rf"{_LABEL}(?:\.{_LABEL}){{0,6}}"
_PATH = "[A-Za-z0-9._~!$'()*+,;=:@/-]*"
PATTERNS = {
    "date": f"^{_DAY}$",
    "time": f"^{_CLOCK}$",
    "date-time": f"^{_DAY}T{_CLOCK}$",
    "duration": "^P(?:[0-9]+W|[0-9]+D(?:T[0-9]+[HMS])?|T[0-9]+[HMS])$",
    "email": rf"^[A-Za-z0-9_+-]+(?:\.[A-Za-z0-9_+-]+)*@{_LABEL}(?:\.{_LABEL}){{1,5}}$",
    "hostname": f"^{_HOST}$",
    "ipv4": rf"^(?:{_BYTE}\.){{3}}{_BYTE}$",
    "ipv6": "^(?:[0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]{1,4}$|^(?:[0-9A-Fa-f]{1,4}:){1,6}:[0-9A-Fa-f]{1,4}$|^::1?$",
    "uuid": "^[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$",
    "uri": rf"^https?://{_HOST}(?::[1-9][0-9]{{0,3}})?(?:/{_PATH})?(?:\?{_PATH})?(?:#{_PATH})?$",
}
"""Formats of JSON Schema as patterns of texts that are of them; of the last seven not all texts that are."""


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
