"""Source and result run against each other over a text that comes with Herd, where both fit in memory."""

from importlib.resources import files as package_files
from pathlib import Path

from herd.checkpoint.open import open_checkpoint
from herd.checkpoint.opened import Checkpoint
from herd.errors import DoesNotFit, HerdError
from herd.machine.memory import available_bytes
from herd.model import place_weights
from herd.ops.native import NativeOps
from herd.passes.likelihood import Comparison, Reference, windows
from herd.planning.memory import ROOM, gb, work_bytes
from herd.progress import Progress

COMPARE_TOKENS = 4096
"""At most so many tokens are compared."""


def held_out() -> str:
    """The text that models are compared over."""
    return package_files("herd.quantize").joinpath("held_out.txt").read_text("utf-8")


def window(checkpoint: Checkpoint) -> int:
    """Tokens read at once: logits of a window stay under a few hundred megabytes."""
    return min(512 if checkpoint.config.vocab_size <= 1 << 16 else 256, checkpoint.config.max_context)


def needs(checkpoint: Checkpoint) -> int:
    """Bytes of memory that running a checkpoint takes, window by window."""
    c, T = checkpoint.config, window(checkpoint)
    return checkpoint.size_bytes + work_bytes(c, T) + 24 * T * c.vocab_size + ROOM


def compare_with(
    checkpoint: Checkpoint, target: Path, ops: NativeOps, progress: Progress, folder: Path | None = None
) -> tuple[Comparison | None, str]:
    """The comparison, or why there is none. folder: where log-probabilities lie meanwhile; None: beside the target."""
    try:
        tokenizer = checkpoint.load_tokenizer()
    except HerdError:
        return None, "not compared with the source: it has no tokenizer"
    ids = tokenizer.encode(held_out())
    texts = windows(ids, window(checkpoint), tokenizer.bos_id if tokenizer.add_bos else None)
    chosen: list[list[int]] = []
    for ids in texts:
        if sum(map(len, chosen)) + len(ids) <= max(COMPARE_TOKENS, len(ids)):
            chosen.append(ids)
    with open_checkpoint(target) as made:
        needed = max(needs(checkpoint), needs(made))
    have = available_bytes()
    if have is not None and needed > have:
        return None, f"not compared with the source: running it needs {gb(needed)} of memory, {gb(have)} are available"
    config = checkpoint.config
    total = 2 * sum(map(len, chosen))
    try:
        reference = Reference(folder or target.absolute().parent, chosen, config.vocab_size)
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
