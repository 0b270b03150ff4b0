"""How fast a model can be on a machine: bytes to read and operations to compute, over what the machine reaches.

    decode    a step reads what every token reads, the experts that its rows are expected to touch, and keys and values;
              on a card, in memory and from the disk, one after another. A step is no faster than its operations either.
    prefill   passes of PASS rows: operations of weights and of attention; each pass reads all that it touches. Experts
              that lie in memory beside a card are computed there, or go to the card in every pass: whichever is faster.

Each time is a sum of Terms, which `herd plan --explain` prints. These are limits: nothing is faster. What Herd reaches
of them today stands in `today`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from herd.config import Llama4Config
from herd.planning.layers import layer_caches
from herd.planning.machines import Machine
from herd.planning.parts import weights_by_kind
from herd.planning.placement import Placement

PASS = 8192
"""Rows of a pass of a prompt at best: one chunk. Copying a layer's experts to a card and computing them take about as
long then."""
CROSSING_S = 30e-6
"""Seconds from a card to the processor or back, with what is computed next waiting for it."""
HOP_S = 10e-6
"""Seconds of one exchange among cards that compute a layer together."""
SHORT = 512
"""Tokens before a step that is told as "short"."""


@dataclass(frozen=True)
class Term:
    """A part of a time."""

    what: str
    amount: float
    unit: str
    """B (bytes), op (operations), or "" for a number of times."""
    rate: float
    """Units a second."""
    counted: bool = True
    """Whether it is part of the sum; what happens meanwhile and ends earlier is not."""

    @property
    def seconds(self) -> float:
        """How long it takes."""
        return self.amount / self.rate if self.amount else 0.0


@dataclass(frozen=True)
class Estimate:
    """A time and what it consists of."""

    tokens: int
    """Tokens that are read, or said by all users together, in that time."""
    terms: tuple[Term, ...]
    times: int = 1
    """How often the terms happen for that."""

    @property
    def seconds(self) -> float:
        """The time in all."""
        return self.times * sum(t.seconds for t in self.terms if t.counted)

    @property
    def tokens_s(self) -> float:
        """Tokens a second, of all users together."""
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class StepWork:
    """The bytes and operations of one pass."""

    rows: int
    always: float
    """Bytes of weights that every token reads, and of the vision of none."""
    touched: float
    """The share of routed experts that the rows are expected to touch."""
    cache: float
    """Bytes of keys and values."""
    ops_fixed: float
    """Operations of all but routed experts and attention."""
    ops_routed: float
    ops_attention: float


def touched(config: Llama4Config, rows: int) -> float:
    """The expected share of E experts of which so many rows take A each: 1 - (1 - A/E)^rows."""
    if not config.num_experts:
        return 0.0
    return float(1 - (1 - config.experts_per_token / config.num_experts) ** rows)


def kv_read_bytes(config: Llama4Config, depth: int, kv_dtype: str) -> float:
    """Bytes of keys and values that the query at position `depth` reads. In a chunked layer: those since its chunk
    began, half a chunk on average where there are whole ones."""
    total = 0.0
    for layer in layer_caches(config, kv_dtype):
        seen = depth + 1.0
        if layer.chunked and config.chunk and depth >= config.chunk:
            seen = (config.chunk + 1) / 2
        total += seen * layer.slot_bytes(config.head_size)
    return total * config.num_kv_heads


def pairs(rows: int, start: int, chunk: int | None) -> int:
    """Pairs of a query and a key that it sees, of queries at start .. start + rows - 1: all before it, or those of its
    chunk of so many positions."""

    def until(end: int) -> int:
        if chunk is None:
            return end * (end + 1) // 2
        whole, rest = divmod(end, chunk)
        return whole * (chunk * (chunk + 1) // 2) + rest * (rest + 1) // 2

    return until(start + rows) - until(start)


def attention_ops(config: Llama4Config, rows: int, start: int) -> float:
    """Operations of scores and weighted values of so many queries of one sequence, from position `start` on."""
    whole, within = pairs(rows, start, None), pairs(rows, start, config.chunk)
    seen = sum(within if layer.chunked else whole for layer in config.layers)
    return 4.0 * config.num_heads * config.head_size * seen


def row_ops(config: Llama4Config, *, heads: bool) -> tuple[float, float]:
    """Operations of a row: of all but routed experts, and of its routed experts. heads: whether it wants logits."""
    parts = weights_by_kind(config)
    fixed = parts.attention + parts.router + parts.shared + parts.dense
    if heads:
        fixed += parts.head or parts.embedding
    routed = parts.routed * config.experts_per_token / config.num_experts if config.num_experts else 0.0
    return 2.0 * fixed, 2.0 * routed


def decode_step(config: Llama4Config, always: float, users: int, depth: int, kv_dtype: str) -> StepWork:
    """One step in which each of so many users gets a token after `depth` of their own."""
    fixed, routed = row_ops(config, heads=True)
    return StepWork(
        users,
        always,
        touched(config, users),
        users * kv_read_bytes(config, depth, kv_dtype),
        users * fixed,
        users * routed,
        users * attention_ops(config, 1, depth),
    )


def decode(
    config: Llama4Config, placement: Placement, machine: Machine, users: int, depth: int, kv_dtype: str
) -> Estimate:
    """A step of so many users at a depth, at the machine's limit."""
    always = placement.row("always")
    step = decode_step(config, always.total, users, depth, kv_dtype)
    return Estimate(users, tuple(_step_terms(config, placement, machine, step)))


