"""Pieces of patterns over the plain view: borders, separators, words that say what a number is.

A border is between a letter or digit of ASCII and anything else, never Unicode's `\\w`: Japanese, Chinese, Korean, Thai
and others put no space between a word and the number behind it, so a letter of theirs ends a number as a space does.
"""

import re
import unicodedata

from herd.safety.cues import Cue
from herd.safety.views import fold

START, END = r"(?<![A-Za-z0-9])", r"(?![A-Za-z0-9])"
"""No letter or digit of ASCII before it, behind it."""

ALONE = START + r"(?<![A-Za-z0-9][._/+\-\u2010])(?<![0-9][,'])"
ALONE_END = END + r"(?![.,_/'\-\u2010][0-9])"
"""Nor part of a longer number, of a fraction, of a name with points, dashes or slashes."""

SEP = r"[ \t./\-\u2010\u30fc\u00b7\u30fb\u2022\u2044\u2215]"
"""What people put between the digits of one number: a space, a tab, a point, a slash, a dash (Japanese also writes it
as a long vowel's mark), a dot in the middle."""

S1, S2 = SEP + "?+", SEP + "{0,2}+"

DIGITS = Cue(regex=r"[0-9](?:[^0-9]{0,3}+[0-9]){5,99}+", before=64, after=64)
"""Six digits with at most three other characters between two of them. A match may begin 64 characters before them (with
the word that says what the number is) and end 64 behind them."""


def words(*texts: str) -> str:
    """A pattern for any of these words, as the plain view has them, in any case, with and without accents. One that
    begins or ends in a Latin letter is a whole word."""
    forms = {
        form for text in texts for form in (fold(text, "plain"), fold(unicodedata.normalize("NFD", text), "plain"))
    }
    return "(?i:" + "|".join(map(_word, sorted(forms, key=lambda form: (-len(form), form)))) + ")"


def _word(form: str) -> str:
    before = "(?<![A-Za-z])" if form[0].isascii() else ""
    after = "(?![A-Za-z])" if form[-1].isascii() else ""
    return before + re.escape(form) + after


def after(named: str, number: str, most: int = 16) -> str:
    """A number, as a group, at most so many characters behind a word for it, on the same line."""
    return named + r"[^0-9\n]{0," + str(most) + r"}+(" + number + r")"
