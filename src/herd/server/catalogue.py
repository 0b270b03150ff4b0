"""Which models clients may name: those of the store, and those that the service was started with.

A name from the network is looked up, never opened: it cannot be a path.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import NoReturn, Protocol

from herd.checkpoint import store
from herd.checkpoint.about import About, describe
from herd.checkpoint.registry import Version
from herd.errors import NotFound, fail
from herd.server.profiles import Profile, Profiles

LATEST = ":latest"
"""Ollama's clients put it behind every name that has no tag."""


class Catalogue(Protocol):
    """Names -> what is known of a model before it is loaded."""

    profiles: Profiles
    """Models made of another one and settings."""

    def names(self) -> dict[str, "Listed"]:
        """All models, sorted by name."""

    def find(self, name: str) -> "Listed":
        """One model, by its name, with or without `:latest`. Raises NotFound with the nearest names."""

    def about(self, name: str) -> About:
        """Its shape, types and licence, from headers. Raises NotFound, BadFile."""


class Listed:
    """A model that can be asked for."""

    def __init__(
        self,
        name: str,
        path: Path,
        *,
        digest: str,
        size_bytes: int,
        added_s: float,
        base: str = "",
        profile: Profile | None = None,
    ) -> None:
        self.name = name
        """What clients call it."""
        self.base = base or name
        """The model that is loaded for it."""
        self.profile = profile
        self.path = path
        self.digest = digest
        """Of the content, as far as it is known: hex."""
        self.size_bytes = size_bytes
        self.added_s = added_s
        """Unix time."""


class StoreCatalogue:
    """The store's models, further ones by path, and other names for them.

    served: name -> path of models given at the start. aliases: name -> name.
    """

    def __init__(self, served: Mapping[str, Path] | None = None, aliases: Mapping[str, str] | None = None) -> None:
        self.profiles = Profiles()
        self._served = dict(served or {})
        self._aliases = dict(aliases or {})

    def names(self) -> dict[str, Listed]:
        """See Catalogue."""
        found = {name: _of_store(name, entry.now) for name, entry in store.entries().items()}
        found |= {name: _of_path(name, path) for name, path in self._served.items()}
        for name, profile in self.profiles.read().items():
            if name not in found and profile.base in found:
                found[name] = _derived(name, profile, found[profile.base])
        return dict(sorted(found.items()))

    def find(self, name: str) -> Listed:
        """See Catalogue."""
        known = self.names()
        for tried in (name, name.removesuffix(LATEST)):
            chosen = self._aliases.get(tried, tried)
            if chosen in known:
                return known[chosen]
        return _unknown(name, [*known, *self._aliases])

    def about(self, name: str) -> About:
        """See Catalogue."""
        listed = self.find(name)
        return _described(str(listed.path), listed.digest)


@lru_cache(maxsize=64)
def _described(path: str, digest: str) -> About:
    """Headers are read once a version: `digest` is only part of the key."""
    return describe(path)


def _of_store(name: str, version: Version) -> Listed:
    return Listed(
        name,
        version.location,
        digest=version.digest or version.id,
        size_bytes=version.size_bytes,
        added_s=version.added_s,
    )


def _derived(name: str, profile: Profile, base: Listed) -> Listed:
    return Listed(
        name,
        base.path,
        digest=base.digest,
        size_bytes=base.size_bytes,
        added_s=profile.created_s,
        base=base.base,
        profile=profile,
    )


def _of_path(name: str, path: Path) -> Listed:
    files = [path] if path.is_file() else [p for p in path.iterdir() if p.is_file()] if path.is_dir() else []
    stats = [file.stat() for file in files]
    return Listed(
        name,
        path,
        digest="",
        size_bytes=sum(s.st_size for s in stats),
        added_s=max((s.st_mtime for s in stats), default=0.0),
    )


def _unknown(name: str, known: list[str]) -> NoReturn:
    near = get_close_matches(name, known, n=3, cutoff=0.4)
    fail(
        NotFound,
        "model",
        got=name,
        expected=" or ".join(near) if near else None,
        do="GET /v1/models lists what there is; herd pull or herd import adds one",
    )
