"""What came of a task's items, in a folder: one line an item, whole or not at all, after a line that says of what.

    OUT/TASK/results.jsonl

A run that ended goes on where it was; one of another task, model or seed is refused. What it is not: the run.
"""

import fcntl
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from herd.disk.journal import Journal
from herd.disk.small_files import regular_file
from herd.errors import BadFile, NotFound, UsageError, fail
from herd.evals import statistics
from herd.evals.tasks import Task

RESULTS = "results.jsonl"
MAX_FILE = 1 << 30
"""Bytes of a file of results."""
MOST_VALUE = 1e100
"""The most that a value may be where less is better: means and deviations stay numbers."""


class Result(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came of one item."""

    item: int
    value: float | None = None
    """The value in the task's metric; None: it failed."""
    error: str = ""
    """The code of the error that it failed with."""
    why: str = ""
    said: str = ""
    """The answer, its beginning where it is long."""
    logprobs: tuple[float, ...] = ()
    """Log-probabilities of each choice, or of the document; natural logarithms."""
    tokens: tuple[int, ...] = ()
    """Tokens of each choice, or of the document."""
    calls: tuple[dict[str, Any], ...] = ()
    """Tools that it called: name and arguments."""
    length: float | None = None
    """As the item says: of a text that something is looked for in."""
    depth: float | None = None
    """As the item says: where it stands there, in percent."""
    group: str = ""
    """As the item says: which of some kinds it is."""
    answered_by: str = ""
    """The backend that answered, where one did."""


class _Start(msgspec.Struct, frozen=True):
    """The first line of a journal."""

    version: int
    job: dict[str, str]


@dataclass(frozen=True)
class Summary:
    """A task's results in one row."""

    task: str
    metric: str
    higher: bool
    """Whether more is better."""
    answered: int
    failed: Mapping[str, int]
    """Items that failed, by the error's code: they are no zeros, they are not in the mean."""
    interval: statistics.Interval | None
    """None: no item was answered."""
    why: str = ""
    """Why the first of those failed."""
    answered_by: Mapping[str, int] = field(default_factory=dict)
    """How many items each backend answered."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "task": self.task,
            "metric": self.metric,
            "higher_is_better": self.higher,
            "answered": self.answered,
            "failed": dict(self.failed),
            "answered_by": dict(self.answered_by),
            "mean": self.interval and self.interval.mean,
            "low": self.interval and self.interval.low,
            "high": self.interval and self.interval.high,
        }


@dataclass
class Results:
    """The results of one task."""

    job: Mapping[str, str]
    """What they are of: task, digest, metric, model, seed."""
    found: dict[int, Result] = field(default_factory=dict)
    """Results by the item's number."""

    @property
    def values(self) -> dict[int, float]:
        """Values of the items that were answered, by number."""
        return {i: one.value for i, one in sorted(self.found.items()) if one.value is not None}

    @property
    def summary(self) -> Summary:
        """Them in one row."""
        values = list(self.values.values())
        failed = [one for _, one in sorted(self.found.items()) if one.value is None]
        counts = {code: sum(one.error == code for one in failed) for code in sorted({one.error for one in failed})}
        interval = statistics.mean(values) if values else None
        why = failed[0].why if failed else ""
        by = Counter(one.answered_by for _, one in sorted(self.found.items()) if one.answered_by)
        return Summary(
            self.job["name"], self.job["metric"], self.job["higher"] == "yes", len(values), counts, interval, why, by
        )


def job_of(task: Task, model: str, seed: int) -> dict[str, str]:
    """What results are of. model: what tells it from any other."""
    return {
        "name": task.name,
        "task": task.digest,
        "metric": task.head.metric,
        "higher": "yes" if task.higher else "no",
        "model": model,
        "seed": str(seed),
    }


class Written:
    """Results as they come, written to a folder that may hold some of an earlier run. Raises UsageError where that run
    was of another task, model or seed, or goes on now."""

    def __init__(self, folder: Path, job: Mapping[str, str]) -> None:
        self.results = Results(job)
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(folder)
        try:
            self._journal = Journal(folder, job, self._believe, durable=True, name=RESULTS, anew="in another --out")
        except BaseException:
            os.close(self._lock)
            raise

    def add(self, result: Result) -> None:
        """Keep one; it is on the disk when this returns."""
        self._journal.add(msgspec.json.encode(result))
        self.results.found[result.item] = result

    def close(self) -> None:
        """Close the file; others may write to the folder then."""
        self._journal.close()
        os.close(self._lock)

    def _believe(self, line: bytes) -> bool:
        return _take(self.results, line)


def _locked(folder: Path) -> int:
    """A descriptor that holds a folder. Raises UsageError while another run does."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        fail(UsageError, f"{folder}: another run writes its results there", do="wait for it, or choose another folder")
    return handle


def read(path: Path) -> Results:
    """The results of a file. Raises NotFound, and BadFile for what is none."""
    size = regular_file(path).st_size
    if size > MAX_FILE:
        fail(BadFile, f"{path}: size", got=f"{size} bytes", expected=f"at most {MAX_FILE}")
    with path.open("rb") as file:
        found = Results(_job(path, file.readline(1 << 16)))
        for number, line in enumerate(file, 2):
            if line.endswith(b"\n") and not _take(found, line):
                fail(BadFile, f"{path}, line {number}", expected="the result of an item", do="remove it, or run again")
    return found


def read_all(folder: Path) -> dict[str, Results]:
    """The results of all tasks in a folder, by the task's name. Raises NotFound where there are none."""
    found = [read(path) for path in sorted(folder.glob(f"*/{RESULTS}"))] if folder.is_dir() else []
    if not found:
        fail(NotFound, f"no results in {folder}", do="herd eval MODEL TASK --out FOLDER writes some")
    return {one.job["name"]: one for one in found}


def _take(results: Results, line: bytes) -> bool:
    """Keep the result of a line; False for a line that is none, or whose value no run can have found."""
    try:
        result = msgspec.json.decode(line, type=Result)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    low, high = (0.0, 1.0) if results.job.get("higher") == "yes" else (-MOST_VALUE, MOST_VALUE)
    if result.item < 0 or not (result.value is None or low <= result.value <= high):
        return False
    results.found[result.item] = result
    return True


def _job(path: Path, line: bytes) -> dict[str, str]:
    try:
        start = msgspec.json.decode(line, type=_Start)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        start = _Start(0, {})
    if start.version != 1 or not start.job.keys() >= {"name", "task", "metric", "higher"}:
        fail(BadFile, str(path), got="another first line", expected="results of herd eval")
    return start.job
