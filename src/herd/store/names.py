"""Names to places: which file or folder on this machine a name or a path means.

What it is not: a change of the registry (`stored`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from herd.errors import BadFile, NotFound, UsageError, fail
from herd.store import fetch, registry
from herd.store.registry import ModelEntry, Version

LEAST = 5
"""Hexadecimal digits that name a version behind a colon: no form of a model is called so."""
MODEL_SUFFIXES = (".gguf", ".safetensors", ".pth")


@dataclass(frozen=True)
class Place:
    """Where a model lies that was given by a name or a path."""

    path: Path
    """The file or folder to load."""
    name: str | None = None
    """Its name in the store; None: it was given by its path."""
    version: Version | None = None


def look_up(name_or_path: str | Path) -> Place:
    """The place of a model: NAME or NAME@DIGEST of the store, else an existing file or folder. A file that is called
    as a model is (`smollm2`) does not hide it; a path with a `/` in it, such as ./smollm2, means the file.

    Raises NotFound with the nearest names and how to get the model.
    """
    if (path := as_path(name_or_path)) is not None:
        return Place(path)
    name, version = find(str(name_or_path))
    if not version.location.exists():
        do = f"herd import its new place, or herd rm {name}" if version.in_place else f"herd pull {name}"
        fail(NotFound, f"{name}: its files are gone from {version.location}", do=do)
    return Place(version.location, name, version)


def resolve(name_or_path: str | Path) -> Path:
    """The file or folder to load; see `look_up`. Raises NotFound."""
    return look_up(name_or_path).path


def find(name: str) -> tuple[str, Version]:
    """Look up NAME or NAME@DIGEST, or what was pulled (see `expand`): the name alone, and the version that it means.
    Raises NotFound, UsageError."""
    base, _, digest = expand(name).partition("@")
    entry = registry.read().models.get(base)
    if entry is None:
        unknown(name)
    if not digest:
        return base, entry.now
    return base, one_of(base, entry, digest)


def expand(name: str) -> str:
    """NAME or NAME@DIGEST of the store for a name as `herd pull` takes it: llama3.2:1b is llama3.2-1b here, scout:q4_k
    that version of scout; and for NAME:DIGEST. Any other name is left as it is. Raises NotFound for a form that is not
    here."""
    base, at, digest = name.partition("@")
    models = registry.read().models
    if base in models:
        return name
    head, _, tail = base.rpartition(":")
    if not at and head in models and len(tail) >= LEAST and any(v.called(tail) for v in models[head].versions):
        return f"{head}@{tail}"
    from herd.store.spelling import spelled  # the table of models, for names that are none of the store's

    found = spelled(base)
    entry = models.get(found.name) if found is not None else None
    if found is None or entry is None:
        return name
    if found.quant is None:
        return f"{found.name}{at}{digest}"
    version = found.version_in(entry)
    if version is None:
        fail(NotFound, f"{found.name} is not here in this form", got=found.quant, do=f"herd pull {base}")
    return f"{found.name}@{version.id}"


def called(name: str) -> str | None:
    """The store's name for one as `herd pull` takes it (llama3.2:1b), where that means the version in use; else None,
    as where the registry is broken."""
    try:
        base, _, version_id = expand(name).partition("@")
        entry = registry.read().models.get(base)
    except (NotFound, BadFile):
        return None
    return base if entry is not None and version_id in ("", entry.current) else None


def one_of(name: str, entry: ModelEntry, digest: str) -> Version:
    """The version whose digest begins so. Raises NotFound, UsageError."""
    found = [v for v in entry.versions if v.called(digest.lower())]
    if len(found) != 1:
        have = ", ".join(v.id for v in entry.versions)
        kind = NotFound if not found else UsageError
        fail(kind, f"{name}: {len(found)} versions begin with {digest}", expected=f"one of {have}")
    return found[0]


def as_path(name_or_path: str | Path) -> Path | None:
    """The existing file or folder that is meant; None: a name is, see `look_up`."""
    path, written = Path(name_or_path).expanduser(), str(name_or_path)
    if not path.exists():
        return None
    may_be_name = isinstance(name_or_path, str) and ("/" not in written or _is_other_folder(path))
    return None if may_be_name and _known_name(written) else path


def owner_of(path: Path) -> tuple[str, Version] | None:
    """The name and version that lie at a path; None: it has no name."""
    place = path.resolve()
    found = ((name, v) for name, entry in registry.read().models.items() for v in entry.versions)
    return next(((name, v) for name, v in found if v.location.resolve() == place), None)


def _known_name(name: str) -> bool:
    return name.partition("@")[0] in registry.read().models


def _is_other_folder(path: Path) -> bool:
    """Whether this is a folder that holds no model: one called `smollm2` must not hide the model of that name."""
    return path.is_dir() and not any(p.suffix in MODEL_SUFFIXES for p in path.iterdir())


def unknown(name: str) -> NoReturn:
    """Raise NotFound with the nearest names and how to get the model."""
    from difflib import get_close_matches

    from herd.store import known_models
    from herd.store.spelling import spelled

    base = name.partition("@")[0]
    broken = registry.read().broken.get(base)
    if broken is not None:
        fail(BadFile, f"{base}: its record in models.json is broken: {broken.why}", do="import or pull it again")
    found = spelled(base)
    near = get_close_matches(base, {*registry.read().models, *fetch.KNOWN, *known_models.names()}, n=3, cutoff=0.5)
    if name.startswith("backend:"):
        do = "here a model of files is wanted; backends are asked by herd run, chat, eval, batch and serve --backend"
    elif base in fetch.KNOWN or (found is not None and found.model is not None):
        do = f"herd pull {base}"
    elif found is not None and not base.endswith(MODEL_SUFFIXES):
        do = f"herd pull {base}, or herd import PATH"
    else:
        do = "herd list shows what there is; herd pull smollm2, or herd import PATH"
    others = " or ".join(n for n in near if n != base)
    fail(NotFound, "no model or file of this name", got=name, expected=others or None, do=do)
