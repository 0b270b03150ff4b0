"""Texts that stand beside each other, read as whoever gets them may read them.

Each reading takes steps in proportion to the texts:

    apart     each text for itself, those that a model sees as one text as one
    cleaned   the same without what rules of hidden characters leave out: what stood around them closes up
    unescaped the same with JSON's escapes as the characters that they stand for
    joined    borders left out: an address or a key of which half stands in another message, value or call

Only rules that `crosses` names may find something over a border: two numbers beside each other are two numbers.
"""

import re
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import NamedTuple

from herd.safety.rules import WHERE, Rule, Where, scan
from herd.text.said import Kind

BORDER = "\0\n\n\n\0"
"""What stands between texts that a model sees apart. No rule's shape goes over it but that of control characters: the
outer ones stand in no number, key or address, the lines end what may stand between a word and its number."""

EDGE = 600
"""Characters on each side of a border that are read without it."""

_ESCAPE = re.compile(r'\\(?:(["\\/bfnrt])|u([0-9A-Fa-f]{4}))')
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_SHORT = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


@dataclass(frozen=True)
class AdjacentText:
    """A text beside others. before: what stands between it and the one before, BORDER or what a model sees there.
    where: who said it, which decides what a find in it means."""

    text: str
    kind: Kind = "text"
    before: str = BORDER
    where: Where = "input"


class Span(NamedTuple):
    """Characters start to end of one of the texts."""

    nth: int
    start: int
    end: int


@dataclass(frozen=True)
class Found:
    """What a rule found: a span, or several over borders, in order."""

    rule: Rule
    spans: tuple[Span, ...]

    @property
    def first(self) -> Span:
        """Where it begins."""
        return self.spans[0]

    def moved(self, by: int) -> "Found":
        """The find among texts before which so many others stand."""
        return Found(self.rule, tuple(Span(index + by, start, end) for index, start, end in self.spans))


def crosses(rule: Rule) -> bool:
    """Whether a find over a border means something: its shape has letters or a frame that no two numbers make."""
    return rule.kind == "secret" or rule.id in ("personal.email", "personal.iban")


def read(texts: Sequence[AdjacentText], rules: tuple[Rule, ...], *, over_borders: bool = True) -> list[Found]:
    """All finds, by place. over_borders: the joined reading, too."""
    said_by = {text.where for text in texts}
    rules = tuple(rule for rule in rules if said_by.intersection(WHERE[rule.kind]))
    apart = _Joined(texts, _between(texts))
    found = [f for f in apart.finds(rules) if _means(f, texts)]
    if over_borders and any(text.before for text in texts[1:]):
        crossing = tuple(rule for rule in rules if crosses(rule))
        found += _over_borders(texts, crossing, found)
    return sorted(found, key=lambda f: (f.first.nth, f.first.start, -f.spans[-1].nth, -f.spans[-1].end))


def _between(texts: Sequence[AdjacentText]) -> Iterator[str]:
    """What stands before each: a value comes with its name."""
    named = False
    for text in texts:
        yield ": " if named and text.kind in ("value", "number") else text.before
        named = text.kind == "key"


def _means(found: Found, texts: Sequence[AdjacentText]) -> bool:
    return all(texts[span.nth].where in WHERE[found.rule.kind] for span in found.spans)


class _Joined:
    """Texts as one, with something between them."""

    def __init__(self, texts: Sequence[AdjacentText], between: Iterable[str]) -> None:
        parts = [part for text, before in zip(texts, between, strict=True) for part in (before, text.text)]
        ends = list(accumulate(map(len, parts)))
        self._starts = ends[0::2]
        self._ends = ends[1::2]
        self.text = "".join(parts)

    def finds(self, rules: tuple[Rule, ...]) -> Iterator[Found]:
        """What stands in it, in it without hidden characters, and in that without escapes; of what is between texts
        nothing."""
        hidden: list[tuple[int, int]] = []
        for finding in scan(self.text, rules):
            for found in self._found(finding.rule, finding.start, finding.end):
                if not finding.rule.mark:
                    hidden += [(self._starts[i] + start, self._starts[i] + end) for i, start, end in found.spans]
                yield found
        others = tuple(rule for rule in rules if rule.kind != "hidden")
        text, places = without(self.text, hidden)
        if hidden:
            yield from self._mapped(text, places, others)
        if "\\" in text:
            plain, offsets = unescaped(text)
            yield from self._mapped(plain, [places[offset] for offset in offsets] if hidden else offsets, others)

    def _mapped(self, text: str, places: Sequence[int], rules: tuple[Rule, ...]) -> Iterator[Found]:
        """What stands in another form of it. places: of each character and the end, where it is here."""
        for finding in scan(text, rules):
            yield from self._found(finding.rule, places[finding.start], places[finding.end])

    def _found(self, rule: Rule, start: int, end: int) -> Iterator[Found]:
        spans = []
        for i in range(max(bisect_right(self._starts, start) - 1, 0), len(self._starts)):
            if self._starts[i] >= end:
                break
            first, last = max(start, self._starts[i]), min(end, self._ends[i])
            if first < last:
                spans.append(Span(i, first - self._starts[i], last - self._starts[i]))
        if spans:
            yield Found(rule, tuple(spans))


