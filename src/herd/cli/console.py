"""What goes to the screen: answers and tables on stdout, notes and progress on stderr, colour only on a terminal."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from herd.cli.progress_line import ProgressLine, size
from herd.cli.wrapping import for_screen, visible
from herd.progress import Progress, silent

__all__ = [
    "ago",
    "count",
    "dim",
    "fleeting",
    "has_colour",
    "is_live",
    "line",
    "note",
    "phases",
    "print_json",
    "progress",
    "size",
    "table",
]

JSON_VERSION = 1
"""Counted up when a key of any --json output changes its meaning or goes; new keys do not count."""


def note(text: str, *, quiet: bool = False) -> None:
    """A line for the person, beside the answer."""
    if not quiet:
        print(dim(for_screen(text, sys.stderr), sys.stderr), file=sys.stderr, flush=True)


def line(text: str, indent: int = 0) -> None:
    """Text on stdout; where it goes on after the margin of a terminal it is indented."""
    print(for_screen(text, sys.stdout, indent))


def dim(text: str, stream: TextIO) -> str:
    """Grey on a terminal that wants colour, plain anywhere else."""
    return f"\x1b[2m{text}\x1b[0m" if has_colour(stream) else text


def has_colour(stream: TextIO) -> bool:
    """Whether escapes may be written: a terminal, no NO_COLOR (no-color.org), not a dumb one."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def print_json(command: str, data: Mapping[str, Any]) -> None:
    """One object on one line: {"herd": COMMAND, "version": N, ...}."""
    print(json.dumps({"herd": command, "version": JSON_VERSION, **data}, ensure_ascii=False), flush=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns, left-aligned, two spaces apart."""
    if sys.stdout.isatty():
        rows = [[visible(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for row in (header, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def count(number: int) -> str:
    """Parameters for people: 134.5 M, 108.6 B."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.1f} {unit}"
    return str(number)


def ago(seconds: float) -> str:
    """How long ago, roughly."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit} ago"
    return "just now"


def is_live(*, quiet: bool) -> bool:
    """Whether a line may be drawn that changes and goes again: on a terminal, unless no notes are wanted."""
    return not quiet and sys.stderr.isatty()


@contextmanager
def fleeting(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """A line that changes and then goes, on a terminal; else nothing. An empty text takes it away meanwhile."""
    live = is_live(quiet=quiet)
    shown = ""

    def show(text: str) -> None:
        nonlocal shown
        if live and text != shown:
            shown = text
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()

    try:
        yield show
    finally:
        show("")


@contextmanager
def progress(
    *, quiet: bool, units: Mapping[str, str] | None = None, beside: Callable[[], str] | None = None
) -> Iterator[Progress]:
    """A Progress as long as the block runs: one changing line on a terminal, one line a phase elsewhere. units, beside:
    see ProgressLine."""
    if quiet:
        yield silent
        return
    drawn = ProgressLine(units, beside=beside)
    try:
        yield drawn.show
    finally:
        drawn.end()


def phases() -> Progress:
    """A Progress of a line for each phase, where other lines come between."""
    return ProgressLine(live=False).show
