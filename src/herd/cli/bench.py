"""`herd bench`: a model's speed on this machine, beside what the machine can do."""

from dataclasses import asdict

import click

from herd.cli import console, counts


class CountList(click.ParamType[tuple[int, ...]]):
    """Counts with commas between: 128,512,8K."""

    name = "counts"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Read what someone typed; an empty text is no sweep."""
        if isinstance(value, tuple):
            return value
        return tuple(counts.Size().convert(x, param, ctx) for x in str(value).split(",") if x.strip())


@click.command("bench")
@click.argument("model")
@click.option("--prompts", type=CountList(), default="128,512,2048", show_default=True, help="Lengths of prompts.")
@click.option(
    "--batch", "batches", type=CountList(), default="1,8,32", show_default=True, help="Sequences that decode."
)
@click.option(
    "--depths", type=CountList(), default="4096", show_default=True, help="Tokens already there; '' for none."
)
@click.option("--repeats", type=click.IntRange(1, 1000), default=3, show_default=True, help="Of each figure.")
@click.option("--threads", type=click.IntRange(1, 4096), help="Threads to compute with.")
@click.option("--no-pack", is_flag=True, help="Do not repack a quantised file into the store; slower.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def bench(
    model: str,
    prompts: tuple[int, ...],
    batches: tuple[int, ...],
    depths: tuple[int, ...],
    repeats: int,
    threads: int | None,
    no_pack: bool,
    as_json: bool,
) -> None:
    """Measure MODEL here: prompts, decoding, sequences together, depth; with bytes and operations a second beside.

    Shares are of what this machine was measured to read and to multiply in the same minute. Lengths that the model's
    context does not hold become as long as it is.
    """
    from herd.bench import Loaded, Sweeps
    from herd.bench import bench as measure
    from herd.machine import num_processors

    sweeps = Sweeps(prompts, batches or (1,), depths, repeats)
    figures = []
    loaded = None
    for found in measure(model, sweeps, threads or num_processors(), pack=not no_pack):
        if isinstance(found, Loaded):
            loaded = found
            for text in found.notes:
                console.note(text)
            if not as_json:
                _head(found)
            continue
        figures.append(found)
        if not as_json:
            int8 = "      -" if found.share_of_int8 is None else f"{100 * found.share_of_int8:>6.1f}%"
            print(
                f"{found.test:<8}{found.tokens:>7}{found.sequences:>10}{found.depth:>8}{found.tokens_s:>11.1f}"
                f"{found.bytes_s / 1e9:>9.1f}{found.ops_s / 1e12:>9.3f}{100 * found.share_of_read:>7.1f}% {int8}",
                flush=True,
            )
    if as_json:
        assert loaded is not None
        console.print_json("bench", {"loaded": asdict(loaded), "figures": [asdict(f) for f in figures]})


def _head(found: object) -> None:
    from herd.bench import Loaded

    assert isinstance(found, Loaded)
    here = found.limits
    print(f"{found.name}: {console.size(found.size_bytes)}, loaded in {found.load_s:.2f} s, {here.threads} threads")
    rates = [f"reads {here.read_bytes_s / 1e9:.1f} GB/s"]
    for rate, name, instruction in (
        (here.int8_ops_s, "int8", here.int8_instruction),
        (here.float_ops_s, "floats", here.float_instruction),
    ):
        rates.append(f"{name} {rate / 1e12:.2f} TOP/s ({instruction})" if rate else f"{name}: no probe here")
    print("this machine at best: " + ", ".join(rates))
    print(f"{'test':<8}{'tokens':>7}{'sequences':>10}{'depth':>8}{'tokens/s':>11}", end="")
    print(f"{'GB/s':>9}{'TOP/s':>9}{'read':>8} {'int8':>7}")
