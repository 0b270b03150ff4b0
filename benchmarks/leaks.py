"""Random replies with calls past redact and block: what left that rules find, and which notes are false.

python benchmarks/leaks.py --replies 100000
"""

import argparse
import sys
import time
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "safety"))

from random_replies import problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replies", type=int, default=1000, help="in all, half of them under each policy")
    parser.add_argument("--seed", type=int, default=0, help="of the first one")
    asked = parser.parse_args()
    wrong = 0
    began_s = time.monotonic()
    for i in range(asked.seed, asked.seed + asked.replies):
        mode = ("redact", "block")[i % 2]
        found = problems(Random(i), mode)  # type: ignore[arg-type]
        wrong += bool(found)
        if found:
            print(f"seed {i}, {mode}: {'; '.join(found)}")
        if (i + 1) % 10_000 == 0:
            print(
                f"{i + 1 - asked.seed} replies, {time.monotonic() - began_s:.0f} s, {wrong} with a problem", flush=True
            )
    print(f"{asked.replies} replies from seed {asked.seed}: {wrong} with a find that left or a false note")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
