"""What a regular expression can cost, read off its parsed form: a tool for every test that bounds patterns.

steps       the most characters that one attempt looks at, INF if that grows with the text. Refuses what can try the
            same text again and again
near        texts that nearly match: what makes a matcher work for nothing
"""

import re
import re._constants as code  # type: ignore[import-not-found]
import re._parser as parser  # type: ignore[import-not-found]
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

INF = float("inf")
SINGLE = (code.LITERAL, code.NOT_LITERAL, code.IN, code.ANY, code.CATEGORY)
POOL = "a1 \n\t.-_:/\\\"'[]{}(),=@AZ\0#<>\x7f\xe9\xff"
"""Characters that a class is asked for, in this order."""


def steps(pattern: str | bytes, flags: int = 0) -> float:
    """The most characters that an attempt at one place can look at; INF: as many as there are, each a bounded number of
    times. Asserts that nothing unbounded can be tried twice."""
    return _sequence(parser.parse(pattern, flags), 0, inside=False)


def _sequence(items: Any, rest: float, *, inside: bool) -> float:
    """Steps of items one after the other, before `rest` steps of what follows. inside: of an unbounded repeat."""
    total = 0.0
    for item in reversed(list(items)):
        total += _item(*item, rest + total, inside=inside)
    return total


def _item(op: Any, value: Any, rest: float, *, inside: bool) -> float:
    if op in SINGLE or op is code.GROUPREF:
        return 1
    if op is code.AT:
        return 0
    if op is code.SUBPATTERN:
        return _sequence(value[3], rest, inside=inside)
    if op is code.ATOMIC_GROUP:
        return _sequence(value, 0, inside=inside)
    if op in (code.ASSERT, code.ASSERT_NOT):
        looked = _sequence(value[1], 0, inside=inside)
        assert looked < INF or not inside, "a look without bound in a repeat without bound"
        return looked
    if op is code.BRANCH:
        return sum(_sequence(branch, rest, inside=inside) for branch in value[1])
    assert op in (code.MAX_REPEAT, code.MIN_REPEAT, code.POSSESSIVE_REPEAT), op
    low, high, body = value
    return _repeat(low, INF if high is code.MAXREPEAT else high, body, rest, op is code.POSSESSIVE_REPEAT, inside)


def _repeat(low: int, high: float, body: Any, rest: float, kept: bool, inside: bool) -> float:
    """kept: what it took, it never gives back."""
    assert not (high == INF and inside and rest > 0), "a repeat without bound that can fail late, in another one"
    each = _sequence(body, 0, inside=inside or high == INF)
    if kept or low == high:
        return INF if INF in (each, high) else high * each
    assert _width(body) == 1, "a repeat of several characters that gives back"
    assert rest < INF, "a repeat that gives back before something without bound"
    return INF if high == INF else high * (each + rest)


def _width(body: Any) -> int | None:
    """1 for what takes one character, or one escaped one, in one way alone."""
    (op, value), *more = body
    if more:
        return None
    if op is code.SUBPATTERN:
        return _width(value[3])
    if op is code.BRANCH:
        firsts = [_taken(branch[0]) for branch in value[1]]
        short = all(len(branch) <= 2 and all(op in SINGLE for op, _ in branch) for branch in value[1])
        return 1 if short and sum(map(len, firsts)) == len(set().union(*firsts)) else None
    return 1 if op in SINGLE else None


def _taken(item: Any) -> frozenset[str]:
    """The characters of the pool that an item takes."""
    return frozenset(c for c in POOL if re.fullmatch(_written(item), c, re.DOTALL))


def _written(item: Any) -> str:
    """A single-character item as a pattern again."""
    op, value = item
    if op is code.LITERAL:
        return re.escape(chr(value))
    if op is code.NOT_LITERAL:
        return f"[^{_escaped(value)}]"
    if op is code.ANY:
        return "."
    if op is code.CATEGORY:
        return _CATEGORIES[value]
    inside = "".join(
        f"{_escaped(v[0])}-{_escaped(v[1])}"
        if o is code.RANGE
        else _CATEGORIES[v]
        if o is code.CATEGORY
        else _escaped(v)
        for o, v in value
        if o is not code.NEGATE
    )
    return f"[{'^' if value[0][0] is code.NEGATE else ''}{inside}]"


