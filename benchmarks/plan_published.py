"""`scripts/bench plan published`: the limit that a plan gives beside speeds that others measured and published.

An engine's share of the limit says how good the engine is there, so no share is a fault by itself; one above 1 would be
one of the plan. Where it is below 70%, docs/log.md says why, by kind.
"""

import tomllib
from dataclasses import replace
from pathlib import Path

from herd.config import GUARD, MAVERICK, SCOUT
from herd.config.hf import from_hf
from herd.planning.machines import machine_of
from herd.planning.parts import weights_by_kind
from herd.planning.plan import PlannedModel, Workload, placed
from herd.planning.sizes import file_sizes
from herd.planning.speed import decode, prefill

DATA = Path(__file__).with_name("data") / "published.toml"


def run(a):
    table = tomllib.loads(DATA.read_text(encoding="utf-8"))
    shapes = {"scout": SCOUT, "maverick": MAVERICK, "guard": GUARD}
    shapes |= {
        one["name"]: from_hf({key: value for key, value in one.items() if key != "name"}) for one in table["shape"]
    }
    print(f"{'model':<12}{'bits':>6}  {'machine':<38}{'what':<9}{'limit':>9}{'published':>10}{'share':>7}  engine")
    above = 0
    for row in table["speed"]:
        if row["kind"] == "throughput":
            continue
        config = shapes[row["model"]]
        text = _machine(row)
        machine = _opened(machine_of(text), row)
        size = round(weights_by_kind(config).total * row["bits"] / 8)
        model = PlannedModel(row["model"], config, file_sizes(config, row["form"], size))
        context = max(1, min(config.max_context, row.get("context", 0) + row.get("answer", 0)))
        placement = placed(model, machine, Workload(context))
        if row["kind"] == "prefill":
            found = prefill(config, placement, machine, max(1, row["context"]))
        else:
            found = decode(config, placement, machine, 1, row.get("context", 0) + row.get("answer", 0) // 2, "bf16")
        share = row["tokens_s"] / found.tokens_s
        above += share > 1
        print(
            f"{row['model']:<12}{row['bits']:>6}  {text:<38}{row['kind']:<9}{found.tokens_s:>9.1f}"
            f"{row['tokens_s']:>10.1f}{share:>7.0%}  {row['engine']}{', unsure' if row.get('unsure') else ''}"
        )
    print(f"{above} above the limit")
    return 0


def _opened(machine, row):
    """Whoever publishes speeds of memory that is shared lets graphics have most of it."""
    if not machine.shared:
        return machine
    (card,) = machine.cards
    return replace(machine, cards=(replace(card, memory_bytes=row["memory_gib"] << 30),))


def _machine(row):
    """The row's machine as `herd plan` takes it."""
    words = []
    if "card" in row:
        words.append(f"{row['card']}x{row['cards']}" if row["cards"] > 1 else row["card"])
    if "processor" in row:
        words.append(f"{row['processor']}+{row.get('memory_gib', 512)}GB")
    if "unified" in row:
        words.append(f"{row['unified']}+{row['memory_gib']}GB")
    return "+".join(words)
