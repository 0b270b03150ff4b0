"""JSON files of records by name that several programs read and write: each record is parsed by itself.

One that is broken costs itself alone: it is told with the reason, kept as it stands when the file is written again, and
the others are there. What was read stays in memory until the file is another one; what could not be read back is not
written.
"""

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from herd.disk.atomic import new_file
from herd.errors import BadFile, HerdError, UsageError, fail

T = TypeVar("T")
UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)
"""Errors of a parser of bytes that are not what they should be."""


@dataclass(frozen=True)
class Broken:
    """A record that cannot be parsed."""

    raw: bytes
    """The bytes as they are in the file."""
    why: str


@dataclass
class Records(Generic[T]):
    """The records of one file: those that were understood, and the broken ones."""

    good: dict[str, T] = field(default_factory=dict)
    broken: dict[str, Broken] = field(default_factory=dict)

    def raw(self) -> dict[str, msgspec.Raw]:
        """All records as they are written in the file, broken ones included."""
        kept = {name: msgspec.Raw(one.raw) for name, one in self.broken.items()}
        return kept | {name: msgspec.Raw(msgspec.json.encode(one)) for name, one in self.good.items()}


def parse_records(
    raw: Mapping[str, msgspec.Raw], kind: type[T], check: Callable[[str, T], None], most_bytes: int
) -> Records[T]:
    """Parse the records of one file. check: raises a HerdError for a record that makes no sense. most_bytes: of one
    record."""
    found: Records[T] = Records()
    for name, one in raw.items():
        data = bytes(one)
        try:
            if len(data) > most_bytes:
                fail(BadFile, "record", got=f"{len(data)} bytes", expected=f"at most {most_bytes}")
            value = msgspec.json.decode(data, type=kind)
            check(name, value)
        except (*UNREADABLE, HerdError) as error:
            found.broken[name] = Broken(data, str(error))
        else:
            found.good[name] = value
    return found


class CachedFile(Generic[T]):
    """A file that is parsed again only when it has changed. read: bytes -> content; raises BadFile. most_bytes: largest
    size. secret: whether nobody but its owner may read or write it; it is refused where somebody may."""

    def __init__(self, read: Callable[[Path, bytes], T], most_bytes: int, *, secret: bool = False) -> None:
        self._read = read
        self._most = most_bytes
        self._secret = secret
        self._last: tuple[object, T | BadFile] | None = None

    def now(self, path: Path) -> T | None:
        """The content, shared by all callers: not to be changed. None: there is no such file. Raises BadFile, and
        UsageError for a secret file that others may read."""
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
            fail(BadFile, f"{path} is not a regular file", do="move it away")
        if self._secret and os.name == "posix" and stat.S_IMODE(status.st_mode) & 0o077:
            mode = f"mode {stat.S_IMODE(status.st_mode):o}"
            fail(UsageError, str(path), got=mode, expected="600", do=f"chmod 600 {path}")
        seen = (path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if self._last is None or self._last[0] != seen:
            self._last = seen, self._fresh(path)
        found = self._last[1]
        if isinstance(found, BadFile):
            raise BadFile(str(found))
        return found

    def write(self, path: Path, data: bytes, says: Callable[[T], bool]) -> None:
        """Replace the file. says: whether the content that is read back is the one that was meant. Raises UsageError,
        with the file as it was, for more bytes than may be read again."""
        if len(data) > self._most:
            fail(UsageError, path.name, got=f"{len(data)} bytes with this", expected=f"at most {self._most}")
        try:
            back = self._read(path, data)
        except BadFile as error:
            fail(UsageError, f"{path.name} could not be read again: {error}")
        if not says(back):
            fail(UsageError, f"{path.name} would say something else when it is read again")
        with new_file(path, overwrite=True) as temporary:
            if self._secret:
                temporary.chmod(0o600)
            temporary.write_bytes(data)

    def _fresh(self, path: Path) -> "T | BadFile":
        try:
            with path.open("rb") as file:
                data = file.read(self._most + 1)
            if len(data) > self._most:
                fail(BadFile, str(path), got=f"more than {self._most} bytes", expected="fewer", do="move it away")
            return self._read(path, data)
        except BadFile as error:
            return error
        except OSError as error:
            return BadFile(f"{path}: {error.strerror}")
