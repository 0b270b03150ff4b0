"""What backends that cost money may cost: a limit for each, kept by all processes of this machine in one journal.

    Rates      what a token costs
    Account    what one backend may cost, and what it has cost so far
    Held       the most that one request may cost, set aside before it is sent; settled by what was used

    $HERD_HOME/spending.jsonl     one line for each sum that is set aside, settled, or left of older lines

The most is set aside first, on the disk, so that no number of requests or processes at once goes over the limit; a
process that is killed leaves what it set aside counted. Sums are whole nanodollars. What it is not: what a host bills,
a price (`herd.planning.prices`).
"""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Literal

import msgspec

from herd.disk.atomic import explain_full_disk, make_folders, new_file
from herd.disk.records import UNREADABLE
from herd.errors import BadFile, LimitReached, fail
from herd.store import registry

NANO = 10**9
"""Nanodollars of a dollar."""
MOST_LINES = 2000
"""Lines of the journal; with more it is written anew, a line for each account and each sum that is set aside."""
MOST_BYTES = 16 << 20


class _Line(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One line. spent: a sum; held: set aside under an id; settled: what that one came to."""

    kind: Literal["spent", "held", "settled"]
    account: str
    nano: int
    id: str = ""


@dataclass(frozen=True)
class Rates:
    """Dollars per million tokens."""

    dollars_in: float
    dollars_out: float

    def nano(self, prompt_tokens: int, output_tokens: int) -> int:
        """Nanodollars of so many tokens, rounded up."""
        return ceil((prompt_tokens * self.dollars_in + output_tokens * self.dollars_out) * (NANO / 1e6))


@dataclass
class Sums:
    """What one account has come to."""

    spent: int = 0
    held: dict[str, int] = field(default_factory=dict)
    """What is set aside, by id."""

    @property
    def all(self) -> int:
        """Nanodollars that count against the limit."""
        return self.spent + sum(self.held.values())


class Held:
    """The most that one request may cost, set aside. Settle it once, however the request ended."""

    def __init__(self, account: "Account", id_: str, nano: int) -> None:
        self._account, self._id = account, id_
        self.nano = nano
        """Nanodollars that are set aside."""

    def settle(self, nano: int | None) -> None:
        """Count what it came to in place of what was set aside. nano: None: nobody told, so all of it."""
        account, self._id, id_ = self._account, "", self._id
        if id_:
            with _journal() as journal:
                journal.add(_Line("settled", account.id, self.nano if nano is None else nano, id_))


@dataclass(frozen=True)
class Account:
    """What one backend may cost. name: of the backend, for errors. id: by which its sums are kept."""

    name: str
    id: str
    limit_nano: int
    rates: Rates

    def hold(self, prompt_tokens: int, output_tokens: int) -> Held:
        """Set the most aside that a request may cost. Raises LimitReached, where nothing was set aside; BadFile, and
        DoesNotFit for a full disk."""
        nano, id_ = self.rates.nano(prompt_tokens, output_tokens), secrets.token_hex(8)
        with _journal() as journal:
            sums = journal.sums.get(self.id, Sums())
            if sums.all + nano > self.limit_nano:
                what = f"{self.name}: its spending limit of {dollars(self.limit_nano)}"
                got = f"{dollars(sums.all)} spent or set aside, and up to {dollars(nano)} for this request"
                fail(LimitReached, what, got=got, do=f"ask for fewer tokens, or herd backend limit {self.name} DOLLARS")
            journal.add(_Line("held", self.id, nano, id_))
        return Held(self, id_, nano)


def sums_of(account: str) -> Sums:
    """What an account has come to so far. Raises BadFile."""
    with _journal() as journal:
        return journal.sums.get(account, Sums())


def path() -> Path:
    """The path of the journal."""
    return registry.home() / "spending.jsonl"


def dollars(nano: int) -> str:
    """Dollars for people: $5, $0.05, $0.000123."""
    digits = f"{nano / NANO:.9f}".rstrip("0").rstrip(".")
    whole, _, part = digits.partition(".")
    return f"${whole}.{part}0" if len(part) == 1 else f"${digits}"


class _Journal:
    """The journal while it is locked."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.sums: dict[str, Sums] = {}
        self._count = 0
        data = _whole_lines(place)
        for number, raw in enumerate(data, 1):
            try:
                self._take(msgspec.json.decode(raw, type=_Line))
            except UNREADABLE as error:
                fail(BadFile, f"{place}: line {number}: {error}", do="mend that line, or move the file away")

    def _take(self, line: _Line) -> None:
        sums = self.sums.setdefault(line.account, Sums())
        self._count += 1
        if line.kind == "held":
            sums.held[line.id] = line.nano
        else:
            sums.held.pop(line.id, None)
            sums.spent += line.nano

    def add(self, line: _Line) -> None:
        """Write a line; it is on the disk when this returns. Raises DoesNotFit for a full disk."""
        if self._count >= MOST_LINES:
            self._write_anew()
        self._take(line)
        try:
            handle = os.open(self._place, os.O_WRONLY | os.O_APPEND | os.O_CREAT, stat.S_IRUSR | stat.S_IWUSR)
            with os.fdopen(handle, "ab") as file:
                file.write(msgspec.json.encode(line) + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            explain_full_disk(self._place, error)
            raise

    def _write_anew(self) -> None:
        lines = [_Line("spent", account, sums.spent) for account, sums in self.sums.items() if sums.spent]
        lines += [
            _Line("held", account, nano, id_) for account, sums in self.sums.items() for id_, nano in sums.held.items()
        ]
        self._count = len(lines)
        with new_file(self._place, overwrite=True) as temporary:
            temporary.chmod(stat.S_IRUSR | stat.S_IWUSR)
            temporary.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))


@contextmanager
def _journal() -> Iterator[_Journal]:
    """The journal, locked for other processes and threads. Raises BadFile."""
    make_folders(path().parent)
    with registry.lock("spending"):
        yield _Journal(path())


def _whole_lines(place: Path) -> list[bytes]:
    """The lines of the journal. One that was being written when its process ended is taken away: what it would have set
    aside was not sent, and what it would have settled stays set aside."""
    try:
        with place.open("r+b") as file:
            data = file.read(MOST_BYTES + 1)
            if len(data) > MOST_BYTES:
                fail(BadFile, str(place), got=f"more than {MOST_BYTES} bytes", do="move it away")
            whole = data.rfind(b"\n") + 1
            if whole < len(data):
                file.truncate(whole)
    except FileNotFoundError:
        return []
    return data[:whole].splitlines()
