"""The models that clients may name: those of the store, those that the service was started with, and those that are no
files but have been registered: hosts, other engines.

A name from the network is looked up, never opened: it cannot be a path.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

from herd.backends.gate import Said
from herd.chat_model import Capabilities, ChatModel
from herd.disk.records import Broken
from herd.errors import HerdError, NotFound, UsageError, fail
from herd.server.machine_paths import hide
from herd.server.profiles import Profile, Profiles
from herd.store import registry
from herd.store.about import About, describe
from herd.store.names import called
from herd.store.registry import ModelEntry, Version

LATEST = ":latest"
"""Ollama's clients put it behind every name that has no tag."""
MOST_TOLD = 1000
"""Lines about broken records."""
MOST_ALIKE = 200
"""Names that a wrong one is compared with, which takes time."""
MOST_ABOUT = 64
"""Models whose headers are remembered."""
ABOUT_BYTES = 64 << 10
"""Bytes of one description: a configuration, and bytes by type."""
R = TypeVar("R")
_NOTHING: Mapping[str, Any] = {}


class Catalogue(Protocol):
    """Maps names to what is known of a model before it is loaded."""

    profiles: Profiles
    """Models made of another one and settings."""

    def names(self) -> dict[str, "CatalogueEntry"]:
        """All models, sorted by name."""

    def find(self, name: str) -> "CatalogueEntry":
        """A model by its name, with or without `:latest`. Raises NotFound with the nearest names."""

    def about(self, name: str) -> About | None:
        """Shape, types and licence of a model, from its headers; None: it has no files. Raises NotFound, BadFile."""


@dataclass(frozen=True)
class RegisteredModel:
    """A model that is not a file on this machine."""

    load: Callable[[], ChatModel]
    """Makes one, on a thread; it is closed when it has been idle for long, and made again when it is asked for."""
    capabilities: Capabilities | None = None
    """The capabilities as far as they are known before it is loaded; None: they are not."""
    context: int | None = None
    """Tokens, as far as they are known before that."""
    added_s: float = 0.0
    """Unix time."""
    said: Callable[[], Said] = lambda: Said(None)
    """What it says now of whether what it is asked may leave the house."""


class CatalogueEntry:
    """A model that clients can ask for."""

    def __init__(
        self,
        name: str,
        path: Path | None,
        *,
        digest: str,
        size_bytes: int,
        added_s: float,
        base: str = "",
        profile: Profile | None = None,
        registered: RegisteredModel | None = None,
        version: str = "",
    ) -> None:
        self.name = name
        """The name by which clients call it."""
        self.base = base or name
        """The model that is loaded for it."""
        self.profile = profile
        self.path = path
        """Path of its files; None: it is `registered`."""
        self.registered = registered
        self.digest = digest
        """Digest of the content, as far as it is known: hex."""
        self.version = version
        """Which version of the store it is; empty where it is none of the store's."""
        self.size_bytes = size_bytes
        self.added_s = added_s
        """Unix time."""


