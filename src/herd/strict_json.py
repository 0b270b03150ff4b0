"""JSON of strangers: what is counted before a parser reads it, and how an object is made of its members.

One place for bodies, small files and schemas, so that a cure in one is a cure in all. Both parts take time in
proportion to the text, whatever it holds. What it is not: the parser, which is Python's own; a second one could
disagree about what a text says.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

_OUTSIDE = re.compile(rb'["\[\]{},:]')
_INSIDE = re.compile(rb'(?:[^"\\]{0,64}+\\.){0,4096}+[^"\\]{0,65536}+', re.DOTALL)
"""A part of a string, up to its end or not: no call of it takes longer than a millisecond or two, in which other
threads would wait."""
_STEP = 1 << 20


def excess(data: bytes, *, depth: int, values: int) -> str | None:
    """What there is too much of, in words: "deeper nesting" or "more values"; None: a parser may read it.

    depth: of brackets outside strings. values: commas and colons outside strings. A string without end ends the count:
    a parser gets no further either.
    """
    if count(data, b"[", b"{") <= depth and count(data, b",", b":") <= values:
        return None
    deep = counted = at = 0
    while (at := _next(data, at)) < len(data):
        first = data[at : at + 1]
        at += 1
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
        else:
            at = past_string(data, at)
    return None


def count(data: bytes, *what: bytes) -> int:
    """How often these single bytes stand in it, in steps, so that other threads need not wait for all of it."""
    return sum(data.count(one, at, at + _STEP) for at in range(0, len(data), _STEP) for one in what)


def _next(data: bytes, at: int) -> int:
    """Where the next bracket, separator or quote stands from there on; the end, where none does."""
    while at < len(data):
        found = _OUTSIDE.search(data, at, at + _STEP)
        if found is not None:
            return found.start()
        at += _STEP
    return len(data)


def past_string(data: bytes, at: int) -> int:
    """What comes after the string whose inside begins there; the end, where it has no end."""
    while True:
        found = _INSIDE.match(data, at)
        assert found is not None, "it matches nothing, too"
        at = found.end()
        if at + 1 >= len(data) or data[at] == _QUOTE:
            return at + 1


_QUOTE = ord('"')


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
