"""The staging folder of a long run: hidden beside its target, held by one process, and kept when that is killed.

    .NAME.packing/herd.lock      the kernel's lock: a killed process holds none
    .NAME.packing/...            whatever the run writes

It is never taken for a model. What it is not: what lies in it (`checkpoint.packed.write`,
`checkpoint.gguf.unfinished`).
"""

import fcntl
import shutil
from pathlib import Path
from typing import BinaryIO

from herd.disk.atomic import check_disk, explain_full_disk, make_folders
from herd.errors import DoesNotFit, Interrupted, UsageError, fail

LOCK = "herd.lock"
_KEPT = (KeyboardInterrupt, SystemExit, GeneratorExit, Interrupted)
"""Exceptions that interrupt a run without anything being wrong with it."""


class StagingFolder:
    """The staging folder of `target`. Nothing is made on disk before `enter`.

    resume: keep what an earlier run left, and what this one leaves when it is interrupted.
    """

    def __init__(self, target: Path, *, resume: bool) -> None:
        self.target = target
        self.path = target.with_name(f".{target.name[:100]}.packing")
        self._resume = resume

    def enter(self) -> None:
        """Make the folder and hold its lock. Raises UsageError when another process does, DoesNotFit for a full
        disk."""
        if not self._resume and self.path.exists():
            _locked(self.path, self.target).close()  # nobody writes there: a killed run left it
            shutil.rmtree(self.path)
        left = self.path.exists()
        try:
            make_folders(self.path)
            self._lock = _locked(self.path, self.target)
        except (OSError, DoesNotFit) as problem:
            if not left:
                shutil.rmtree(self.path, ignore_errors=True)
            explain_full_disk(self.target, problem)
            raise

    def check_disk(self, needed_bytes: int) -> None:
        """Raise DoesNotFit when the disk has less room than `needed_bytes`, less what lies here already."""
        have = sum(p.stat().st_blocks * 512 for p in self.path.iterdir())
        check_disk(self.path / "x", max(0, needed_bytes - have))

    def leave(self) -> None:
        """Release the lock and keep the folder."""
        self._lock.close()

    def remove(self) -> None:
        """Release the lock and delete the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()

    def fail(self, problem: BaseException) -> None:
        """End the run with `problem`: keep what is finished where it was only interrupted, else delete the folder.

        Raises DoesNotFit for a full disk; returns otherwise.
        """
        if self._resume and isinstance(problem, _KEPT):
            self.leave()
            return
        self.remove()
        explain_full_disk(self.target, problem)


def discard(target: Path) -> None:
    """Delete the staging folder that an interrupted run left beside `target`. Raises UsageError while a process writes
    it."""
    place = StagingFolder(target.absolute(), resume=False)
    if place.path.exists():
        place.enter()
        place.remove()


def _locked(folder: Path, target: Path) -> BinaryIO:
    """Lock a staging folder; returns the open lock file. Raises UsageError when another process holds it."""
    lock = (folder / LOCK).open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        fail(UsageError, f"{target} is being written by another process", do="wait for it, or choose another name")
    return lock
