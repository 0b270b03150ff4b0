"""A machine to plan for: cards, memory, processor and disk, as sizes and rates; and machines by a short name.

    rtx4090+64GB        a card, and a desktop's memory
    h100x8              eight cards; the memory beside them is not said
    epyc-12ch+512GB     a processor alone
    rtx3090x2+epyc-8ch+256GB
    m3ultra+512GB       memory that processor and card share

Names stand in a table with sources (`machine_rows`). Rates are what long reads and large products reach, at most: a
maker's figure times SUSTAINED_READ or SUSTAINED_OPS. What it is not: a look at this machine (`herd.planner` measures).
"""

import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from herd.disk.small_files import read_toml
from herd.errors import BadFile, UsageError, fail
from herd.planning.machine_rows import CardRow, ProcessorRow, UnifiedRow, machine_rows

SUSTAINED_READ = 0.85
"""Share of a maker's bandwidth that long reads reach, where nobody measured it (an H200's copies: 0.90)."""
SUSTAINED_OPS = 0.8
"""Share of a maker's operations that large products reach (an H200 in bf16: 0.80)."""
DISK_READ_BYTES_S = 5e9
"""An NVMe disk, where nothing is said of it."""
DESKTOP = "ddr5-2ch"
"""The memory and the processor beside a card, where only a size is said."""
AnyRow = CardRow | ProcessorRow | UnifiedRow
MOST_CARDS = 1024
MOST_BYTES = 1 << 50
LEAST_RATE = 0.001
"""GB/s or tera-operations a second of a file: what is slower is no machine, and times stay finite."""


@dataclass(frozen=True)
class Card:
    """One accelerator; or the part of a machine with shared memory that computes."""

    name: str
    memory_bytes: int
    read_bytes_s: float
    """Bytes a second from its memory, at most."""
    ops_s: float
    """Operations a second of large products in bf16, at most; a multiply and an add are two."""
    link_bytes_s: float = 31.5e9 * SUSTAINED_READ
    """Bytes a second from the machine's memory."""
    watts: float | None = None
    price_dollars: float | None = None


@dataclass(frozen=True)
class Machine:
    """What a plan is for."""

    name: str
    cards: tuple[Card, ...] = ()
    memory_bytes: int = 0
    """Memory of the processor; 0: nothing was said of it, so nothing is placed there."""
    read_bytes_s: float = 0.0
    """Bytes a second from it, at most."""
    ops_s: float = 0.0
    """Operations a second of its int8 products, at most."""
    disk_read_bytes_s: float = DISK_READ_BYTES_S
    shared: bool = False
    """Whether card and processor share one memory: `memory_bytes` is what the card may not take of it then."""
    watts: float | None = None
    """What processor, memory and the rest take, without cards."""
    price_dollars: float | None = None
    """Price of the whole; None: the sum of what its cards cost, where all are known."""
    notes: tuple[str, ...] = ()
    """What was assumed, and where figures come from."""
    measured: str = ""
    """The date on which its rates were measured; empty: they are makers' figures."""

    @property
    def all_watts(self) -> float | None:
        """Watts of cards and the rest at work; None: not known of one of them."""
        known = [card.watts for card in self.cards]
        if self.watts is not None or (self.memory_bytes and not self.shared):
            known.append(self.watts)
        return sum(w for w in known if w is not None) if known and None not in known else None

    @property
    def price(self) -> float | None:
        """Dollars for the whole; None: not known."""
        if self.price_dollars is not None:
            return self.price_dollars
        prices = [card.price_dollars for card in self.cards]
        return sum(p for p in prices if p is not None) if prices and None not in prices else None


_SIZE = re.compile(r"([0-9]{1,6}+)(\.[0-9]{1,3}+)?+\s?+(gb|gib|g|tb|tib|t)", re.IGNORECASE)
_MANY = re.compile(r"(.{1,60}?)x([0-9]{1,4})|([0-9]{1,4})x(.{1,60})")
_UNITS = {"g": 2**30, "t": 2**40}


