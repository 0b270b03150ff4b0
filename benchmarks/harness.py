"""What the benchmarks share: workers behind pipes, medians of interleaved runs, the machine's name."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


class Worker:
    """A process that answers requests; `worker.prefill(count=512)` is one request of it."""

    def __init__(self, python, script, **environ):
        self._name = script
        self._process = subprocess.Popen(
            [python, str(HERE / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environ},
        )

    def __getattr__(self, name):
        def call(**request):
            self._process.stdin.write(json.dumps({"do": name, **request}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
            if not line:
                raise SystemExit(f"{self._name} stopped in {name}")
            return json.loads(line)

        return call

    def close(self):
        self._process.stdin.close()
        self._process.wait(60)


class Peer(Worker):
    """llama.cpp."""

    def __init__(self, python):
        super().__init__(python, "peer_worker.py")


class Ours(Worker):
    """Herd, under this interpreter; what it packs goes into this store."""

    def __init__(self, home):
        super().__init__(sys.executable, "ours_worker.py", HERD_HOME=str(home))


def add_peer(parser):
    """The --peer option, or what scripts/bench was given."""
    default = os.environ.get("HERD_PEER")
    parser.add_argument("--peer", default=default, required=default is None, help="a python that imports llama_cpp")


def paired(ours, theirs, rounds):
    """Run two timed callables in turn; medians of each in seconds and the median of the pairs' ratio (theirs/ours)."""
    a, b = [], []
    for _ in range(rounds):
        a.append(ours())
        b.append(theirs())
    ratios = [y / x for x, y in zip(a, b, strict=True)]
    return statistics.median(a), statistics.median(b), statistics.median(ratios)


def machine():
    """One line: processor, cores, load."""
    cpu = next(
        (x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")),
        "?",
    )
    return f"{cpu}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
