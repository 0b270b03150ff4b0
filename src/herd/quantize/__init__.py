"""Quantise: any checkpoint that loads becomes Herd's packed form or a GGUF file of smaller types, with what that loses.

    source -> [calibrate: which columns matter] -> [choose types under a budget] -> encode, tensor by tensor -> compare

Memory stays bounded but for calibration and comparison, which run the model. What it is not: training.
"""

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from herd.checkpoint.open import open_checkpoint
from herd.checkpoint.opened import Checkpoint
from herd.config import Llama4Config
from herd.convert import folder_companions, gguf_companions, packed_formats, twice_rounded
from herd.disk.atomic import checked_target
from herd.disk.staging import StagingFolder
from herd.errors import DoesNotFit, UsageError, fail
from herd.ops.native import NativeOps
from herd.passes.encode import EncodingLoss
from herd.passes.likelihood import Comparison
from herd.progress import Progress, silent
from herd.quantize.comparing import compare_with
from herd.quantize.format_choice import FormatPlan, check_budget, plan_budget, plan_type
from herd.quantize.parts import parts_of
from herd.quantize.weighing import Weighing, learn
from herd.quantize.writing import Book, Encoder, write_gguf_mixed, write_packed
from herd.weights import count

UNITS = {"calibrate": "tokens", "choose": "tensors", "encode": "bytes", "compare": "tokens"}
"""Phases, as progress is told of them, and what is counted in each."""


@dataclass(frozen=True)
class TensorReport:
    """One line of the report."""

    name: str
    format: str
    num_bytes: int
    relative_error: float | None
    """Root mean square error over root mean square weight; None: kept from an interrupted run, or never quantised."""
    largest_error: float | None


@dataclass(frozen=True)
class Quantized:
    """What was written, and what it lost."""

    path: Path
    num_bytes: int
    """Bytes of the files."""
    bits: float
    """Bits a weight, everything counted."""
    plan: FormatPlan
    tensors: tuple[TensorReport, ...]
    comparison: Comparison | None = None
    calibration_tokens: int = 0
    unreached: tuple[tuple[int, int], ...] = ()
    """(layer, expert) that the calibration text never reached."""
    notes: tuple[str, ...] = field(default=())

    def worst(self, most: int = 10) -> list[TensorReport]:
        """The tensors with the largest relative errors."""
        known = [t for t in self.tensors if t.relative_error is not None]
        return sorted(known, key=lambda t: -(t.relative_error or 0.0))[:most]


class ComparisonInterrupted(KeyboardInterrupt):
    """Ctrl-C while source and result were compared. The result, `made`, is whole; `compare` compares them later."""

    def __init__(self, made: Quantized) -> None:
        super().__init__()
        self.made = made


