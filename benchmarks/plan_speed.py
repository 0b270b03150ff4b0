"""`scripts/bench plan speed`: what a plan foretells of Herd's speed here beside what `herd bench` measures.

Each round is a fresh process a model: the probe of this machine's limits and the sweeps, in the same minute. Factors
are fitted by least squares of relative errors over SmolLM2, the small slice and one that is as wide as Scout with small
experts; the Scout slice, which no factor has seen, judges them.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
from quiet import machine_busy
from slices import find, folder

from herd.planner import look_at
from herd.planning.machines import Machine
from herd.planning.memory import cache_bytes, work_bytes
from herd.planning.placement import place
from herd.planning.speed import decode, prefill
from herd.planning.today import MEASURED, Factors, decode_today, prefill_today

FITTED, JUDGED = ("smollm2", "small-q4_0", "attention-q4_k"), "scout-q4_k"
SWEEPS = ["--prompts", "128,512,2K", "--batch", "1,2,4,8", "--depths", "4096", "--repeats", "3"]
BOUND = 0.20


def run(a):
    place_ = folder(a.models)
    rows = []
    for model in (*FITTED, JUDGED):
        path = find(place_, model)
        rounds = [_measured(path) for _ in range(a.rounds)]
        rows += _rows(model, path, rounds)
    factors = _fit([row for row in rows if row["model"] in FITTED])
    print(f"fitted: {dataclasses.replace(factors, date=MEASURED.date, where=MEASURED.where)}")
    heads = ("limit", "fitted", "in use", "measured")
    print(f"{'model':<12}{'what':<9}{'users':>6}{'depth':>7}{''.join(f'{h:>9}' for h in heads)}{'off':>8}{'others':>8}")
    worst = 0.0
    for row in rows:
        mine, used = _foretold(row, factors), _foretold(row, MEASURED)
        off = mine / row["tokens_s"] - 1
        if row["model"] == JUDGED:
            worst = max(worst, abs(used / row["tokens_s"] - 1))
        print(
            f"{row['model']:<12}{row['what']:<9}{row['users']:>6}{row['depth']:>7}{_limit(row):>9.1f}{mine:>9.1f}"
            f"{used:>9.1f}{row['tokens_s']:>9.1f}{off:>+8.1%}{row['others']:>8.1%}"
        )
    verdict = "within" if worst <= BOUND else "NOT within"
    print(f"{JUDGED}, factors in use: {worst:.1%} at worst, {verdict} {BOUND:.0%}")
    return 0 if worst <= BOUND else 1


def _measured(path):
    """Limits and figures of one process, and the share of the machine that others took meanwhile."""
    busy, own = machine_busy(), os.times()
    command = [sys.executable, "-m", "herd", "bench", str(path), *SWEEPS, "--json"]
    began = os.times().elapsed
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    spent = os.times()
    mine = spent.children_user + spent.children_system - own.children_user - own.children_system
    found = json.loads(done.stdout)
    others = max(0.0, machine_busy() - busy - mine) / ((spent.elapsed - began) * os.cpu_count())
    return found["loaded"]["limits"], found["figures"], others


def _rows(model, path, rounds):
    """One row for each figure: medians over the rounds, of limits too."""
    rows = []
    for i, figure in enumerate(rounds[0][1]):
        rows.append(
            {
                "model": model,
                "path": str(path),
                "what": figure["test"],
                "users": figure["sequences"],
                "depth": figure["depth"],
                "tokens": figure["tokens"],
                "tokens_s": statistics.median(r[1][i]["tokens_s"] for r in rounds),
                "read": statistics.median(r[0]["read_bytes_s"] for r in rounds),
                "ops": statistics.median(r[0]["int8_ops_s"] for r in rounds),
                "others": max(r[2] for r in rounds),
            }
        )
    return rows


def _there(row):
    config, sizes = look_at(Path(row["path"]))[1:]
    machine = Machine("here", memory_bytes=1 << 40, read_bytes_s=row["read"], ops_s=row["ops"])
    return config, place(sizes, cache_bytes(config, 8192), work_bytes(config), machine), machine


def _limit(row):
    config, placement, machine = _there(row)
    if row["what"] == "prefill":
        return prefill(config, placement, machine, row["tokens"]).tokens_s
    return decode(config, placement, machine, row["users"], row["depth"], "bf16").tokens_s


def _foretold(row, factors):
    config, placement, machine = _there(row)
    if row["what"] == "prefill":
        return prefill_today(config, placement, machine, row["tokens"], factors).estimate.tokens_s
    depth = row["depth"] + 8
    return decode_today(config, placement, machine, row["users"], depth, "bf16", factors).estimate.tokens_s


def _fit(rows):
    """Factors with the least sum of squares of relative errors: those of steps, then those of prompts."""
    whole = Factors(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, "", "")
    parts, times = [], []
    for row in (row for row in rows if row["what"] == "decode"):
        config, placement, machine = _there(row)
        found = decode_today(config, placement, machine, row["users"], row["depth"] + 8, "bf16", whole).estimate
        parts.append([term.seconds for term in found.terms[:3]])
        times.append(row["users"] / row["tokens_s"])
    x = _least(np.array(parts) / np.array(times)[:, None])
    parts = []
    for row in (row for row in rows if row["what"] == "prefill"):
        config, placement, machine = _there(row)
        found = prefill_today(config, placement, machine, row["tokens"], whole).estimate
        read, *others, layers = (found.times * term.seconds for term in found.terms[:5])
        time = row["tokens"] / row["tokens_s"] - x[0] * read - x[2] * layers
        parts.append([part / max(time, 1e-9) for part in others])
    y = _least(np.array(parts))
    return Factors(1 / x[0], 1 / x[1], 1 / y[0], 1 / y[1], y[2], x[2], "", "")


def _least(a):
    """x >= 1e-9 with the least sum of squares of a x - 1; those that would be less are left out one at a time."""
    kept = list(range(a.shape[1]))
    while True:
        x = np.linalg.lstsq(a[:, kept], np.ones(len(a)), rcond=None)[0]
        if (x > 0).all():
            found = np.full(a.shape[1], 1e-9)
            found[kept] = x
            return found
        kept.pop(int(np.argmin(x)))
