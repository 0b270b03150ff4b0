"""Counts of regular expressions before they become masks: `((x{99}){99}){99}` is a text of a million characters.

A lexer makes a state for each character that must follow, so what has to be longer than its states reach would begin
and never end. What it is not: a parser of regular expressions; it tells groups, classes, escapes and counts apart.
"""

import re

MAX_REPEATS = 10_000
"""Least counts of `{n}` and `{n,m}`, multiplied along their nesting."""
_DIGITS = 6
"""Digits of a count that are read; a longer one is over any bound."""
_PIECES = re.compile(
    r"\\."  # an escape
    r"|\[\^?+\]?+(?:[^\]\\]++|\\.?+)*+\]?+"  # a class, which without an end holds the rest
    r"|(?P<count>\{(?P<least>[0-9]++)(?:,[0-9]*+)?+\})"
    r"|(?P<open>\()|(?P<close>\))|.",
    re.DOTALL,
)


def repeats(pattern: str) -> int:
    """The largest product of nested least counts, in time that grows with the text: 9,801 for `(x{99}){99}`. Once it is
    over MAX_REPEATS it says only that."""
    groups = [1]
    """The largest product so far in each open group."""
    last = 1
    """The least count of the last piece: what a count that follows multiplies."""
    for found in _PIECES.finditer(pattern):
        if found["open"]:
            groups.append(1)
            last = 1
        elif found["close"]:
            last = groups.pop() if len(groups) > 1 else groups[0]
        elif found["count"]:
            least = found["least"].lstrip("0")
            last *= MAX_REPEATS + 1 if len(least) > _DIGITS else max(int(least or "0"), 1)
        else:
            last = 1
        last = min(last, MAX_REPEATS + 1)
        groups[-1] = max(groups[-1], last)
    return max(groups)
