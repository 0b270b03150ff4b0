"""`herd plan`: what fits on a machine, where it lies, how fast it can be."""

from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from herd.cli import console, counts
from herd.cli.plan_cost import asked_cost, cost_dict, cost_of, cost_options, draw_cost, show_cost
from herd.errors import UsageError, fail
from herd.planning.layers import KV_DTYPES

if TYPE_CHECKING:
    from herd.planner import ModelFit
    from herd.planning.cost import Cost
    from herd.planning.plan import Plan, Speed

NO_PLACE = 4
"""Exit status where a model cannot run on the machine at all: that of DoesNotFit."""


@click.command("plan")
@click.argument("model", required=False)
@click.option(
    "--machine", default="auto", show_default=True, help="auto, rtx4090+64GB, h100x8, m3ultra, FILE.toml, ..."
)
@click.option("--context", "--ctx", type=counts.Size(), default=8192, show_default=True, help="Tokens of each user.")
@click.option("--users", type=click.IntRange(1, 65536), default=1, show_default=True, help="Answers at once.")
@click.option("--kv", type=click.Choice(KV_DTYPES), default="bf16", show_default=True, help="Numbers of the cache.")
@click.option("--adapters", type=click.IntRange(0, 4096), default=0, help="LoRA adapters that are loaded, too.")
@click.option("--rank", type=click.IntRange(1, 4096), default=16, show_default=True, help="Rank of each.")
@click.option("--type", "type_", metavar="TYPE", help="What the weights are written as: q4_k; the largest that fits.")
@click.option("--explain", is_flag=True, help="Every step with its numbers.")
@click.option("--svg", type=click.Path(path_type=Path), help="Write a picture of memory over context to this file.")
@cost_options
@click.option("--overwrite", is_flag=True, help="Replace a picture if it is there.")
@click.option("--measure", is_flag=True, help="Measure this machine again (auto).")
@click.option("--machines", is_flag=True, help="List the machines that are known by name, and end.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def plan(
    model: str | None,
    machine: str,
    context: int,
    users: int,
    kv: str,
    adapters: int,
    rank: int,
    type_: str | None,
    explain: bool,
    svg: Path | None,
    overwrite: bool,
    measure: bool,
    machines: bool,
    as_json: bool,
    **values: Any,
) -> int:
    """Plan for MODEL: scout, scout:q4_k, a config.json, a name or file of a model that is here. Without one: what fits.

    Arithmetic on shapes and rates; nothing is loaded. Speeds are the machine's limit, which nothing passes, and what
    Herd reaches today where that was measured. With --calls or --library, what it costs here and at hosts. Status 4
    where the model cannot run there at all.
    """
    from herd import planner

    if machines:
        _machines(as_json)
        return 0
    asked = asked_cost(values)
    if model is None and (svg is not None or explain or type_ is not None or asked is not None):
        fail(UsageError, "--svg, --explain, --type and costs are about one model", do="herd plan MODEL ...")
    _check_pictures([path for path in (svg, values["svg_cost"]) if path is not None], overwrite)
    if measure:
        if machine != planner.AUTO:
            fail(UsageError, "--measure", got=f"--machine {machine}", expected="--machine auto: this machine")
        planner.this_machine(again=True)
    if model is None:
        _fits(planner.what_fits(machine, context=context, users=users, kv=kv), machine, as_json)
        return 0
    made = planner.plan(
        model,
        machine,
        context=max(context, asked.context if asked else 0),
        users=users,
        kv=kv,
        adapters=adapters,
        rank=rank,
        type=type_,
    )
    cost = cost_of(made, asked) if asked else None
    if svg is not None:
        _draw(made, svg, overwrite)
    if cost is not None and values["svg_cost"] is not None:
        draw_cost(cost, values["svg_cost"], overwrite)
    if as_json:
        console.print_json("plan", {**to_dict(made), **({"cost": cost_dict(cost)} if cost else {})})
    elif explain:
        _explain(made, cost)
    if not as_json:
        _show(made)
        if cost is not None:
            show_cost(cost)
    return 0 if made.placement.runs else NO_PLACE


