"""What Herd reaches today of a machine's limits: factors that were measured, with their date; or why there is none.

On a processor the time of a pass is

    bytes / (read * READ_SHARE) + operations / (ops * OPS_SHARE) + layers * LAYER_S

with OPS_SHARE for few rows and PREFILL_SHARE for the passes of a prompt, fitted by `scripts/bench plan`. What it
is not: a limit (`speed`).
"""

from dataclasses import dataclass

from herd.config import Llama4Config
from herd.planning.machines import Machine
from herd.planning.placement import Placement
from herd.planning.speed import Estimate, Term, attention_ops, decode_step, disk_terms, row_ops, touched

DATE = "2026-11-30"
READ_SHARE = 1.0
OPS_SHARE = 1.0
"""Share of the peak of int8 products that steps of a few rows reach; reading and computing do not overlap."""
PREFILL_SHARE = 0.62
LAYER_S = 30e-6
ROWS = 512
"""Rows of a pass of a prompt (`herd.engine`)."""


@dataclass(frozen=True)
class Today:
    """What Herd does there now."""

    why: str
    """Why there is no figure; empty where there is one."""
    estimate: Estimate | None = None


def decode_today(
    config: Llama4Config, placement: Placement, machine: Machine, users: int, depth: int, kv_dtype: str
) -> Today:
    """A step of so many users at a depth, as Herd computes it now."""
    if why := not_built(placement, machine):
        return Today(why)
    step = decode_step(config, placement.row("always").total, users, depth, kv_dtype)
    routed = placement.row("routed")
    read = placement.row("always").memory + step.touched * routed.memory + step.cache
    ops = step.ops_fixed + step.ops_routed + step.ops_attention
    return Today(
        "",
        Estimate(
            users, (*_terms(config, machine, read, ops, OPS_SHARE), *disk_terms(placement, machine, step.touched))
        ),
    )


def prefill_today(config: Llama4Config, placement: Placement, machine: Machine, tokens: int) -> Today:
    """Reading a prompt of so many tokens, as Herd computes it now."""
    if why := not_built(placement, machine):
        return Today(why)
    passes = -(-tokens // ROWS)
    each = tokens / passes
    fixed, routed_ops = row_ops(config, heads=False)
    ops = (fixed + routed_ops) * each + attention_ops(config, tokens, 0) / passes
    share = touched(config, round(each))
    terms = (
        Term("compute", ops, "op", machine.ops_s * PREFILL_SHARE),
        Term("layers", config.num_layers, "", 1 / LAYER_S),
        *disk_terms(placement, machine, share),
    )
    return Today("", Estimate(tokens, terms, passes))


def not_built(placement: Placement, machine: Machine) -> str:
    """Why Herd has no figure for this machine; empty where it has."""
    if machine.shared:
        return "not measured: kernels for this processor (NEON) have not run on one"
    if len(machine.cards) > 1:
        return "not built: several cards"
    if machine.cards and (placement.in_memory and placement.row("routed").memory):
        return "not built: experts beside a card"
    if machine.cards:
        return "not measured: PyTorch's operations (--device cuda), no kernels of its own"
    return ""


def _terms(config: Llama4Config, machine: Machine, read: float, ops: float, share: float) -> tuple[Term, ...]:
    return (
        Term("read", read, "B", machine.read_bytes_s * READ_SHARE),
        Term("compute", ops, "op", machine.ops_s * share),
        Term("layers", config.num_layers, "", 1 / LAYER_S),
    )
