"""The service's log: a line an event, as text or JSON, on stderr. Never a prompt, an answer or a key.

A thread writes, so that a full pipe stops nothing; when lines come faster than they can be written the newest are
dropped and counted, and a reader that is gone is no reason to end.
"""

import asyncio
import json
import logging
import queue
import sys
import threading
import time
import traceback
from typing import Any, Literal, TextIO

from herd.errors import PassFailed

MOST_WAITING = 10_000
"""Lines that wait to be written, at most."""
MOST_BYTES = 8 << 20
"""Most bytes of all lines that wait."""
MOST_LINE = 8 << 10
"""Characters of one line; the rest of it is cut."""


class Log:
    """Writes events as lines. kind: text for people, json for machines, off."""

    def __init__(self, kind: Literal["text", "json", "off"] = "text", out: TextIO | None = None) -> None:
        self._kind = kind
        self._out = out if out is not None else sys.stderr
        self._counting = threading.Lock()
        self._lines: queue.Queue[str | None] = queue.Queue(MOST_WAITING)
        self.waiting_bytes = 0
        self.dropped = 0
        self._thread: threading.Thread | None = None
        if kind != "off":
            self._thread = threading.Thread(target=self._write, name="herd-log", daemon=True)
            self._thread.start()

    def event(self, what: str, **facts: Any) -> None:
        """Write a line. Facts are names, counts and times; values of None are left out."""
        if self._thread is None:
            return
        said = {name: value for name, value in facts.items() if value is not None}
        if self._kind == "json":
            line = json.dumps({"time": round(time.time(), 3), "event": what, **said})
        else:
            clock = time.strftime("%H:%M:%S")
            line = " ".join([clock, what, *(f"{name}={_shown(value)}" for name, value in said.items())])
        line = line if len(line) <= MOST_LINE else line[:MOST_LINE] + "…"
        size = sys.getsizeof(line)
        if self.waiting_bytes + size > MOST_BYTES:
            self.dropped += 1
            return
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self.dropped += 1
        else:
            self._waits(size)

    def mistake(self, request_id: str, error: BaseException) -> PassFailed:
        """Log the kind and place of an unforeseen error; returns the error to tell the client."""
        frames = traceback.extract_tb(error.__traceback__)
        place = " < ".join(f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno}" for f in reversed(frames[-4:]))
        self.event("error", id=request_id, error=type(error).__name__, at=place)
        return PassFailed(f"an internal error; the log has it under {request_id}")

    def close(self) -> None:
        """Write the lines that wait, for a second at most."""
        if self._thread is not None:
            try:
                self._lines.put(None, timeout=0.1)
                self._thread.join(1.0)
            except queue.Full:
                pass
            self._thread = None

    def _waits(self, size: int) -> None:
        with self._counting:
            self.waiting_bytes += size

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            self._waits(-sys.getsizeof(line))
            try:
                self._out.write(line + "\n")
                self._out.flush()
            except (OSError, ValueError):
                self.dropped += 1


class LibraryLogHandler(logging.Handler):
    """A logging handler that turns messages of libraries into lines of a Log: the message's first line and the error's
    kind. Their own form would show the error's text, which may quote a request."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Log one message. That of a cancelled task is skipped: whoever cancelled it knows."""
        kind = record.exc_info[0] if record.exc_info else None
        if kind is None or not issubclass(kind, asyncio.CancelledError):
            said = record.getMessage().partition("\n")[0][:200]
            self._log.event(record.name, said=said, error=kind.__name__ if kind else None)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    text = str(value)
    return text if text.isprintable() and " " not in text else json.dumps(text)
