"""Models made of another one and settings: what Ollama's `create` and `copy` make. A JSON file beside the registry.

    $HERD_HOME/profiles.json     {NAME: {"base": NAME, "system": TEXT, "options": {...}}}

What it is not: weights. Forgetting a profile frees a name, and nothing on the disk.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from herd.checkpoint import registry
from herd.checkpoint.atomic import make_folders, new_file
from herd.engine.request import SamplingOptions
from herd.errors import BadFile, UsageError, fail

MAX_BYTES = 16 << 20
MAX_PROFILES = 10_000


class Profile(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a name stands for."""

    base: str
    system: str = ""
    options: dict[str, Any] = {}
    """Fields of SamplingOptions, where a request says nothing."""
    licence: str = ""
    created_s: float = 0.0
    """Unix time."""


class Profiles:
    """All of them; every read looks at the file, so that two services see the same."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path

    @property
    def path(self) -> Path:
        """The file."""
        return self._path if self._path is not None else registry.home() / "profiles.json"

    def read(self) -> dict[str, Profile]:
        """By name. Raises BadFile."""
        try:
            if self.path.stat().st_size > MAX_BYTES:
                fail(BadFile, f"{self.path}", got="more than 16 MiB", expected="a file of profiles")
            return msgspec.json.decode(self.path.read_bytes(), type=dict[str, Profile])
        except FileNotFoundError:
            return {}
        except msgspec.MsgspecError as error:
            fail(BadFile, f"{self.path}: {error}", do="mend or remove it")

    def add(self, name: str, profile: Profile) -> None:
        """A new meaning of a name. Raises UsageError for a name or options that are none."""
        registry.check_name(name)
        SamplingOptions().with_(profile.options)
        with self._edit() as profiles:
            if len(profiles) >= MAX_PROFILES:
                fail(UsageError, "profiles", got=len(profiles), expected=f"at most {MAX_PROFILES}")
            profiles[name] = msgspec.structs.replace(profile, created_s=time.time())

    def remove(self, name: str) -> bool:
        """Forget one; whether it was there."""
        with self._edit() as profiles:
            return profiles.pop(name, None) is not None

    @contextmanager
    def _edit(self) -> Iterator[dict[str, Profile]]:
        """The profiles, written back whole if they have changed, under a lock of the kernel's."""
        make_folders(self.path.parent)
        with registry.lock("profiles"):
            profiles = self.read()
            before = dict(profiles)
            yield profiles
            if profiles != before:
                with new_file(self.path, overwrite=True) as temporary:
                    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(profiles), indent=1))
