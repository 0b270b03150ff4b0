"""Nothing is half-written: a new file or folder appears under its name complete and synced, or not at all.

What it is: temporary name beside the target, fsync, rename. What it is not: locking between two writers.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from herd.errors import DoesNotFit, NotFound, UsageError, fail


@contextmanager
def new_folder(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty temporary folder that becomes `target` when the block ends well, and vanishes otherwise.

    An empty folder may stand at `target`; anything else is refused unless `overwrite`, and is then moved aside for
    the moment between two renames, so that at every time one whole version is on the disk.
    Raises UsageError, NotFound (no parent folder).
    """
    target = _checked(target, overwrite)
    temp = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    try:
        yield temp
        for path in sorted(temp.rglob("*")):
            _sync(path)
        _sync(temp)
        temp.chmod(0o777 & ~_umask())
        old = None
        if os.path.lexists(target) and not _is_empty_folder(target):
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent)) / target.name
            target.rename(old)
        temp.rename(target)
        _sync(target.parent)
        if old is not None:
            shutil.rmtree(old.parent)
    except BaseException as problem:
        shutil.rmtree(temp, ignore_errors=True)
        _explain(target, problem)
        raise


@contextmanager
def new_file(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield the name of a temporary file that becomes `target` when the block ends well, and vanishes otherwise.

    Raises UsageError when `target` exists (unless `overwrite`; a folder always), NotFound (no parent folder).
    """
    target = _checked(target, overwrite)
    if target.is_dir():
        fail(UsageError, f"{target} is a folder", do="name a file")
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    os.close(handle)
    temp = Path(name)
    try:
        yield temp
        temp.chmod(0o666 & ~_umask())
        _sync(temp)
        temp.replace(target)
        _sync(target.parent)
    except BaseException as problem:
        temp.unlink(missing_ok=True)
        _explain(target, problem)
        raise


def check_disk(target: Path, needed_bytes: int) -> None:
    """Raise DoesNotFit when the file system of `target` has less room than `needed_bytes`."""
    have = shutil.disk_usage(target.absolute().parent).free
    if needed_bytes > have:
        fail(
            DoesNotFit,
            f"{target}: needs {needed_bytes / 1e9:.2f} GB on the disk, {have / 1e9:.2f} GB are free",
            do="free some space, choose a smaller type, or name another disk",
        )


def _explain(target: Path, problem: BaseException) -> None:
    """A disk that ran full in spite of `check_disk` is the machine's fault: say so in one line."""
    if isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        fail(DoesNotFit, f"{target}: the disk is full ({problem.strerror})", do="nothing was left behind")


def _checked(target: Path, overwrite: bool) -> Path:
    target = target.absolute()
    if not target.parent.is_dir():
        fail(NotFound, f"no folder {target.parent}", do="make it first")
    if os.path.lexists(target) and not overwrite and not _is_empty_folder(target):
        fail(UsageError, f"{target} exists already", do="ask for it to be overwritten, or choose another name")
    return target


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def _umask() -> int:
    # The only way to read it is to set it.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
