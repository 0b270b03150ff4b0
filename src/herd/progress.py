"""How far long work is, told to whoever wants to show it. What it is not: a bar on a screen."""

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[str, int, int], None]
"""Told what is being done (or which part has just been finished), how much of all of it is done, and how much there is;
0 where nobody knows. In bytes, unless whoever tells it says otherwise. What it raises ends the work."""


def silent(what: str, done: int, total: int) -> None:
    """A Progress that tells nobody."""


def part_of(progress: Progress, what: str, before: int, total: int) -> Progress:
    """A Progress for one part of work that has several: what of it is done counts beside what was done before, of the
    total."""
    return lambda _part, done, _whole: progress(what, min(before + done, total), total)
