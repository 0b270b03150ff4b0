"""Where in a text a pattern is worth trying: near what every match of it holds.

Most patterns look for what most texts hold nowhere. A cue is looked for once a text, by `str.find` or by one small
regex, for all patterns that share it; they are then tried in windows around it alone, so that a hundred rules cost
ordinary text little more than one.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from herd.lanes import give_way

Window = tuple[int, int]
STEP = 1 << 13
"""Characters that one call folds, or in which a match may begin that one search looks for."""
REACH = 6 << 10
"""Characters that a match and what it looks ahead to have at most, where its pattern's cue says no more."""


@dataclass(frozen=True, eq=False)
class Cue:
    """What every match of a pattern holds. One that patterns share is looked for once; equal ones are not the same.

    words    texts of which a match holds one; in lower case, and case does not matter
    regex    or a regex, which a match holds
    before   the most characters from a match's beginning to the cue in it
    after    the most characters from the end of the cue to where the match and what it looks at behind it end
    within   words are looked for in the windows of this cue alone
    """

    words: tuple[str, ...] = ()
    regex: str = ""
    before: int = 0
    after: int = 0
    within: "Cue | None" = None

    def __post_init__(self) -> None:
        assert bool(self.words) != bool(self.regex) and all(w == w.lower() for w in self.words), self

    @cached_property
    def _hash(self) -> int:
        return hash((self.words, self.regex, self.before, self.after, self.within))

    def __hash__(self) -> int:
        """Made once: every text asks for every cue, and this is most of what a short one costs."""
        return self._hash

    @cached_property
    def compiled(self) -> re.Pattern[str]:
        """The regex, compiled when first needed."""
        return re.compile(self.regex)


class Places:
    """Where the cues of one text are; each is looked for once."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._windows: dict[Cue, list[Window]] = {}
        self._parts: dict[Cue | None, Parts] = {}

    def windows(self, cue: Cue) -> list[Window]:
        """Parts of the text, in order and apart, that together hold every match of a pattern with this cue."""
        windows = self._windows.get(cue)
        if windows is None:
            windows = self._windows[cue] = _joined(cue, self._spans(cue))
        return windows

    def _spans(self, cue: Cue) -> Iterable[Window]:
        if cue.regex:
            return _matches(cue.compiled, self._text)
        return self._within(cue.within).places(cue.words)

    def _within(self, cue: Cue | None) -> "Parts":
        parts = self._parts.get(cue)
        if parts is None:
            windows = [(0, len(self._text))] if cue is None else self.windows(cue)
            parts = self._parts[cue] = Parts(self._text, windows)
        return parts

    def holds(self, cue: Cue) -> bool:
        """Whether a word of a cue with words occurs."""
        return self._within(cue.within).hold(cue.words)


class Parts:
    """Parts of a text in lower case, one behind the other."""

    def __init__(self, text: str, windows: list[Window]) -> None:
        self._windows = windows
        self._text = "\n".join(lowered(text[start:end]) for start, end in windows)
        lengths = (min(end, len(text)) - start + 1 for start, end in windows)
        self._starts = list(accumulate(lengths, initial=0))

    def hold(self, words: tuple[str, ...]) -> bool:
        """Whether one of these words stands in them."""
        text = self._text
        for word in words:  # noqa: SIM110 - a third of the time of any()
            if word in text:
                return True
        return False

    def places(self, words: tuple[str, ...]) -> list[Window]:
        """Where in the whole text these words stand in the parts, in order."""
        return sorted(self._place(at, len(word)) for word in words for at in _occurrences(word, self._text))

    def _place(self, at: int, length: int) -> Window:
        part = bisect_right(self._starts, at) - 1
        start = self._windows[part][0] + at - self._starts[part]
        return start, start + length


def first_match(pattern: re.Pattern[str], text: str, at: int, end: int, reach: int) -> re.Match[str] | None:
    """The first match between two places, looked for a part at a time: other threads wait for a search to end.

    reach: characters that a match and what it looks ahead to have at most.
    """
    while end - at > STEP + reach:
        match = pattern.search(text, at, at + STEP + reach)
        if match is not None and match.start() < at + STEP:
            return match  # it, and what it looks ahead to, lies before the end of the part
        give_way()
        at += STEP
    return pattern.search(text, at, end)


def _matches(pattern: re.Pattern[str], text: str) -> Iterator[Window]:
    at = 0
    while (match := first_match(pattern, text, at, len(text), REACH)) is not None:
        yield match.span()
        at = max(match.end(), match.start() + 1)


def _joined(cue: Cue, places: Iterable[Window]) -> list[Window]:
    windows: list[Window] = []
    for start, end in places:
        start, end = max(0, start - cue.before), end + cue.after
        if windows and start <= windows[-1][1]:
            windows[-1] = min(start, windows[-1][0]), max(end, windows[-1][1])
        else:
            windows.append((start, end))
    return windows


def _occurrences(word: str, text: str) -> Iterator[int]:
    at = text.find(word)
    while at >= 0:
        yield at
        at = text.find(word, at + 1)


def lowered(text: str) -> str:
    """A text in lower case, character by character: the dotted capital I of Turkish alone would become two."""
    if len(text) <= STEP:
        return text.replace("\u0130", "i").lower()
    return "".join(lowered(text[at : at + STEP]) for at in range(0, len(text), STEP))
