"""A text as the rules read it: characters folded, and the way back to where they stood.

    raw      as it is: for characters that must not be there
    plain    each character's NFKC form, decimal digits of every script as ASCII, every dash but the hyphen-minus as
             U+2010, invisible characters and marks left out: for shapes of letters and digits
             (`ｊａｎｅ＠ｅｘａｍｐｌｅ．ｏｒｇ` reads jane@example.org)
    folded   letters only, without case and accents, look-alikes joined (0 and o; 1, !, |, l and i; Cyrillic а and a):
             for phrases, however they are spaced or spelt

Characters are folded one by one, so a view costs one pass, and an offset is the count of what came before it. What
composes (a letter and an accent behind it) loses its accent in `plain`. NFKC: Unicode Standard Annex 15.
"""

import unicodedata
from functools import cached_property
from typing import Literal, TypeAlias

from herd.lanes import give_way
from herd.safety.cues import STEP, Cue, Places, Window

Name: TypeAlias = Literal["raw", "plain", "folded"]

KEEP = 20_000
"""Characters whose folding is remembered: more than a text has that is no attack, few enough to be no memory."""

INVISIBLE = frozenset(
    chr(c)
    for first, last in (
        (0x00AD, 0x00AD),  # soft hyphen
        (0x034F, 0x034F),  # combining grapheme joiner
        (0x061C, 0x061C),  # Arabic letter mark
        (0x115F, 0x1160),  # Hangul fillers
        (0x180B, 0x180F),  # Mongolian selectors
        (0x200B, 0x200F),  # zero width, direction marks
        (0x202A, 0x202E),  # bidirectional embeddings and overrides
        (0x2060, 0x206F),  # word joiner, invisible operators, isolates
        (0x3164, 0x3164),
        (0xFE00, 0xFE0F),  # variation selectors
        (0xFEFF, 0xFEFF),
        (0xFFA0, 0xFFA0),
        (0xE0000, 0xE007F),  # tags
        (0xE0100, 0xE01EF),  # more variation selectors
    )
    for c in range(first, last + 1)
)

_ALIKE = str.maketrans(
    # leetspeak; then Cyrillic and Greek letters that look Latin. Both sides of a comparison are folded, so it does not
    # matter that this is no transliteration.
    "013457@$!|l" + "авеікмнорстухѕј" + "αεικνορτυχ",
    "oieastasiii" + "abeikmhopctyxsj" + "aeiknoptux",
)


class _Table(dict[int, str]):
    """What `str.translate` asks for each character."""

    def __missing__(self, code: int) -> str:
        value = self.fold(chr(code))
        if len(self) < KEEP:
            self[code] = value
        return value

    def fold(self, char: str) -> str:
        """What one character becomes."""
        raise NotImplementedError


DASH = "\u2010"
"""What every dash but the hyphen-minus reads as in `plain`."""

_SEPARATORS = {"\u2800": " ", "\u2212": DASH, "\u066b": ".", "\u066c": ","}
"""The blank of Braille, the minus sign, Arabic points: they separate digits and have no NFKC form that does."""


class _Plain(_Table):
    def fold(self, char: str) -> str:
        category = unicodedata.category(char)
        if char in INVISIBLE or category[0] == "M":
            return ""
        if char in _SEPARATORS:
            return _SEPARATORS[char]
        if (digit := unicodedata.decimal(char, None)) is not None:
            return str(digit)
        folded = unicodedata.normalize("NFKC", char)
        return DASH if category == "Pd" and folded != "-" else folded


class _Folded(_Table):
    def fold(self, char: str) -> str:
        if char in INVISIBLE:
            return ""
        parts = unicodedata.normalize("NFKD", char).casefold()
        return "".join(c for c in parts.translate(_ALIKE) if c.isalpha())


_TABLES: dict[Name, _Table] = {"plain": _Plain(), "folded": _Folded()}


def fold(text: str, view: Name) -> str:
    """The text of a view."""
    if view == "raw" or (view == "plain" and text.isascii()):
        return text
    parts = []
    for at in range(0, len(text), STEP):
        parts.append(text[at : at + STEP].translate(_TABLES[view]))
        give_way()
    return "".join(parts)


class View:
    """One text's view. `span` maps its offsets back."""

    def __init__(self, raw: str, name: Name) -> None:
        self.text = fold(raw, name)
        self._raw, self._name = raw, name

    @cached_property
    def _places(self) -> Places:
        return Places(self.text)

    def windows(self, cue: Cue) -> list[Window]:
        """The parts that can hold a match of a pattern with this cue."""
        return self._places.windows(cue)

    def holds(self, cue: Cue) -> bool:
        """Whether one of a cue's words occurs, so that its windows are worth a look."""
        return self._places.holds(cue)

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Characters start to end of the view, end > start -> of the raw text; what is left out between them counts
        in."""
        if self._offsets is None:
            return start, end
        return self._offsets[start], self._offsets[end - 1] + 1

    @cached_property
    def _offsets(self) -> list[int] | None:
        """Where each character of the view stood in the text. None: where it stands."""
        if self._name == "raw" or (self._name == "plain" and self._raw.isascii()):
            return None
        table = _TABLES[self._name]
        return [i for i, char in enumerate(self._raw) for _ in table[ord(char)]]


class Views:
    """All views of one text, each made when first asked for."""

    def __init__(self, raw: str) -> None:
        self.raw = raw
        self._made: dict[Name, View] = {}

    def __getitem__(self, name: Name) -> View:
        if name not in self._made:
            self._made[name] = View(self.raw, name)
        return self._made[name]
