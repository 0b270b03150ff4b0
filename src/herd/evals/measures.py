"""What two models are beside how well they do: size, memory, speed, cost, and how far apart they are over one text.

    measure       both, one after the other: never are both in memory
    Measured      one model          Measures      both, with KL and perplexity where they have one vocabulary

The measures are those of `herd quantize` (KL, perplexity), `herd bench` (speed, measured now) and `herd plan` (memory,
by arithmetic). What it is not: a verdict; nothing here says worse or better.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from herd import bench
from herd.checkpoint.open import open_checkpoint
from herd.checkpoint.opened import Checkpoint
from herd.errors import HerdError
from herd.llm.load_options import PARALLEL
from herd.machine import num_processors
from herd.machine.memory import available_bytes
from herd.passes.likelihood import Comparison
from herd.planning.context import USUAL
from herd.planning.memory import check_fits, need
from herd.progress import Progress, silent
from herd.quantize import compare
from herd.quantize.comparing import held_out
from herd.weights import count

PROMPT = 512
"""Tokens of the prompt whose reading is timed."""
UNITS = {"compare": "tokens"}
MILLION = 1e6


@dataclass(frozen=True)
class Measured:
    """One model."""

    size_bytes: int
    """Bytes of its files."""
    bits_a_weight: float
    memory_bytes: int
    """What it takes with one full context of `context` tokens, by arithmetic."""
    context: int
    read_tokens_s: float | None
    """Tokens of a prompt a second, one prompt at a time, on this machine now; None: it was not measured."""
    said_tokens_s: float | None
    """Tokens of an answer a second, one answer at a time."""

    @property
    def million_hours(self) -> float | None:
        """Hours of this machine for a million tokens of answers, one answer at a time."""
        return None if self.said_tokens_s is None else MILLION / self.said_tokens_s / 3600

    def million_dollars(self, hour_dollars: float | None) -> float | None:
        """What those hours cost, where an hour costs so much."""
        hours = self.million_hours
        return None if hours is None or hour_dollars is None else hours * hour_dollars


@dataclass(frozen=True)
class Measures:
    """Two models."""

    first: Measured
    second: Measured
    apart: Comparison | None
    """KL(first || second) and both perplexities, over the text that comes with Herd."""
    notes: tuple[str, ...]
    """Why something was not measured."""

    def to_dict(self, hour_dollars: float | None = None) -> dict[str, Any]:
        """As JSON. hour_dollars: what an hour of this machine costs."""
        apart = self.apart
        return {
            "first": _data(self.first, hour_dollars),
            "second": _data(self.second, hour_dollars),
            "tokens": apart and apart.num_tokens,
            "kl_mean": apart and apart.kl_mean,
            "kl_largest": apart and apart.kl_largest,
            "same_top": apart and apart.same_top,
            "first_perplexity": apart and apart.source_perplexity,
            "second_perplexity": apart and apart.target_perplexity,
            "perplexity_ratio": apart and apart.perplexity_ratio,
            "notes": list(self.notes),
        }


def _data(one: Measured, hour_dollars: float | None) -> dict[str, Any]:
    more = {"million_hours": one.million_hours, "million_dollars": one.million_dollars(hour_dollars)}
    return {**asdict(one), **more}


def check_each_fits(paths: "tuple[Path, Path]", context: int | None, kv_dtype: str) -> None:
    """Raise DoesNotFit where one of two models does not fit in memory, before anything is asked of the other."""
    for path in paths:
        available = available_bytes()
        with open_checkpoint(path) as checkpoint:
            tokens = min(context or USUAL, checkpoint.config.max_context)
            if available is not None:
                check_fits(
                    path.name, checkpoint.config, checkpoint.size_bytes, tokens, available, kv_dtype, sequences=PARALLEL
                )


def measure(first: Path, second: Path, *, threads: int = 0, pack: bool = True, progress: Progress = silent) -> Measures:
    """Measure two models, in the same process, one after the other. threads: to compute with; 0: all processors.

    What cannot be measured is left out, with the reason among the notes. Raises what opening a model raises.
    """
    notes: list[str] = []
    apart = _apart(first, second, threads, notes, progress)
    found = [_one(path, threads or num_processors(), pack, notes) for path in (first, second)]
    return Measures(found[0], found[1], apart, tuple(notes))


def _apart(first: Path, second: Path, threads: int, notes: list[str], progress: Progress) -> Comparison | None:
    """KL and perplexity; None, with a note, for models that do not make the same tokens of one text."""
    with open_checkpoint(first) as one, open_checkpoint(second) as other:
        why = _why_not(one, other)
    if not why:
        with tempfile.TemporaryDirectory(prefix="herd-measures-") as folder:
            try:
                return compare(first, second, threads=threads, folder=Path(folder), progress=progress)
            except HerdError as error:
                why = str(error)
    notes.append(f"no KL and no perplexity: {why}")
    return None


def _why_not(one: Checkpoint, other: Checkpoint) -> str:
    """Why two models cannot be compared token by token; empty: they can."""
    if one.config.vocab_size != other.config.vocab_size:
        return f"vocabularies of {one.config.vocab_size} and {other.config.vocab_size}"
    try:
        ids = [checkpoint.load_tokenizer().encode(held_out()) for checkpoint in (one, other)]
    except HerdError as error:
        return str(error)
    return "" if ids[0] == ids[1] else "they make other tokens of the same text"


def _one(path: Path, threads: int, pack: bool, notes: list[str]) -> Measured:
    with open_checkpoint(path) as checkpoint:
        config, size = checkpoint.config, checkpoint.size_bytes
    context = min(USUAL, config.max_context)
    speeds: dict[str, float] = {}
    try:
        speeds = dict(_speeds(path, threads, pack))
    except HerdError as error:
        notes.append(f"{path.name}: no speed: {error}")
    return Measured(
        size,
        8 * size / count(config).total,
        need(config, size, context).total_bytes,
        context,
        speeds.get("prefill"),
        speeds.get("decode"),
    )


def _speeds(path: Path, threads: int, pack: bool) -> Iterator[tuple[str, float]]:
    """Pairs of "prefill" or "decode", and tokens a second."""
    sweeps = bench.Sweeps(prompts=(PROMPT,), batches=(1,), depths=())
    for figure in bench.bench(path, sweeps, threads, pack=pack):
        if isinstance(figure, bench.Figure):
            yield figure.test, figure.tokens_s
