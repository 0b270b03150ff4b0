"""Counts inside counts, against a parser that is not ours."""

import random
import re._parser as reference  # type: ignore[import-not-found]
from typing import Any

import pytest

from herd.grammar.regexes import MAX_REPEATS, repeats


def known(pattern: str) -> int:
    """The same from Python's own parser of regular expressions."""

    def of(pieces: Any) -> int:
        most = 1
        for kind, value in pieces:
            if str(kind) in ("MAX_REPEAT", "MIN_REPEAT"):
                least, _, inner = value
                most = max(most, max(int(least), 1) * of(inner))
            elif str(kind) == "SUBPATTERN":
                most = max(most, of(value[-1]))
            elif str(kind) == "BRANCH":
                most = max(most, *(of(branch) for branch in value[1]))
        return most

    return min(of(reference.parse(pattern)), MAX_REPEATS + 1)


def made(pick: random.Random, depth: int) -> str:
    """A pattern with groups, classes, escapes and counts."""
    out = []
    for _ in range(pick.randint(1, 3)):
        atom = pick.choice(("a", r"\{", "[{(]", "[^]{}]", r"[\]{9}]", ".", r"\\", "\\(", "é"))
        if depth and pick.random() < 0.6:
            kind = pick.choice(("(", "(?:"))
            atom = f"{kind}{made(pick, depth - 1)}{pick.choice(('', '|' + made(pick, depth - 1)))})"
        out.append(atom + pick.choice(("", "", "{3}", "{7,}", "{2,99}", "{0,50}", "{12,40}?", "?", "+")))
    return "".join(out)


@pytest.mark.parametrize("seed", range(200))
def test_counts_are_multiplied_as_they_are_nested(seed: int) -> None:
    pattern = made(random.Random(seed), 4)
    assert repeats(pattern) == known(pattern), pattern


@pytest.mark.parametrize(
    ("pattern", "product"),
    [
        ("", 1),
        ("a{10000}", 10_000),
        ("(a{99}){99}", 9_801),
        ("((((a{99}){99}){99}){99}){99}", MAX_REPEATS + 1),
        ("a{99999999999999999999}", MAX_REPEATS + 1),
        ("a{000005}", 5),
        ("(a{0,99}){0,99}", 1),
        ("a{5}{6}", 30),
        ("[{99}]{3}", 3),
        (r"\(a{4}\){2}", 4),
        (")){3}", 3),
        ("((((", 1),
        ("{7}", 7),
    ],
)
def test_what_is_counted(pattern: str, product: int) -> None:
    assert repeats(pattern) == product
