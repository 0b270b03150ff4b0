"""What of a model lies where: on cards, in memory, or left on the disk and read from there again and again.

What a step reads most often for its size goes first: weights that every token reads, keys and values, then routed
experts, then what pictures need and the table of embeddings. Cards first, then memory. Weights that fit into neither
stay on the disk; cache and work cannot. What it is not: a plan of bytes on each of several cards (they count together).
"""

from dataclasses import dataclass

from herd.planning.machines import Machine
from herd.planning.sizes import WeightSizes

CARD_RESERVE = 1 / 16
"""Share of a card's memory that its driver, its context and fragments keep, ..."""
CARD_LEAST_BYTES = 1 << 30
"""... and at least this."""
MEMORY_RESERVE = 1 / 16
"""Share of the memory that the system and other programs keep, ..."""
MEMORY_LEAST_BYTES = 3 << 29
"""... and at least this (1.5 GiB)."""


@dataclass(frozen=True)
class Placed:
    """The bytes of one kind in each place."""

    kind: str
    """work, always, cache, routed, vision or table."""
    card: int
    memory: int
    disk: int

    @property
    def total(self) -> int:
        """The sum of all places."""
        return self.card + self.memory + self.disk


@dataclass(frozen=True)
class Placement:
    """Where everything lies."""

    rows: tuple[Placed, ...]
    card_bytes: int
    """What the cards together have for it, their reserve taken off."""
    memory_bytes: int
    """What the memory has for it."""
    missing: int
    """Bytes of cache and work for which there is no place: with any, the model cannot run like this."""

    def row(self, kind: str) -> Placed:
        """The bytes of a kind."""
        return next(r for r in self.rows if r.kind == kind)

    @property
    def on_card(self) -> int:
        """Bytes on the cards together."""
        return sum(r.card for r in self.rows)

    @property
    def in_memory(self) -> int:
        """Bytes in memory."""
        return sum(r.memory for r in self.rows)

    @property
    def on_disk(self) -> int:
        """Bytes of weights that are read from the disk again and again."""
        return sum(r.disk for r in self.rows)

    @property
    def runs(self) -> bool:
        """Whether there is a place for all that cannot stay on a disk, and a disk to read the rest from."""
        return not self.missing

    @property
    def fits(self) -> bool:
        """Whether nothing is left on the disk."""
        return self.runs and not self.on_disk


def card_room(machine: Machine) -> int:
    """Bytes that all cards together have for a model."""
    held = (max(round(c.memory_bytes * CARD_RESERVE), CARD_LEAST_BYTES) for c in machine.cards)
    return sum(max(0, c.memory_bytes - kept) for c, kept in zip(machine.cards, held, strict=True))


def memory_room(machine: Machine) -> int:
    """Bytes that the memory has for a model."""
    return max(0, machine.memory_bytes - max(round(machine.memory_bytes * MEMORY_RESERVE), MEMORY_LEAST_BYTES))


def place(sizes: WeightSizes, cache: int, work: int, machine: Machine, program: int = 0) -> Placement:
    """Lay a model out on a machine. cache, work: bytes of keys and values of all users, and of one pass; program: of
    the program itself, which lie in the processor's memory."""
    on_cards, in_memory = card_room(machine), memory_room(machine)
    has_disk = bool(machine.memory_bytes) or machine.shared
    card_left, memory_left = on_cards, in_memory
    if machine.cards and machine.memory_bytes:
        memory_left -= min(memory_left, program)
    elif not machine.cards or machine.shared:
        work += program
    rows: dict[str, Placed] = {}
    missing = 0
    beside = bool(machine.cards) and bool(machine.memory_bytes)
    for kind, size in _order(sizes, cache, work * max(1, len(machine.cards)), beside):
        card = 0 if beside and kind in ("vision", "table") and memory_left >= size else min(size, card_left)
        memory = min(size - card, memory_left)
        card_left, memory_left = card_left - card, memory_left - memory
        left = size - card - memory
        if left and (kind in ("cache", "work") or not has_disk):
            missing, left = missing + left, 0
        rows[kind] = Placed(kind, card, memory, left)
    order = ("always", "routed", "table", "vision", "cache", "work")
    return Placement(tuple(rows[kind] for kind in order), on_cards, in_memory, missing)


def _order(sizes: WeightSizes, cache: int, work: int, beside: bool) -> list[tuple[str, int]]:
    """Kinds in the order in which they choose. In one kind of memory what cannot lie on a disk comes first; beside a
    card the table and vision choose before the experts, since the memory is theirs."""
    always, routed, held = ("always", sizes.always), ("routed", sizes.routed), ("cache", cache)
    last = [("table", sizes.table), ("vision", sizes.vision)]
    return [("work", work), always, held, *last, routed] if beside else [("work", work), held, always, routed, *last]
