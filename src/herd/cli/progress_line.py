"""How far long work is, on one line that changes: done of total, speed, and what is left to wait.

    encode    [############            ] 812.3 MB of 1.6 GB, 41.2 MB/s, 20 s left

It imports nothing of Herd's, so that `scripts/setup` draws the same line before there is an environment.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO

BAR = 24
"""Characters of the bar."""
REDRAW_S = 0.1
SETTLED_S = 1.0
"""Seconds of a phase from which on its speed says something."""
MARK = 9
"""Characters that the name of a phase is filled up to, so that bars stand under each other."""


class ProgressLine:
    """Draws on a terminal; elsewhere it writes a line as each phase begins.

    units: phase -> what is counted in it; a phase that is not there is counted in bytes. live: whether it changes;
    None: on a terminal. clock: monotonic seconds. beside: what else is told behind the counts; empty: nothing.
    """

    def __init__(
        self,
        units: Mapping[str, str] | None = None,
        stream: TextIO | None = None,
        live: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
        beside: Callable[[], str] | None = None,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        is_screen = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._live = is_screen if live is None else live
        self._units, self._clock, self._beside = units or {}, clock, beside
        self._phase, self._open = "", False
        self._began_s = self._drawn_s = 0.0
        self._first = 0

    def show(self, phase: str, done: int, total: int) -> None:
        """A `herd.progress.Progress`: so much of a phase is done, of `total`; 0: nobody knows of how much."""
        now = self._clock()
        ended = 0 < total <= done
        if phase != self._phase or (not self._open and not ended):
            self.end()
            self._phase, self._open = phase, True
            self._began_s, self._drawn_s, self._first = now, float("-inf"), done
            if not self._live:
                self._write(phase + (f" ({self._amount(total)})" if total else "") + "\n")
        if not self._live or not self._open or (now - self._drawn_s < REDRAW_S and not ended):
            return
        self._drawn_s = now
        self._write("\r\x1b[K" + self._fitting(done, total, now - self._began_s))
        if ended:
            self.end()

    def end(self) -> None:
        """Leave the line as it stands, and go to the next."""
        if self._live and self._open:
            self._write("\n")
        self._open = False

    def _fitting(self, done: int, total: int, seconds: float) -> str:
        """The line, without its bar where the terminal has no room for it, and cut where it has none for the rest."""
        told = self._told(done, total, seconds)
        if self._beside is not None and (more := self._beside()):
            told = f"{told}, {more}"
        bar = f"[{'#' * (BAR * min(done, total) // total):<{BAR}}] " if total else ""
        room = columns(self._stream) - 1
        whole = f"{self._phase:<{MARK}} {bar}{told}"
        if room < 0 or len(whole) <= room:
            return whole
        return f"{self._phase} {told}"[:room]

    def _told(self, done: int, total: int, seconds: float) -> str:
        """What stands behind the bar. What was done before the phase began says nothing of its speed."""
        moved = done - self._first
        rate = moved / seconds if moved > 0 and seconds > 0 else 0.0
        if 0 < total <= done:
            speed = f" in {wait(seconds)}, {self._amount(rate)}/s" if rate and seconds > SETTLED_S else ""
            return self._amount(total) + speed
        text = self._amount(done) + (f" of {self._amount(total)}" if total else "")
        if not rate or seconds <= SETTLED_S:
            return text
        left = f", {wait((total - done) / rate)} left" if total else ""
        return f"{text}, {self._amount(rate)}/s{left}"

    def _amount(self, number: float) -> str:
        unit = self._units.get(self._phase, "bytes")
        return size(number) if unit == "bytes" else f"{number:.0f} {unit}"

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def size(num_bytes: float) -> str:
    """Bytes for people, powers of 1000 as disks are sold: 98.4 MB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "bytes" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def wait(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def columns(stream: TextIO) -> int:
    """Characters of a line of the terminal that a stream writes to, as it is now; 0: it is none, or does not say."""
    try:
        return os.get_terminal_size(stream.fileno()).columns if stream.isatty() else 0
    except (OSError, ValueError):
        return 0
