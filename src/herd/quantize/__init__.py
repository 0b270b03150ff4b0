"""Quantise: any checkpoint that loads becomes Herd's packed form or a GGUF file of smaller types, with what that loses.

    source -> [calibrate: which columns matter] -> [choose types under a budget] -> encode, tensor by tensor -> compare

Memory stays bounded but for calibration and comparison, which run the model. What it is not: training.
"""

import hashlib
import json
from dataclasses import dataclass, field
from importlib.resources import files as package_files
from pathlib import Path

from herd.checkpoint.open import open_checkpoint
from herd.checkpoint.opened import Checkpoint
from herd.config import Llama4Config
from herd.convert import folder_companions, gguf_companions
from herd.disk.atomic import checked_target
from herd.disk.staging import StagingFolder
from herd.errors import DoesNotFit, HerdError, NotFound, UsageError, fail
from herd.machine.memory import available_bytes
from herd.model import place_weights
from herd.ops.contract import Extras
from herd.ops.native import NativeOps
from herd.passes.encode import EncodingLoss
from herd.passes.importance import Importances
from herd.passes.likelihood import Comparison, Reference, logits, windows
from herd.planning.memory import ROOM, gb, work_bytes
from herd.progress import Progress, silent
from herd.quantize.format_choice import FormatPlan, check_budget, plan_budget, plan_type
from herd.quantize.parts import parts_of
from herd.quantize.writing import Book, Encoder, write_gguf_mixed, write_packed
from herd.weights import count

COMPARE_TOKENS = 4096
"""At most so many tokens are compared."""
HELD_OUT = 8
"""Of a calibration text, every HELD_OUT-th window is kept for the comparison."""

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
    """Of the files."""
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


def quantize(
    source: Path | str,
    target: Path | str,
    type: str | None = None,
    *,
    size_bytes: int | None = None,
    bits: float | None = None,
    calibrate: str | None = None,
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
    f32, a vision part keeps its floats. calibrate: a text that tells which columns matter. resume: take up an
    interrupted run of the same job. compare: KL and perplexity against the source, where both fit in memory. mmproj:
    the vision part of a GGUF source; None: the one beside it that belongs to it. progress: told of each phase, see
    UNITS.

    Raises what `open_checkpoint` raises; UsageError (options that contradict each other, target exists), DoesNotFit
    (memory for calibration, disk, a budget too small), BadCheckpoint (NaN, infinity, out of range: tensor, row,
    column; nothing is left of the target then).
    """
    target = Path(target)
    if sum(x is not None for x in (type, size_bytes, bits)) != 1:
        fail(UsageError, "what to quantise to", do="give one of a type, a size, bits a weight")
    if pure and type is None:
        fail(UsageError, "pure", got="a size or bits a weight", expected="a type", do="leave it out")
    ops = NativeOps(threads)
    with open_checkpoint(source, mmproj=mmproj) as checkpoint:
        config = checkpoint.config
        _refuse_self(Path(source), target)
        _check_targets(target, config, overwrite)
        budget = size_bytes if size_bytes is not None else int(count(config).total * (bits or 0) / 8)
        if type is None:
            check_budget(config, budget)
        else:
            plan = plan_type(config, type, pure)
        with checkpoint.reading():
            importances, seen_tokens, texts = _calibrate(checkpoint, ops, calibrate, progress)
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
        notes = _write(checkpoint, target, plan, encoder, calibrate, overwrite, resume, progress)
        if left := [n for n, f in plan.formats.items() if f is None]:
            notes.append(f"{len(left)} tensors have rows that no block divides and stay as they are: {left[0]}")
        comparison = None
        if compare:
            comparison, why = _compare(checkpoint, target, ops, texts, progress)
            notes += [why] if why else []
        unreached = importances.unreached(config) if importances is not None else []
        written = _files(target)
        size = sum(p.stat().st_size for p in written)
        return Quantized(
            target,
            size,
            8 * size / count(config).total,
            plan,
            _report(checkpoint, plan, book),
            comparison,
            seen_tokens,
            tuple(unreached),
            tuple(notes),
        )


def _refuse_self(source: Path, target: Path) -> None:
    if target.exists() and (source.samefile(target) or (source.is_file() and source.parent.samefile(target))):
        fail(UsageError, f"{target} is the source", do="name another target")


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


# -- calibration --------------------------------------------------------------------------------------------------


def _window(checkpoint: Checkpoint) -> int:
    """Tokens read at once: logits of a window stay under a few hundred megabytes."""
    return min(512 if checkpoint.config.vocab_size <= 1 << 16 else 256, checkpoint.config.max_context)


def _needs(checkpoint: Checkpoint) -> int:
    """Bytes of memory that running a checkpoint takes, window by window."""
    c, T = checkpoint.config, _window(checkpoint)
    return checkpoint.size_bytes + work_bytes(c, T) + 24 * T * c.vocab_size + ROOM


def _calibrate(
    checkpoint: Checkpoint, ops: NativeOps, text: str | None, progress: Progress
) -> tuple[Importances | None, int, list[list[int]] | None]:
    """Importances, tokens they come from, and the windows kept for the comparison (None: the built-in text)."""
    if text is None:
        return None, 0, None
    tokenizer = checkpoint.load_tokenizer()
    pieces = windows(tokenizer.encode(text), _window(checkpoint), tokenizer.bos_id if tokenizer.add_bos else None)
    if not pieces:
        fail(UsageError, "calibration text", got="no tokens to learn from", expected="some pages of what will be read")
    needed, have = _needs(checkpoint), available_bytes()
    if have is not None and needed > have:
        fail(
            DoesNotFit,
            f"calibration runs the source: it needs {gb(needed)} of memory, {gb(have)} are available",
            do="calibrate on a larger machine, from a q8_0 of the source, or leave the text out",
        )
    held = [p for i, p in enumerate(pieces) if i % HELD_OUT == HELD_OUT - 1]
    learn = [p for i, p in enumerate(pieces) if i % HELD_OUT != HELD_OUT - 1]
    importances = Importances()
    weights = place_weights(ops, checkpoint.load())
    done, total = 0, sum(len(p) for p in learn)
    for ids, _ in logits(ops, checkpoint.config, weights, learn, Extras(observe=importances)):
        done += len(ids)
        progress("calibrate", done, total)
    return importances, total, held or learn


# -- writing ------------------------------------------------------------------------------------------------------


def _write(
    checkpoint: Checkpoint,
    target: Path,
    plan: FormatPlan,
    encoder: Encoder,
    calibrate: str | None,
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
            job=_job(checkpoint, plan, calibrate),
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
        job=_job(checkpoint, plan, calibrate),
        overwrite=overwrite,
        resume=resume,
        step=step,
    )
    return notes


def _job(checkpoint: Checkpoint, plan: FormatPlan, calibrate: str | None) -> dict[str, str]:
    """What a resumed run must agree in: the source's files as they lie, the plan, the text."""
    path = checkpoint.path.resolve()
    weights = sorted(p for p in ([path] if path.is_file() else path.iterdir()) if p.is_file())
    stamps = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in weights]
    parts = {"source": [str(path), *stamps], "formats": plan.formats, "calibration": calibrate}
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


