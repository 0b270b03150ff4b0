"""Profiles: names that stand for another model with settings, as Ollama's `create` and `copy` make them. A JSON file
beside the registry.

    $HERD_HOME/profiles.json     {NAME: {"base": NAME, "system": TEXT, "options": {...}}}

What it is not: weights. Forgetting a profile frees a name, and nothing on the disk.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from herd.disk.atomic import make_folders
from herd.disk.records import UNREADABLE, Broken, CachedFile, Records, parse_records
from herd.engine.request import SamplingOptions
from herd.errors import BadFile, UsageError, fail
from herd.store import registry

MAX_BYTES = 16 << 20
"""Most bytes of the file."""
MAX_PROFILE_BYTES = 256 << 10
"""Most bytes of one profile as JSON: a system text, settings, a licence."""
MAX_PROFILES = 10_000


class Profile(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a name stands for: a base model, and settings."""

    base: str
    system: str = ""
    options: dict[str, Any] = {}
    """Fields of SamplingOptions, where a request says nothing."""
    licence: str = ""
    private: bool = False
    """Whether what it is asked stays in the house, whoever asks."""
    created_s: float = 0.0
    """Unix time."""


class Profiles:
    """The profiles of this machine. Every read looks whether the file has changed, so that two services see the
    same."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._file: CachedFile[Records[Profile]] = CachedFile(_read, MAX_BYTES)
        self._lock = threading.Lock()

    @property
    def path(self) -> Path:
        """The path of the file."""
        return self._path if self._path is not None else registry.home() / "profiles.json"

    def read(self) -> Mapping[str, Profile]:
        """Name -> profile, shared by all callers and without broken records. Raises BadFile for a broken file."""
        return self._records().good

    @property
    def broken(self) -> Mapping[str, Broken]:
        """Records that cannot be parsed, by name. Raises BadFile for a broken file."""
        return self._records().broken

    def is_broken(self, name: str) -> bool:
        """Whether the record of that name cannot be parsed, in a file that can be."""
        try:
            return name in self._records().broken
        except BadFile:
            return False

    def _records(self) -> Records[Profile]:
        with self._lock:  # routes read on the loop, and write on threads
            found = self._file.now(self.path)
        return Records() if found is None else found

    def add(self, name: str, profile: Profile) -> None:
        """Add or replace a profile. Raises UsageError for a bad name or bad options, and for more than the file may
        hold; it stays as it was then."""
        registry.check_name(name)
        SamplingOptions().with_(profile.options)
        size = len(msgspec.json.encode(profile))
        if size > MAX_PROFILE_BYTES:
            fail(UsageError, f"model {name}", got=f"{size} bytes", expected=f"at most {MAX_PROFILE_BYTES}")
        with self._edit() as profiles:
            if name not in profiles.good and len(profiles.good) >= MAX_PROFILES:
                fail(UsageError, "profiles", got=len(profiles.good), expected=f"at most {MAX_PROFILES}")
            profiles.broken.pop(name, None)
            profiles.good[name] = msgspec.structs.replace(profile, created_s=time.time())

    def remove(self, name: str) -> bool:
        """Remove a profile, broken or not; returns whether it was there."""
        with self._edit() as profiles:
            found = name in profiles.good or name in profiles.broken
            profiles.good.pop(name, None)
            profiles.broken.pop(name, None)
            return found

    @contextmanager
    def _edit(self) -> Iterator[Records[Profile]]:
        """A context with the profiles, which are written back whole if they have changed, under a lock of the
        kernel's."""
        make_folders(self.path.parent)
        with registry.lock("profiles"):
            now = self._records()
            edited = Records(dict(now.good), dict(now.broken))
            yield edited
            if edited != now:
                data = msgspec.json.format(msgspec.json.encode(edited.raw()), indent=1)
                self._file.write(self.path, data, lambda found: found.good == edited.good)


def _read(path: Path, data: bytes) -> Records[Profile]:
    try:
        raw = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except UNREADABLE as error:
        fail(BadFile, f"{path.name}: {error}", do="mend or remove it")
    return parse_records(raw, Profile, _check, MAX_PROFILE_BYTES)


def _check(name: str, profile: Profile) -> None:
    """Check a record from the file. Raises UsageError."""
    registry.check_name(name)
    SamplingOptions().with_(profile.options)