def _check_pictures(paths: list[Path], overwrite: bool) -> None:
    """Raise UsageError for a picture that cannot be written."""
    from herd.disk.atomic import checked_target

    for path in paths:
        checked_target(path, overwrite)
    if len(set(paths)) < len(paths):
        fail(UsageError, "--svg-cost", got="the file of --svg", expected="another one")


def _draw(made: "Plan", path: Path, overwrite: bool) -> None:
    from herd.disk.atomic import new_file
    from herd.planning.picture import svg

    with new_file(path, overwrite=overwrite) as temp:
        temp.write_text(svg(made), encoding="utf-8")
    console.note(f"written: {path}")


def _explain(made: "Plan", cost: "Cost | None") -> None:
    from herd.planning.cost_explain import explain_cost
    from herd.planning.explain import explain

    subject = ""
    for about, sentence in chain(explain(made), explain_cost(cost) if cost else ()):
        if about != subject:
            print(about)
        subject = about
        console.line(f"  {sentence}", 4)
    print()


def _show(made: "Plan") -> None:
    from herd.planning.advice import advice
    from herd.planning.explain import KINDS, title, users
    from herd.planning.memory import gb

    want, placement = made.want, made.placement
    console.line(
        f"{made.model.name} as {made.model.sizes.type}, {gb(made.model.sizes.total)}; {users(want.users)}, "
        f"{want.context:,} tokens{' each' if want.users > 1 else ''}, cache in {want.kv}; on {made.machine.name}"
    )
    rows = []
    for row in placement.rows:
        cells = [gb(n) if n else "-" for n in (row.card, row.memory, row.disk)]
        rows.append((KINDS[row.kind], *cells))
    sums = [gb(n) if n else "-" for n in (placement.on_card, placement.in_memory, placement.on_disk)]
    room = [gb(n) if n else "-" for n in (placement.card_bytes, placement.memory_bytes)]
    print()
    console.table(("MEMORY", "CARDS", "MEMORY", "DISK"), [*rows, ("in all", *sums), ("there is room for", *room, "")])
    print()
    if made.speeds:
        console.table(("SPEED", "THE LIMIT", "HERD TODAY"), [(title(s), *_speeds(s)) for s in made.speeds])
        print()
    for line in advice(made):
        console.line(line, 2)


def _speeds(speed: "Speed") -> tuple[str, str]:
    from herd.planning.explain import seconds

    def told(seconds_: float, tokens_s: float) -> str:
        rate = _rate(tokens_s)
        together = " together" if speed.users > 1 else ""
        return f"{seconds(seconds_)}, {rate} tokens/s" if speed.what == "prefill" else f"{rate} tokens/s{together}"

    today = speed.today.estimate
    limit = told(speed.limit.seconds, speed.limit.tokens_s)
    return limit, told(today.seconds, today.tokens_s) if today else speed.today.why


def _rate(tokens_s: float) -> str:
    """Tokens a second with three digits, whole from 100 on."""
    return f"{tokens_s:,.3g}" if tokens_s < 100 else f"{tokens_s:,.0f}"


def _fits(found: "list[ModelFit]", machine: str, as_json: bool) -> None:
    from herd.planning.memory import gb
    from herd.planning.picture import short

    if as_json:
        rows = [
            {
                "model": f.name,
                "type": f.fit.sizes.type,
                "bytes": f.fit.sizes.total,
                "fits": f.fit.fits,
                "largest_context": f.fit.largest_context,
                "limit_tokens_s": f.fit.decode.tokens_s if f.fit.decode else None,
                "assumed": list(f.config.assumed),
            }
            for f in found
        ]
        console.print_json("plan", {"machine": machine, "models": rows})
        return
    table = []
    for f in found:
        c = f.fit
        speed = _rate(c.decode.tokens_s) if c.decode else "-"
        fits = "yes" if c.fits else "no"
        table.append(
            (f.name, fits, c.sizes.type, gb(c.sizes.total), short(c.largest_context) if c.fits else "-", speed)
        )
    console.table(("MODEL", "FITS", "AS", "WEIGHTS", "CONTEXT", "TOKENS/S AT MOST"), table)
    console.note(f"on {_named(machine)}; herd plan MODEL says more of one")


