"""What plans foretell beside what is: memory as processes hold it, speed here, speed as others published it.

    scripts/bench plan memory [--only scout] [--models FOLDER] [--json FILE]
    scripts/bench plan speed [--models FOLDER] [--rounds 5]
    scripts/bench plan published

`memory` loads each point in a process of its own (plan_memory_worker.py), with its cache filled, and asks the system
what it and its children hold: anonymous bytes, the most while answers are made, beside `planning.memory.need`'s
`anonymous_bytes`; and pages of the weight files in their tables beside the size of the files. A point is within the
bound when both differ by at most 3% or 32 MiB. Slices are made when missing (6 GB for Scout's, 2 GB for the small ones;
what is packed of them takes as much again); smollm2 must be in the store. `speed` is in plan_speed.py, `published` in
plan_published.py.
"""

import argparse
import sys

import plan_memory
import plan_published
import plan_speed


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    memory = commands.add_parser("memory", help="bytes of processes")
    memory.add_argument("--only", help="points whose names hold this text")
    memory.add_argument("--models", help="folder of the slices; the user's cache")
    memory.add_argument("--json", help="append one line a point to this file; points that are in it are not run again")
    memory.set_defaults(run=plan_memory.run)
    speed = commands.add_parser("speed", help="tokens a second, here")
    speed.add_argument("--models", help="folder of the slices; the user's cache")
    speed.add_argument("--rounds", type=int, default=5, help="processes a model; medians are told")
    speed.set_defaults(run=plan_speed.run)
    published = commands.add_parser("published", help="tokens a second, as others published")
    published.set_defaults(run=plan_published.run)
    a = parser.parse_args()
    return a.run(a)


if __name__ == "__main__":
    sys.exit(main())