def without(text: str, spans: Iterable[tuple[int, int]]) -> tuple[str, Sequence[int]]:
    """A text without some spans, and of each character that is left and the end the place in the given text."""
    out: list[str] = []
    places = array("L")
    at = 0
    for start, end in sorted(spans):
        if start > at:
            out.append(text[at:start])
            places.extend(range(at, start))
        at = max(at, end)
    if not at:
        return text, places
    places.extend(range(at, len(text) + 1))
    return "".join([*out, text[at:]]), places


def unescaped(text: str) -> tuple[str, Sequence[int]]:
    """A text with JSON's escapes as their characters, and of each character and the end the place in the given text."""
    out: list[str] = []
    offsets = array("L")
    at = 0
    for match in _ESCAPE.finditer(text):
        out += [text[at : match.start()], _character(match)]
        offsets.extend(range(at, match.start() + 1))
        at = match.end()
    plain = "".join([*out, text[at:]])
    offsets.extend(range(at, len(text) + 1))
    return (plain, offsets) if plain.isascii() else _paired(plain, offsets)


def _character(match: "re.Match[str]") -> str:
    short, code = match.groups()
    return _SHORT.get(short, short) if short else chr(int(code, 16))


def _paired(text: str, offsets: Sequence[int]) -> tuple[str, Sequence[int]]:
    """A text with one character for each pair of surrogates: JSON writes what lies beyond U+FFFF so."""
    second = {match.start() + 1 for match in _PAIR.finditer(text)}
    if not second:
        return text, offsets
    joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    return joined, array("L", (offset for i, offset in enumerate(offsets) if i not in second))


# -- over borders ----------------------------------------------------------------------------------------------------


def _over_borders(texts: Sequence[AdjacentText], rules: tuple[Rule, ...], apart: Sequence[Found]) -> list[Found]:
    """What is found with borders left out and touches nothing that stands by itself: over one border, whatever stands
    beyond its two texts, and over several. Names are read as they stand, and left out."""
    known = _Spans(span for found in apart for span in found.spans)
    out: list[Found] = []
    edges = list(_edges(texts))
    bare = [edge for edge in edges if edge.kind not in ("name", "key")]
    for row in (edges, bare) if len(bare) < len(edges) else (edges,):
        for found in [*_joined(_pairs(row), rules), *_joined(row, rules)]:
            if len(found.spans) > 1 and not known.touched(found.spans):
                out.append(found)
                known.add(found.spans)
    return out


@dataclass(frozen=True)
class _Edge:
    """A part of a text from `start` on. open: nothing stands between it and the part before it."""

    nth: int
    start: int
    text: str
    kind: Kind
    open: bool


def _edges(texts: Sequence[AdjacentText]) -> Iterator[_Edge]:
    """The beginnings and ends of texts. Numbers go on in nothing beside them."""
    apart = True
    for nth, text in enumerate(texts):
        if text.kind != "number":
            length = len(text.text)
            for start, end in ((0, length),) if length <= 2 * EDGE else ((0, EDGE), (length - EDGE, length)):
                yield _Edge(nth, start, text.text[start:end], text.kind, open=start == 0 and not apart)
        apart = text.kind == "number"


def _pairs(row: Sequence[_Edge]) -> list[_Edge]:
    """Each two that stand side by side, apart from all others."""
    return [edge for first, second in pairwise(row) if second.open for edge in (replace(first, open=False), second)]


def _joined(row: Sequence[_Edge], rules: tuple[Rule, ...]) -> Iterator[Found]:
    """What is found in parts side by side."""
    joined = _Joined([AdjacentText(edge.text) for edge in row], ("" if edge.open else BORDER for edge in row))
    for found in joined.finds(rules):
        spans = ((row[nth], start, end) for nth, start, end in found.spans)
        yield Found(
            found.rule, tuple(Span(edge.nth, edge.start + start, edge.start + end) for edge, start, end in spans)
        )


class _Spans:
    """Spans, and whether others touch them that lie at a text's beginning, at its end, or are all of it."""

    def __init__(self, spans: Iterable[Span]) -> None:
        self._reach: dict[int, tuple[int, int]] = {}  # of a text's spans: the first's beginning, the last's end
        self.add(spans)

    def add(self, spans: Iterable[Span]) -> None:
        """Add spans."""
        for index, start, end in spans:
            first, last = self._reach.get(index, (start, end))
            self._reach[index] = min(first, start), max(last, end)

    def touched(self, spans: Iterable[Span]) -> bool:
        """Whether one of them shares a character with one that is here."""
        for index, start, end in spans:
            first, last = self._reach.get(index, (end, start))
            if first < end and start < last:
                return True
        return False
