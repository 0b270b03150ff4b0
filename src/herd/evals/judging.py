"""What judges the answers of a task: a function in this process, or a process that can be killed.

    a name of herd.evals.checkers    here
    a .py file                       in a process with limits of time, memory and output, once the file is trusted

    json_schema                      as a .py file, but it is ours
    code                             in a sandbox, a new one for each answer
    reasoning_gym                    in a sandbox that stays

An answer that cannot be judged is an error of its item. What it is not: the checkers themselves.
"""

import os
import secrets
import sys
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import Any, NoReturn

from herd.errors import BadFile, HerdError, Interrupted, MissingExtra, PassFailed, TimedOut, fail
from herd.evals import programs, reasoning, sandbox
from herd.evals.checkers import CHECKERS, code_of
from herd.evals.children import Child, Excess, Gone, Late
from herd.evals.programs import Program
from herd.evals.tasks import Task
from herd.evals.templates import Item
from herd.events import Reply

MEMORY = 2 << 30
"""Bytes of addresses of a process that runs a person's checker."""
RUN_S, LOAD_S = 24 * 3600.0, 120.0
"""Seconds of a sandbox that stays, and those that reasoning-gym may take to load there."""
START_S = 30.0
"""Seconds that it may take to start."""
TOGETHER = min(4, os.cpu_count() or 1)
"""Sandboxes at a time: more of them would take each other's time."""
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
        programs.require_trust(task.program)
        return ProgramJudge(task.program, task.options.seconds)
    if task.head.checker == "json_schema":
        if find_spec("jsonschema") is None:
            fail(MissingExtra, "the checker json_schema needs jsonschema", do="pip install 'llama-herd[evals]'")
        ours = Path(__file__).with_name("schema_checker.py")
        return ProgramJudge(Program(ours, ours.read_text("utf-8")), task.options.seconds)
    if task.head.checker == "code":
        return CodeJudge(task)
    if task.head.checker == "reasoning_gym":
        return ReasoningJudge(task)
    return _Here(task)


class _Here(Judge):
    """A checker of Herd's that is bounded by itself."""

    def __init__(self, task: Task) -> None:
        judge = CHECKERS[task.head.checker].judge if task.head.checker else None
        self._judge, self._options = judge, task.options if judge else None

    def value(self, reply: Reply, item: Item) -> float:
        assert self._judge is not None, "a task whose answers are judged has a checker"
        return float(self._judge(reply, item, self._options))

    def close(self) -> None:
        """Nothing of it goes on."""


class ProgramJudge(Judge):
    """A checker in a process that goes on from item to item; a new one follows one that was killed.

    seconds: for one answer. Raises BadFile where it does not run. Whether it is trusted was asked before.
    """

    def __init__(self, program: Program, seconds: float) -> None:
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


class CodeJudge(Judge):
    """Runs what a model wrote, in a sandbox whose canaries were held when this began. Raises Unsupported where none
    holds, BadFile for tests that are no Python."""

    def __init__(self, task: Task) -> None:
        self._seconds: float = task.options.seconds
        self._way = sandbox.chosen(f"task {task.name}")
        self._places = threading.BoundedSemaphore(TOGETHER)
        self._lock = threading.Lock()
        self._running: set[Child] = set()
        self._closed = False
        self._compile([str(item["tests"]) for item in task.items])

    def value(self, reply: Reply, item: Item) -> float:
        """1 where the item's tests pass. Whatever else the code does is 0: also what it says of itself."""
        word = secrets.token_hex()
        code = {"code": code_of(reply.text)}
        with self._places, self._begun() as child:
            end = monotonic() + self._seconds
            try:
                if child.exchange(code, self._seconds).get("loaded") is not True:
                    return 0.0
                told = child.exchange({"tests": item["tests"], "word": word}, end - monotonic())
            except (Gone, Late, Excess):
                if self._closed:
                    raise Interrupted("somebody ended the run") from None
                return 0.0
        return float(told.get("passed") == word)

    def close(self) -> None:
        """Kill what runs."""
        with self._lock:
            self._closed = True
            for child in self._running:
                child.kill()

    @contextmanager
    def _begun(self) -> Iterator[Child]:
        if self._closed:
            raise Interrupted("somebody ended the run")
        try:
            with self._way.started("sandbox_answer.py", self._seconds) as child:
                with self._lock:
                    self._running.add(child)
                try:
                    yield child
                finally:
                    with self._lock:
                        self._running.remove(child)
        except sandbox.Broken as error:
            fail(PassFailed, "the sandbox", got=str(error))

    def _compile(self, tests: list[str]) -> None:
        with self._begun() as child:
            try:
                found = child.exchange({"compile": tests}, START_S).get("broken")
            except (Gone, Late, Excess) as error:
                fail(BadFile, "tests of the items", got=f"{error or 'no end'}", expected="Python")
        if found is not None:
            fail(BadFile, f"item {found[0]}: tests", got=found[1], expected="Python")


class ReasoningJudge(Judge):
    """Asks reasoning-gym's scorers, in a sandbox that goes on from item to item. Raises MissingExtra, Unsupported where
    no sandbox holds, BadFile where they do not load there."""

    def __init__(self, task: Task) -> None:
        self._options = task.options
        self._paths = reasoning.paths()
        self._way = sandbox.chosen(f"task {task.name}", self._paths)
        self._lock = threading.Lock()
        self._closed = False
        self._stack, self._child = self._started()

    def value(self, reply: Reply, item: Item) -> float:
        """What the scorer says."""
        asked = {**item, "answer": reasoning.answer_of(reply.text)}
        with self._lock:
            if self._closed:
                raise Interrupted("somebody ended the run")
            if self._child.ended:
                self._stack, self._child = self._started()
            try:
                told = self._child.exchange(asked, self._options.seconds)
            except (Gone, Late, Excess) as error:
                self._child.end()
                self._stack.close()
                if self._closed:
                    raise Interrupted("somebody ended the run") from None
                if isinstance(error, Late):
                    fail(TimedOut, "reasoning-gym's scorer", got=f"no verdict in {self._options.seconds:g} s")
                fail(PassFailed, "reasoning-gym's scorer", got=str(error), expected="a verdict")
        score = told.get("score")
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
            got = "another item of this number" if "other" in told else told.get("failed", told)
            fail(PassFailed, "reasoning-gym's scorer", got=got, expected="a number from 0 to 1")
        return float(score)

    def close(self) -> None:
        """End the sandbox."""
        self._closed = True
        self._child.kill()
        with self._lock:
            self._stack.close()

    def _started(self) -> tuple[ExitStack, Child]:
        stack = ExitStack()
        told = {
            "paths": sandbox.inside(self._paths),
            **{name: getattr(self._options, name) for name in ("name", "seed", "size")},
        }
        try:
            child = stack.enter_context(self._way.started("sandbox_reasoning.py", RUN_S))
            answer = child.exchange(told, LOAD_S)
        except (sandbox.Broken, Gone, Late, Excess) as error:
            stack.close()
            fail(BadFile, "reasoning-gym in a sandbox", got=f"{error or 'no end'}", expected="its scorers")
        if answer.get("loaded") is not True:
            stack.close()
            fail(BadFile, "reasoning-gym in a sandbox", got=answer.get("failed"), expected="its scorers")
        return stack, child


def told_of(reply: Reply) -> dict[str, Any]:
    """A reply as a checker of one's own sees it."""
    return {
        "text": reply.text,
        "calls": [{"name": call.name, "arguments": dict(call.arguments)} for call in reply.tool_calls],
        "finish_reason": reply.finish_reason,
    }
