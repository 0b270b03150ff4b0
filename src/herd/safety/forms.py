"""The form of an issuer's keys, written down as its documentation tells it, and the patterns and samples of that form.

    ghp_{a36-251}    the letters `ghp_`, then 36 to 251 letters and digits

Kinds of characters: a letters and digits, b those of base64, c letters, d digits, h hexadecimal in lower case, H in
any, l lower case and digits, u capitals and digits, v letters, digits and _, w those and -.
"""

import re
from dataclasses import dataclass
from functools import cached_property

from herd.safety.cues import Cue

KINDS = {
    "a": "A-Za-z0-9", "b": "A-Za-z0-9+/", "c": "A-Za-z", "d": "0-9", "h": "0-9a-f", "H": "0-9A-Fa-f", "l": "a-z0-9",
    "u": "A-Z0-9", "v": "A-Za-z0-9_", "w": "A-Za-z0-9_-",
}  # fmt: skip

START = r"(?:(?<![A-Za-z0-9_-])|(?<=\\[nrt])|(?<=%3[Dd]))"
"""No letter, digit, hyphen or underscore before it, but for an escaped line end, tab or =."""

RUNS = Cue(regex=r"[A-Za-z0-9_+/=.~:\-]{16,512}+", before=80, after=16)
"""What every key has: many characters without a space."""

_FAKE = "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8s9T0u1V2w3X4y5Z6-_+/"


@dataclass(frozen=True)
class Form:
    """One form."""

    text: str

    @cached_property
    def parts(self) -> list[tuple[str, str, int, int]]:
        """Each part: literal text or "", kind or "", least and most characters."""
        parts = []
        for literal, kind, least, most in re.findall(r"([^{]+)|\{(\w)(\d+)(?:-(\d+))?\}", self.text):
            parts.append((literal, kind, int(least or len(literal)), int(most or least or len(literal))))
        return parts

    @property
    def regex(self) -> str:
        """What it matches; behind a last part of a fixed length no more of its kind may follow."""
        out = [re.escape(literal) or _repeat(kind, least, most) for literal, kind, least, most in self.parts]
        _, kind, least, most = self.parts[-1]
        return "".join(out) + (f"(?![A-Za-z0-9{KINDS[kind]}])" if kind and least == most else "")

    @property
    def cue(self) -> tuple[str, int]:
        """Its longest literal in lower case, and the most characters before that."""
        _, at, before = max((len(part[0]), -i, sum(p[3] for p in self.parts[:i])) for i, part in enumerate(self.parts))
        return self.parts[-at][0].lower(), before

    @property
    def most(self) -> int:
        """The most characters of it."""
        return sum(most for _, _, _, most in self.parts)

    def sample(self, less: int = 0) -> str:
        """A key that nobody was given; with its last varying part shorter by `less` than it may be."""
        last = max(i for i, part in enumerate(self.parts) if part[1])
        return "".join(
            literal or _fake(kind, least - (less if i == last else 0))
            for i, (literal, kind, least, _) in enumerate(self.parts)
        )


def _repeat(kind: str, least: int, most: int) -> str:
    return f"[{KINDS[kind]}]" + (f"{{{least}}}" if least == most else f"{{{least},{most}}}+")


def _fake(kind: str, length: int) -> str:
    allowed = "".join(c for c in _FAKE if re.match(f"[{KINDS[kind]}]", c)) or _FAKE
    return (allowed * (length // len(allowed) + 1))[:length]
