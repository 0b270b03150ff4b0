"""The command quantize."""

import signal
from pathlib import Path
from types import FrameType
from typing import Any

import click

from herd.cli import console, counts
from herd.errors import Interrupted, NotFound, UsageError, fail
from herd.store import stored


class Bytes(click.ParamType[int]):
    """A size on disk: 55GB, 800MB, 1.5G, or bytes."""

    name = "bytes"
    UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "GIB": 1 << 30, "MIB": 1 << 20}  # noqa: RUF012 (a click type is never changed)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read what someone typed."""
        if isinstance(value, int):
            return value
        text = str(value).strip().upper()
        number = text.rstrip("BKMGTI ")
        unit = text[len(number) :].strip()
        unit = unit + "B" if unit and not unit.endswith("B") else unit
        try:
            size = float(number) * self.UNITS[unit]
            if not 0 < size < 1e18:
                raise ValueError
        except (ValueError, KeyError):
            self.fail(f"{value!r} is not a size like 55GB, 800MB or a number of bytes", param, ctx)
        return int(size)


@click.command("quantize")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST", type=click.Path())
@click.option("--type", "type_", metavar="TYPE", help="q4_k, q6_k, q5_k, q3_k, q2_k, iq4_xs, q8_0, q4_0, q5_1, ...")
@click.option("--size", type=Bytes(), help="A mixture of types whose weights take at most so much: 55GB.")
@click.option("--bits", type=counts.FiniteRange(1, 16), help="The same, as bits a weight: 4.3.")
@click.option("--calibrate", metavar="TEXTFILE", type=click.Path(), help="A text that tells which weights matter.")
@click.option("--imatrix", metavar="FILE", type=click.Path(), help="llama.cpp's importance matrix in place of a text.")
@click.option("--save-imatrix", metavar="FILE", type=click.Path(), help="Keep what the text told as such a file.")
@click.option("--pure", is_flag=True, help="TYPE for the embedding and the head, too.")
@click.option("--threads", type=click.IntRange(1, 4096), help="Threads to compute with.")
@click.option("--resume/--restart", default=True, help="Take up an interrupted run (default), or begin anew.")
@click.option("--compare/--no-compare", default=True, help="KL and perplexity against SRC (default where it fits).")
@click.option("--only-compare", is_flag=True, help="Write nothing: compare SRC with a DST that is there.")
@click.option("--mmproj", metavar="FILE", type=click.Path(), help="The vision part of a GGUF SRC.")
@click.option("--overwrite", is_flag=True, help="Replace DST.")
@click.option("-q", "--quiet", is_flag=True, help="No notes and no progress.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def quantize(
    source: str,
    target: str,
    type_: str | None,
    size: int | None,
    bits: float | None,
    calibrate: str | None,
    imatrix: str | None,
    save_imatrix: str | None,
    pure: bool,
    threads: int | None,
    resume: bool,
    compare: bool,
    only_compare: bool,
    mmproj: str | None,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write the model SRC (a name or a path) to DST in smaller types: a .gguf file, or a folder that Herd maps.

    \b
    herd quantize scout-bf16 scout-q4 --type q4_k
    herd quantize scout-bf16 scout.gguf --size 55GB --calibrate pages.txt
    """
    from herd.quantize import UNITS, ComparisonInterrupted, quantize

    if only_compare:
        unused = {"--type": type_, "--size": size, "--bits": bits, "--calibrate": calibrate, "--imatrix": imatrix}
        unused |= {
            "--save-imatrix": save_imatrix,
            "--pure": pure,
            "--overwrite": overwrite,
            "--no-compare": not compare,
        }
        if given := [name for name, value in unused.items() if value]:
            fail(UsageError, "--only-compare", got=f"{given[0]}, too", do="leave it out: nothing is written")
        _compare(source, target, threads, mmproj, quiet, as_json)
        return
    text = None
    if calibrate is not None:
        try:
            text = Path(calibrate).read_text("utf-8")
        except FileNotFoundError:
            fail(NotFound, f"no file {calibrate}")
        except UnicodeDecodeError:
            fail(UsageError, calibrate, got="bytes that are not UTF-8", expected="a plain text")
    before = signal.signal(signal.SIGTERM, _interrupt)
    interrupted = False
    try:
        with console.progress(quiet=quiet, units=UNITS) as progress:
            made = quantize(
                stored.resolve(source),
                Path(target),
                type_,
                size_bytes=size,
                bits=bits,
                calibrate=text,
                imatrix=imatrix,
                save_imatrix=save_imatrix,
                pure=pure,
                threads=threads or 0,
                resume=resume,
                overwrite=overwrite,
                compare=compare,
                mmproj=mmproj,
                progress=progress,
            )
    except ComparisonInterrupted as stopped:
        made, interrupted = stopped.made, True
    finally:
        signal.signal(signal.SIGTERM, before)
    for note in made.notes:
        console.note(note, quiet=quiet)
    if as_json:
        console.print_json("quantize", _data(made))
    else:
        _print(made)
    if interrupted:
        raise Interrupted(
            f"interrupted: {target} is whole, and not compared; herd quantize {source} {target} --only-compare does it"
        )


def _compare(source: str, target: str, threads: int | None, mmproj: str | None, quiet: bool, as_json: bool) -> None:
    from herd.quantize import UNITS, compare

    with console.progress(quiet=quiet, units=UNITS) as progress:
        found = compare(stored.resolve(source), Path(target), threads=threads or 0, mmproj=mmproj, progress=progress)
    if as_json:
        console.print_json("quantize", {"path": target, "comparison": _compared(found)})
    else:
        _print_comparison(found)


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    """SIGTERM ends a run as Ctrl-C does: files closed, what is finished kept."""
    raise KeyboardInterrupt


def _print(made: Any) -> None:
    rows = [
        (t.name, t.format, console.size(t.num_bytes), f"{t.relative_error:.4f}", f"{t.largest_error:.3g}")
        for t in made.worst()
    ]
    if rows:
        console.table(("largest errors", "type", "size", "rms/std", "max"), rows)
    kinds = ", ".join(f"{count} {name}" for name, count in made.plan.summary().items())
    print(f"{made.path}: {console.size(made.num_bytes)}, {made.bits:.3f} bits a weight; tensors: {kinds}")
    if made.unreached:
        print(f"{len(made.unreached)} experts that the calibration never reached (layer:expert), with their layer's")
        print("shared importances: " + " ".join(f"{layer}:{expert}" for layer, expert in made.unreached))
    if made.comparison is not None:
        _print_comparison(made.comparison)


def _print_comparison(c: Any) -> None:
    print(
        f"against the source, {c.num_tokens} tokens: KL {c.kl_mean:.5f} (largest {c.kl_largest:.3f}), "
        f"same first choice {100 * c.same_top:.1f}%, perplexity {c.target_perplexity:.4f} / "
        f"{c.source_perplexity:.4f} = {c.perplexity_ratio:.4f}"
    )


def _compared(c: Any) -> dict[str, Any]:
    return {
        "tokens": c.num_tokens,
        "kl_mean": c.kl_mean,
        "kl_largest": c.kl_largest,
        "same_top": c.same_top,
        "source_perplexity": c.source_perplexity,
        "target_perplexity": c.target_perplexity,
        "perplexity_ratio": c.perplexity_ratio,
    }


def _data(made: Any) -> dict[str, Any]:
    return {
        "path": str(made.path),
        "size_bytes": made.num_bytes,
        "bits_a_weight": made.bits,
        "plan": {"formats": made.plan.formats, "weights_bytes": made.plan.num_bytes, "loss": made.plan.loss},
        "tensors": [
            {
                "name": t.name,
                "format": t.format,
                "size_bytes": t.num_bytes,
                "relative_error": t.relative_error,
                "largest_error": t.largest_error,
            }
            for t in made.tensors
        ],
        "calibration_tokens": made.calibration_tokens,
        "unreached_experts": [list(pair) for pair in made.unreached],
        "comparison": None if made.comparison is None else _compared(made.comparison),
        "notes": list(made.notes),
    }