def machine_of(text: str) -> Machine:
    """The machine that a short name says, or a TOML file (a path that ends in .toml). Raises UsageError, BadFile,
    NotFound."""
    if text.endswith(".toml"):
        return read_machine(Path(text).expanduser())
    if not text.strip() or len(text) > 200:
        fail(UsageError, "machine", got=text[:60], expected="names and sizes like rtx4090+64GB, h100x8, m3ultra")
    cards: list[Card] = []
    processor: ProcessorRow | None = None
    unified: UnifiedRow | None = None
    size, notes = 0, []
    for word in (w.strip().lower() for w in text.split("+")):
        if (found := _size_of(word)) is not None:
            if size:
                fail(UsageError, f"machine {text}: memory is said twice", got=word)
            size = found
            continue
        number, row = _row_of(word)
        if isinstance(row, CardRow):
            cards += [card_of(row)] * number
            notes.append(f"{row.name}: {row.source}")
        elif number != 1:
            fail(UsageError, f"machine {text}", got=word, expected="several of a card alone")
        elif processor is not None or unified is not None:
            fail(UsageError, f"machine {text}: two processors", got=row.name)
        elif isinstance(row, ProcessorRow):
            processor = row
        else:
            unified = row
    if len(cards) > MOST_CARDS:
        fail(UsageError, f"machine {text}", got=f"{len(cards)} cards", expected=f"at most {MOST_CARDS}")
    if unified is not None:
        if cards:
            fail(UsageError, f"machine {text}", got="a card beside shared memory", expected="one or the other")
        return _unified(text, unified, size)
    return _with_memory(text, cards, processor, size, notes)


def known_names() -> list[str]:
    """All short names: cards, processors, machines with shared memory."""
    return list(dict.fromkeys(row.name for row in _by_name().values()))


def _by_name() -> dict[str, AnyRow]:
    rows = machine_rows()
    found: dict[str, AnyRow] = {}
    found.update(rows.cards)
    found.update(rows.processors)
    found.update(rows.unified)
    return found


def _size_of(word: str) -> int | None:
    found = _SIZE.fullmatch(word)
    if found is None:
        return None
    size = round(float(found[1] + (found[2] or "")) * _UNITS[found[3][0].lower()])
    if not 0 < size <= MOST_BYTES:
        fail(UsageError, "memory of a machine", got=word, expected="more than nothing, at most 1024 TB")
    return size


