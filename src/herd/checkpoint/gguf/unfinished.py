"""Unfinished GGUF files that survive being killed: a journal says which of their tensors are written.

    .NAME.packing/NAME             the file, in its full length from the start: every place in it is known
    .NAME.packing/herd.journal     {"tensor": NAME} once its bytes are synced; at last {"whole": {file: inode}}

Both files of a model with vision are whole before either takes its name. A run that is killed between the two renames
is ended by the next one, which knows by its inode the file that has its name already. What it is not: what a GGUF file
looks like (`file`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import msgspec

from herd.disk.atomic import checked_target, sync
from herd.disk.journal import Journal
from herd.disk.staging import StagingFolder, discard
from herd.errors import UsageError, fail


def _nobody(name: str) -> None:
    """Told of a kept tensor."""


@dataclass(frozen=True)
class Resumable:
    """How a run can be resumed. job: what the files are made from, as strings. resume: take up an earlier run, or begin
    anew. kept: told the name of each tensor that an earlier run finished."""

    job: Mapping[str, str]
    resume: bool = True
    kept: Callable[[str], None] = _nobody


class _Line(msgspec.Struct, frozen=True, omit_defaults=True):
    tensor: str = ""
    whole: dict[str, int] = {}


class GgufWork:
    """A context for writing: `paths` are to be filled (unless `whole`); the end of the block gives them their names, an
    error removes them, an interruption leaves them for the next run.

    targets: the model's file, and its mmproj file if it has one. sizes: bytes of each.
    Raises UsageError (a target exists, another process writes it, the unfinished run was of another job: the
    difference), NotFound (no parent folder), DoesNotFit (disk).
    """

    def __init__(self, targets: Sequence[Path], sizes: Sequence[int], how: Resumable, *, overwrite: bool) -> None:
        self._targets = [path.absolute() for path in targets]
        self._sizes, self._how, self._overwrite = list(sizes), how, overwrite
        self._place = StagingFolder(self._targets[0], resume=True)
        self.paths = [self._place.path / path.name for path in self._targets]
        self.done: set[str] = set()
        """Tensors that an earlier run finished."""
        self.whole = False
        """Whether an earlier run finished all: only names are left to be given."""
        self._inodes: dict[str, int] = {}
        self._journal: Journal | None = None

    def __enter__(self) -> "GgufWork":
        if not self._how.resume:
            discard(self._targets[0])
        left = self._place.path.exists()
        if not left:
            self._check_targets()
        self._place.enter()
        try:
            self._take_up()
            self._check_targets()
            self._place.check_disk(0 if self.whole else sum(self._sizes))
        except UsageError:
            self._close()
            self._place.leave() if left else self._place.remove()  # what an earlier run left is not ours to remove
            raise
        except BaseException as problem:
            self._fail(problem)
            raise
        return self

    def begun(self) -> None:
        """Note that the files have their length and their heads."""
        for path in self.paths:
            sync(path)
        sync(self._place.path)

    def add(self, tensor: str) -> None:
        """Note that a tensor is finished, and its file synced."""
        assert self._journal is not None
        self._journal.add(msgspec.json.encode(_Line(tensor)))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._fail(error)
            return
        try:
            self._publish()
        except BaseException as problem:
            self._fail(problem)
            raise
        self._close()
        self._place.remove()

    def _take_up(self) -> None:
        """Read the journal; begin a new one when the files do not agree with it."""
        self._journal = Journal(self._place.path, self._how.job, self._believe, durable=True)
        here = [path.is_file() and path.stat().st_size == n for path, n in zip(self.paths, self._sizes, strict=True)]
        if self._inodes:
            self.whole = all(x or self._has_its_name(path) for x, path in zip(here, self._targets, strict=True))
        if not self.whole and (self._inodes or not all(here)):
            self.done, self._inodes = set(), {}
            self._journal.close()
            self._journal = Journal(self._place.path, self._how.job, None, durable=True)
            for path in self.paths:
                path.unlink(missing_ok=True)
                path.touch()

    def _believe(self, line: bytes) -> bool:
        try:
            told = msgspec.json.decode(line, type=_Line)
        except msgspec.DecodeError:
            return False
        if told.whole:
            self._inodes = told.whole
        else:
            self.done.add(told.tensor)
        return True

    def _has_its_name(self, target: Path) -> bool:
        return target.is_file() and target.stat().st_ino == self._inodes.get(target.name)

    def _check_targets(self) -> None:
        for target in self._targets:
            if not self._has_its_name(target):
                checked_target(target, self._overwrite)
                if target.is_dir():
                    fail(UsageError, f"{target} is a folder", do="name a file")

    def _publish(self) -> None:
        if not self.whole:
            self.begun()
            assert self._journal is not None
            inodes = {path.name: path.stat().st_ino for path in self.paths}
            self._journal.add(msgspec.json.encode(_Line(whole=inodes)))
        for path, target in reversed(list(zip(self.paths, self._targets, strict=True))):
            if path.exists():
                path.replace(target)
        for folder in {target.parent for target in self._targets}:
            sync(folder)

    def _fail(self, problem: BaseException) -> None:
        self._close()
        self._place.fail(problem)

    def _close(self) -> None:
        if self._journal is not None:
            self._journal.close()
