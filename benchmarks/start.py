"""How long it takes to begin: a bare interpreter, `import herd`, `herd --help`, the first token of an answer.

Medians of 9 runs, each a process of its own, in milliseconds. The first token counts from the start of the process to
the first byte on its stdout, and needs smollm2 in the store (herd pull smollm2).

    scripts/bench start
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

RUNS = 9
QUESTION = "What is photosynthesis?"
HERD = [sys.executable, "-m", "herd"]


def main() -> None:
    bare = median(lambda: to_end([sys.executable, "-c", "pass"]))
    rows = [
        ("bare interpreter", bare),
        ("import herd", median(lambda: to_end([sys.executable, "-c", "import herd"]))),
        ("herd --help", median(lambda: to_end([*HERD, "--help"]))),
        ("herd list", median(lambda: to_end([*HERD, "list", "--json"]))),
    ]
    if subprocess.run([*HERD, "show", "smollm2", "--json"], capture_output=True).returncode == 0:
        rows.append(("first token", median(lambda: to_first_byte([*HERD, "run", "smollm2", QUESTION, "-m", "1"]))))
    print(f"{'median of ' + str(RUNS):<20}{'ms':>8}{'beyond bare':>14}")
    for what, ms in rows:
        print(f"{what:<20}{ms:8.0f}{ms - bare:14.0f}")
    if len(rows) < 5:
        print("first token: not measured, smollm2 is not in the store (herd pull smollm2)")
    print(json.dumps({"benchmark": "start", "runs": RUNS, "cpus": os.cpu_count(), "ms": dict(rows)}))


def median(measure: Callable[[], float]) -> float:
    measure()  # once unseen, so that files are in memory
    return statistics.median(measure() for _ in range(RUNS))


def to_end(command: Sequence[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - start) * 1e3


def to_first_byte(command: Sequence[str]) -> float:
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        took = (time.perf_counter() - start) * 1e3
        process.stdout.read()
    if not first:
        raise SystemExit("herd run said nothing")
    return took


if __name__ == "__main__":
    main()