# -- comparison ---------------------------------------------------------------------------------------------------


def _compare(
    checkpoint: Checkpoint, target: Path, ops: NativeOps, texts: list[list[int]] | None, progress: Progress
) -> tuple[Comparison | None, str]:
    """The comparison, or why there is none."""
    if texts is None:
        try:
            tokenizer = checkpoint.load_tokenizer()
        except (NotFound, HerdError):
            return None, "not compared with the source: it has no tokenizer"
        held_out = package_files("herd.quantize").joinpath("held_out.txt").read_text("utf-8")
        ids = tokenizer.encode(held_out)
        texts = windows(ids, _window(checkpoint), tokenizer.bos_id if tokenizer.add_bos else None)
    chosen: list[list[int]] = []
    for ids in texts:
        if sum(map(len, chosen)) + len(ids) <= max(COMPARE_TOKENS, len(ids)):
            chosen.append(ids)
    needed, have = _needs(checkpoint), available_bytes()
    if have is not None and needed > have:
        return None, f"not compared with the source: running it needs {gb(needed)} of memory, {gb(have)} are available"
    config = checkpoint.config
    total = 2 * sum(map(len, chosen))
    try:
        reference = Reference(target.absolute().parent, chosen, config.vocab_size)
    except DoesNotFit as problem:
        return None, f"not compared with the source: {problem}"
    with reference:
        with checkpoint.reading():
            reference.record(
                ops, config, place_weights(ops, checkpoint.load()), lambda n, _: progress("compare", n, total)
            )
        with open_checkpoint(target) as made, made.reading():
            weights = place_weights(ops, made.load())
            found = reference.compare(ops, made.config, weights, lambda n, m: progress("compare", n + m, total))
    return found, ""
