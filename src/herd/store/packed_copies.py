"""Packed forms in the store: where they lie, which files each was made from, how large they are, how they are removed.

    $HERD_HOME/packed/NAME-DIGEST/     model-0000N.safetensors and their index: strips of the quantised matrices alone
                                       source.json: which files they were made from, as they were, and of what model
                                       herd.manifest.json
    NAME                               of the model's file or folder; DIGEST of its place on the disk

What it is not: packing, or reading what was packed (`auto_pack`).
"""

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
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


class _Recorded(msgspec.Struct, frozen=True, omit_defaults=True):
    """source.json."""

    version: int
    files: tuple[FileState, ...]
    place: str | None = None
    """The model's file or folder; None: it was packed before this was written down."""


@dataclass(frozen=True)
class PackedCopy:
    """A packed form in the store."""

    folder: Path
    place: Path
    """The model's file or folder that it was made from; `folder` itself where nobody knows."""

    @property
    def size_bytes(self) -> int:
        """Bytes of its files."""
        return folder_bytes(self.folder)


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
    found = _read(folder)
    return None if found is None else SourceState(found.version, found.files)


def record(folder: Path, state: SourceState, place: Path) -> None:
    """Write down the state that the packed form in `folder` was made from, and the place of the model."""
    found = _Recorded(state.version, state.files, str(place.resolve()))
    (folder / SOURCE).write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")


def _read(folder: Path) -> _Recorded | None:
    try:
        return msgspec.json.decode((folder / SOURCE).read_bytes(), type=_Recorded)
    except (OSError, msgspec.DecodeError):
        return None


def copies() -> list[PackedCopy]:
    """All packed forms in the store, by the names of their folders."""
    home = registry.home() / "packed"
    folders = sorted(p for p in home.iterdir() if p.is_dir() and not p.name.startswith(".")) if home.is_dir() else []
    return [PackedCopy(folder, _place(folder)) for folder in folders]


def _place(folder: Path) -> Path:
    """Where the model lies that the packed form in `folder` was made from."""
    found = _read(folder)
    if found is None:
        return folder
    files = [Path(f.path) for f in found.files]
    told = [] if found.place is None else [Path(found.place)]
    return next((p for p in (*told, *files, *(p.parent for p in files)) if folder_of(p).name == folder.name), folder)


def copies_of(path: Path, among: Iterable[PackedCopy] | None = None) -> list[PackedCopy]:
    """The packed forms of the model at `path`; of a folder also those of the GGUF files in it, which is how a folder is
    run that holds one. among: those that are there, where the caller has them."""
    place, own = path.resolve(), folder_of(path)
    found = copies() if among is None else among
    return [
        c
        for c in found
        if c.folder == own or place in (c.place, c.folder) or (c.place.suffix == ".gguf" and c.place.parent == place)
    ]


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
    return sum(c.size_bytes for c in copies_of(path))


def folder_bytes(folder: Path) -> int:
    """Size in bytes of the files of a packed form; 0 when there is none."""
    return sum(p.stat().st_size for p in folder.iterdir()) if folder.is_dir() else 0


def remove(path: Path) -> int:
    """Delete the packed form of the model at `path`; returns how many bytes that freed."""
    return sum(remove_copy(c) for c in copies_of(path))


def remove_copy(copy: PackedCopy) -> int:
    """Delete a packed form; returns how many bytes that freed."""
    with lock(copy.folder):
        size = copy.size_bytes
        shutil.rmtree(copy.folder, ignore_errors=True)
    return size


def verify(path: Path, progress: Progress = silent) -> bool | None:
    """Compare the packed form of the model at `path` with its digests: None when there is none. One that differs is
    removed, so that the next load makes it again."""
    found = copies_of(path)
    damaged = [c for c in found if not _is_whole(c.folder, progress)]
    for copy in damaged:
        remove_copy(copy)
    return not damaged if found else None


def _is_whole(folder: Path, progress: Progress) -> bool:
    with suppress(HerdError):
        return check_manifest(folder, progress)
    return False


def sweep(folder: Path) -> None:
    """Remove packed forms whose model was deleted, with the lock of `folder` held.

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
