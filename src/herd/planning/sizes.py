"""Bytes of a model's weights by what a step does with them, for a type that they are written as or for a file.

    table     the embedding: a row of it for each token        routed   the experts of which a token takes A of E
    always    read by every token                              vision   read for images alone

`type_sizes` goes by what `herd quantize` writes: the table and the head as q6_k at least, norms and routers in float32,
vision in two bytes. What it is not: a look into a file (`herd.planner` measures one).
"""

from dataclasses import dataclass

from herd.config import Llama4Config
from herd.errors import UsageError, fail
from herd.planning.parts import Parts, weights_by_kind

BITS = {
    "bf16": 16.0,
    "q8_0": 8.5,
    "q6_k": 6.5625,
    "q5_k": 5.5,
    "q5_1": 6.0,
    "q5_0": 5.5,
    "q4_1": 5.0,
    "q4_k": 4.5,
    "q4_0": 4.5,
    "iq4_nl": 4.5,
    "iq4_xs": 4.25,
    "q3_k": 3.4375,
    "iq3_s": 3.4375,
    "iq3_xxs": 3.0625,
    "q2_k": 2.625,
    "iq2_s": 2.5625,
    "iq2_xs": 2.3125,
    "iq2_xxs": 2.0625,
    "iq1_m": 1.75,
    "iq1_s": 1.5625,
}
"""Bits a weight of each type that a model may be written as."""
LADDER = ("bf16", "q8_0", "q6_k", "q5_k", "q4_k", "q3_k", "q2_k")
"""Types that `herd convert` and `herd quantize` write, one for each size: what a plan offers, largest first."""
TABLE_BITS = BITS["q6_k"]


@dataclass(frozen=True)
class WeightSizes:
    """Bytes of weights by use."""

    type: str
    """What they are written as; for a file: what it is called."""
    table: int
    always: int
    routed: int
    vision: int
    shared: int = 0
    """The part of `always` that shared experts are."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.table + self.always + self.routed + self.vision

    @property
    def text(self) -> int:
        """All but vision."""
        return self.total - self.vision


def type_sizes(config: Llama4Config, type: str) -> WeightSizes:
    """The sizes of a model written as one type. Raises UsageError for a type that is not known."""
    if type not in BITS:
        fail(UsageError, "type", got=type, expected=", ".join(BITS))
    bits = BITS[type]
    parts = weights_by_kind(config)
    tables = max(bits, TABLE_BITS)
    floats = 16 if type == "bf16" else 32
    plain = parts.attention + parts.shared + parts.dense
    always = plain * bits + (parts.norms + parts.router) * floats
    table = parts.embedding * tables
    if parts.head:
        always += parts.head * tables
    else:  # the table is the head, which every token reads
        always, table = always + table, 0
    return WeightSizes(
        type,
        round(table / 8),
        round(always / 8),
        round(parts.routed * bits / 8),
        parts.vision * 2,
        round(parts.shared * bits / 8),
    )


def file_sizes(config: Llama4Config, name: str, size_bytes: int) -> WeightSizes:
    """The sizes of a file of which only its length is known: the same bits for every weight."""
    parts = weights_by_kind(config)
    return part_sizes(name, parts, {kind: _share(parts, kind, size_bytes) for kind in Parts.__dataclass_fields__})


def part_sizes(name: str, parts: Parts, found: dict[str, int]) -> WeightSizes:
    """The sizes of a file, from the bytes of each kind of part (a field of Parts) that it holds."""
    always = sum(found.get(kind, 0) for kind in ("attention", "norms", "router", "shared", "dense", "head"))
    table = found.get("embedding", 0)
    if not parts.head:
        always, table = always + table, 0
    return WeightSizes(name, table, always, found.get("routed", 0), found.get("vision", 0), found.get("shared", 0))


def _share(parts: Parts, kind: str, size_bytes: int) -> int:
    return round(size_bytes * getattr(parts, kind) / parts.total) if parts.total else 0
