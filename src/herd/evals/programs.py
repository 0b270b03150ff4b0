"""Checkers that a person wrote in Python, and which of them were looked at: each by the digest of its file.

    $HERD_HOME/checkers.json     {DIGEST: {"path": where it lay, "trusted": when}}

What it is not: what runs them (`herd.evals.judging`).
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from herd.disk.small_files import safe_path
from herd.errors import BadFile, NotFound, UsageError, fail
from herd.store.named_records import NamedRecords

ENDING = ".py"
MAX_PROGRAM = 1 << 20
"""Bytes of a checker's file."""
MAX_RECORDS = 1 << 20
"""Bytes of the file of what is trusted."""


class Trusted(msgspec.Struct, frozen=True):
    """A checker that a person said may be run."""

    path: str
    trusted: str
    """When: a date and time in UTC."""


@dataclass(frozen=True)
class Program:
    """A checker's file as it was read: what is run is this text, and no other that lies there later."""

    path: Path
    source: str

    @property
    def name(self) -> str:
        """Its file's name."""
        return self.path.name

    @property
    def digest(self) -> str:
        """SHA-256 of the text, in hexadecimal."""
        return hashlib.sha256(self.source.encode()).hexdigest()


def read(folder: Path, name: str) -> Program:
    """A checker that lies in a task's folder. Raises NotFound, BadFile."""
    try:
        path = safe_path(folder.absolute(), name)
    except NotFound as error:
        raise NotFound(f"checker: {error}") from None
    except BadFile as error:
        raise BadFile(f"checker: {error}") from None
    with path.open("rb") as file:
        data = file.read(MAX_PROGRAM + 1)
    if len(data) > MAX_PROGRAM:
        fail(BadFile, f"{name}: size", got="more", expected=f"at most {MAX_PROGRAM} bytes")
    try:
        return Program(path, data.decode())
    except UnicodeDecodeError as error:
        fail(BadFile, f"{name}: not UTF-8 at byte {error.start}")


def records() -> NamedRecords[Trusted]:
    """What is trusted, by digest."""
    return NamedRecords("checkers", Trusted, lambda _n, _r: None, most_bytes=MAX_RECORDS, most_record_bytes=1 << 14)


def trust(program: Program) -> None:
    """Keep that a checker may be run, until its file changes."""
    with records().edit() as known:
        known.good[program.digest] = Trusted(str(program.path), datetime.now(UTC).isoformat(timespec="seconds"))


def require_trust(program: Program) -> None:
    """Raise UsageError for a checker that nobody has trusted as it is now."""
    known = records().read().good
    if program.digest in known:
        return
    changed = any(one.path == str(program.path) for one in known.values())
    fail(
        UsageError,
        f"the checker {program.path}",
        got="a file that changed since it was trusted" if changed else "Python code that nobody has trusted",
        expected="code that you know: it is run as you",
        do=f"read it, then give --trust (its SHA-256 is {program.digest[:12]}...)",
    )
