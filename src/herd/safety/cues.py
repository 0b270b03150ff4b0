"""Where in a text a pattern is worth trying: near what every match of it holds.

Most patterns look for what most texts hold nowhere. A cue is looked for once a text, by `str.find` or by one small
regex, for all patterns that share it; they are then tried in windows around it alone, so that a hundred rules cost
ordinary text little more than one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

Window = tuple[int, int]


@dataclass(frozen=True)
class Cue:
    """What every match of a pattern holds.

    words    texts of which a match holds one; in lower case, and case does not matter
    regex    or a regex, which a match holds
    before   the most characters from a match's beginning to the cue in it
    after    the most characters from the end of the cue to where the match and what it looks at behind it end
    """

    words: tuple[str, ...] = ()
    regex: str = ""
    before: int = 0
    after: int = 0

    def __post_init__(self) -> None:
        assert bool(self.words) != bool(self.regex) and all(w == w.lower() for w in self.words), self

    @cached_property
    def compiled(self) -> re.Pattern[str]:
        """The regex, compiled when first needed."""
        return re.compile(self.regex)

    def windows(self, text: str, lower: str) -> list[Window]:
        """Parts of the text, in order and apart, that together hold every match. lower: the text in lower case."""
        places = (m.span() for m in self.compiled.finditer(text)) if self.regex else self._places(lower)
        windows: list[Window] = []
        for start, end in places:
            start, end = max(0, start - self.before), end + self.after
            if windows and start <= windows[-1][1]:
                windows[-1] = min(start, windows[-1][0]), max(end, windows[-1][1])
            else:
                windows.append((start, end))
        return windows

    def _places(self, lower: str) -> list[Window]:
        return sorted(place for word in self.words for place in _occurrences(word, lower))


def _occurrences(word: str, text: str) -> Iterator[Window]:
    at = text.find(word)
    while at >= 0:
        yield at, at + len(word)
        at = text.find(word, at + 1)


def lowered(text: str) -> str:
    """In lower case, character by character: the dotted capital I of Turkish alone would become two."""
    return text.replace("\u0130", "i").lower()
