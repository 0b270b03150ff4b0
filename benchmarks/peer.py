"""The whole table beside llama.cpp: prompts, decoding, depth, many sequences, a busy machine, loading, a million.

    scripts/bench peer --peer PYTHON_WITH_LLAMA_CPP --json FILE [--only decode1,busy] [--rounds N]

A round is the limit's probe, ours and the peer, one after another; figures are medians of rounds, ratios the medians of
the rounds' ratios. The peer first runs briefly in each setting (weights repacked or not, flash attention on or off; f16
cache); those near its best are measured in full, and a row holds the one that it is fastest in, all others beside it.
What does not fit in memory together is loaded in turn (A-B-A-B). Every setting is printed, and added to FILE as a line
of JSON {measured, model, setting, ours, peer, ratio, runs}, as soon as it is measured, so a run that is cut off keeps
what it had; a row {workload, ours, peer, ratio, runs, probe, machine, ...} when all settings of its files are there.
"""

import argparse
import json
import os
import time
from pathlib import Path

import single
import slices
from harness import add_peer, machine
from limits import Probe
from measure import Plan, in_turn, together
from workloads import MODELS, NO_REPACK, READ, WORKLOADS

from herd.machine.memory import available_bytes

AIR = 2.5e9
"""Bytes beside the weights: probe, caches, interpreters."""


def rows(plan, model, path, workloads, report):
    """The rows of one file, in the order of the table; each setting is reported at once."""
    size = os.path.getsize(path)
    needs = size + size * (1 if model in NO_REPACK else 1.9) + AIR
    run = together if needs < (available_bytes() or 1 << 62) else in_turn
    found = []
    for m in run(plan, model, path, workloads):
        found.append(m)
        report.measured(m)
    for w in workloads:
        yield w, [m for m in found if m.workload is w]


def row(w, found):
    """The JSON object: of several files and settings the one that the peer is fastest in."""
    m = max(found, key=lambda m: m.peer)
    share = None
    if w.probe == READ and w.op == "decode" and not w.depth and m.probe:
        share = m.ours * m.loaded["token_bytes"] / 1e9 / m.probe
    return {
        "workload": w.name, "ours": m.ours, "peer": m.peer, "ratio": m.ratio, "target": w.target,
        "unit": "share" if w.op == "busy" else "tok/s", "runs": len(m.rounds),
        "probe": {"limit": w.probe, "median": m.probe}, "share_of_read": share, "others": m.others,
        "model": m.model, "setting": str(m.setting), "rows_a_pass": w.piece, "mode": m.mode,
        "settings": [setting(x) for x in found],
        "ours_load_s": m.loaded["load_s"], "ours_kv": m.loaded["kv"], "ours_layout": m.loaded["layout"],
        "machine": machine(), "date": time.strftime("%Y-%m-%d %H:%M"),
    }  # fmt: skip


def setting(m):
    """The JSON object of one setting of the peer."""
    return {
        "model": m.model, "setting": str(m.setting), "ours": m.ours, "peer": m.peer, "ratio": m.ratio,
        "runs": len(m.rounds),
    }  # fmt: skip


class Report:
    """Rows and their settings as they come: a line of the table, a line of the file."""

    def __init__(self, path):
        self.file = open(path, "a") if path else None  # noqa: SIM115 (it stays open)
        print(
            f"{'workload':<24}{'ours':>9}{'peer':>9}{'ratio':>7}{'asked':>7}{'':<8}{'others':>7}  probe; peer's setting"
        )

    def _keep(self, r):
        if self.file:
            self.file.write(json.dumps(r) + "\n")
            self.file.flush()

    def measured(self, m):
        """One setting of a row that is still being measured."""
        x = setting(m)
        self._keep({"measured": m.workload.name, **x})
        name = f"  {m.workload.name}"
        print(
            f"{name:<24}{_cell(x['ours'])}{_cell(x['peer'])}{_cell(x['ratio'], 7)}  {x['model']}, {x['setting']}; "
            f"rounds {x['runs']}",
            flush=True,
        )

    def add(self, r):
        self._keep(r)
        ratio = r["ratio"]
        verdict = "" if ratio is None else "ok" if ratio >= r["target"] else "SHORT"
        verdict = {True: "ok", False: "SHORT"}.get(r.get("met"), verdict)
        probe = r["probe"]["median"]
        notes = [f"{probe:.2f} {r['probe']['limit']}" if probe else "no probe here"]
        if r.get("share_of_read"):
            notes.append(f"ours reads {r['share_of_read']:.2f} of it")
        notes += [x for x in (r.get("model"), r.get("setting"), r.get("mode"), r.get("note")) if x]
        print(
            f"{r['workload']:<24}{_cell(r['ours'])}{_cell(r['peer'])}{_cell(ratio, 7)}{r['target']:>7.2f}  {verdict:<6}"
            f"{100 * r['others']:>6.1f}%  {'; '.join(notes)}",
            flush=True,
        )  # fmt: skip


def _cell(x, width=9):
    return " " * (width - 1) + "-" if x is None else f"{x:>{width}.2f}" if x < 100 else f"{x:>{width}.0f}"


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_peer(ap)
    names = [w.name for w in WORKLOADS]
    ap.add_argument("--json", metavar="FILE", help="add a line of JSON for each row")
    ap.add_argument("--only", metavar="NAMES", help="of " + ", ".join(names))
    ap.add_argument("--rounds", type=int, help="of every workload; default: 20 where memory-bound, else 3 to 10")
    ap.add_argument("--threads", type=int, default=os.cpu_count())
    ap.add_argument("--models", metavar="FOLDER", help="where slices lie or are made; default: herd-bench in ~/.cache")
    ap.add_argument("--no-pack", dest="pack", action="store_false", help="ours runs over the file as it is")
    a = ap.parse_args()
    only = a.only.split(",") if a.only else names
    for name in only:
        if name not in names:
            ap.error(f"no workload {name}; there are {', '.join(names)}")
    wanted = [w for w in WORKLOADS if w.name in only]
    place = slices.folder(a.models)
    paths = {m: str(slices.find(place, m)) for m in MODELS if any(m in w.models for w in wanted)}
    probe = Probe(512)
    plan = Plan(a.peer, a.threads, a.pack, place, a.rounds, probe)
    report, found = Report(a.json), {}
    for model, path in paths.items():
        here = [w for w in wanted if model in w.models]
        for w in (w for w in here if w.op in ("load", "million")):
            report.add(getattr(single, w.op)(plan, w, Path(path)))
        here = [w for w in here if w.op not in ("load", "million")]
        if not here:
            continue
        for w, some in rows(plan, model, path, here, report):
            found.setdefault(w, []).extend(some)
            if w.models[-1] == model:
                report.add(row(w, found[w]))
    probe.close()


if __name__ == "__main__":
    main()
