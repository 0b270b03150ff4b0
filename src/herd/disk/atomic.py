"""Atomic writes: a new file or folder appears under its name complete and synced, or not at all.

What it is: temporary name beside the target, fsync, rename. A writer holds the kernel's lock of what it makes, so that
the next one for the same target tells what a killed one left, and removes it. What it is not: locking between two
writers.
"""

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from herd.errors import DoesNotFit, NotFound, UsageError, fail


@contextmanager
def new_folder(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty temporary folder that becomes `target` when the block ends well, and vanishes otherwise.

    An empty folder may stand at `target`; anything else is refused unless `overwrite`. At every time one whole version
    is on the disk (see `publish`).
    Raises UsageError, NotFound (no parent folder).
    """
    target = checked_target(target, overwrite)
    with _temporary(target, Path.mkdir) as temp:
        try:
            yield temp
            publish(temp, target)
        except BaseException as problem:
            shutil.rmtree(temp, ignore_errors=True)
            explain_full_disk(target, problem)
            raise


def publish(temp: Path, target: Path) -> None:
    """Rename the folder `temp` to `target`, synced. An older folder there trades places with it in one step where the
    file system can do that, else it is moved aside for a moment."""
    for path in sorted(temp.rglob("*")):
        sync(path)
    sync(temp)
    if os.path.lexists(target) and not _is_empty_folder(target) and _exchange(temp, target):
        sync(target.parent)
        _remove(temp)
        return
    old = None
    try:
        if os.path.lexists(target) and not _is_empty_folder(target):
            old = _beside(target, "old")
            target.rename(old)
        temp.rename(target)
        sync(target.parent)
    except BaseException:
        if old is not None and not os.path.lexists(target):
            old.rename(target)
        raise
    if old is not None:
        _remove(old)


@contextmanager
def new_file(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield the name of a temporary file that becomes `target` when the block ends well, and vanishes otherwise.

    Raises UsageError when `target` exists (unless `overwrite`; a folder always), NotFound (no parent folder).
    """
    target = checked_target(target, overwrite)
    if target.is_dir():
        fail(UsageError, f"{target} is a folder", do="name a file")
    with _temporary(target, lambda path: path.touch(exist_ok=False)) as temp:
        try:
            yield temp
            sync(temp)
            temp.replace(target)
            sync(target.parent)
        except BaseException as problem:
            temp.unlink(missing_ok=True)
            explain_full_disk(target, problem)
            raise


def remove_left(target: Path) -> None:
    """Remove what killed writers of `target` left beside it; files that a living writer holds, or may hold, stay.

    What was moved aside is the only version while nothing stands at `target`: then it stays as well.
    """
    ours = re.compile(rf"\.{re.escape(target.name[:100])}\.[0-9a-f]{{12}}\.(part|old)")
    with suppress(OSError):
        for path in target.parent.iterdir():
            kind = ours.fullmatch(path.name)
            if kind is None or (kind[1] == "old" and not os.path.lexists(target)):
                continue
            with suppress(BlockingIOError):
                lock = _lock(path)
                if lock is not None:
                    _remove(path)
                    os.close(lock)


def check_disk(target: Path, needed_bytes: int) -> None:
    """Raise DoesNotFit when the file system of `target` has less room than `needed_bytes`."""
    have = shutil.disk_usage(target.absolute().parent).free
    if needed_bytes > have:
        fail(
            DoesNotFit,
            f"{target}: needs {needed_bytes / 1e9:.2f} GB on the disk, {have / 1e9:.2f} GB are free",
            do="free some space, choose a smaller type, or name another disk",
        )


def explain_full_disk(target: Path, problem: BaseException, do: str = "nothing was left behind") -> None:
    """Raise DoesNotFit in one line when `problem` is a disk that ran full in spite of `check_disk`; return
    otherwise."""
    if isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        fail(DoesNotFit, f"{target}: the disk is full ({problem.strerror})", do=do)


def checked_target(target: Path, overwrite: bool) -> Path:
    """`target` as an absolute path, if something may be written there. Raises UsageError, NotFound (see
    `new_folder`)."""
    target = target.absolute()
    if not target.parent.is_dir():
        fail(NotFound, f"no folder {target.parent}", do="make it first")
    if os.path.lexists(target) and not overwrite and not _is_empty_folder(target):
        do = "give --overwrite (in Python overwrite=True), or choose another name"
        fail(UsageError, f"{target} exists already", do=do)
    return target


def _exchange(a: Path, b: Path) -> bool:
    """Swap two paths in one step (Linux's renameat2); False where the system cannot."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here, flag = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return call is not None and call(here, os.fsencode(a), here, os.fsencode(b), flag) == 0


@contextmanager
def _temporary(target: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """A new file or folder beside `target`, made by `make`, and held as long as the block runs."""
    remove_left(target)
    while True:
        temp = _beside(target, "part")
        try:
            make(temp)
        except OSError as problem:
            explain_full_disk(target, problem)
            raise
        with suppress(BlockingIOError):  # somebody took it, not yet held, for left, and removes it
            lock = _lock(temp)
            if os.path.exists(temp):
                break
            if lock is not None:
                os.close(lock)
    try:
        yield temp
    finally:
        if lock is not None:
            os.close(lock)


def _lock(path: Path) -> int | None:
    """A descriptor that holds a file or folder alone; None where it is gone, or its file system knows no locks. Raises
    BlockingIOError where somebody holds it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        os.close(handle)
        if isinstance(problem, BlockingIOError):
            raise
        return None
    return handle


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def _beside(target: Path, what: str) -> Path:
    """A new hidden name in the same folder, so that a rename stays on one file system. Made with the usual mode, not
    by `tempfile`, whose files are private: the umask of a process cannot be read without a moment of changing it."""
    return target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.{what}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def make_folders(path: Path) -> None:
    """Make a folder and those above it, where they are missing; their names are on the disk when this returns. Raises
    DoesNotFit for a full disk, OSError."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            sync(folder.parent)
    except OSError as problem:
        explain_full_disk(path, problem)
        raise


def sync(path: Path) -> None:
    """Call fsync for a file or a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