def _named(machine: str) -> str:
    """A machine by its name; this one by what it was found to be, and when."""
    from herd import planner
    from herd.planning.memory import gb

    if machine != planner.AUTO:
        return machine
    here = planner.this_machine()
    cards = "".join(f", {card.name}" for card in here.cards)
    rates = f"{here.read_bytes_s / 1e9:.3g} GB/s, measured on {here.measured} (--measure: again)"
    return f"this machine: {gb(here.memory_bytes)} of memory{cards}, {rates}"


def _machines(as_json: bool) -> None:
    from herd.planning.machine_rows import machine_rows

    rows = machine_rows()
    if as_json:
        names = {kind: list(dict.fromkeys(r.name for r in getattr(rows, kind).values())) for kind in _GROUPS}
        console.print_json("plan", {"machines": names})
        return
    wide = max(len(row.name) for kind in _GROUPS for row in getattr(rows, kind).values()) + 2
    for kind, heading in _GROUPS.items():
        print(heading)
        for row in dict.fromkeys(getattr(rows, kind).values()):
            console.line(f"  {row.name:<{wide}}{row.title}, {row.read_bytes_s / 1e9:,.0f} GB/s", wide + 2)


_GROUPS = {
    "cards": "cards (x8: several; +64GB: the memory beside)",
    "processors": "processors, with their memory (+256GB)",
    "unified": "memory that processor and card share (+128GB)",
}


def to_dict(made: "Plan") -> dict[str, Any]:
    """A plan as plain values, for --json."""
    from herd.planning.advice import advice

    placement = made.placement
    return {
        "model": made.model.name,
        "type": made.model.sizes.type,
        "machine": made.machine.name,
        "measured": made.machine.measured or None,
        "context": made.want.context,
        "users": made.want.users,
        "kv": made.want.kv,
        "parameters": {**asdict(made.parts), "total": made.parts.total},
        "weights_bytes": made.model.sizes.total,
        "cache_bytes": made.cache_bytes,
        "work_bytes": made.work_bytes,
        "places": {row.kind: {"card": row.card, "memory": row.memory, "disk": row.disk} for row in placement.rows},
        "room": {"card": placement.card_bytes, "memory": placement.memory_bytes},
        "fits": placement.fits,
        "runs": placement.runs,
        "missing_bytes": placement.missing,
        "speeds": [_speed_dict(s) for s in made.speeds],
        "largest_context": made.largest_context,
        "most_users": made.most_users,
        "types": [
            {
                "type": c.sizes.type,
                "bytes": c.sizes.total,
                "fits": c.fits,
                "largest_context": c.largest_context,
                "limit_tokens_s": c.decode.tokens_s if c.decode else None,
            }
            for c in made.types
        ],
        "assumed": list(made.model.config.assumed),
        "notes": list(made.machine.notes),
        "advice": list(advice(made)),
    }


def _speed_dict(speed: "Speed") -> dict[str, Any]:
    today = speed.today.estimate
    return {
        "what": speed.what,
        "users": speed.users,
        "tokens": speed.tokens,
        "limit_s": speed.limit.seconds,
        "limit_tokens_s": speed.limit.tokens_s,
        "today_s": today.seconds if today else None,
        "today_tokens_s": today.tokens_s if today else None,
        "today_why": speed.today.why or None,
    }
