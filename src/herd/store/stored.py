"""The model store: names to files on this machine. The one place where a name becomes a path.

    resolve("smollm2")            the file or folder to load
    pull, import_path, rm, use    change what there is
    entries, show, verify         tell what there is

What it is not: a reader of weights (`open_checkpoint`), a printer. Files imported in place are never written, moved
or deleted.
"""

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import msgspec

from herd.disk.hashing import sha256
from herd.disk.manifest import check_manifest
from herd.errors import BadCheckpoint, BadFile, NotFound, UsageError, fail
from herd.progress import Progress, silent
from herd.store import fetch, packed_copies, registry
from herd.store.files import digest_of, quick_id, scan
from herd.store.registry import FileRecord, ModelEntry, Version

MODEL_SUFFIXES = (".gguf", ".safetensors", ".pth")


def resolve(name_or_path: str | Path) -> Path:
    """The file or folder to load: an existing path, else the model called NAME or NAME@DIGEST.

    Raises NotFound with the nearest names and how to get the model.
    """
    path = Path(name_or_path).expanduser()
    if path.exists() and not (_is_other_folder(path) and _known_name(str(name_or_path))):
        return path
    name, version = find(str(name_or_path))
    if not version.location.exists():
        do = f"herd import its new place, or herd rm {name}" if version.in_place else f"herd pull {name}"
        fail(NotFound, f"{name}: its files are gone from {version.location}", do=do)
    return version.location


def find(name: str) -> tuple[str, Version]:
    """Look up NAME or NAME@DIGEST: the name alone, and the version that it means. Raises NotFound, UsageError."""
    base, _, digest = name.partition("@")
    entry = registry.read().models.get(base)
    if entry is None:
        _unknown(name)
    if not digest:
        return base, entry.now
    return base, _one(base, entry, digest)


def entries() -> dict[str, ModelEntry]:
    """All models by name, sorted."""
    return dict(sorted(registry.read().models.items()))


def pull(
    name: str, *, revision: str | None = None, file: str | None = None, progress: Progress = silent
) -> tuple[str, Version]:
    """Fetch a known model, or ORG/NAME from the hub, and make it current. See `fetch` and `hub` for what it raises."""
    registry.check_name(name)
    if name in fetch.KNOWN:
        return name, fetch.pull_known(name, progress)
    if "/" not in name:
        known = ", ".join(fetch.KNOWN)
        fail(NotFound, f"pull {name}: unknown", expected=f"{known}, or ORG/NAME of a hub", do="or: herd import PATH")
    from herd.store import hub

    return name, hub.pull_hub(name, revision=revision, file=file, progress=progress)


def import_path(path: str | Path, name: str | None = None) -> tuple[str, Version]:
    """Register a file or folder where it lies, without a copy, and make it current. Digests are left to `verify`.

    Raises NotFound, BadCheckpoint and BadConfig (no model that Herd runs), UsageError (bad name).
    """
    from herd.checkpoint.open import open_checkpoint

    # Not resolved: a hub cache's folder is links into a heap of blobs, and its name is the one that says something.
    place = Path(path).expanduser().absolute()
    files = scan(place)
    with open_checkpoint(place):  # headers and config: what cannot be loaded is not registered
        pass
    chosen = registry.check_name(name) if name else _name_of(place)
    version = Version(
        id=quick_id(place if place.is_dir() else place.parent, files),
        path=str(place),
        files=files,
        source="import",
        in_place=True,
        added_s=time.time(),
    )
    registry.add(chosen, version)
    return chosen, version


def use(name_at_digest: str) -> tuple[str, Version]:
    """Make NAME@DIGEST the version that NAME means."""
    base, _, digest = name_at_digest.partition("@")
    if not digest:
        fail(UsageError, "use", got=name_at_digest, expected="NAME@DIGEST", do=f"herd show {base} lists the digests")
    with registry.edit() as all_models:
        entry = all_models.models.get(base)
        if entry is None:
            _unknown(base)
        version = _one(base, entry, digest)
        all_models.models[base] = ModelEntry(version.id, entry.versions)
    return base, version


@dataclass(frozen=True)
class Removed:
    """The result of `rm`."""

    name: str
    freed_bytes: int
    kept: tuple[Path, ...]
    """Imported files and folders, left where they are."""


def rm(name: str) -> Removed:
    """Remove NAME with all its versions, or one version NAME@DIGEST, from the registry; delete files that were pulled
    or packed, never imported ones.

    When the current version of a name goes, its newest other one becomes current.
    """
    base, _, digest = name.partition("@")
    if base in registry.read().broken:
        with registry.edit() as all_models:
            all_models.broken.pop(base, None)
        return Removed(base, 0, ())
    if base not in registry.read().models:
        _unknown(name)
    with registry.lock(base):
        with registry.edit() as all_models:
            entry = all_models.models.get(base)
            if entry is None:
                _unknown(name)
            gone = (_one(base, entry, digest),) if digest else entry.versions
            left = tuple(v for v in entry.versions if v not in gone)
            if left:
                current = entry.current if any(v.id == entry.current for v in left) else left[-1].id
                all_models.models[base] = ModelEntry(current, left)
            else:
                del all_models.models[base]
        freed = sum(packed_copies.remove(v.location) for v in gone)
        freed += sum(_delete(base, v) for v in gone if not v.in_place)
    return Removed(base, freed, tuple(v.location for v in gone if v.in_place))


