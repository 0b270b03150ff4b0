"""A weights file, mapped: what it was like when it was opened, whether it still is, and whether it could be read.

The native module watches the map (native/guard.h): where a page cannot be read any more, because the file was cut or
its disk fails, the whole map becomes zeros instead of the process ending with SIGBUS. Whoever computed with the map
asks `check_readable` before the result is used. Without the native module the process ends, as with any mapped file.
"""

import contextlib
import errno
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, Protocol

from herd.errors import BadCheckpoint, FilesChanged, fail

Stamp = tuple[int, int, int, int]

_DO = "restore the file and load the model again"
_UNREADABLE = (errno.EFAULT, errno.EIO)
"""Errors of a system call that was given, or met, a page that cannot be read."""


def _guard() -> Any:
    """The native module when it watches maps."""
    try:
        from herd import _native
    except ImportError:
        return None
    return _native if hasattr(_native, "watch") else None


class _Map(mmap.mmap):
    """A read-only map of a whole file, watched until its memory is given back."""

    def __new__(cls, handle: int, num_bytes: int) -> "_Map":
        made = super().__new__(cls, handle, num_bytes, access=mmap.ACCESS_READ)
        made._guard = _guard()
        if made._guard is not None:
            made._number = made._guard.watch(made)
        return made

    _guard: Any
    _number: int | None = None

    def fault(self) -> int | None:
        """Offset of the first byte that could not be read; None: all reads went well."""
        if self._number is None or not self._guard.count_faults():
            return None
        at = int(self._guard.fault_of(self._number))
        return at if at >= 0 else None

    def close(self) -> None:
        """Unmap the file. Raises BufferError while arrays look into it."""
        super().close()
        self._unwatch()

    def __del__(self) -> None:
        self._unwatch()  # before the memory goes

    def _unwatch(self) -> None:
        number, self._number = self._number, None
        if number is not None:
            self._guard.unwatch(number)


class MappedFile:
    """The file at `path`, open at `handle` (which the caller closes), mapped. Raises BadCheckpoint when it cannot
    be."""

    def __init__(self, path: Path, handle: int) -> None:
        self.path = path
        self._stamp = _stamp(os.fstat(handle))
        self.num_bytes = self._stamp[0]
        self._lost: str | None = None
        try:
            self.map = _Map(handle, self.num_bytes)
        except (OSError, ValueError) as problem:  # among others: it became shorter just now
            fail(BadCheckpoint, f"{path}: cannot be mapped", got=str(problem))

    def check_readable(self) -> None:
        """Raise FilesChanged when a read of the map has failed; from then on always, with the same line. Cheap."""
        if self._lost is not None:
            raise FilesChanged(self._lost)
        at = self.map.fault()
        if at is None:
            return
        try:
            self._check_stamp()
            fail(
                FilesChanged,
                f"{self.path}: cannot be read while in use",
                got=f"an error of its disk at byte {at}",
                expected=f"{self.num_bytes} bytes",
                do=_DO,
            )
        except FilesChanged as problem:
            self._lost = str(problem)
            raise

    def check_unchanged(self) -> None:
        """Raise FilesChanged when the file on disk is no longer the one that was opened (size, time, inode), or a read
        of the map failed."""
        self.check_readable()
        self._check_stamp()

    def close(self) -> None:
        """Unmap the file, now or when the last array that looks into it goes."""
        with contextlib.suppress(BufferError):
            self.map.close()

    def _check_stamp(self) -> None:
        try:
            now = _stamp(os.stat(self.path))
        except OSError as e:
            fail(FilesChanged, f"{self.path}: gone while in use", got=e.strerror, do=_DO)
        if now != self._stamp:
            fail(
                FilesChanged,
                f"{self.path}: changed while in use",
                got=f"{now[0]} bytes" if now[0] != self.num_bytes else "another file, or one written since",
                expected=f"the same file as at the start, {self.num_bytes} bytes",
                do=_DO,
            )


@contextlib.contextmanager
def reading(path: Path, check: Callable[[], None]) -> Iterator[None]:
    """A context around work that reads mapped files of the model at `path`: a failed read is raised as the error,
    whether the work failed or seems to have gone well. check: raises FilesChanged for a failed read
    (`check_unchanged`)."""
    try:
        yield
    except Exception as problem:
        check()
        if isinstance(problem, OSError) and problem.errno in _UNREADABLE and problem.filename is None:
            _unreadable(path, problem)
        raise
    check()


class MappingGuard(Protocol):
    """Knows whether the files that weights are read from could be read; an open Checkpoint is one."""

    def check_readable(self) -> None:
        """Raise FilesChanged when a page could not be read."""

    def reading(self) -> contextlib.AbstractContextManager[None]:
        """A context around work that reads the weights; see the function `reading`."""


class _InMemory:
    """The guard of weights that come from no file."""

    def check_readable(self) -> None:
        """Do nothing: no file can fail."""

    def reading(self) -> contextlib.AbstractContextManager[None]:
        """A context that does nothing."""
        return contextlib.nullcontext()


IN_MEMORY = _InMemory()


def _unreadable(path: Path, problem: OSError) -> NoReturn:
    fail(FilesChanged, f"{path}: cannot be read while in use", got=problem.strerror, expected="all of it", do=_DO)


def _stamp(found: os.stat_result) -> Stamp:
    """Size, time and inode of a file, which change when the file does."""
    return found.st_size, found.st_mtime_ns, found.st_ino, found.st_dev
