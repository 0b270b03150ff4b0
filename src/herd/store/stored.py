"""The model store: names to files on this machine. The one place where a name becomes a path.

    look_up("smollm2")            where it lies: a name of the store, or a path
    resolve("smollm2")            the file or folder to load
    pull, import_path, rm, use    change what there is; add_version: without a change of what the name means
    entries, nameless, verify     tell what there is

What it is not: a reader of weights (`open_checkpoint`), a printer. Files imported in place are never written, moved
or deleted.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from herd.errors import NotFound, UsageError, fail
from herd.progress import Progress, silent
from herd.store import fetch, packed_copies, registry
from herd.store.files import quick_id, scan
from herd.store.names import Place, as_path, expand, find, look_up, one_of, owner_of, resolve, unknown
from herd.store.packed_copies import PackedCopy
from herd.store.registry import ModelEntry, Version
from herd.store.verifying import Verified, verify

if TYPE_CHECKING:
    from herd.store.pulling import Pull

__all__ = [
    "Place",
    "Removed",
    "Verified",
    "add_version",
    "entries",
    "find",
    "import_path",
    "look_up",
    "nameless",
    "pull",
    "remember_tasks",
    "resolve",
    "rm",
    "use",
    "verify",
]


def entries() -> dict[str, ModelEntry]:
    """All models by name, sorted."""
    return dict(sorted(registry.read().models.items()))


def pull(
    name: str,
    *,
    revision: str | None = None,
    file: str | None = None,
    anyway: bool = False,
    progress: Progress = silent,
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[str, Version]:
    """Fetch a model and make it current; returns its name here. See `pulling.pull` for what a name may be and what it
    raises. anyway: also a form that does not fit the memory; tell: hears which form was taken, and why."""
    from herd.store import pulling

    asked = pulling.Pull(revision=revision, file=file, anyway=anyway, progress=progress, tell=tell)
    return pulling.pull(name, asked)


def import_path(path: str | Path, name: str | None = None, *, switch: bool = True) -> tuple[str, Version]:
    """Register a file or folder where it lies, without a copy, and make it current. Digests are left to `verify`.
    switch: False leaves a name that is there with the version that it means.

    Raises NotFound, BadCheckpoint and BadConfig (no model that Herd runs), UsageError (bad name).
    """
    from herd.checkpoint.open import open_checkpoint

    # Not resolved: a hub cache's folder is links into a heap of blobs, and its name is the one that says something.
    place = Path(path).expanduser().absolute()
    chosen = registry.check_name(name) if name is not None else _name_of(place)
    files = scan(place)
    with open_checkpoint(place):  # headers and config: what cannot be loaded is not registered
        pass
    version = Version(
        id=quick_id(place if place.is_dir() else place.parent, files),
        path=str(place),
        files=files,
        source="import",
        in_place=True,
        added_s=time.time(),
    )
    registry.add(chosen, version, switch=switch)
    return chosen, version


def use(name_at_digest: str, why: str = "use", compared: str = "", instead_of: str = "") -> tuple[str, Version]:
    """Make NAME@DIGEST, or NAME:DIGEST, the version that NAME means. The switch is a line of the name's history: why,
    and the folder of the comparison that it was decided by, if any. Nothing is deleted; whoever is interrupted leaves
    the name with the one version or the other. instead_of: the id that the name has to mean until then: whoever decides
    by it does not undo what somebody else decided meanwhile. Raises NotFound, UsageError."""
    base, _, digest = expand(name_at_digest).partition("@")
    if not digest:
        fail(UsageError, "use", got=name_at_digest, expected="NAME@DIGEST", do=f"herd use {base} lists the versions")
    with registry.edit() as all_models:
        entry = all_models.models.get(base)
        if entry is None:
            unknown(base)
        version = one_of(base, entry, digest)
        if instead_of and entry.current not in (instead_of, version.id):
            do = f"herd use {base} {version.id} takes the other one all the same"
            fail(UsageError, f"{base} means another version by now", got=entry.current, expected=instead_of, do=do)
        all_models.models[base] = entry.switched(version.id, why, compared)
    return base, version


def add_version(name: str, new: str, asked: "Pull | None" = None) -> Version:
    """Register `new` as a version of NAME, which goes on meaning what it means. new: NAME@DIGEST; a file or folder;
    another name of the store, whose files both have then; or, where `asked` says how, what `herd pull` takes.

    Raises NotFound, and what importing and pulling raise.
    """
    if (path := as_path(new)) is not None:
        find(name)
        return import_path(path, find(name)[0], switch=False)[1]
    from herd.store import pulling
    from herd.store.spelling import spelled

    name = find(name)[0]
    try:
        source, version = find(new)
    except NotFound:
        if asked is None or (new not in fetch.KNOWN and spelled(new) is None):
            raise
        source, version = pulling.pull(new, replace(asked, switch=False))
    if source != name:
        version = msgspec.structs.replace(version, in_place=True, source=f"{source}@{version.id}")
        registry.add(name, version, switch=False)
    return version


def remember_tasks(name: str, tasks: Sequence[str]) -> None:
    """Write down the tasks that NAME was evaluated on: names of those that come with Herd, and absolute paths."""
    with registry.edit() as all_models:
        entry = all_models.models.get(name)
        if entry is not None:
            all_models.models[name] = msgspec.structs.replace(entry, tasks=tuple(tasks))


@dataclass(frozen=True)
class Removed:
    """The result of `rm`."""

    name: str
    freed_bytes: int
    kept: tuple[Path, ...]
    """Files and folders that are not the store's, left where they are."""
    by_path: bool = False
    """Whether it was a path without a name, of which only the packed form went."""


