"""Run under tests/faults/disk.c: one job, a full disk, a kill or a power cut at every change it makes (or at some).

    driver.py JOB FAULT POINTS FOLDER      prints {"changes": N, "points": tried, "wrong": [...]} as JSON

Each run is a child of its own, forked from this process, which has no threads.
"""

import ctypes
import json
import os
import pickle
import random
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from jobs import JOBS, digest_of, encoded, hidden, visible  # noqa: E402
from power import Disk, steps  # noqa: E402

from herd.checkpoint.packed.form import GATE_UP, halves  # noqa: E402
from herd.errors import DoesNotFit  # noqa: E402

COUNT, FULL, KILL = 1, 2, 3
disk = ctypes.CDLL(os.environ["LD_PRELOAD"])


def in_child(work: Callable[[], Any]) -> tuple[int, Any]:
    """(wait status, result) of `work` in a fork; an exception comes back as itself."""
    source, target = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(source)
        try:
            result = work()
        except BaseException as error:
            error.__cause__ = error.__context__ = None
            error.add_note("".join(traceback.format_tb(error.__traceback__)[-3:]))
            result = error
        disk.disk_disarm()
        with os.fdopen(target, "wb") as pipe:
            pickle.dump(result, pipe)
        os._exit(0)
    os.close(target)
    with os.fdopen(source, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(pid, 0)
    return status, pickle.loads(data) if data else None


class Sweep:
    """One job: its source, its two versions, and what came out wrong."""

    def __init__(self, name: str, folder: Path) -> None:
        self.job = JOBS[name]
        self.folder, self.out = folder, folder / "out"
        self.wrong: list[str] = []
        _, self.source = in_child(lambda: self.job.prepare(folder))
        self.versions: dict[str, dict[str, str]] = {}
        for kept, versions in (("new", ("new",)), ("old", ("old",)), ("both", ("old", "new"))):
            self.out.mkdir()
            for version in versions:
                status, error = in_child(lambda version=version: self.run(version))
                assert status == 0 and not isinstance(error, BaseException), error
            self.versions[kept] = visible(self.out)
            self.out.rename(folder / kept)
        self.source_digest = digest_of(self.source)

    def run(self, version: str = "new") -> Any:
        result = self.job.run(self.source, self.out, version)
        return result if isinstance(result, bool) else None

    def begin(self, over: bool) -> None:
        """An empty folder, or one with the old version."""
        shutil.rmtree(self.out, ignore_errors=True)
        shutil.copytree(self.folder / "old", self.out) if over else self.out.mkdir()

    def goal(self, over: bool) -> dict[str, str]:
        return self.versions["both" if over else "new"]

    def armed(self, mode: int, at: int, trace: int = -1) -> Any:
        disk.disk_arm(os.fsencode(self.out), mode, ctypes.c_long(at), trace)
        return self.run()

    def changes(self, over: bool) -> int:
        self.begin(over)

        def count() -> int:
            self.armed(COUNT, 0)
            return int(disk.disk_disarm())

        return int(in_child(count)[1])

    def state(self, where: str, over: bool) -> bool:
        """Whether everything that can be seen is the old or the new version, whole; and whether all is new."""
        found, goal = visible(self.out), self.goal(over)
        before = self.versions["old"] if over else {}
        for name in {*found, *before}:
            if found.get(name) not in {before.get(name), goal.get(name)}:
                self.wrong.append(f"{where}: {name} is neither the old nor the new one")
        if digest_of(self.source) != self.source_digest:
            self.wrong.append(f"{where}: the source changed")
        return found == goal

    def again(self, where: str, over: bool, same_files: bool = True) -> None:
        """The same command once more gives what an undisturbed run gives, and does nothing twice. same_files: these are
        the files that the run made, not copies: it knows them by their inodes."""
        finished = self.finished(same_files)
        status, done = in_child(lambda: encoded(self.run))
        if status or isinstance(done, BaseException):
            self.wrong.append(f"{where}: run again: {done!r} {getattr(done, '__notes__', '')}")
        elif visible(self.out) != self.goal(over):
            self.wrong.append(f"{where}: run again, and not the same")
        elif twice := done & finished:
            self.wrong.append(f"{where}: {sorted(twice)} were encoded again")
        elif hidden(self.out):
            self.wrong.append(f"{where}: left {hidden(self.out)}")

    def finished(self, same_files: bool) -> set[str]:
        """Tensors that the journal of an interrupted run names."""
        found: set[str] = set()
        for journal in self.out.glob(".*.packing/herd.journal"):
            for line in journal.read_bytes().splitlines(keepends=True)[1:]:
                told = json.loads(line) if line.endswith(b"\n") else {}
                if "whole" in told and not same_files:
                    return set()
                name = told.get("name") or told.get("tensor") or ""
                found |= set(halves(name)) if name.endswith(GATE_UP) else {name}
        return found

    # -- faults ------------------------------------------------------------------------------------------------------

    def full(self, at: int, over: bool) -> None:
        """Run the job with a disk that is full from change `at` on."""
        where = f"full at {at}, over {'old' if over else 'nothing'}"
        self.begin(over)
        status, error = in_child(lambda: self.armed(FULL, at))
        new = self.state(where, over)
        told = isinstance(error, DoesNotFit) and "disk is full" in str(error)
        if status or not (told or new or (self.job.quiet and error is False)):
            self.wrong.append(f"{where}: {error!r} {getattr(error, '__notes__', '')}")
        if hidden(self.out):
            self.wrong.append(f"{where}: left {hidden(self.out)}")
        self.again(where, over)

    def kill(self, at: int, over: bool) -> None:
        """Run the job in a process that is killed at change `at`."""
        where = f"killed at {at}, over {'old' if over else 'nothing'}"
        self.begin(over)
        status, error = in_child(lambda: self.armed(KILL, at))
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            self.wrong.append(f"{where}: it was not killed: {error!r}")
        self.state(where, over)
        self.again(where, over)

    def power(self, points: int, over: bool) -> int:
        """Cut the power at up to `points` places of the job, evenly spread; how many changes it makes."""
        self.begin(over)
        model = Disk(self.out)
        trace = self.folder / "trace"
        with open(trace, "wb") as file:
            in_child(lambda: self.armed(COUNT, 0, file.fileno()))
        recorded = list(steps(trace.read_bytes()))
        wanted = set(chosen(len(recorded), points))
        for at, step in enumerate(recorded, 1):
            model.do(step)
            if at not in wanted:
                continue
            for kind in ("nothing", "names", "any"):
                where = f"power cut after {at} ({step[0]} {Path(step[1]).name}), {kind} unsynced is left, over {over}"
                shutil.rmtree(self.out)
                model.after_power_cut(kind, at, self.out)
                whole = self.state(where, over)
                if at == len(recorded) and not whole:
                    self.wrong.append(f"{where}: it had ended, and is not whole")
                if at % 5 == 0 or at == len(recorded):
                    self.again(where, over, same_files=False)
        return len(recorded)


def chosen(count: int, most: int) -> list[int]:
    """Numbers from 1 to count: all, or the first, the last twelve, and others between, the same ones every time."""
    if count <= most:
        return list(range(1, count + 1))
    ends = {1, 2, 3, *range(count - 11, count + 1)}
    others = sorted(set(range(1, count + 1)) - ends)
    return sorted(ends | set(random.Random(count).sample(others, max(0, min(len(others), most - len(ends))))))


def main(name: str, fault: str, most: int, folder: Path) -> None:
    sweep = Sweep(name, folder)
    changes = tried = 0
    for over in (False, True):
        if fault == "power":
            count = sweep.power(most, over)
            changes += count
            tried += len(chosen(count, most))
            continue
        count = sweep.changes(over)
        changes += count
        for at in chosen(count, most):
            getattr(sweep, fault)(at, over)
            tried += 1
    print(json.dumps({"changes": changes, "points": tried, "wrong": sweep.wrong}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
