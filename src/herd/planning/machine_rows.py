"""Machines by name: the rows of `machines.toml`, read once and checked.

    row             what it is                                  its rates
    CardRow         a graphics card with memory of its own      memory, tensor units, the link to the processor
    ProcessorRow    a processor by the channels of its memory   channels x transfers; cores x operations x clock
    UnifiedRow      one memory for processor and graphics       memory, graphics

Rates are the makers', at best: bytes a second and dense operations a second, a multiply and an add being two.
"""

import dataclasses
import math
import tomllib
from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args, get_origin

from herd.errors import BadFile, fail

GIB = 1 << 30
MIB = 1 << 20
CITED = frozenset({"source", "measured_source", "price_source"})
"""Keys whose values name sources."""
_NOISE = frozenset({"nvidia", "tesla", "of", "workstation", "edition"})
"""Words of titles that tell no card from another one; sizes and kinds of memory and sockets do not either."""
_SHOWN = 0.9
"""The least part of a card's memory that its driver shows."""
CHANNEL_BYTES = 8
"""Bytes of one transfer of a channel of 64 bits."""


@dataclass(frozen=True, kw_only=True)
class CardRow:
    """A card. Memory is what its maker sells, in GiB; `usable_bytes` what its driver shows."""

    name: str
    aliases: tuple[str, ...] = ()
    title: str
    memory_gib: int
    shown_mib: int | None = None
    """MiB that the driver's tool shows as the total; None: not known."""
    read_bytes_s: float
    bf16_ops_s: float
    """16-bit tensor operations with float32 sums; float16's where the card has no bf16."""
    int8_ops_s: float
    link_bytes_s: float
    """Bytes a second of the link to the processor's memory, one way."""
    watts: float
    price_dollars: float | None = None
    """What its maker asked for it then; None: no dated source at hand."""
    price_date: str = ""
    price_source: str = ""
    measured_read_bytes_s: float | None = None
    """What somebody reached; None: nobody known."""
    measured_source: str = ""
    source: str
    note: str = ""

    @property
    def memory_bytes(self) -> int:
        """Memory as sold."""
        return self.memory_gib * GIB

    @property
    def usable_bytes(self) -> int:
        """Memory as its driver shows it, as sold where that is not known."""
        return self.memory_bytes if self.shown_mib is None else self.shown_mib * MIB


@dataclass(frozen=True, kw_only=True)
class ProcessorRow:
    """A processor that stands for those with as many channels of memory of its kind."""

    name: str
    aliases: tuple[str, ...] = ()
    title: str
    channels: int
    mt_s: int
    """Million transfers a second of a channel."""
    cores: int
    clock_ghz: float
    """What all cores keep."""
    int8_per_clock: int
    """Operations of a core in one clock."""
    bf16_per_clock: int
    """Operations on bf16, or on float32 where the processor has no bf16."""
    watts: float
    source: str

    @property
    def read_bytes_s(self) -> float:
        """Bytes a second of all channels at their peak."""
        return self.channels * self.mt_s * 1e6 * CHANNEL_BYTES

    @property
    def int8_ops_s(self) -> float:
        """Operations a second on int8, all cores."""
        return self.cores * self.int8_per_clock * self.clock_ghz * 1e9

    @property
    def bf16_ops_s(self) -> float:
        """Operations a second on bf16 or float32, all cores."""
        return self.cores * self.bf16_per_clock * self.clock_ghz * 1e9

    @property
    def how(self) -> str:
        """The arithmetic behind the rates, in one line."""
        return (
            f"{self.channels} channels x {self.mt_s} MT/s x {CHANNEL_BYTES} bytes; {self.cores} cores x "
            f"{self.int8_per_clock} int8 or {self.bf16_per_clock} bf16 operations a clock x {self.clock_ghz:g} GHz"
        )


@dataclass(frozen=True, kw_only=True)
class UnifiedRow:
    """One memory for processor and graphics, sold in several sizes."""

    name: str
    aliases: tuple[str, ...] = ()
    title: str
    memory_gib: tuple[float, ...]
    """Sizes it is sold with, smallest first."""
    gpu_gib: tuple[float, ...]
    """What graphics may take of each, with the system's settings as they come."""
    read_bytes_s: float
    bf16_ops_s: float
    watts: float
    source: str

    def __post_init__(self) -> None:
        """BadFile: not one figure of graphics for each size."""
        if len(self.memory_gib) != len(self.gpu_gib):
            _refuse(f"gpu_gib of {self.name!r}", got=self.gpu_gib, expected="one for each of memory_gib")

    @property
    def memory_bytes(self) -> tuple[int, ...]:
        """Memory as sold, smallest first."""
        return tuple(round(size * GIB) for size in self.memory_gib)

    def gpu_bytes(self, memory_bytes: int) -> int:
        """What graphics may take of a machine with `memory_bytes`: the share of the next smaller size that is sold."""
        sold = [(size, gpu) for size, gpu in zip(self.memory_bytes, self.gpu_gib, strict=True) if size <= memory_bytes]
        size, gpu = sold[-1] if sold else (self.memory_bytes[0], self.gpu_gib[0])
        return int(memory_bytes * gpu * GIB / size)


