"""Added tokens: texts that are one id wherever they stand, found before a text falls into pieces for merging.

They are found as the `tokenizers` package finds them: from left to right, of those that begin at a place the longest;
first those that are looked for in a text as it is, then, in what these leave, those that are marked `normalized`. What
is found and may not become its id is text, and what overlaps it is not found.

Time: in proportion to the text. Places where none can begin are skipped by a regular expression of their first
characters; at the others the longest is found among all in order, in steps that the vocabulary alone bounds.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cache, cached_property
from typing import NamedTuple, TypeAlias

import regex  # type: ignore[import-untyped]

from herd.text.spaces import Place

Put: TypeAlias = Callable[[str, Place], str]
MAX_ADDED = 1024
"""Characters of an added token that is looked for in texts."""
_MOST_HEADS = 64
"""Beginnings of added tokens in one regular expression, unless they are single characters."""
_WINDOW = 1 << 16
"""Characters that are searched at once: other threads wait for no more."""
# What Unicode calls white space, and what may be part of a word; Python's own classes are others.
_WHITE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
FIRST_OF_WHITE = frozenset(char.encode()[0] for char in _WHITE)
"""Bytes that white space begins with, which a token may take."""
_SPACES = re.compile(f"[{_WHITE}]*+")
_WORD = r"[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]"


class AddedToken(NamedTuple):
    """An added token, with its flags as tokenizer.json has them.

    special      it is a control token
    normalized   it is looked for in what others leave of a text
    lstrip       white space before it belongs to it
    rstrip       white space behind it does
    single_word  it is one where no character of a word stands beside it
    merged       merging makes its id, too, of a text that holds it
    """

    id: int
    text: str
    special: bool = False
    normalized: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    merged: bool = False


class AddedTokens:
    """All added tokens of a vocabulary; of two with one text the first counts. Immutable.

    put: what becomes of a text, by what comes before it, before those that are `normalized` are looked for. own: and of
    these themselves.
    """

    def __init__(self, tokens: Iterable[AddedToken], put: Put | None = None, own: bool = False) -> None:
        self.by_text: dict[str, AddedToken] = {}
        for token in tokens:
            if token.text:
                self.by_text.setdefault(token.text, token)
        first = [token for token in self.by_text.values() if not token.normalized]
        second = [token for token in self.by_text.values() if token.normalized]
        found = second if put is None or not own else [t._replace(text=put(t.text, "start")) for t in second]
        self.put, self.own = put, own
        self._finders = (_Finder(first), _Finder(found))
        self._written = (_Finder(first), _Finder(second))
        self.merged = frozenset(token.id for token in self.by_text.values() if token.merged)
        """Ids that merging makes, too."""

    @property
    def strip(self) -> bool:
        """Whether any of them takes white space beside it: of that a text may hold any amount."""
        return any(token.lstrip or token.rstrip for token in self.by_text.values())

    def held(self, text: str) -> set[str]:
        """The tokens that stand anywhere in a text, inside of others too."""
        return set[str]().union(*(finder.held(text) for finder in self._written if text))

    def takes(self, text: str) -> tuple[bool, bool]:
        """Whether a token takes white space before it, and behind it."""
        token = self.by_text.get(text)
        return (token.lstrip, token.rstrip) if token else (False, False)

    def cutter(self, barred: frozenset[int]) -> "Cutter | None":
        """What finds those that are not barred; None where all are."""
        first, second = (None if finder.ids <= barred else finder for finder in self._finders)
        return Cutter(first, second, barred, self.put) if first or second else None


class Cutter:
    """Cuts texts at added tokens. barred: ids that stay text; put: see `AddedTokens`."""

    def __init__(
        self, first: "_Finder | None", second: "_Finder | None", barred: frozenset[int], put: Put | None = None
    ) -> None:
        """first: those that are looked for in a text as it is; second: in what these leave of it."""
        self._first, self._second = first, second
        self._barred = barred
        self._put = put

    def cut(self, text: str, taken: tuple[bool, bool] = (False, False), place: Place = "start") -> Iterator[str | int]:
        """A text in its order: what is no added token, and the ids of those that stand between. taken: whether tokens
        around the text take white space at its beginning, and at its end; place: what comes before it."""
        for piece in (text,) if self._first is None else self._first.cut(text, self._barred, taken):
            if isinstance(piece, int):
                yield piece
            else:
                text = piece if self._put is None else self._put(piece, place)
                rest = (False, False) if self._first else taken
                yield from (text,) if self._second is None else self._second.cut(text, self._barred, rest)
            place = "token" if isinstance(piece, int) else "text"


class _Finder:
    """Added tokens that are looked for together."""

    def __init__(self, tokens: Collection[AddedToken]) -> None:
        self._tokens = {token.text: token for token in tokens}
        self.ids = frozenset(token.id for token in tokens)

    def cut(self, text: str, barred: frozenset[int], taken: tuple[bool, bool]) -> Iterator[str | int]:
        """As `Cutter.cut`."""
        done = spaces_end = _spaces_end(text, 0) if taken[0] else 0
        for at, token in self._found(text):
            start, stop = at, at + len(token.text)
            if token.id in barred or (token.single_word and not _alone(text, start, stop)):
                continue
            if token.lstrip:
                start = _spaces_begin(text, done, start)
            if token.rstrip:
                if stop > spaces_end:
                    spaces_end = _spaces_end(text, stop)
                stop = spaces_end
            if start >= stop:
                continue  # the token before it has taken it as white space
            if done < start:
                yield text[done:start]
            yield token.id
            done = stop
        end = _spaces_begin(text, done, len(text)) if taken[1] else len(text)
        if done < end:
            yield text[done:end]

    def _found(self, text: str) -> Iterator[tuple[int, AddedToken]]:
        """All that stand in a text, with their places; none overlaps another."""
        at, begins = 0, self._begins
        while at < len(text):
            place = begins.search(text, at, at + _WINDOW)
            if place is None:
                at += _WINDOW - self._depth + 1
                continue
            at = place.start()
            number = self._longest(text[at : at + self._most])
            if number >= 0:
                yield at, self._tokens[self._sorted[number]]
            at += 1 if number < 0 else len(self._sorted[number])

    def held(self, text: str) -> set[str]:
        """The tokens that stand anywhere in a text, inside of others too."""
        found: set[str] = set()
        for place in self._anywhere.finditer(text) if self._tokens else ():
            number = self._longest(text[place.start() : place.start() + self._most])
            while number >= 0 and self._sorted[number] not in found:
                found.add(self._sorted[number])
                number = self._shorter[number]
        return found

    def _longest(self, text: str) -> int:
        """The number of the longest with which a text begins; -1: of none."""
        number = bisect_right(self._sorted, text) - 1
        while number >= 0 and not text.startswith(self._sorted[number]):
            number = self._shorter[number]
        return number

    @cached_property
    def _sorted(self) -> list[str]:
        return sorted(self._tokens)

    @cached_property
    def _shorter(self) -> list[int]:
        """The number of the longest other token with which each begins, in order; -1 where there is none."""
        found: list[int] = []
        around: list[int] = []
        for number, text in enumerate(self._sorted):
            while around and not text.startswith(self._sorted[around[-1]]):
                around.pop()
            found.append(around[-1] if around else -1)
            around.append(number)
        return found

    @cached_property
    def _most(self) -> int:
        """Characters of the longest."""
        return max(map(len, self._tokens))

    @cached_property
    def _depth(self) -> int:
        """Characters of their beginnings that are looked for."""
        return next((d for d in (8, 4, 2) if len(_heads(self._tokens, d)) <= _MOST_HEADS), 1)

    @cached_property
    def _begins(self) -> "re.Pattern[str]":
        return re.compile("|".join(map(re.escape, sorted(_heads(self._tokens, self._depth)))))

    @property
    def _anywhere(self) -> "re.Pattern[str]":
        """Finds all tokens: matches have no width, so that none hides another."""
        return re.compile(f"(?={self._begins.pattern})")


def _heads(texts: Iterable[str], depth: int) -> set[str]:
    return {text[:depth] for text in texts}


def bare(text: str, taken: tuple[bool, bool]) -> str:
    """A text without the white space that tokens around it take."""
    text = text.lstrip(_WHITE) if taken[0] else text
    return text.rstrip(_WHITE) if taken[1] else text


def _alone(text: str, start: int, stop: int) -> bool:
    """Whether no character of a word stands beside a place."""
    in_word = _in_word().match
    return not (start and in_word(text[start - 1])) and not (stop < len(text) and in_word(text[stop]))


@cache
def _in_word() -> "regex.Pattern[str]":
    return regex.compile(_WORD)


def _spaces_end(text: str, start: int) -> int:
    """Where the white space behind a place ends."""
    return _SPACES.match(text, start).end()  # type: ignore[union-attr]


def _spaces_begin(text: str, least: int, stop: int) -> int:
    """Where the white space before a place begins, at `least` or later."""
    return least + len(text[least:stop].rstrip(_WHITE)) if least < stop else least
