"""Comparing a model's files with their digests: those of the store with their record, others with what they say of
themselves.
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from herd.disk.hashing import sha256
from herd.errors import BadCheckpoint, fail
from herd.progress import Progress, part_of, silent
from herd.store import packed_copies, registry
from herd.store.files import check_own, digest_of, quick_id, scan
from herd.store.names import as_path, find, owner_of
from herd.store.registry import FileRecord, Version


@dataclass(frozen=True)
class Verified:
    """The result of `verify`: files that equal their record, files whose digest is recorded only now, and those of a
    model without a name of which no digest was known, and none is kept.

    packed: the packed form in the store: None, there is none; False, it was damaged and is removed, and the next load
    makes it again; True, it is whole.
    """

    name: str
    version: Version
    equal: tuple[str, ...]
    recorded: tuple[str, ...]
    packed: bool | None = None
    unknown: tuple[str, ...] = ()


def verify(name: str, progress: Progress = silent) -> Verified:
    """Read every file of a model and compare it with its record, or at first with what its own files say of it.

    Raises BadCheckpoint naming all that differ.
    """
    if (path := as_path(name)) is not None:
        if (owner := owner_of(path)) is None:
            return _verify_path(path, progress)
        name = f"{owner[0]}@{owner[1].id}"
    base, version = find(name)
    again = f"herd import {version.path} --name {base}" if version.in_place else f"herd rm {base}, herd pull {base}"
    equal, recorded, bad, files = [], [], [], dict(version.files)
    done = 0
    for file, record in version.files.items():
        path = version.file(file)
        if not path.is_file():
            bad.append(f"{file} is gone")
            continue
        status = path.stat()
        if status.st_size != record.size:
            bad.append(f"{file} has {status.st_size} bytes instead of {record.size}")
            continue
        if record.sha256 is None and status.st_mtime_ns != record.mtime_ns:
            bad.append(f"{file} was written to since it was imported")
            continue
        digest = sha256(path, part_of(progress, f"checking {base}", done, version.size_bytes))
        done += record.size
        if record.sha256 is None:
            recorded.append(file)
            files[file] = FileRecord(record.size, record.mtime_ns, digest)
        elif digest == record.sha256:
            equal.append(file)
        else:
            bad.append(f"{file} has sha256 {digest[:12]}… instead of {record.sha256[:12]}…")
    if bad:
        fail(BadCheckpoint, f"{base}: " + "; ".join(bad), do=again)
    if recorded:
        check_own(version.location, progress)
        version = msgspec.structs.replace(version, files=files, digest=digest_of(files))
        with registry.edit() as all_models:
            entry = all_models.models.get(base)
            if entry is not None:
                kept = tuple(version if v.id == version.id else v for v in entry.versions)
                all_models.models[base] = msgspec.structs.replace(entry, versions=kept)
    return Verified(base, version, tuple(equal), tuple(recorded), packed_copies.verify(version.location, progress))


def _verify_path(path: Path, progress: Progress) -> Verified:
    """`verify` of a model that has no name. Raises NotFound, BadCheckpoint and its kinds."""
    from herd.checkpoint.open import open_checkpoint

    found = scan(path)
    with open_checkpoint(path):  # headers and config
        pass
    known = check_own(path, progress)
    total = sum(record.size for name, record in found.items() if known.get(name) is None)
    files, done = {}, 0
    for name, record in found.items():
        file = (path if path.is_dir() else path.parent) / name
        tell = part_of(progress, f"checking {path.name}", done, total)
        files[name] = FileRecord(record.size, record.mtime_ns, known.get(name) or sha256(file, tell))
        done += 0 if known.get(name) else record.size
    version = Version(
        id=quick_id(path if path.is_dir() else path.parent, found),
        path=str(path.absolute()),
        files=files,
        source="path",
        in_place=True,
        digest=digest_of(files),
    )
    equal = tuple(name for name in files if name in known)
    unknown = tuple(name for name in files if name not in known)
    return Verified(str(path), version, equal, (), packed_copies.verify(path, progress), unknown)