def _step_terms(config: Llama4Config, placement: Placement, machine: Machine, step: StepWork) -> Iterator[Term]:
    routed, cache = placement.row("routed"), placement.row("cache")
    on_card = _part(cache.card, cache.total)
    reads = {
        "card": placement.row("always").card + step.touched * routed.card + step.cache * on_card,
        "memory": placement.row("always").memory + step.touched * routed.memory + step.cache * (1 - on_card),
    }
    share = _part(routed.card, routed.total)
    fixed = _part(placement.row("always").card, placement.row("always").total)
    ops = {
        "card": step.ops_fixed * fixed + step.ops_routed * share + step.ops_attention * on_card,
        "memory": step.ops_fixed * (1 - fixed) + step.ops_routed * (1 - share) + step.ops_attention * (1 - on_card),
    }
    if machine.cards:
        yield from _longer("on the cards" if len(machine.cards) > 1 else "on the card", reads["card"],
                           sum(c.read_bytes_s for c in machine.cards), ops["card"],
                           sum(c.ops_s for c in machine.cards))  # fmt: skip
    if machine.memory_bytes:
        yield from _longer("in memory", reads["memory"], machine.read_bytes_s, ops["memory"], machine.ops_s)
    yield from disk_terms(placement, machine, step.touched)
    yield from _exchanges(config, placement, machine)


def _longer(where: str, size: float, read_bytes_s: float, ops: float, ops_s: float) -> Iterator[Term]:
    """Reading and computing, of which the longer one counts."""
    reading = Term(f"read {where}", size, "B", read_bytes_s)
    computing = Term(f"compute {where}", ops, "op", ops_s)
    slower = reading.seconds >= computing.seconds
    yield Term(reading.what, size, "B", read_bytes_s, slower)
    yield Term(computing.what, ops, "op", ops_s, not slower)


def disk_terms(placement: Placement, machine: Machine, share: float) -> Iterator[Term]:
    """What is read from the disk in a step: the share of the experts that lie there, and all else that every token
    reads."""
    size = placement.row("always").disk + share * placement.row("routed").disk
    if size:
        yield Term("read from the disk", size, "B", machine.disk_read_bytes_s)