def _escaped(point: int) -> str:
    return f"\\U{point:08x}"


_CATEGORIES = {
    code.CATEGORY_DIGIT: r"\d",
    code.CATEGORY_NOT_DIGIT: r"\D",
    code.CATEGORY_SPACE: r"\s",
    code.CATEGORY_NOT_SPACE: r"\S",
    code.CATEGORY_WORD: r"\w",
    code.CATEGORY_NOT_WORD: r"\W",
}


class Near(NamedTuple):
    """A text that nearly matches: prefix, unit again and again, suffix."""

    prefix: str
    unit: str
    suffix: str

    def text(self, size: int) -> str:
        """About so many characters of it."""
        return self.prefix + (self.unit * (size // len(self.unit) + 1))[: max(size, 1)] + self.suffix


def near(pattern: str | bytes, flags: int = 0) -> list[Near]:
    """Texts that nearly match: each of its repeats drawn out and then broken off, and its beginnings over and over."""
    parsed = parser.parse(pattern, flags)
    drawn = _Drawn(_literals(parsed))
    whole = drawn.texts(parsed)[0]
    found = {
        Near(prefix, unit, suffix)
        for prefix, unit in drawn.repeats(parsed, "")
        for suffix in ("", "\0", "\n", unit[:1])
    }
    found |= {Near("", whole[:end], suffix) for end in _ends(len(whole)) for suffix in ("", "\0")}
    return sorted(found)


def _ends(size: int) -> Sequence[int]:
    """Where a sample is cut: its first characters, its last, and a few between."""
    return sorted({1, 2, 3, size // 2, size - 1, size} & set(range(1, size + 1)))


def _literals(items: Any) -> str:
    """The characters that a pattern spells."""
    if isinstance(items, tuple) and len(items) == 2 and items[0] is code.LITERAL:
        return chr(items[1])
    if isinstance(items, list | tuple | parser.SubPattern):
        return "".join(dict.fromkeys("".join(_literals(item) for item in items)))
    return ""


class _Drawn:
    """Texts drawn from a pattern. spelt: characters that stand in it, tried first where a class leaves a choice."""

    def __init__(self, spelt: str) -> None:
        self._spelt = spelt

    def repeats(self, items: Any, before: str) -> Iterator[tuple[str, str]]:
        """(what stands before it, what it repeats) of every repeat of two or more."""
        for op, value in items:
            if op in (code.MAX_REPEAT, code.MIN_REPEAT, code.POSSESSIVE_REPEAT):
                _, high, body = value
                if high is code.MAXREPEAT or high > 1:
                    yield from ((before, unit) for unit in self.texts(body) if unit)
                yield from self.repeats(body, before)
            elif op is code.BRANCH:
                for branch in value[1]:
                    yield from self.repeats(branch, before)
            elif op is code.SUBPATTERN:
                yield from self.repeats(value[3], before)
            elif op is code.ATOMIC_GROUP:
                yield from self.repeats(value, before)
            before += self._one(op, value)[0]

    def texts(self, items: Any) -> list[str]:
        """A few texts that the items take, the shortest first."""
        found = [""]
        for op, value in items:
            found = [text + more for text in found[:2] for more in self._one(op, value)[:4]]
        return found

    def _one(self, op: Any, value: Any) -> list[str]:
        if op is code.LITERAL:
            return [chr(value)]
        if op in SINGLE:
            taken = _taken((op, value))
            plain, spelt = sorted(taken, key=POOL.index)[:2], [c for c in self._spelt if c in taken][:2]
            return [*plain[:1], *spelt, *plain[1:]] or [chr(_first(value))]
        if op is code.SUBPATTERN:
            return self.texts(value[3])
        if op is code.ATOMIC_GROUP:
            return self.texts(value)
        if op is code.BRANCH:
            return [text for branch in value[1] for text in self.texts(branch)[:3]]
        if op in (code.MAX_REPEAT, code.MIN_REPEAT, code.POSSESSIVE_REPEAT):
            return [text * value[0] for text in self.texts(value[2])[:2]]
        return [""]


def _first(members: Any) -> int:
    """The first character that a class names."""
    return next(value[0] if op is code.RANGE else value for op, value in members if op in (code.RANGE, code.LITERAL))
