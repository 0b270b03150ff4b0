"""Text for a terminal: words wrap at its margin, while the text still comes.

A word is held back until it has ended: only then is it known which line it stands on. Nothing that is on the screen is
taken back, so a terminal that measures a character otherwise shows a ragged margin and nothing worse. A word longer
than a line is left to the terminal, as one that can be copied, and so is what stands between ``` fences.

Control characters are shown and not sent: with escapes a text that a model says, or that stands in a file, could
rewrite what is on the screen, or the clipboard.
"""

import unicodedata
from collections.abc import Callable
from typing import TextIO

from herd.cli.progress_line import columns

TICKS = 3
"""Backticks at the beginning of a line that begin or end what is left as it is."""
TAB = 8
JOINER = "\u200d"
TONES = ("\U0001f3fb", "\U0001f3ff")
"""First and last of the colours of skin, which change the picture before them."""
TABULATOR, NEWLINE, RETURN = 0x09, 0x0A, 0x0D
SIGNS: dict[int, int | None] = {code: 0x2400 + code for code in range(32) if code not in (TABULATOR, NEWLINE)}
SIGNS |= {RETURN: None, 0x7F: 0x2421, **dict.fromkeys(range(0x80, 0xA0), 0xFFFD)}
"""What is shown of control characters (C0, DEL, C1); carriage returns are left out."""
STAYS = frozenset("、。，．：；？！）」』】〉》〕｝ー々ゝゞ・…‥’”")
"""Wide characters that no line begins with."""


def cells(character: str) -> int:
    """How many columns a character takes: 2 if it is wide, 0 if it joins the one before or is not seen, else 1."""
    if " " <= character <= "~":
        return 1
    kind = unicodedata.category(character)
    if kind in ("Mn", "Me", "Cc", "Cf") or "\u1160" <= character <= "\u11ff":
        return 0 if character != "\u00ad" else 1
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def visible(text: str) -> str:
    """A text without control characters, but for line ends and tabs: their signs stand for them."""
    return text.translate(SIGNS)


class Wrapping:
    """Writes text that comes in pieces. width: columns of a line as it is now; 0: nothing is wrapped. indent: of what
    goes on behind the margin. plain: whether control characters are written as they are."""

    def __init__(
        self, write: Callable[[str], object], width: Callable[[], int], indent: int = 0, *, plain: bool = False
    ) -> None:
        self._write, self._width, self._indent, self._plain = write, width, indent, plain
        self._out: list[str] = []
        self._gap: list[str] = []
        self._word: list[str] = []
        """Characters that are held back, and the white space before them."""
        self._cells = self._ticks = 0
        """Cells of the word; and backticks that its line begins with, more than TICKS once something else came."""
        self._column = 0
        self._too_long = self._fenced = False
        self._room = 0

    def add(self, text: str) -> None:
        """Take the next piece of the text."""
        text = text if self._plain else visible(text)
        self._room = max(0, self._width() - 1)  # a character in the last column would leave it open where the next is
        if not self._room and not self._word and not self._gap:
            self._write(text)
            return
        if self._room and self._column > self._room:
            self._column %= self._room + 1  # it became narrower: the terminal has broken the line itself
        for character in text:
            self._take(character)
        self._show()

    def end(self) -> None:
        """Write what is held back."""
        self._flush()
        self._out += self._gap
        self._gap.clear()
        self._show()

    def _show(self) -> None:
        if self._out:
            self._write("".join(self._out))
            self._out.clear()

    def _take(self, character: str) -> None:
        if character == "\n":
            self._end_line()
        elif not self._room or self._fenced:
            self._flush()
            self._put("".join((*self._gap, character)), self._gap_cells() + cells(character))
            self._gap.clear()
        elif character in " \t":
            self._flush()
            self._gap.append(character)
        else:
            if self._may_break(character):
                self._flush()
            self._hold(character)
        if character not in " \t\n" and self._ticks <= TICKS:
            self._ticks = self._ticks + 1 if character == "`" else TICKS + 1
            if self._ticks == TICKS:
                self._fenced = not self._fenced

    def _end_line(self) -> None:
        self._flush()
        self._out += (*self._gap, "\n")
        self._gap.clear()
        self._column = self._ticks = 0

    def _may_break(self, character: str) -> bool:
        """Whether a line may end between the word that is held back and this character: beside wide ones."""
        if not self._word or not cells(character) or character in STAYS or TONES[0] <= character <= TONES[1]:
            return False
        return self._word[-1] != JOINER and (cells(character) == 2 or cells(self._word[-1]) == 2)

    def _hold(self, character: str) -> None:
        size = cells(character)
        if self._too_long:
            self._put(character, size)
            return
        self._word.append(character)
        self._cells += size
        if self._cells > self._room - self._indent:
            self._flush()
            self._too_long = True

    def _flush(self) -> None:
        """Put the word that is held back on this line, or on the next where it does not fit."""
        self._too_long = False
        if not self._word:
            return
        gap = self._gap_cells()
        if self._room and self._column > self._indent and self._column + gap + self._cells > self._room:
            self._out.append("\n" + " " * self._indent)
            self._column = self._indent
        else:
            self._put("".join(self._gap), gap)
        self._put("".join(self._word), self._cells)
        self._gap.clear()
        self._word.clear()
        self._cells = 0

    def _gap_cells(self) -> int:
        column = self._column
        for character in self._gap:
            column += TAB - column % TAB if character == "\t" else 1
        return column - self._column

    def _put(self, text: str, size: int) -> None:
        self._out.append(text)
        self._column += size
        if self._room and self._column > self._room + 1:
            self._column %= self._room + 1


def wrapped(text: str, width: int, indent: int = 0) -> str:
    """A whole text; what goes on behind the margin is indented."""
    out: list[str] = []
    wrapping = Wrapping(out.append, lambda: width, indent)
    wrapping.add(text)
    wrapping.end()
    return "".join(out)


def for_screen(text: str, stream: TextIO, indent: int = 0) -> str:
    """A whole text as the terminal that a stream writes to shows it; where it writes to none, as it is."""
    return wrapped(text, columns(stream), indent) if stream.isatty() else text


def on_screen(stream: TextIO) -> Wrapping:
    """A Wrapping at the margin of the terminal that a stream writes to; where it writes to none nothing is changed."""

    def write(text: str) -> None:
        stream.write(text)
        stream.flush()

    return Wrapping(write, lambda: columns(stream), plain=not stream.isatty())
