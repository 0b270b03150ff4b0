"""The choice of a number format for each tensor, so that the whole fits a budget and loses least.

A tensor's loss for a format is the share of its output's energy that rounding turns to noise, sum w e^2 / sum w x^2,
measured on sampled rows; losses of tensors add up. Each tensor's (bytes, loss) points are thinned to their lower convex
hull; taking the steps of all hulls in the order of loss saved a byte is then the best that any choice with so many
bytes can be (Lagrangian relaxation, Shoham and Gersho 1988), up to the last step, after which smaller steps fill up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from herd.errors import DoesNotFit, fail

CANDIDATES = ("q2_k", "q3_k", "iq4_xs", "q4_k", "q5_k", "q6_k", "q8_0")
"""Formats to choose among, smallest first."""
TABLES = ("q6_k", "q8_0")
"""The ones for the embedding and the head, unless the budget is too small."""


@dataclass(frozen=True)
class Option:
    """One format for one tensor: its bytes and its loss."""

    format: str
    num_bytes: int
    loss: float


@dataclass(frozen=True)
class FormatChoice:
    """The chosen formats, their bytes and their loss."""

    formats: dict[str, str]
    num_bytes: int
    loss: float


def hull(options: Sequence[Option]) -> list[Option]:
    """The options that are best for some price of a byte: growing bytes, falling loss, falling gain a byte."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda o: (o.num_bytes, o.loss)):
        if kept and option.loss >= kept[-1].loss:
            continue
        while len(kept) > 1 and _gain(kept[-2], kept[-1]) <= _gain(kept[-2], option):
            kept.pop()
        kept.append(option)
    return kept


def _gain(a: Option, b: Option) -> float:
    """Loss saved for each byte by going from a to b."""
    return (a.loss - b.loss) / max(b.num_bytes - a.num_bytes, 1)


def choose(tensors: Mapping[str, Sequence[Option]], budget_bytes: int, what: str = "the weights") -> FormatChoice:
    """The formats with the least loss in at most `budget_bytes`. Raises DoesNotFit, telling the least budget that there
    is."""
    hulls = {name: hull(options) for name, options in tensors.items()}
    at = dict.fromkeys(hulls, 0)
    used = sum(h[0].num_bytes for h in hulls.values())
    if used > budget_bytes:
        fail(
            DoesNotFit,
            f"{what}: the smallest formats take {used:,} bytes, {budget_bytes:,} are asked for",
            do="allow more bytes, or take a smaller model",
        )
    steps = sorted(
        ((-_gain(h[i], h[i + 1]), name, i) for name, h in hulls.items() for i in range(len(h) - 1)),
    )
    for _, name, i in steps:
        # A step that does not fit ends this tensor's rise: the ones above it stand on it.
        more = hulls[name][i + 1].num_bytes - hulls[name][i].num_bytes
        if at[name] == i and used + more <= budget_bytes:
            at[name] += 1
            used += more
    chosen = {name: h[at[name]] for name, h in hulls.items()}
    return FormatChoice({n: o.format for n, o in chosen.items()}, used, sum(o.loss for o in chosen.values()))
