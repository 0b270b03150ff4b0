"""This machine's limits: memory, processors.

What it is not: a plan (`planning/` is arithmetic on configs), a benchmark.
"""

import os
from dataclasses import dataclass

from herd.machine.memory import available_bytes, total_bytes


@dataclass(frozen=True)
class Machine:
    """What this process may use."""

    memory_bytes: int | None
    """Of the machine, or of the container; None: unknown."""
    available_bytes: int | None
    """Of that, what is not taken; pages of files count as not taken."""
    processors: int
    """Logical processors this process may run on."""


def machine() -> Machine:
    """Look now."""
    return Machine(total_bytes(), available_bytes(), num_processors())


def num_processors() -> int:
    """Logical processors this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1
