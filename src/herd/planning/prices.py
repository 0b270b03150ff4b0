"""Prices of hosts: one dated table with sources, in the package; a person's file of the same form replaces it.

    Price     one row: what a model costs at a host, where that stands, when it was listed, when the host ends it
    Prices    all rows, and where they come from
    read      a file of them
    listed    a person's file where there is one, else the package's

What it is not: what a plan costs, a look at a host.
"""

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

import msgspec

from herd.disk.small_files import read_toml
from herd.errors import BadFile, fail

MOST_ROWS = 10_000
MOST_DOLLARS = 1e6
"""Dollars per million tokens."""
PACKAGED = Path(__file__).with_name("prices.toml")
_MILLION = 1e6


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model costs at a host, as it was listed."""

    host: str
    model: str
    """scout, maverick, guard, or another model's own name."""
    dollars_in: float
    """Dollars per million tokens of prompts."""
    dollars_out: float
    """Dollars per million tokens of answers."""
    source: str
    """Where it stands."""
    date: str
    """When it was listed: 2026, 2026-11 or 2026-11-30."""
    id: str = ""
    """What the host calls the model, where that is known."""
    dollars_cached: float | None = None
    """Dollars per million tokens of prompts that the host has read before; None: as others."""
    batch: float | None = None
    """What a token costs in batches, as a part of its price; None: the host has no batches, or does not say."""
    context: int | None = None
    """Tokens that the host lists; None: not known."""
    ends: datetime.date | None = None
    """The day on which the host ends the model, or has."""

    def has_ended(self, today: datetime.date) -> bool:
        """Whether the host has ended the model by that day."""
        return self.ends is not None and self.ends <= today

    def why_not(self, tokens: int, today: datetime.date) -> str:
        """Why nobody can send it prompt and answer of so many tokens on that day; empty: as listed, one can."""
        if self.has_ended(today):
            return f"ended {self.ends}"
        if self.context is not None and self.context < tokens:
            return f"takes {self.context:,} tokens at most"
        return ""

    @property
    def day(self) -> datetime.date:
        """The first day of when it was listed."""
        return _first_day(self.date)

    def dollars(self, prompt_tokens: float, output_tokens: float, cached_tokens: float = 0) -> float:
        """The price of a request, or of many. cached_tokens: of the prompt, those that the host has read before."""
        cached = self.dollars_in if self.dollars_cached is None else self.dollars_cached
        plain = (prompt_tokens - cached_tokens) * self.dollars_in
        return (plain + cached_tokens * cached + output_tokens * self.dollars_out) / _MILLION


@dataclass(frozen=True)
class Prices:
    """All rows of a table."""

    rows: tuple[Price, ...]
    path: Path
    """The file that they stand in."""

    def __iter__(self) -> Iterator[Price]:
        return iter(self.rows)

    @property
    def newest(self) -> datetime.date:
        """The newest day on which one of them was listed."""
        return max(row.day for row in self.rows)

    def of(self, model: str) -> tuple[Price, ...]:
        """The rows of a model, by Herd's name for it (scout), the cheapest prompt first."""
        return tuple(sorted((row for row in self.rows if row.model == model), key=lambda row: row.dollars_in))

    def at(self, host: str, model: str) -> Price | None:
        """The price of a model at a host, by the host's name for it or by Herd's; None: no row has it."""
        wanted = model.lower()
        found = [row for row in self.rows if row.host == host and wanted in (row.id.lower(), row.model.lower())]
        return found[-1] if found else None


def read(path: Path) -> Prices:
    """The table of a file. Raises NotFound, and BadFile naming the row for what is none."""
    rows: Any = read_toml(path, f"prices {path}").get("price")
    if not isinstance(rows, list) or not 1 <= len(rows) <= MOST_ROWS:
        fail(BadFile, f"prices {path}", got="no [[price]] table, or too many", expected=f"1 to {MOST_ROWS}")
    return Prices(tuple(_row(path, i, row) for i, row in enumerate(rows)), path)


def listed(own: Path | None = None) -> Prices:
    """The table that holds: that of the file `own`, where it is there, else the package's. Raises BadFile."""
    return read(own) if own is not None and own.exists() else _packaged()


@cache
def _packaged() -> Prices:
    return read(PACKAGED)


def _row(path: Path, index: int, table: Any) -> Price:
    where = f"prices {path}: [[price]] number {index + 1}"
    try:
        found = msgspec.convert(table, Price)
    except msgspec.ValidationError as error:
        fail(BadFile, f"{where}: {error}")
    dollars = {"dollars_in": found.dollars_in, "dollars_out": found.dollars_out, "dollars_cached": found.dollars_cached}
    for name, value in dollars.items():
        if value is not None and not (isfinite(value) and 0 <= value <= MOST_DOLLARS):
            fail(BadFile, f"{where}: {name}", got=value, expected=f"0 to {MOST_DOLLARS:.0f} dollars a million tokens")
    if found.batch is not None and not 0 <= found.batch <= 1:
        fail(BadFile, f"{where}: batch", got=found.batch, expected="a part of the price, 0 to 1")
    if found.context is not None and found.context < 1:
        fail(BadFile, f"{where}: context", got=found.context, expected="tokens, 1 or more")
    try:
        assert found.day
    except ValueError:
        fail(BadFile, f"{where}: date", got=found.date, expected="a year, month or day, as 2026-11-30")
    return found


def _first_day(text: str) -> datetime.date:
    """The first day of a year, month or day. Raises ValueError."""
    found = datetime.date.fromisoformat(text + "-01-01"[len(text) - 4 :])
    if not found.isoformat().startswith(text):  # another way to write one
        raise ValueError(text)
    return found
