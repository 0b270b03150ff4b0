"""Which format every part gets: one type throughout, or a mixture that fits a budget."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

from herd import formats
from herd.checkpoint.walk import walk
from herd.config import Llama4Config
from herd.errors import DoesNotFit, UsageError, fail
from herd.formats.substitutes import fitting, why_not
from herd.passes.encode import EncodingLoss, encode_rows
from herd.passes.importance import Importances
from herd.passes.mixture import CANDIDATES, TABLES, FormatChoice, Option, choose
from herd.quantize.parts import MatrixPart, parts_of, sample_of
from herd.weights import Source, is_vision

TYPES = ("q2_k", "q3_k", "iq4_xs", "q4_k", "q5_k", "q6_k", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl")
"""What a model can be quantised to."""
TABLE_TYPE = "q6_k"
"""What the embedding and the head get at least, unless told otherwise: every token passes through both."""


@dataclass(frozen=True)
class FormatPlan:
    """Part (by its tensor's name) -> format; None: rows that no block divides, left as they are."""

    formats: dict[str, str | None]
    num_bytes: int
    """Bytes of all weights: the parts, and what stays float."""
    loss: float | None = None
    """Estimated (`passes.mixture`); None where nothing was chosen."""
    notes: tuple[str, ...] = ()
    """Where tensors have another format than the type asked for, and why."""

    def summary(self) -> dict[str, int]:
        """Format -> number of tensors."""
        found: dict[str, int] = {}
        for name in self.formats.values():
            found[name or "float"] = found.get(name or "float", 0) + 1
        return dict(sorted(found.items()))


def float_bytes(config: Llama4Config) -> int:
    """What is not a part: norms, biases and routers (f32), the vision part (two bytes a weight)."""
    own = {p.tensor for p in parts_of(config)} | {p.wanted.name for p in parts_of(config) if p.num_experts}
    total = 0
    for w in walk(config):
        for name, shape in w.tensors.items():
            if name not in own:
                total += (2 if is_vision(w.name) else 4) * prod(shape)
    return total


def plan_type(config: Llama4Config, type: str, pure: bool = False) -> FormatPlan:
    """One type throughout; tables at least TABLE_TYPE unless `pure`. Raises UsageError for an unknown type."""
    if type not in TYPES:
        fail(UsageError, "type to quantise to", got=type, expected=", ".join(TYPES))
    chosen: dict[str, str | None] = {}
    others: Counter[tuple[str, str]] = Counter()
    total = float_bytes(config)
    for part in parts_of(config):
        coarse = formats.get(type).bits < formats.get(TABLE_TYPE).bits
        wanted = TABLE_TYPE if part.is_table and coarse and not pure else type
        own = chosen[part.tensor] = fitting(wanted, part.inputs)
        total += _bytes(part, own)
        if own not in (wanted, None):
            others[wanted, str(own)] += 1
    notes = [f"{n} tensors become {own}: {why_not(wanted)}" for (wanted, own), n in others.items()]
    return FormatPlan(chosen, total, notes=tuple(notes))


def check_budget(config: Llama4Config, budget_bytes: int) -> None:
    """Raise DoesNotFit where not even the smallest types stay within `budget_bytes`: before any weight is read."""
    least = float_bytes(config)
    for part in parts_of(config):
        names = [n for c in CANDIDATES if (n := fitting(c, part.inputs)) is not None]
        least += min((part.num_bytes(n) for n in names), default=_bytes(part, None))
    if budget_bytes < least:
        need, have = f"{least:,} bytes", f"{budget_bytes:,}"
        fail(DoesNotFit, f"the smallest formats take {need}, {have} are asked for", do="allow more bytes")


def plan_budget(
    config: Llama4Config,
    source: Source,
    budget_bytes: int,
    importances: Importances | None,
    step: Callable[[int, int], None] | None = None,
    threads: Any = None,
) -> FormatPlan:
    """The mixture of least estimated loss within `budget_bytes` of weights. threads: of a native op set. Raises
    DoesNotFit."""
    parts = parts_of(config)
    fixed = float_bytes(config)
    options: dict[str, list[Option]] = {}
    tables: dict[str, list[Option]] = {}
    chosen: dict[str, str | None] = {}
    for i, part in enumerate(parts):
        names = dict.fromkeys(n for c in CANDIDATES if (n := fitting(c, part.inputs)) is not None)
        if not names:
            chosen[part.tensor] = None
            fixed += _bytes(part, None)
            continue
        losses = _losses(part, source, list(names), importances, threads)
        options[part.tensor] = [Option(n, part.num_bytes(n), loss) for n, loss in losses.items()]
        if part.is_table:
            best = [o for o in options[part.tensor] if o.format in {fitting(t, part.inputs) for t in TABLES}]
            tables[part.tensor] = best or options[part.tensor]
        if step is not None:
            step(i + 1, len(parts))
    left = budget_bytes - fixed
    if left < 0:
        need, have = f"{fixed:,} bytes", f"{budget_bytes:,}"
        fail(DoesNotFit, f"what stays float takes {need}, {have} are asked for", do="allow more bytes")
    choice = _choose({**options, **tables}, options, left)
    return FormatPlan({**chosen, **choice.formats}, fixed + choice.num_bytes, choice.loss)


def _choose(fine: dict[str, list[Option]], all_options: dict[str, list[Option]], left: int) -> FormatChoice:
    """The choice with fine tables where that fits, else with any."""
    try:
        return choose(fine, left)
    except DoesNotFit:
        return choose(all_options, left)


def _losses(
    part: MatrixPart, source: Source, names: list[str], importances: Importances | None, threads: Any
) -> dict[str, float]:
    """Format -> share of the output's energy lost, on sampled rows."""
    node = fetch(source, part)
    sums = {name: EncodingLoss() for name in names}
    energy = 0.0
    for expert, rows in sample_of(part, node):
        weights = importances.of(part.wanted.name, expert if part.num_experts else None) if importances else None
        x = formats.to_float32(rows).astype("float64")
        energy += float(((x * x) * (1.0 if weights is None else weights)).sum())
        for name in names:
            sums[name].add(encode_rows(name, rows, weights, part.tensor, threads=threads)[1])
    return {name: lost.weighted2 / energy if energy > 0 else 0.0 for name, lost in sums.items()}


def fetch(source: Source, part: MatrixPart) -> object:
    """The node that a part belongs to."""
    w = part.wanted
    return source.experts(w.name, *w.shape) if w.kind == "experts" else source.matrix(w.name, *w.shape, bias=w.bias)


def _bytes(part: MatrixPart, format: str | None) -> int:
    return 2 * part.num_weights if format is None else part.num_bytes(format)
