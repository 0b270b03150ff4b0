"""Stop strings in text that comes in pieces: only text that cannot become part of a stop string is given out.

Stop strings straddle tokens, so text is held back, but only while its end is the beginning of a stop string.
What it is not: a tokenizer; characters come whole (`herd.text.stream`).
"""

from collections.abc import Sequence


class StopStrings:
    """Cuts a text, given in pieces, before the first place where a stop string is complete.

    Of several stop strings that end at the same character, the one that begins first wins. Text is held back only
    while its end is the beginning of a stop string.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = tuple(stops)
        self._tables = [_failure(s) for s in self._stops]
        self._matched = [0] * len(self._stops)
        self._held = ""
        self.hit: str | None = None
        """The stop string that was found."""

    @property
    def holding(self) -> bool:
        """Whether text is held back."""
        return bool(self._held)

    def push(self, text: str) -> str:
        """Add text; returns what may be shown now. After a stop string was complete it returns nothing any more."""
        if self.hit is not None:
            return ""
        if not self._stops:
            return text
        held = self._held
        for i, char in enumerate(text):
            found = [s for k, s in enumerate(self._stops) if self._advance(k, char)]
            if found:
                self.hit = max(found, key=len)
                seen = held + text[: i + 1]
                self._held = ""
                return seen[: len(seen) - len(self.hit)]
        seen = held + text
        keep = max(self._matched)
        self._held = seen[len(seen) - keep :]
        return seen[: len(seen) - keep]

    def finish(self) -> str:
        """The text that was still held back at the end of the answer: it was no stop string."""
        held, self._held = self._held, ""
        return held

    def _advance(self, k: int, char: str) -> bool:
        """One step of Knuth, Morris and Pratt's matcher of stop k: linear time, whatever the stop strings repeat."""
        stop, table, n = self._stops[k], self._tables[k], self._matched[k]
        while n and stop[n] != char:
            n = table[n - 1]
        n += stop[n] == char
        self._matched[k] = n
        return n == len(stop)


def _failure(stop: str) -> list[int]:
    """table[i]: length of the longest proper prefix of stop[: i + 1] that is also its suffix."""
    table = [0] * len(stop)
    n = 0
    for i in range(1, len(stop)):
        while n and stop[n] != stop[i]:
            n = table[n - 1]
        n += stop[n] == stop[i]
        table[i] = n
    return table
