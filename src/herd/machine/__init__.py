"""The limits of this machine: memory and processors.

What it is not: a plan (`planning/` is arithmetic on configs), a benchmark.
"""

import os
from dataclasses import dataclass

from herd.machine.memory import available_bytes, total_bytes


@dataclass(frozen=True)
class Resources:
    """The resources that this process may use."""

    memory_bytes: int | None
    """Memory of the machine, or of the container; None: unknown."""
    available_bytes: int | None
    """The part of it that is not taken; pages of files count as not taken."""
    processors: int
    """Logical processors this process may run on."""


def resources() -> Resources:
    """The resources as they are now."""
    return Resources(total_bytes(), available_bytes(), num_processors())


def num_processors() -> int:
    """Number of logical processors that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1
