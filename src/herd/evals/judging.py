"""What judges the answers of a task: a function in this process, or a process that can be killed.

    a name of herd.evals.checkers    here
    a .py file                       in a process with limits of time, memory and output, once the file is trusted

An answer that cannot be judged is an error of its item. What it is not: the checkers themselves.
"""

import os
import sys
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from herd.errors import BadFile, HerdError, Interrupted, PassFailed, TimedOut, fail
from herd.evals import programs
from herd.evals.checkers import CHECKERS
from herd.evals.children import Child, Excess, Gone, Late
from herd.evals.programs import Program
from herd.evals.tasks import Task
from herd.evals.templates import Item
from herd.events import Reply

MEMORY = 2 << 30
"""Bytes of addresses of a process that runs a person's checker."""
START_S = 30.0
"""Seconds that it may take to start."""
KEPT = ("HOME", "LANG", "LC_ALL", "PATH", "SYSTEMROOT", "TMPDIR")
"""Variables that it sees: none that may hold a key."""
SCRIPT = Path(__file__).with_name("checker_process.py")


class Judge(ABC):
    """Judges answers; threads may share it."""

    @abstractmethod
    def value(self, reply: Reply, item: Item) -> float:
        """How right an answer is, from 0 to 1. Raises a HerdError of this item alone."""

    @abstractmethod
    def close(self) -> None:
        """End what it runs. An answer that is being judged meets Interrupted."""


@contextmanager
def opened(task: Task) -> Iterator[Judge]:
    """What judges a task's answers. Raises UsageError for a checker that is not trusted, BadFile for one that cannot
    be run."""
    judge = _made(task)
    try:
        yield judge
    finally:
        judge.close()


def _made(task: Task) -> Judge:
    if task.program is not None:
        return ProgramJudge(task.program, task.options.seconds)
    return _Here(task)


class _Here(Judge):
    """A checker of Herd's that is bounded by itself."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def value(self, reply: Reply, item: Item) -> float:
        return float(CHECKERS[self._task.head.checker].judge(reply, item, self._task.options))

    def close(self) -> None:
        """Nothing of it goes on."""


class ProgramJudge(Judge):
    """A checker of a person's own, in a process that goes on from item to item; a new one follows one that was killed.

    seconds: for one answer. Raises UsageError where it is not trusted, BadFile where it does not run.
    """

    def __init__(self, program: Program, seconds: float) -> None:
        programs.require_trust(program)
        self._program, self._seconds = program, seconds
        self._lock = threading.Lock()
        self._closed = False
        self._folder = tempfile.TemporaryDirectory(prefix="herd-checker-")
        try:
            self._child = self._started()
        except BaseException:
            self._folder.cleanup()
            raise

    def value(self, reply: Reply, item: Item) -> float:
        """What the checker returns."""
        told = {"reply": told_of(reply), "item": item}
        with self._lock:
            self._go_on()
            try:
                answer = self._child.exchange(told, self._seconds)
            except (Gone, Late, Excess) as error:
                self._child.end()
                self._child_gone(error)
        value = answer.get("value")
        if "error" in answer:
            fail(PassFailed, self._what, got=answer["error"])
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            fail(PassFailed, self._what, got=answer, expected="a number from 0 to 1")
        return float(value)

    def close(self) -> None:
        """End the process."""
        self._closed = True
        self._child.kill()
        with self._lock:
            self._child.end()
        self._folder.cleanup()

    @property
    def _what(self) -> str:
        return f"the checker {self._program.name}"

    def _go_on(self) -> None:
        """See that there is a process."""
        if self._closed:
            raise Interrupted("somebody ended the run")
        if self._child.ended:
            self._child = self._started()

    def _started(self) -> Child:
        known = {name: os.environ[name] for name in KEPT if name in os.environ}
        child = Child([sys.executable, "-I", str(SCRIPT)], Path(self._folder.name), known)
        setup = {
            "source": self._program.source,
            "name": self._program.name,
            "memory_bytes": MEMORY,
            "seconds": self._seconds,
        }
        try:
            answer = child.exchange(setup, START_S)
        except (Gone, Late, Excess) as error:
            child.end()
            self._child_gone(error, BadFile)
        if answer.get("ready") is not True:
            child.end()
            fail(BadFile, self._what, got=answer.get("broken"), expected="a file that defines check(reply, item)")
        return child

    def _child_gone(self, error: Exception, kind: type[HerdError] = PassFailed) -> NoReturn:
        """Raise what its end means for an item."""
        if self._closed:
            raise Interrupted("somebody ended the run") from None
        if isinstance(error, Late):
            seconds = START_S if kind is BadFile else self._seconds
            fail(TimedOut if kind is PassFailed else kind, self._what, got=f"no verdict in {seconds:g} s")
        got = f"a process that {error}" if isinstance(error, Gone) else str(error)
        fail(kind, self._what, got=got, expected="a verdict")


def told_of(reply: Reply) -> dict[str, Any]:
    """A reply as a checker of one's own sees it."""
    return {
        "text": reply.text,
        "calls": [{"name": call.name, "arguments": dict(call.arguments)} for call in reply.tool_calls],
        "finish_reason": reply.finish_reason,
    }
