"""A process that answers lines of JSON with lines of JSON, and is killed when it takes too long or says too much.

What it is not: what the process runs (`checker_process.py`, `herd.evals.sandbox`), or what its answers mean.
"""

import json
import os
import selectors
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

MAX_LINE = 1 << 16
"""Bytes of an answer."""
_PIECE = 1 << 16


class Gone(Exception):
    """The process ended before it had answered; the text says how."""


class Late(Exception):
    """The process did not answer in time."""


class Excess(Exception):
    """The process said more than an answer may hold, or what is no JSON object."""


class Child:
    """One such process, in a group of its own, with no descriptor but its three and no variable that is not given."""

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=dict(environment),
            start_new_session=True,
            bufsize=0,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        self._heard = bytearray()
        self.ended = False
        """Whether `end` was called."""

    def exchange(self, message: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Tell it an object, and wait for the one that it answers. Raises Gone, Late, Excess."""
        self.tell(message, seconds)
        return self.hear(seconds)

    def tell(self, message: Mapping[str, Any], seconds: float) -> None:
        """Tell it an object. Raises Gone, Late."""
        left = memoryview(json.dumps(message).encode() + b"\n")
        end = monotonic() + seconds
        while left:
            self._wait(self._in, selectors.EVENT_WRITE, end)
            try:
                left = left[os.write(self._in, left[:_PIECE]) :]
            except BlockingIOError:
                continue
            except OSError:
                raise Gone(self._how()) from None

    def hear(self, seconds: float) -> dict[str, Any]:
        """Wait for an object of its. Raises Gone, Late, Excess."""
        end = monotonic() + seconds
        searched = 0
        while (at := self._heard.find(b"\n", searched)) < 0:
            searched = len(self._heard)
            if searched > MAX_LINE:
                raise Excess(f"more than {MAX_LINE} bytes")
            self._wait(self._out, selectors.EVENT_READ, end)
            try:
                piece = os.read(self._out, _PIECE)
            except BlockingIOError:
                continue
            if not piece:
                raise Gone(self._how())
            self._heard += piece
        line = bytes(self._heard[:at])
        del self._heard[: at + 1]
        try:
            found = json.loads(line) if len(line) <= MAX_LINE else None
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise Excess("what is no JSON object")
        return found

    def kill(self) -> None:
        """Kill it and its group; whoever waits for it meets Gone. Any thread may call this."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(ProcessLookupError):
            self._process.kill()

    def end(self) -> None:
        """Kill it, and close what leads to it. For the thread that speaks with it."""
        self.ended = True
        self.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _wait(self, handle: int, event: int, end: float) -> None:
        left = end - monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(handle, event)
            if left <= 0 or not selector.select(left):
                raise Late

    def _how(self) -> str:
        """How it ended, in words."""
        with suppress(subprocess.TimeoutExpired):
            status = self._process.wait(1)
            return f"ended by signal {-status}" if status < 0 else f"ended with status {status}"
        return "closed its output"