def quantize(
    source: Path | str,
    target: Path | str,
    type: str | None = None,
    *,
    size_bytes: int | None = None,
    bits: float | None = None,
    calibrate: str | None = None,
    imatrix: Path | str | None = None,
    save_imatrix: Path | str | None = None,
    pure: bool = False,
    threads: int = 0,
    resume: bool = True,
    overwrite: bool = False,
    compare: bool = True,
    mmproj: Path | str | None = None,
    progress: Progress = silent,
) -> Quantized:
    """Write the checkpoint at `source` as `target`: a GGUF file when its name ends in .gguf, else Herd's packed form.

    type: one of `format_choice.TYPES` for every matrix (embedding and head at least q6_k unless `pure`); or size_bytes
    (of all weights) or bits (a weight, everything counted) for the mixture that loses least. Routers and norms become
    f32, a vision part keeps its floats. calibrate: a text that tells which columns matter; imatrix: a file that tells
    it (llama.cpp's, in either form); save_imatrix: where what the text told is written as such a file. resume: take up
    an interrupted run of the same job. compare: KL and perplexity against the source over a text that comes with Herd,
    where both fit in memory. mmproj: the vision part of a GGUF source; None: the one beside it that belongs to it.
    progress: told of each phase, see UNITS.

    Raises what `open_checkpoint` raises; UsageError (options that contradict each other, target exists), DoesNotFit
    (memory for calibration, disk, a budget too small), BadCheckpoint (NaN, infinity, out of range: tensor, row,
    column; nothing is left of the target then), ComparisonInterrupted.
    """
    target = Path(target)
    weighing = Weighing(calibrate, *(None if x is None else Path(x) for x in (imatrix, save_imatrix)))
    weighing.check(overwrite)
    if sum(x is not None for x in (type, size_bytes, bits)) != 1:
        fail(UsageError, "what to quantise to", do="give one of a type, a size, bits a weight")
    if pure and type is None:
        fail(UsageError, "pure", got="a size or bits a weight", expected="a type", do="leave it out")
    ops = NativeOps(threads)
    with open_checkpoint(source, mmproj=mmproj) as checkpoint:
        config = checkpoint.config
        _refuse_self(Path(source), target)
        if weighing.save is not None:
            _refuse_other(Path(source), target, weighing.save)
        _check_targets(target, config, overwrite)
        budget = size_bytes if size_bytes is not None else int(count(config).total * (bits or 0) / 8)
        if type is None:
            check_budget(config, budget)
        else:
            plan = plan_type(config, type, pure)
        with checkpoint.reading():
            importances, seen_tokens, told = learn(checkpoint, ops, weighing, overwrite, progress)
            if type is None:
                plan = plan_budget(
                    config,
                    checkpoint.source(),
                    budget,
                    importances,
                    lambda a, b: progress("choose", a, b),
                    ops.threads,
                )
        book = Book()
        encoder = Encoder(importances, book, ops.threads)
        job = _job(checkpoint, plan, weighing)
        notes = _write(checkpoint, target, plan, encoder, job, overwrite, resume, progress)
        notes += [*told, *plan.notes, *twice_rounded(_again(checkpoint, plan))]
        if left := [n for n, f in plan.formats.items() if f is None]:
            notes.append(f"{len(left)} tensors have rows that no block divides and stay as they are: {left[0]}")
        unreached = importances.unreached(config) if importances is not None else []
        size = sum(p.stat().st_size for p in _files(target))
        bits_each = 8 * size / count(config).total
        report = _report(checkpoint, plan, book)
        made = Quantized(target, size, bits_each, plan, report, None, seen_tokens, tuple(unreached), tuple(notes))
        if not compare:
            return made
        try:
            comparison, why = compare_with(checkpoint, target, ops, progress)
        except KeyboardInterrupt:
            raise ComparisonInterrupted(made) from None
        return replace(made, comparison=comparison, notes=(*notes, why) if why else tuple(notes))


def compare(
    source: Path | str,
    target: Path | str,
    *,
    threads: int = 0,
    mmproj: Path | str | None = None,
    folder: Path | None = None,
    progress: Progress = silent,
) -> Comparison:
    """The comparison that `quantize` ends with, of a source and what was made of it, or of any two models of one
    vocabulary: KL and perplexity over the same text, whatever the result was calibrated with. One model after the other
    is in memory. folder: where the first one's log-probabilities lie meanwhile; None: beside the target.

    Raises what `open_checkpoint` raises; UsageError (no tokenizer, another vocabulary), DoesNotFit (memory, disk).
    """
    with open_checkpoint(source, mmproj=mmproj) as checkpoint, open_checkpoint(target) as made:
        theirs, ours = checkpoint.config.vocab_size, made.config.vocab_size
        if theirs != ours:
            fail(UsageError, f"{target} is not made of {source}: vocabulary", got=ours, expected=theirs)
        found, why = compare_with(checkpoint, Path(target), NativeOps(threads), progress, folder)
    if found is None:
        fail(UsageError if "tokenizer" in why else DoesNotFit, why)
    return found


def _refuse_self(source: Path, target: Path) -> None:
    if target.exists() and (source.samefile(target) or (source.is_file() and source.parent.samefile(target))):
        fail(UsageError, f"{target} is the source", do="name another target")