def _exchanges(config: Llama4Config, placement: Placement, machine: Machine) -> Iterator[Term]:
    """Waits between card and processor, two a layer whose experts lie in memory; and among cards, two a layer."""
    if machine.cards and not machine.shared and placement.row("routed").memory + placement.row("routed").disk:
        yield _crossings(config)
    if len(machine.cards) > 1:
        yield Term("exchanges among cards", 2 * config.num_layers, "", 1 / HOP_S)


def _crossings(config: Llama4Config) -> Term:
    layers = sum(layer.moe for layer in config.layers)
    return Term("crossings between card and processor", 2 * layers, "", 1 / CROSSING_S)


def prefill(
    config: Llama4Config, placement: Placement, machine: Machine, tokens: int, rows: int = PASS, prompts: int = 1
) -> Estimate:
    """Reading so many tokens, in passes of `rows`, at the machine's limit: passes are told as one of average depth,
    times their number. prompts: that these tokens are, as long as each other, which do not see each other."""
    rows = max(1, min(rows, tokens))
    passes = -(-tokens // rows)
    each = tokens / passes
    fixed, routed_ops = row_ops(config, heads=False)
    attention = prompts * attention_ops(config, tokens // prompts, 0) / passes
    always, routed = placement.row("always"), placement.row("routed")
    share = touched(config, round(each))
    terms: list[Term] = []
    beside = routed.memory + routed.disk
    if machine.cards and machine.memory_bytes and beside:
        terms += _hybrid_pass(config, placement, machine, fixed * each + attention, routed_ops * each, share)
    elif machine.cards:
        terms += _longer("on the cards" if len(machine.cards) > 1 else "on the card",
                         always.card + share * routed.card, sum(c.read_bytes_s for c in machine.cards),
                         (fixed + routed_ops) * each + attention, sum(c.ops_s for c in machine.cards))  # fmt: skip
    else:
        terms += _longer("in memory", always.memory + share * routed.memory, machine.read_bytes_s,
                         (fixed + routed_ops) * each + attention, machine.ops_s)  # fmt: skip
    terms += disk_terms(placement, machine, share)
    if len(machine.cards) > 1:
        terms.append(Term("exchanges among cards", 2 * config.num_layers, "", 1 / HOP_S))
    return Estimate(tokens, tuple(terms), passes)


def _hybrid_pass(
    config: Llama4Config, placement: Placement, machine: Machine, fixed: float, routed_ops: float, share: float
) -> Iterator[Term]:
    """A pass whose experts lie in memory, all or some: computed there after what the card does, or copied to the card
    while it computes."""
    always, routed = placement.row("always"), placement.row("routed")
    off = _part(routed.memory + routed.disk, routed.total)
    read_s = sum(c.read_bytes_s for c in machine.cards)
    ops_s = sum(c.ops_s for c in machine.cards)
    card = list(
        _longer("on the card", always.card + share * routed.card, read_s, fixed + routed_ops * (1 - off), ops_s)
    )
    there = list(_longer("in memory", share * routed.memory, machine.read_bytes_s, routed_ops * off, machine.ops_s))
    there.append(_crossings(config))
    copied = Term("copy experts to the card", share * routed.memory, "B", min(machine.read_bytes_s, _link(machine)))
    computed = Term("compute on the card", fixed + routed_ops, "op", ops_s)
    if _seconds((*card, *there)) <= max(copied.seconds, computed.seconds):
        yield from (*card, *there)
        return
    slower = copied.seconds >= computed.seconds
    yield Term(copied.what, copied.amount, "B", copied.rate, slower)
    yield Term(computed.what, computed.amount, "op", computed.rate, not slower)


def _link(machine: Machine) -> float:
    return sum(c.link_bytes_s for c in machine.cards)


def _seconds(terms: tuple[Term, ...]) -> float:
    return sum(t.seconds for t in terms if t.counted)


def _part(some: float, whole: float) -> float:
    return some / whole if whole else 0.0