class StoreCatalogue:
    """The store's models, further ones by path, and other names for them.

    served: name -> path of models given at the start. aliases: name -> name.
    """

    def __init__(
        self,
        served: Mapping[str, Path] | None = None,
        aliases: Mapping[str, str] | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        """tell: hears once of each record, or file of records, that is broken; the others are there."""
        self.profiles = Profiles()
        self._served = dict(served or {})
        self._aliases = dict(aliases or {})
        self._tell = tell
        self._told: set[str] = set()
        self._broken: dict[str, str] = {}
        """Why models are left out, by name."""
        self._registered: dict[str, RegisteredModel] = {}
        self._last: tuple[Mapping[str, ModelEntry], Mapping[str, Profile], dict[str, CatalogueEntry]] | None = None

    def register(self, name: str, model: RegisteredModel) -> None:
        """Add a model that is not a file. Raises UsageError for a bad name, or one that a model has already."""
        registry.check_name(name)
        if name in self.names() or name in self._aliases:
            fail(UsageError, "model", got=name, expected="a name that no model has", do="choose another")
        self._registered[name] = model
        self._last = None

    def names(self) -> dict[str, CatalogueEntry]:
        """See Catalogue."""
        self._broken = {}
        entries = self._read("models.json", lambda: (registry.read().models, registry.read().broken))
        profiles = self._read("profiles.json", lambda: (self.profiles.read(), self.profiles.broken))
        last = self._last
        if last is not None and last[0] is entries and last[1] is profiles:
            return last[2]
        found = {name: _of_store(name, entry.now) for name, entry in entries.items()}
        found |= {name: _of_path(name, path) for name, path in self._served.items()}
        found |= {name: _of_registered(name, model) for name, model in self._registered.items()}
        for name, profile in profiles.items():
            if name not in found and profile.base in found:
                found[name] = _derived(name, profile, found[profile.base])
        found = dict(sorted(found.items()))
        self._last = entries, profiles, found
        for listed in found.values():
            if listed.path is not None:
                hide(listed.path)
        return found

    def _read(self, file: str, read: Callable[[], tuple[Mapping[str, R], Mapping[str, Broken]]]) -> Mapping[str, R]:
        """The records of a file that can be parsed; broken ones are told."""
        try:
            good, broken = read()
        except HerdError as error:
            self._say(f"{file} is left out: {error}")
            return _NOTHING
        for name, one in broken.items():
            self._broken[name] = one.why
            self._say(f"{file}: {name[:100]!r} is left out: {one.why}")
        return good

    def _say(self, line: str) -> None:
        if line not in self._told and len(self._told) < MOST_TOLD:
            self._told.add(line)
            self._tell(line)

    def find(self, name: str) -> CatalogueEntry:
        """See Catalogue."""
        known = self.names()
        for tried in (name, name.removesuffix(LATEST)):
            chosen = self._aliases.get(tried, tried)
            if chosen in known:
                return known[chosen]
        pulled = called(name.removesuffix(LATEST))
        if pulled in known:
            return known[pulled]
        return _unknown(name, [*known, *self._aliases], self._broken.get(name.removesuffix(LATEST)))

    def about(self, name: str) -> About | None:
        """See Catalogue."""
        listed = self.find(name)
        return None if listed.path is None else _described(str(listed.path), listed.digest)


@lru_cache(maxsize=MOST_ABOUT)
def _described(path: str, digest: str) -> About:
    """The description from headers, read once for each version: `digest` is only part of the cache's key."""
    return describe(path)


def _of_store(name: str, version: Version) -> CatalogueEntry:
    return CatalogueEntry(
        name,
        version.location,
        digest=version.digest or version.id,
        size_bytes=version.size_bytes,
        added_s=version.added_s,
        version=version.id,
    )


def _derived(name: str, profile: Profile, base: CatalogueEntry) -> CatalogueEntry:
    return CatalogueEntry(
        name,
        base.path,
        digest=base.digest,
        size_bytes=base.size_bytes,
        added_s=profile.created_s,
        base=base.base,
        profile=profile,
        registered=base.registered,
        version=base.version,
    )


def _of_registered(name: str, model: RegisteredModel) -> CatalogueEntry:
    return CatalogueEntry(name, None, digest="", size_bytes=0, added_s=model.added_s, registered=model)


def _of_path(name: str, path: Path) -> CatalogueEntry:
    try:
        files = [path] if path.is_file() else [p for p in path.iterdir() if p.is_file()] if path.is_dir() else []
        stats = [file.stat() for file in files]
    except OSError:  # what became of it is told by who loads it
        stats = []
    return CatalogueEntry(
        name,
        path,
        digest="",
        size_bytes=sum(s.st_size for s in stats),
        added_s=max((s.st_mtime for s in stats), default=0.0),
    )


def _unknown(name: str, known: list[str], broken: str | None) -> NoReturn:
    if broken is not None:
        fail(NotFound, "model", got=name, do=f"its record is broken ({broken}); make it again, or remove it")
    alike = known if len(known) <= MOST_ALIKE else [one for one in known if one[:2].lower() == name[:2].lower()]
    near = get_close_matches(name[:100], alike[:MOST_ALIKE], n=3, cutoff=0.4)
    fail(
        NotFound,
        "model",
        got=name,
        expected=" or ".join(near) if near else None,
        do="GET /v1/models lists what there is; herd pull or herd import adds one",
    )
