"""JSON of strangers: what is counted before a parser reads it, and how an object is made of its members.

One place for bodies, small files and schemas, so that a cure in one is a cure in all. Both parts take time in
proportion to the text, whatever it holds. What it is not: the parser, which is Python's own; a second one could
disagree about what a text says.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

_TOKENS = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["\[\]{},:]', re.DOTALL)
"""A quote that begins no whole string is a token of its own, so that a string without end is met once, not once a
quote. What a string holds is not looked at."""


def excess(data: bytes, *, depth: int, values: int) -> str | None:
    """What there is too much of, in words: "deeper nesting" or "more values"; None: a parser may read it.

    depth: of brackets outside strings. values: commas and colons outside strings. A string without end ends the count:
    a parser gets no further either.
    """
    opened, separators = data.count(b"[") + data.count(b"{"), data.count(b",") + data.count(b":")
    if opened <= depth and separators <= values:
        return None
    deep = counted = 0
    for match in _TOKENS.finditer(data):
        first = data[match.start()]
        if first in b"[{":
            deep += 1
            if deep > depth:
                return "deeper nesting"
        elif first in b"]}":
            deep -= 1
        elif first in b",:":
            counted += 1
            if counted > values:
                return "more values"
        elif match.end() - match.start() == 1:
            return None
    return None


def first_twice(names: Iterable[str]) -> str | None:
    """The first name that has stood before; None: each stands once."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def unique(refuse: Callable[[str], NoReturn]) -> Callable[[Sequence[tuple[str, Any]]], dict[str, Any]]:
    """A parser's `object_pairs_hook` that calls `refuse` with a name that stands twice in one object."""

    def made(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs) and (name := first_twice(name for name, _ in pairs)) is not None:
            refuse(name)
        return found

    return made
