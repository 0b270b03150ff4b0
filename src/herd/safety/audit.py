"""The audit log: which layer decided what about which text, by hash; JSON lines.

The hash is keyed (HMAC-SHA-256), so that who reads the log cannot try texts against it; who has the key can show that
a text was the one. A line is one write to a file opened for appending, so several processes may share it. What goes
wrong with the log is counted and breaks no request.
"""

import hashlib
import hmac
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from herd.events import Note


class Audit:
    """An open log. errors: lines that are not in it, or not whole."""

    def __init__(self, path: str | Path, key: bytes | None = None) -> None:
        """key: of the hashes; None: a random one, so that they can be compared within this run only. Raises OSError."""
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._key = os.urandom(32) if key is None else key
        self._lock = threading.Lock()
        self._torn = False
        self.errors = 0

    def write(self, request_id: str, where: str, text: str, notes: Sequence[Note]) -> None:
        """One decision about one text. Never raises for the log's sake."""
        record = {
            "time": round(time.time(), 3),
            "request_id": request_id,
            "where": where,
            "layers": sorted({note.layer for note in notes}),
            "rules": dict(Counter(note.rule for note in notes)),
            "decision": max((note.decision for note in notes), key=("observe", "redact", "block").index),
            "sha256": self.digest(text),
        }
        self._append(json.dumps(record, separators=(",", ":")).encode() + b"\n")

    def digest(self, text: str) -> str:
        """The keyed hash of a text, in hex."""
        return hmac.new(self._key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()

    def close(self) -> None:
        """Nothing is written after this."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
            self._file = -1

    def _append(self, line: bytes) -> None:
        with self._lock:
            data = b"\n" + line if self._torn else line  # a torn line ends before the next begins
            try:
                written = os.write(self._file, data)
            except OSError:
                self.errors += 1
                return
            self._torn = written < len(data)
            self.errors += self._torn
