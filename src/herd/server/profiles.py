"""Profiles: names that stand for another model with settings, as Ollama's `create` and `copy` make them. A JSON file
beside the registry.

    $HERD_HOME/profiles.json     {NAME: {"base": NAME, "system": TEXT, "options": {...}}}

What it is not: weights. Forgetting a profile frees a name, and nothing on the disk.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from herd.disk.records import Broken
from herd.engine.request import SamplingOptions
from herd.errors import BadFile, UsageError, fail
from herd.store import registry
from herd.store.named_records import NamedRecords

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
        self._records: NamedRecords[Profile] = NamedRecords(
            "profiles", Profile, _check, most_bytes=MAX_BYTES, most_record_bytes=MAX_PROFILE_BYTES, path=path
        )

    @property
    def path(self) -> Path:
        """The path of the file."""
        return self._records.path

    def read(self) -> Mapping[str, Profile]:
        """Name -> profile, shared by all callers and without broken records. Raises BadFile for a broken file."""
        return self._records.read().good

    @property
    def broken(self) -> Mapping[str, Broken]:
        """Records that cannot be parsed, by name. Raises BadFile for a broken file."""
        return self._records.read().broken

    def is_broken(self, name: str) -> bool:
        """Whether the record of that name cannot be parsed, in a file that can be."""
        try:
            return name in self._records.read().broken
        except BadFile:
            return False

    def add(self, name: str, profile: Profile) -> None:
        """Add or replace a profile. Raises UsageError for a bad name or bad options, and for more than the file may
        hold; it stays as it was then."""
        registry.check_name(name)
        SamplingOptions().with_(profile.options)
        size = len(msgspec.json.encode(profile))
        if size > MAX_PROFILE_BYTES:
            fail(UsageError, f"model {name}", got=f"{size} bytes", expected=f"at most {MAX_PROFILE_BYTES}")
        with self._records.edit() as profiles:
            if name not in profiles.good and len(profiles.good) >= MAX_PROFILES:
                fail(UsageError, "profiles", got=len(profiles.good), expected=f"at most {MAX_PROFILES}")
            profiles.broken.pop(name, None)
            profiles.good[name] = msgspec.structs.replace(profile, created_s=time.time())

    def remove(self, name: str) -> bool:
        """Remove a profile, broken or not; returns whether it was there."""
        return self._records.remove(name)


def _check(name: str, profile: Profile) -> None:
    """Check a record from the file. Raises UsageError."""
    registry.check_name(name)
    SamplingOptions().with_(profile.options)
