"""Two models side by side, beside how well they do: the table of `herd eval --compare` and `herd upgrade`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from herd.cli import console

if TYPE_CHECKING:
    from herd.evals.measures import Measured, Measures


def measured(first: Path, second: Path, values: dict[str, Any], *, quiet: bool) -> "Measures":
    """Measure two models, with progress. values: flags of loading."""
    from herd.evals.measures import UNITS, measure

    console.note("measuring size, memory, speed, KL and perplexity", quiet=quiet)
    with console.progress(quiet=quiet, units=UNITS) as progress:
        return measure(first, second, threads=values["threads"] or 0, pack=not values["no_pack"], progress=progress)


def check_both(first: Path, second: Path, values: dict[str, Any]) -> None:
    """Raise what is wrong with two models and the flags of loading, or DoesNotFit, before anything is asked."""
    from herd.cli import options
    from herd.evals.measures import check_each_fits
    from herd.llm.load_options import LoadOptions
    from herd.llm.loading import check_load

    for path in (first, second):
        check_load(path, LoadOptions(**options.load_arguments(values)))
    if not values["force"] and values["device"] == "cpu":
        context = values["context"] if isinstance(values["context"], int) else None
        check_each_fits((first, second), context, "bf16" if values["kv"] == "auto" else values["kv"])


def tell_measures(found: "Measures", hour: float | None, *, quiet: bool) -> None:
    """Show measures: a row for each."""
    one, other = found.first, found.second
    rows = [
        ("size of the files", console.size(one.size_bytes), console.size(other.size_bytes)),
        ("bits a weight", f"{one.bits_a_weight:.2f}", f"{other.bits_a_weight:.2f}"),
        (f"memory with {other.context} tokens", console.size(one.memory_bytes), console.size(other.memory_bytes)),
        ("prompt, tokens/s", _rate(one.read_tokens_s), _rate(other.read_tokens_s)),
        ("answer, tokens/s", _rate(one.said_tokens_s), _rate(other.said_tokens_s)),
        ("hours for 1M tokens of answers", _rate(one.million_hours), _rate(other.million_hours)),
    ]
    if hour is not None:
        rows.append((f"that at ${hour:g} an hour", _dollars(one, hour), _dollars(other, hour)))
    if found.apart is not None:
        apart = found.apart
        rows += [
            ("perplexity", f"{apart.source_perplexity:.4f}", f"{apart.target_perplexity:.4f}"),
            ("KL from A, nats a token", "0", f"{apart.kl_mean:.5f} (largest {apart.kl_largest:.3f})"),
            ("same likeliest token as A", "100.0%", f"{100 * apart.same_top:.1f}% of {apart.num_tokens}"),
        ]
    console.table(("measure", "A", "B"), rows)
    for note in found.notes:
        console.note(note, quiet=quiet)


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _dollars(one: "Measured", hour: float) -> str:
    dollars = one.million_dollars(hour)
    return "-" if dollars is None else f"${dollars:.2f}"
