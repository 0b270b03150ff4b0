"""Characters of outside text that could be part of a control token, replaced so that none can arise from them.

A chat template joins, cuts and changes what it is given: spellings of control tokens can arise from texts that hold
none. So characters of theirs are replaced by stand-ins, characters that occur nowhere else, through all outside texts
and names before the template runs. A spelling in what it then writes has those characters from the template itself.
Afterwards stand-ins are turned back. Whether the template wrote the same as it would have without them is for
`herd.text.templates` to see.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from herd.errors import UsageError, fail

RARE = (range(0xA000, 0xA48D), range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))
"""Code points that stand-ins are taken from: syllables of Yi, which are shown as they are where a template writes a
list or an object, then those that Unicode gives no meaning to."""
WORDS = frozenset(
    (
        "type",
        "function",
        "name",
        "description",
        "parameters",
        "arguments",
        "properties",
        "required",
        "items",
        "enum",
        "string",
        "number",
        "integer",
        "boolean",
        "array",
        "object",
        "null",
        "default",
        "format",
        "title",
        "anyOf",
        "oneOf",
        "allOf",
        "additionalProperties",
        "minimum",
        "maximum",
    )
)
"""Words of JSON schemas, for which templates look. They stay as they are, unless they are a part of a control token."""


class StandIns:
    """Which character stands for which, in one dialog.

    spellings: of control tokens. texts: all that a template is given, and itself: no stand-in is taken from them.
    Raises UsageError where the texts leave no characters to take.
    """

    def __init__(self, spellings: Collection[str], texts: Iterable[str]) -> None:
        self._used = frozenset[str]().union(*texts)
        replaced = {char for spelling in spellings for char in spelling if not char.isspace()}
        replaced |= _cased(replaced, self._used)
        free = (chr(code) for codes in RARE for code in codes if chr(code) not in self._used)
        self.of = dict(zip(sorted(replaced), free, strict=False))
        """Character -> its stand-in."""
        if len(self.of) < len(replaced):
            fail(
                UsageError,
                "the dialog holds every syllable of Yi and every private-use character of Unicode",
                do="leave some out",
            )
        self.meant = {stand_in: char for char, stand_in in self.of.items()}
        """Stand-in -> the character."""
        self._back = str.maketrans(self.meant)

    def table(self, chars: Collection[str]) -> dict[int, str]:
        """Stand-ins for `str.translate`: of these characters, and of those that upper() or lower() make one."""
        return {ord(c): self.of[c] for c in {*chars, *_cased(chars, self._used)} if c in self.of}

    def back(self, text: str) -> str:
        """The text that was meant."""
        return text.translate(self._back)


class Marker:
    """Puts stand-ins into what one kind of author said.

    spellings: of the control tokens that this author cannot write. replaced: the characters to replace; None: all of
    theirs. spared: a pattern of what stays as it is, whatever is in it.
    A text that is itself a part of a spelling is replaced whole, if `replaced` is empty or all: what stands around it
    may be the template's.
    """

    def __init__(
        self,
        stand_ins: StandIns,
        spellings: Collection[str],
        replaced: Collection[str] | None,
        spared: "re.Pattern[str] | None" = None,
    ) -> None:
        every = {char for spelling in spellings for char in spelling}
        self._some = stand_ins.table(every if replaced is None else every.intersection(replaced))
        self._all = stand_ins.table(every if not replaced else ())
        self._spelled = "\0".join(spellings).casefold()
        self._longest = max(map(len, spellings), default=0)
        self._spared = spared
        self._known: dict[str, str] = {}

    def text(self, text: str) -> str:
        """A text with stand-ins."""
        if len(text) > self._longest:
            return self._long(text)
        if text not in self._known:
            self._known[text] = self._short(text)
        return self._known[text]

    def tree(self, value: Any) -> Any:
        """A value of JSON, with stand-ins in its texts and names; lists and objects are copied."""
        match value:
            case str():
                return self.text(value)
            case list():
                return [self.tree(one) for one in value]
            case dict():
                return {self.text(key): self.tree(one) for key, one in value.items()}
        return value

    def _long(self, text: str) -> str:
        if self._spared is None:
            return text.translate(self._some)
        pieces = self._spared.split(text)
        pieces[::2] = [piece.translate(self._some) for piece in pieces[::2]]
        return "".join(pieces)

    def _short(self, text: str) -> str:
        if self._all and text.strip().casefold() in self._spelled:
            return text.translate(self._all)
        return text if text in WORDS else self._long(text)


def signs(spelling: str) -> frozenset[str]:
    """A spelling's characters but letters, digits and spaces; if it has no others, those."""
    return frozenset(c for c in spelling if not c.isalnum() and not c.isspace()) or frozenset(spelling)


def texts_of(value: Any) -> Iterator[str]:
    """All texts and names in a value of JSON."""
    match value:
        case str():
            yield value
        case list():
            for one in value:
                yield from texts_of(one)
        case dict():
            yield from value
            for one in value.values():
                yield from texts_of(one)


def _cased(replaced: Collection[str], used: Collection[str]) -> set[str]:
    """Characters in use that upper() or lower() make one of these."""
    return {c for c in used if not {*c.upper(), *c.lower(), *c.title(), *c.casefold()}.isdisjoint(replaced)}