Row = TypeVar("Row", CardRow, ProcessorRow, UnifiedRow)


@dataclass(frozen=True)
class MachineRows:
    """All rows by name and by alias, in the file's order."""

    cards: dict[str, CardRow]
    processors: dict[str, ProcessorRow]
    unified: dict[str, UnifiedRow]


@cache
def machine_rows() -> MachineRows:
    """The rows that come with Herd, read once."""
    return rows_of(Path(__file__).with_name("machines.toml").read_text("utf-8"))


def card_titled(title: str, mib: int | None) -> CardRow | None:
    """The card that its driver calls so, which shows so many MiB of it (None: it does not say); None: the table has no
    such card. Drivers and the table name sockets and sizes in different ways, so the memory tells those apart."""
    for row in machine_rows().cards.values():
        if _words(title) == _words(row.title) and (mib is None or _SHOWN <= mib * MIB / row.memory_bytes <= 1 / _SHOWN):
            return row
    return None


def _words(title: str) -> list[str]:
    """What tells a card from another one: "A100-SXM4-80GB" is a100, "RTX 3060 12 GB" is rtx 3060."""
    words = "".join(char if char.isalnum() else " " for char in title.lower().replace(" gb", "gb")).split()
    told = [word for word in words if word not in _NOISE and not word.startswith(("sxm", "hbm"))]
    return [word for word in told if not (word.endswith("gb") and word.removesuffix("gb").isdigit())]


def rows_of(text: str) -> MachineRows:
    """The rows of a text like machines.toml.

    BadFile: not TOML, a key that is unknown or missing, a value of another type, a number that is not above zero, a
    source that is not in the table of sources, a name or alias twice.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        _refuse("the table", got=str(error), expected="TOML")
    _check_keys("the table", tables, {"sources", "card", "processor", "unified"}, set())
    sources = tables.get("sources", {})
    if not isinstance(sources, dict) or not all(map(_is_text, sources.values())):
        _refuse("sources", got=sources, expected="texts by name")
    taken: set[str] = set()
    return MachineRows(
        _rows(CardRow, tables.get("card", []), sources, taken),
        _rows(ProcessorRow, tables.get("processor", []), sources, taken),
        _rows(UnifiedRow, tables.get("unified", []), sources, taken),
    )


def _rows(kind: type[Row], tables: Any, sources: Mapping[str, str], taken: set[str]) -> dict[str, Row]:
    """Rows of one kind by name and alias; `taken` are the names of all rows so far."""
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        _refuse(kind.__name__, got=tables, expected="rows in double brackets")
    declared = {field.name: field.type for field in dataclasses.fields(kind)}
    needed = {field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING}
    found: dict[str, Row] = {}
    for table in tables:
        _check_keys(f"the row of {table.get('name')!r}", table, declared.keys(), needed)
        row: Row = kind(**{key: _value(table, key, declared[key], sources) for key in table})
        for name in (row.name, *row.aliases):
            if name in taken:
                _refuse("names of machines", got=name, expected="each once, aliases included")
            taken.add(name)
            found[name] = row
    return found


def _check_keys(where: str, table: Mapping[str, Any], known: Set[str], needed: Set[str]) -> None:
    """No key but the known ones, and all of the needed."""
    if unknown := table.keys() - known:
        _refuse(where, got=sorted(unknown), expected=f"no keys but {', '.join(sorted(known))}")
    if missing := needed - table.keys():
        _refuse(where, got=sorted(table), expected=f"also {', '.join(sorted(missing))}")


def _value(table: Mapping[str, Any], key: str, declared: Any, sources: Mapping[str, str]) -> Any:
    """A value as its field declares it: a text, a number above zero, or several of these (a list becomes a tuple)."""
    value = table[key]
    if key in CITED:
        return _cited(table, key, sources)
    several = get_origin(declared) is tuple
    kind = get_args(declared)[0] if several else declared
    fits = {str: _is_text, float: _is_number, float | None: _is_number}.get(kind, _is_whole)
    items = value if several else [value]
    if not isinstance(items, list) or not items or not all(map(fits, items)):
        expected = {_is_text: "text", _is_number: "numbers above zero", _is_whole: "whole numbers above zero"}[fits]
        _refuse(f"{key} of {table.get('name')!r}", got=value, expected=f"a list of {expected}" if several else expected)
    return tuple(items) if several else value


def _is_whole(value: object) -> bool:
    return _is_number(value) and isinstance(value, int)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _cited(table: Mapping[str, Any], key: str, sources: Mapping[str, str]) -> str:
    """The sources that a row names, in words."""
    names = table[key] if isinstance(table[key], list) else [table[key]]
    if not names or not all(isinstance(name, str) and name in sources for name in names):
        _refuse(f"{key} of {table.get('name')!r}", got=table[key], expected="names in the table of sources")
    return "; ".join(sources[name] for name in names)


def _refuse(where: str, got: object, expected: str) -> NoReturn:
    """An error that says what of a table of machines is wrong."""
    fail(BadFile, f"{where}, in a table of machines, cannot be used", got=got, expected=expected)
