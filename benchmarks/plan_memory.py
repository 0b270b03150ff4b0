"""The points of `plan.py memory`, their processes watched, and what was foretold of them."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import slices
from harness import HERE, machine

from herd.checkpoint import open_checkpoint
from herd.convert import convert
from herd.planning.memory import need

MIB = 1 << 20
SHARE, LEAST = 0.03, 32 * MIB
"""How far a figure may be off: the larger of the two."""
PIECE, PARALLEL = 512, 8


@dataclass(frozen=True)
class Point:
    """One load."""

    model: str
    context: int
    kv: str
    engine: str = "thread"
    fill: str = "pages"
    """See plan_memory_worker.py."""

    @property
    def name(self):
        return f"{self.model} {self.context} {self.kv} {self.engine} {self.fill}"


CACHES = ("bf16", "int8", "int4")
POINTS = (
    *(Point(f"smollm2{t}", 4096, kv, "child", "prompt") for t in ("", "-bf16") for kv in CACHES),
    *(Point(f"smollm2{t}", 8192, kv) for t in ("", "-bf16") for kv in CACHES),
    *(Point(f"small-{t}", n, kv) for t in ("q8_0", "bf16") for n in (8192, 32768) for kv in CACHES),
    *(Point("scout-q4_k", n, kv) for n in (2048, 8192, 32768) for kv in CACHES),
)


def run(a):
    place = slices.folder(a.models)
    points = [p for p in POINTS if a.only is None or a.only in p.name]
    kept = read(a.json)
    print(f"{machine()}; {len(points)} points, MiB\n", flush=True)
    print(f"{'point':<40}{'anonymous':>20}{'off':>16}{'file pages':>20}{'off':>16}")
    rows = []
    for point in points:
        row = kept.get(point.name) or measure(point, place)
        if a.json and point.name not in kept:
            with Path(a.json).open("a") as f:
                f.write(json.dumps({"benchmark": "plan memory", **row, "machine": machine()}) + "\n")
        rows.append(row)
        print(line(row), flush=True)
    good = sum(within(row, "anonymous") and within(row, "files") for row in rows)
    print(f"\n{good} of {len(rows)} points within {SHARE:.0%} or {LEAST // MIB} MiB, both figures")
    return good != len(rows)


def read(path):
    """Rows that a run before left, by point."""
    if not path or not Path(path).exists():
        return {}
    return {row["name"]: row for row in map(json.loads, Path(path).read_text().splitlines())}


def line(row):
    cells = [f"{row['name']:<40}"]
    for what in ("anonymous", "files"):
        foretold, held = row[what]
        off = f"{(held - foretold) / MIB:+.1f} {(held - foretold) / foretold:+.1%}"
        cells.append(f"{foretold / MIB:10.1f}{held / MIB:10.1f}{off:>15}{' ' if within(row, what) else '!'}")
    return "".join(cells)


def within(row, what):
    foretold, held = row[what]
    return abs(held - foretold) <= max(LEAST, SHARE * held)


def file_of(model, place):
    """The file of a model; smollm2's other types are converted when missing."""
    base, _, kind = model.partition("-")
    if base != "smollm2" or not kind:
        return slices.find(place, model)
    path = place / f"{model}.gguf"
    if not path.exists():
        convert(slices.find(place, base), path, kind)
    return path


def measure(point, place):
    """What was foretold and what was held, of both kinds of memory: {name, anonymous: [foretold, held], files: ...}."""
    path = file_of(point.model, place)
    with open_checkpoint(path) as checkpoint:
        config, size = checkpoint.config, checkpoint.size_bytes
        added = len(checkpoint.load_tokenizer().added)
    foretold = need(config, size, point.context, point.kv, PIECE, PARALLEL, engine=point.engine, added=added)
    stages, most = watched(
        [str(HERE / "plan_memory_worker.py"), str(path), str(point.context), point.kv, point.engine, point.fill]
    )
    last = stages[-1]
    return {
        "name": point.name,
        "anonymous": [foretold.anonymous_bytes, max(most, sum(last["anonymous"]))],
        "files": [size, sum(last["files"])],
        "by_use": asdict(foretold),
        "stages": {stage.pop("stage"): stage for stage in stages},
    }


def watched(arguments):
    """Run a worker to its end: its lines, and the most anonymous bytes of its processes since the first of them."""
    stages, most = [], 0
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True) as process:
        ended = threading.Event()

        def look():
            nonlocal most
            while not ended.is_set():
                now = anonymous(process.pid) if stages else 0
                most = max(most, now)
                time.sleep(0.01)

        watcher = threading.Thread(target=look)
        watcher.start()
        for text in process.stdout:
            stages.append(json.loads(text))
        ended.set()
        watcher.join()
    if process.returncode or not stages:
        raise SystemExit(f"{' '.join(arguments)} ended with {process.returncode}")
    return stages, most


def anonymous(pid):
    """Anonymous bytes of a process and its children, as they are counted while they run; 0 once it is gone."""
    total = 0
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                total += anonymous(child)
        found = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return total
    return total + (int(found[1]) << 10 if found else 0)
