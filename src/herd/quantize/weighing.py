"""Which columns of the weights matter: learnt from a text, or read from an importance matrix; kept as one."""

from dataclasses import dataclass
from pathlib import Path

from herd.checkpoint.gguf.imatrix import Imatrix, write_imatrix
from herd.checkpoint.opened import Checkpoint
from herd.disk.atomic import checked_target
from herd.disk.hashing import sha256
from herd.errors import DoesNotFit, UsageError, fail
from herd.machine.memory import available_bytes
from herd.model import place_weights
from herd.ops.contract import Extras
from herd.ops.native import NativeOps
from herd.passes.imatrix import imatrix_of, load_importances
from herd.passes.importance import Importances
from herd.passes.likelihood import logits, windows
from herd.planning.memory import gb
from herd.progress import Progress
from herd.quantize.comparing import needs, window


@dataclass(frozen=True)
class Weighing:
    """Where importances come from, and where they are kept."""

    text: str | None
    imatrix: Path | None
    save: Path | None

    def check(self, overwrite: bool) -> None:
        """Raise UsageError for what contradicts itself or may not be written, NotFound for no folder."""
        if self.text is not None and self.imatrix is not None:
            fail(UsageError, "which columns matter", got="a text and an imatrix", expected="one of them")
        if self.save is not None:
            if self.text is None:
                fail(UsageError, f"imatrix to write ({self.save})", got="no text to learn from", do="calibrate, too")
            checked_target(self.save, overwrite)

    @property
    def digest(self) -> str | None:
        """What a resumed run must agree in."""
        return self.text if self.imatrix is None else sha256(self.imatrix)


def learn(
    checkpoint: Checkpoint, ops: NativeOps, weighing: Weighing, overwrite: bool, progress: Progress
) -> tuple[Importances | None, int, list[str]]:
    """Importances, tokens that were read for them, and notes."""
    if weighing.imatrix is not None:
        importances, notes = load_importances(weighing.imatrix, checkpoint.config)
        return importances, 0, notes
    if weighing.text is None:
        return None, 0, []
    importances, pieces = _calibrate(checkpoint, ops, weighing.text, progress)
    if weighing.save is not None:
        sums = imatrix_of(checkpoint.config, importances)
        kept = Imatrix(sums, ("calibration text",), len(pieces), window(checkpoint))
        write_imatrix(weighing.save, kept, overwrite=overwrite)
    return importances, sum(map(len, pieces)), []


def _calibrate(
    checkpoint: Checkpoint, ops: NativeOps, text: str, progress: Progress
) -> tuple[Importances, list[list[int]]]:
    """Importances, and the windows that they come from."""
    tokenizer = checkpoint.load_tokenizer()
    pieces = windows(tokenizer.encode(text), window(checkpoint), tokenizer.bos_id if tokenizer.add_bos else None)
    if not pieces:
        fail(UsageError, "calibration text", got="no tokens to learn from", expected="some pages of what will be read")
    needed, have = needs(checkpoint), available_bytes()
    if have is not None and needed > have:
        fail(
            DoesNotFit,
            f"calibration runs the source: it needs {gb(needed)} of memory, {gb(have)} are available",
            do="calibrate on a larger machine, from a q8_0 of the source, or leave the text out",
        )
    importances = Importances()
    weights = place_weights(ops, checkpoint.load())
    done, total = 0, sum(map(len, pieces))
    for ids, _ in logits(ops, checkpoint.config, weights, pieces, Extras(observe=importances)):
        done += len(ids)
        progress("calibrate", done, total)
    return importances, pieces
