"""What goes to the screen: answers and tables on stdout, notes and progress on stderr, colour only on a terminal."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from herd.progress import Progress, silent

JSON_VERSION = 1
"""Counted up when a key of any --json output changes its meaning or goes; new keys do not count."""


def note(text: str, *, quiet: bool = False) -> None:
    """A line for the person, beside the answer."""
    if not quiet:
        print(dim(text, sys.stderr), file=sys.stderr, flush=True)


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
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for row in (header, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def size(num_bytes: float) -> str:
    """Bytes for people, powers of 1000 as disks are sold: 98.4 MB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "bytes" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


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
def running(*, quiet: bool) -> Iterator[Callable[[str, int], None]]:
    """For work whose end is not known: on a terminal a line with the bytes so far, which then goes; else nothing."""
    drawn_s = 0.0

    def show(what: str, done: int) -> None:
        nonlocal drawn_s
        if time.monotonic() - drawn_s >= 0.1:
            drawn_s = time.monotonic()
            line(f"{size(done)} {what}")

    with fleeting(quiet=quiet) as line:
        yield show


def progress(*, quiet: bool) -> Progress:
    """A Progress that draws one changing line on a terminal, and one line a phase elsewhere."""
    if quiet:
        return silent
    live = sys.stderr.isatty()
    last, drawn_s = "", 0.0

    def show(what: str, done: int, total: int) -> None:
        nonlocal last, drawn_s
        ended = done >= total
        if not live:
            if what != last:
                print(f"{what} ({size(total)})", file=sys.stderr, flush=True)
                last = what
            return
        if not ended and what == last and time.monotonic() - drawn_s < 0.1:
            return
        if last not in ("", what):
            sys.stderr.write("\n")
        last, drawn_s = what, time.monotonic()
        bar = "#" * (24 * done // max(total, 1))
        sys.stderr.write(f"\r\x1b[K{what} [{bar:<24}] {100 * done // max(total, 1):3d}% of {size(total)}")
        if ended:
            sys.stderr.write("\n")
            last = ""
        sys.stderr.flush()

    return show
