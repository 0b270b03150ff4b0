"""What Herd reaches today of a machine's limits: factors that were measured, with their date; or why there is none.

On a processor the time of a pass is

    bytes / (read * read_share) + operations / (ops * ops_share) + layers * layer_s

with ops_share for steps of a few rows, and prefill_share for the passes of a prompt, where the longer one of reading
and computing hides the other. `scripts/bench plan speed` fits them. What it is not: a limit (`speed`).
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
    layer_s: float
    """Seconds of a pass and layer beside reading and computing."""
    date: str
    where: str


MEASURED = Factors(1.0, 1.0, 0.70, 30e-6, "2026-11-30", "2 cores of an AMD EPYC with AVX-512")


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
    ops = (fixed + routed_ops) * each + attention_ops(config, tokens, 0) / passes
    share = touched(config, round(each))
    size = placement.row("always").memory + share * placement.row("routed").memory
    reading = Term("read", size, "B", machine.read_bytes_s * factors.read_share)
    computing = Term("compute", ops, "op", machine.ops_s * factors.prefill_share)
    terms = (
        reading,
        computing,
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
