"""Packed forms in the store: where they lie, which files each was made from, how large they are, how they are removed.

    $HERD_HOME/packed/NAME-DIGEST/     model-0000N.safetensors and their index: strips of the quantised matrices alone
                                       source.json: which files they were made from, as they were
                                       herd.manifest.json
    NAME                               of the model's file or folder; DIGEST of its place on the disk

What it is not: packing, or reading what was packed (`auto_pack`).
"""

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from herd.disk.manifest import check_manifest
from herd.errors import HerdError
from herd.progress import Progress, silent
from herd.store import registry

SOURCE = "source.json"


class FileState(msgspec.Struct, frozen=True):
    """A file's size, time and inode, which change when its content does."""

    path: str
    size: int
    mtime_ns: int
    inode: int


class SourceState(msgspec.Struct, frozen=True):
    """The files of a model as they were when it was packed."""

    version: int
    files: tuple[FileState, ...]


def state_of(files: Iterable[Path]) -> SourceState:
    """The state of the files now. Raises OSError."""
    found = []
    for path in files:
        status = path.stat()
        found.append(FileState(str(path.resolve()), status.st_size, status.st_mtime_ns, status.st_ino))
    return SourceState(1, tuple(found))


def folder_of(path: Path) -> Path:
    """Where the packed form of the model at `path` lies, or would."""
    place = path.resolve()
    digest = hashlib.sha256(str(place).encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return registry.home() / "packed" / f"{registry.name_from(place, 80)}-{digest}"


def recorded(folder: Path) -> SourceState | None:
    """The state that the packed form in `folder` was made from; None when it does not say."""
    try:
        return msgspec.json.decode((folder / SOURCE).read_bytes(), type=SourceState)
    except (OSError, msgspec.DecodeError):
        return None


def record(folder: Path, state: SourceState) -> None:
    """Write down the state that the packed form in `folder` was made from."""
    (folder / SOURCE).write_bytes(msgspec.json.format(msgspec.json.encode(state), indent=1) + b"\n")


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the lock for making or removing `folder`, across processes; waits for it."""
    with registry.lock(_lock_name(folder)):
        yield


def is_locked(folder: Path) -> bool:
    """Whether another holder has that lock right now."""
    return registry.is_locked(_lock_name(folder))


def size_of(path: Path) -> int:
    """Size in bytes of the packed form of the model at `path`; 0 when there is none."""
    return folder_bytes(folder_of(path))


def folder_bytes(folder: Path) -> int:
    """Size in bytes of the files of a packed form; 0 when there is none."""
    return sum(p.stat().st_size for p in folder.iterdir()) if folder.is_dir() else 0


def remove(path: Path) -> int:
    """Delete the packed form of the model at `path`; returns how many bytes that freed."""
    folder = folder_of(path)
    if not folder.is_dir():
        return 0
    with lock(folder):
        size = folder_bytes(folder)
        shutil.rmtree(folder, ignore_errors=True)
    return size


def verify(path: Path, progress: Progress = silent) -> bool | None:
    """Compare the packed form of the model at `path` with its digests: None when there is none. One that differs is
    removed, so that the next load makes it again."""
    if not folder_of(path).is_dir():
        return None
    with suppress(HerdError):
        if check_manifest(folder_of(path), progress):
            return True
    remove(path)
    return False


def sweep(folder: Path) -> None:
    """With the lock of `folder` held: remove packed forms whose model was deleted.

    A model whose whole folder is away may lie on a disk that is not plugged in: its packed form stays.
    """
    for path in folder.parent.iterdir():
        if path.name.startswith(".") or path == folder or (state := recorded(path)) is None:
            continue
        places = [Path(f.path) for f in state.files]
        if places and all(p.parent.is_dir() and not p.exists() for p in places):
            shutil.rmtree(path, ignore_errors=True)


def _lock_name(folder: Path) -> str:
    return f"packed-{folder.name}"