def rm(name: str) -> Removed:
    """Remove NAME with all its versions, or one version NAME@DIGEST, from the registry; delete files that were pulled
    or packed, never imported ones. Of a PATH that has no name: delete its packed form.

    When the current version of a name goes, its newest other one becomes current. Raises NotFound, and UsageError for
    files that another name's version is made of.
    """
    base, _, digest = expand(name).partition("@")
    if base in registry.read().broken:
        with registry.edit() as all_models:
            all_models.broken.pop(base, None)
        return Removed(base, 0, ())
    if base not in registry.read().models:
        return _rm_path(name)
    with registry.lock(base):
        with registry.edit() as all_models:
            entry = all_models.models.get(base)
            if entry is None:
                unknown(name)
            gone = (one_of(base, entry, digest),) if digest else entry.versions
            left = tuple(v for v in entry.versions if v not in gone)
            _refuse_shared(base, gone, all_models.models)
            if left:
                current = entry.current if any(v.id == entry.current for v in left) else left[-1].id
                all_models.models[base] = msgspec.structs.replace(entry.switched(current, "rm"), versions=left)
            else:
                del all_models.models[base]
            kept = {v.location for one in all_models.models.values() for v in one.versions}
        freed = sum(packed_copies.remove(v.location) for v in gone if v.location not in kept)
        freed += sum(_delete(base, v) for v in gone if not v.in_place)
    return Removed(base, freed, tuple(v.location for v in gone if v.in_place))


def _refuse_shared(name: str, gone: Sequence[Version], models: Mapping[str, ModelEntry]) -> None:
    """Raise UsageError where files would be deleted that a version of another name is made of."""
    own = {v.location for v in gone if not v.in_place}
    for other, entry in models.items():
        for version in entry.versions if other != name else ():
            if version.location in own:
                do = f"herd rm {other}@{version.id} first"
                fail(UsageError, f"the files of {name} are {other}@{version.id}, too", do=do)


def _rm_path(name: str) -> Removed:
    """Delete the packed form of a model that was run by its path, which may be gone. Raises NotFound, UsageError."""
    path = Path(name).expanduser()
    if (owner := owner_of(path)) is not None:
        fail(UsageError, f"{name} is {owner[0]} in the store", do=f"herd rm {owner[0]}")
    found = packed_copies.copies_of(path, nameless())
    if not found and not path.exists():
        unknown(name)
    if not found:
        fail(NotFound, f"{name}: nothing of it is in the store", do="its own files are yours to delete")
    if len(found) > 1:
        listed = ", ".join(str(c.place) for c in found)
        fail(UsageError, f"{name} holds {len(found)} models with a packed form", got=listed, do="name one of them")
    place = found[0].place
    kept = (place,) if place.exists() and place != found[0].folder else ()
    return Removed(str(place), packed_copies.remove_copy(found[0]), kept, by_path=True)


def nameless() -> list[PackedCopy]:
    """Packed forms of models that have no name in the store: they were run by their path."""
    found = packed_copies.copies()
    named = [v.location for entry in entries().values() for v in entry.versions]
    owned = {copy.folder for place in named for copy in packed_copies.copies_of(place, found)}
    return [copy for copy in found if copy.folder not in owned]


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


def _name_of(path: Path) -> str:
    """A name for an imported path: ORG/NAME out of a hub cache, else its last part."""
    for part in (path.name, *(p.name for p in path.parents)):
        if part.startswith("models--") and len(pieces := part.split("--")) == 3:
            return registry.check_name("/".join(pieces[1:]))
    return registry.check_name(registry.name_from(path, 96))