def _row_of(word: str) -> tuple[int, AnyRow]:
    """How many, of which row. A name is looked up whole first: rtx4090 ends in a number after an x, too."""
    table = _by_name()
    if word in table:
        return 1, table[word]
    if (found := _MANY.fullmatch(word)) is not None:
        name, number = (found[1], found[2]) if found[1] else (found[4], found[3])
        if name in table and 0 < int(number) <= MOST_CARDS:
            return int(number), table[name]
    near = get_close_matches(word, list(table), n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else "herd plan --machines lists the names"
    return fail(UsageError, "machine", got=word, expected="a name of the table, or a size like 64GB", do=hint)


def card_of(row: CardRow, memory_bytes: int | None = None) -> Card:
    """The card of a row; memory_bytes: what its driver tells of it."""
    measured = row.measured_read_bytes_s
    return Card(
        row.name,
        memory_bytes or row.usable_bytes,
        measured if measured is not None else row.read_bytes_s * SUSTAINED_READ,
        row.bf16_ops_s * SUSTAINED_OPS,
        row.link_bytes_s * SUSTAINED_READ,
        row.watts,
        row.price_dollars,
    )


def _with_memory(text: str, cards: list[Card], processor: ProcessorRow | None, size: int, notes: list[str]) -> Machine:
    if processor is None and size:
        processor = machine_rows().processors[DESKTOP]
        notes.append(f"memory and processor were not named: {DESKTOP}")
    if processor is not None and not size:
        fail(UsageError, f"machine {text}: how much memory?", got=processor.name, expected=f"{processor.name}+64GB")
    if processor is None:
        notes.append("nothing is said of the memory beside the cards (+64GB): nothing is placed there")
        return Machine(text, tuple(cards), notes=tuple(notes))
    notes.append(f"{processor.name}: {processor.source}")
    notes.append(f"disk: {DISK_READ_BYTES_S / 1e9:g} GB/s, assumed")
    return Machine(
        text,
        tuple(cards),
        size,
        processor.read_bytes_s * SUSTAINED_READ,
        processor.int8_ops_s * SUSTAINED_OPS,
        watts=processor.watts,
        notes=tuple(notes),
    )


def _unified(text: str, row: UnifiedRow, size: int) -> Machine:
    chosen = size or max(row.memory_bytes)
    if chosen not in row.memory_bytes:
        listed = ", ".join(f"{c >> 30}GB" for c in row.memory_bytes)
        fail(UsageError, f"machine {text}: memory", got=f"{size >> 30}GB", expected=listed)
    card = Card(
        row.name,
        row.gpu_bytes(chosen),
        row.read_bytes_s * SUSTAINED_READ,
        row.bf16_ops_s * SUSTAINED_OPS,
        row.read_bytes_s * SUSTAINED_READ,
        row.watts,
    )
    notes = [f"{row.name}: {row.source}", f"{card.memory_bytes / chosen:.0%} of the memory is what the card may take"]
    if not size:
        notes.append(f"memory was not said: {chosen >> 30}GB, the most there is")
    rest = chosen - card.memory_bytes
    notes.append("the rest is the processor's; it is read as fast")
    return Machine(text, (card,), rest, card.read_bytes_s, card.ops_s, shared=True, notes=tuple(notes))


OF_A_CARD = ("name", "count", "memory_gb", "gb_s", "tflops", "link_gb_s", "watts", "price_dollars")
OF_A_FILE = ("name", "memory_gb", "memory_gb_s", "tops", "disk_gb_s", "watts", "price_dollars", "card")
"""What a file says of a card, and of a machine."""


def read_machine(path: Path) -> Machine:
    """A machine out of a TOML file: name, memory_gb, memory_gb_s, tops, disk_gb_s, watts, price_dollars, and tables
    [[card]] with name, count, memory_gb, gb_s, tflops, link_gb_s, watts, price_dollars. Rates are taken as they are
    written. Raises BadFile."""
    table = read_toml(path, str(path))
    cards: list[Card] = []
    listed = table.pop("card", [])
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        fail(BadFile, f"{path}: card", got=type(listed).__name__, expected="tables [[card]]")
    for one in listed:
        where = f"{path}: card {one.get('name', len(cards) + 1)}"
        number = _number(where, one, "count", 1.0, whole=True)
        if not 1 <= number <= MOST_CARDS:
            fail(BadFile, f"{where}: count", got=number, expected=f"1 to {MOST_CARDS}")
        made = Card(
            _name(where, one),
            round(_number(where, one, "memory_gb") * 1e9),
            _rate(where, one, "gb_s") * 1e9,
            _rate(where, one, "tflops") * 1e12,
            _rate(where, one, "link_gb_s", 31.5 * SUSTAINED_READ) * 1e9,
            _number(where, one, "watts", 0.0) or None,
            _number(where, one, "price_dollars", 0.0) or None,
        )
        _known(where, one, OF_A_CARD)
        cards += [made] * round(number)
        if len(cards) > MOST_CARDS:
            fail(BadFile, f"{path}: cards", got=f"more than {MOST_CARDS}", expected=f"at most {MOST_CARDS}")
    where = str(path)
    machine = Machine(
        _name(where, table, path.stem),
        tuple(cards),
        round(_number(where, table, "memory_gb", 0.0) * 1e9),
        _rate(where, table, "memory_gb_s", 0.0) * 1e9,
        _rate(where, table, "tops", 0.0) * 1e12,
        _rate(where, table, "disk_gb_s", DISK_READ_BYTES_S / 1e9) * 1e9,
        watts=_number(where, table, "watts", 0.0) or None,
        price_dollars=_number(where, table, "price_dollars", 0.0) or None,
        notes=(f"sizes and rates: {path}",),
    )
    _known(where, table, OF_A_FILE)
    if machine.memory_bytes and not (machine.read_bytes_s and machine.ops_s):
        fail(BadFile, where, got="memory_gb alone", expected="memory_gb, memory_gb_s and tops together")
    if not machine.cards and not machine.memory_bytes:
        fail(BadFile, where, got="neither memory_gb nor a card", expected="one of them")
    return machine


def _number(
    where: str, table: dict[str, Any], name: str, default: float | None = None, *, whole: bool = False
) -> float:
    value = table.pop(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e9:
        fail(BadFile, f"{where}: {name}", got=value, expected="a number from 0 on")
    if (default is None and not value) or (whole and value != int(value)):
        fail(BadFile, f"{where}: {name}", got=value, expected="a whole number" if whole else "more than 0")
    return float(value)


def _rate(where: str, table: dict[str, Any], name: str, default: float | None = None) -> float:
    """A number that bytes or operations are divided by; as low as 0 where it need not be said."""
    value = _number(where, table, name, default)
    if value < LEAST_RATE and value != default:
        fail(BadFile, f"{where}: {name}", got=value, expected=f"{LEAST_RATE} or more")
    return value


def _name(where: str, table: dict[str, Any], default: str | None = None) -> str:
    value = table.pop("name", default)
    if not isinstance(value, str) or not 0 < len(value) <= 96 or not value.isprintable():
        fail(BadFile, f"{where}: name", got=value, expected="a name of at most 96 characters")
    return value


def _known(where: str, left: dict[str, Any], names: tuple[str, ...]) -> None:
    """Raise BadFile for what nothing has taken. names: what is known there."""
    if left:
        near = get_close_matches(next(iter(left))[:64], names, n=1)
        expected = near[0] if near else ", ".join(names)
        fail(BadFile, f"{where}: unknown", got=", ".join(map(str, left))[:200], expected=expected)
