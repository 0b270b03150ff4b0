"""Records by name in a JSON file of Herd's own folder, which several programs read and write.

    $HERD_HOME/NAME.json     {RECORD: {...}}

Every read looks whether the file has changed; a change is made under a lock of the kernel's, and written whole. What it
is not: what the records say, the registry of models (`registry`).
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from herd.disk.atomic import make_folders
from herd.disk.records import UNREADABLE, CachedFile, Records, parse_records
from herd.errors import BadFile, fail
from herd.store import registry

T = TypeVar("T")


class NamedRecords(Generic[T]):
    """The records of one file. Threads may share it."""

    def __init__(
        self,
        name: str,
        kind: type[T],
        check: Callable[[str, T], None],
        *,
        most_bytes: int,
        most_record_bytes: int,
        secret: bool = False,
        path: Path | None = None,
    ) -> None:
        """check: raises a HerdError for a record that makes no sense. most_bytes: of the file. secret: see CachedFile.
        path: of the file, where it is another one."""
        self._name, self._kind, self._check, self._path = name, kind, check, path
        self._most_record_bytes = most_record_bytes
        self._file: CachedFile[Records[T]] = CachedFile(self._parse, most_bytes, secret=secret)
        self._lock = threading.Lock()

    @property
    def path(self) -> Path:
        """The path of the file."""
        return self._path if self._path is not None else registry.home() / f"{self._name}.json"

    def read(self) -> Records[T]:
        """All of them, not to be changed; broken records apart. Raises BadFile for a broken file, UsageError for a
        secret one that others may read."""
        with self._lock:
            found = self._file.now(self.path)
        return Records() if found is None else found

    @contextmanager
    def edit(self) -> Iterator[Records[T]]:
        """A context with the records, which are written back whole if they have changed, under a lock. Raises as
        `read`, and UsageError for what could not be read again."""
        make_folders(self.path.parent)
        with registry.lock(self._name):
            now = self.read()
            edited = Records(dict(now.good), dict(now.broken))
            yield edited
            if edited != now:
                data = msgspec.json.format(msgspec.json.encode(edited.raw()), indent=1)
                self._file.write(self.path, data, lambda found: found.good == edited.good)

    def remove(self, name: str) -> bool:
        """Remove one, broken or not; returns whether it was there."""
        with self.edit() as records:
            good, broken = records.good.pop(name, None), records.broken.pop(name, None)
            return good is not None or broken is not None

    def _parse(self, path: Path, data: bytes) -> Records[T]:
        try:
            raw = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        except UNREADABLE as error:
            fail(BadFile, f"{path.name}: {error}", do="mend or remove it")
        return parse_records(raw, self._kind, self._check, self._most_record_bytes)
