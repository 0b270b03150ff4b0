"""What Herd reaches today of a machine's limits: factors that were measured, with their date; or why there is none.

On a processor the time of a pass is

    bytes / (read * read_share) + operations / (ops * ops_share) + layers * layer_s

with ops_share for steps of a few rows. A pass of a prompt has prefill_share for products of weights, attention_share
for scores and values, which are computed in floats, and width_ops for each value of each row and layer beside
products: norms, rotations, activations, routing, quantising. `scripts/bench plan speed` fits them. What it is not: a
limit (`speed`).
"""

from dataclasses import dataclass

from herd.config import Llama4Config
from herd.planning.machines import Machine
from herd.planning.placement import Placement
from herd.planning.speed import Estimate, Term, attention_ops, decode_step, disk_terms, row_ops, touched

PIECE = 512
"""Rows of a pass of a prompt (`herd.engine`)."""


@dataclass(frozen=True)
class Factors:
    """Shares of a processor's limits, and seconds beside them."""

    read_share: float
    ops_share: float
    """Share of the peak of int8 products, by steps of a few rows."""
    prefill_share: float
    """Share of it, by products of weights of a prompt."""
    attention_share: float
    """Share of it, by scores and weighted values of a prompt."""
    width_ops: float
    """Such operations that each value of a prompt's rows costs a layer beside products."""
    layer_s: float
    """Seconds of a pass and layer beside reading and computing."""
    date: str
    where: str


MEASURED = Factors(
    0.93, 1.0, 0.72, 0.12, 35_000.0, 30e-6, "2026-11-30", "2 cores of an AMD EPYC and of an Intel Xeon with AVX-512"
)


@dataclass(frozen=True)
class Today:
    """What Herd does there now."""

    why: str
    """Why there is no figure; empty where there is one."""
    estimate: Estimate | None = None


def decode_today(
    config: Llama4Config,
    placement: Placement,
    machine: Machine,
    users: int,
    depth: int,
    kv_dtype: str,
    factors: Factors = MEASURED,
) -> Today:
    """A step of so many users at a depth, as Herd computes it now."""
    if why := not_built(placement, machine):
        return Today(why)
    step = decode_step(config, placement.row("always").total, users, depth, kv_dtype)
    read = placement.row("always").memory + step.touched * placement.row("routed").memory + step.cache
    ops = step.ops_fixed + step.ops_routed + step.ops_attention
    terms = (
        Term("read", read, "B", machine.read_bytes_s * factors.read_share),
        Term("compute", ops, "op", machine.ops_s * factors.ops_share),
        Term("layers", config.num_layers, "", 1 / factors.layer_s),
        *disk_terms(placement, machine, step.touched),
    )
    return Today("", Estimate(users, terms))


def prefill_today(
    config: Llama4Config, placement: Placement, machine: Machine, tokens: int, factors: Factors = MEASURED
) -> Today:
    """Reading a prompt of so many tokens, as Herd computes it now."""
    if why := not_built(placement, machine):
        return Today(why)
    passes = -(-tokens // PIECE)
    each = tokens / passes
    fixed, routed_ops = row_ops(config, heads=False)
    share = touched(config, round(each))
    size = placement.row("always").memory + share * placement.row("routed").memory
    reading = Term("read", size, "B", machine.read_bytes_s * factors.read_share)
    computing = Term("compute", (fixed + routed_ops) * each, "op", machine.ops_s * factors.prefill_share)
    seeing = Term("attention", attention_ops(config, tokens, 0) / passes, "op", machine.ops_s * factors.attention_share)
    beside = factors.width_ops * each * config.width * config.num_layers
    terms = (
        reading,
        computing,
        seeing,
        Term("norms, activations, routing", beside, "op", machine.ops_s),
        Term("layers", config.num_layers, "", 1 / factors.layer_s),
        *disk_terms(placement, machine, share),
    )
    return Today("", Estimate(tokens, terms, passes))


def not_built(placement: Placement, machine: Machine) -> str:
    """Why Herd has no figure for this machine; empty where it has."""
    if machine.shared:
        return "not measured: Herd has not run on memory that processor and card share"
    if len(machine.cards) > 1:
        return "not built: several cards"
    if machine.cards and placement.row("routed").memory:
        return "not built: experts beside a card"
    if machine.cards:
        return "not measured: PyTorch's operations (--device cuda), no kernels of its own"
    return ""