def _refuse_other(source: Path, target: Path, save: Path) -> None:
    """Raise UsageError where the importance matrix would take the place of the target, or of a file of the source."""
    if save.absolute() == target.absolute():
        fail(UsageError, f"imatrix to write: {save} is the target", do="name another file")
    if save.exists() and (source.samefile(save) or (source.is_dir() and source.samefile(save.parent))):
        fail(UsageError, f"imatrix to write: {save} belongs to the source", do="name another file")


def _check_targets(target: Path, config: Llama4Config, overwrite: bool) -> None:
    """Raise UsageError or NotFound now, not after a calibration, where nothing may be written. What an interrupted run
    left is looked at by whoever takes it up."""
    if StagingFolder(target.absolute(), resume=True).path.exists():
        return
    checked_target(target, overwrite)
    if target.suffix == ".gguf" and config.vision is not None:
        checked_target(target.with_name(f"mmproj-{target.name}"), overwrite)


def _files(target: Path) -> list[Path]:
    if target.is_dir():
        return [p for p in target.iterdir() if p.suffix == ".safetensors"]
    mmproj = target.with_name(f"mmproj-{target.name}")
    return [target, *([mmproj] if mmproj.exists() else [])]


# -- writing ------------------------------------------------------------------------------------------------------


def _write(
    checkpoint: Checkpoint,
    target: Path,
    plan: FormatPlan,
    encoder: Encoder,
    job: dict[str, str],
    overwrite: bool,
    resume: bool,
    progress: Progress,
) -> list[str]:
    total = sum(_part_bytes(checkpoint, plan).values())
    done = 0

    def step(_tensor: str, num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        progress("encode", done, total)

    if target.suffix == ".gguf":
        keys, notes = gguf_companions(checkpoint)
        notes += write_gguf_mixed(
            target,
            checkpoint,
            plan,
            encoder,
            keys=keys,
            job=job,
            overwrite=overwrite,
            resume=resume,
            step=step,
        )
        return notes
    paths, texts, notes = folder_companions(checkpoint)
    write_packed(
        target,
        checkpoint,
        plan,
        encoder,
        files=paths,
        texts=texts,
        job=job,
        overwrite=overwrite,
        resume=resume,
        step=step,
    )
    return notes


def _again(checkpoint: Checkpoint, plan: FormatPlan) -> list[str]:
    """The block formats of the tensors that the plan makes others of."""
    before = packed_formats(checkpoint)
    parts = {part.gguf: plan.formats[part.tensor] for part in parts_of(checkpoint.config)}
    return [own for name, own in before.items() if parts.get(name) not in (own, None)]


def _job(checkpoint: Checkpoint, plan: FormatPlan, weighing: Weighing) -> dict[str, str]:
    """What a resumed run must agree in: the source's files as they lie, the plan, what says which columns matter."""
    path = checkpoint.path.resolve()
    weights = sorted(p for p in ([path] if path.is_file() else path.iterdir()) if p.is_file())
    stamps = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in weights]
    parts = {"source": [str(path), *stamps], "formats": plan.formats, "calibration": weighing.digest}
    return {name: hashlib.sha256(json.dumps(x).encode()).hexdigest()[:16] for name, x in parts.items()}


def _part_bytes(checkpoint: Checkpoint, plan: FormatPlan) -> dict[str, int]:
    found = {}
    for part in parts_of(checkpoint.config):
        name = plan.formats[part.tensor]
        found[part.tensor] = 2 * part.num_weights if name is None else part.num_bytes(name)
    return found


def _report(checkpoint: Checkpoint, plan: FormatPlan, book: Book) -> tuple[TensorReport, ...]:
    sizes = _part_bytes(checkpoint, plan)
    rows = []
    for name, format in plan.formats.items():
        lost: EncodingLoss | None = book.lost.get(name)
        relative, largest = (None, None) if lost is None else (lost.relative, lost.largest)
        rows.append(TensorReport(name, format or "float", sizes[name], relative, largest))
    return tuple(rows)