def _delete(name: str, version: Version) -> int:
    """Delete a pulled version's own folder, out of its name first; returns the bytes that this freed."""
    folder = registry.folder(name) / version.id
    for left in folder.parent.glob(".*.old"):  # of a removal that was killed
        shutil.rmtree(left, ignore_errors=True)
    if not folder.is_dir():
        return 0
    bin_ = Path(tempfile.mkdtemp(prefix=".", suffix=".old", dir=folder.parent))
    folder.rename(bin_ / folder.name)
    shutil.rmtree(bin_)
    if not any(folder.parent.iterdir()):
        folder.parent.rmdir()
    return version.size_bytes


@dataclass(frozen=True)
class Verified:
    """The result of `verify`: files that equal their record, and files whose digest is recorded only now.

    packed: the packed form in the store: None, there is none; False, it was damaged and is removed, and the next load
    makes it again; True, it is whole.
    """

    name: str
    version: Version
    equal: tuple[str, ...]
    recorded: tuple[str, ...]
    packed: bool | None = None


def verify(name: str, progress: Progress = silent) -> Verified:
    """Read every file of a model and compare it with its record, or at first with its folder's manifest.

    Raises BadCheckpoint naming all that differ.
    """
    base, version = find(name)
    again = f"herd import {version.path} --name {base}" if version.in_place else f"herd rm {base}, herd pull {base}"
    equal, recorded, bad, files = [], [], [], dict(version.files)
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
        digest = sha256(path, progress)
        if record.sha256 is None:
            recorded.append(file)
            files[file] = FileRecord(record.size, record.mtime_ns, digest)
        elif digest == record.sha256:
            equal.append(file)
        else:
            bad.append(f"{file} has sha256 {digest[:12]}… instead of {record.sha256[:12]}…")
    if bad:
        fail(BadCheckpoint, f"{base}: " + "; ".join(bad), do=again)
    if recorded and version.location.is_dir():
        # What Herd itself wrote can be told from the first time on; a folder without a manifest has nothing to say.
        check_manifest(version.location, progress)
    if recorded:
        version = msgspec.structs.replace(version, files=files, digest=digest_of(files))
        with registry.edit() as all_models:
            entry = all_models.models.get(base)
            if entry is not None:
                kept = tuple(version if v.id == version.id else v for v in entry.versions)
                all_models.models[base] = ModelEntry(entry.current, kept)
    return Verified(base, version, tuple(equal), tuple(recorded), packed_copies.verify(version.location, progress))


# -- names --------------------------------------------------------------------------------------------------------


def _one(name: str, entry: ModelEntry, digest: str) -> Version:
    found = [v for v in entry.versions if v.called(digest.lower())]
    if len(found) != 1:
        have = ", ".join(v.id for v in entry.versions)
        kind = NotFound if not found else UsageError
        fail(kind, f"{name}: {len(found)} versions begin with {digest}", expected=f"one of {have}")
    return found[0]


def _known_name(name: str) -> bool:
    return name.partition("@")[0] in registry.read().models


def _is_other_folder(path: Path) -> bool:
    """Whether this is a folder that holds no model: one called `smollm2` must not hide the model of that name."""
    return path.is_dir() and not any(p.suffix in MODEL_SUFFIXES for p in path.iterdir())


def _name_of(path: Path) -> str:
    """A name for an imported path: ORG/NAME out of a hub cache, else its last part."""
    for part in (path.name, *(p.name for p in path.parents)):
        if part.startswith("models--") and len(pieces := part.split("--")) == 3:
            return registry.check_name("/".join(pieces[1:]))
    return registry.check_name(registry.name_from(path, 96))


def _unknown(name: str) -> NoReturn:
    from difflib import get_close_matches

    base = name.partition("@")[0]
    broken = registry.read().broken.get(base)
    if broken is not None:
        fail(BadFile, f"{base}: its record in models.json is broken: {broken.why}", do="import or pull it again")
    near = get_close_matches(base, {*registry.read().models, *fetch.KNOWN}, n=3, cutoff=0.5)
    if base in fetch.KNOWN:
        do = f"herd pull {base}"
    elif "/" in base and registry.NAME.fullmatch(base) and not base.endswith(MODEL_SUFFIXES):
        do = f"herd pull {base}, or herd import PATH"
    else:
        do = "herd list shows what there is; herd pull smollm2, or herd import PATH"
    fail(NotFound, "no model or file of this name", got=name, expected=" or ".join(near) or None, do=do)
