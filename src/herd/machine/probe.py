"""The best speed of this machine, measured now: reading memory, int8 products and float products, a tenth of a second
each.

The denominators of `herd bench`. Neighbours on the same host move the first one within minutes, so it is measured in
the same minute as what it is compared with.
"""

import statistics
from dataclasses import dataclass

READ_BYTES = 1 << 29
"""Far more than any cache of a processor holds."""


@dataclass(frozen=True)
class MachineRates:
    """Rates at best with so many threads; None: this processor has no instruction to probe with."""

    threads: int
    read_bytes_s: float
    int8_ops_s: float | None
    int8_instruction: str
    float_ops_s: float | None
    float_instruction: str


def rates(threads: int, repeats: int = 3) -> MachineRates:
    """Measure the rates. A multiply and an add are two operations; medians of the reads, as a model's reads are no best
    case."""
    from herd import _native

    read = statistics.median(_native.probe_reads(READ_BYTES, threads, repeats))
    found = [max((_native.probe_products(kind, threads) for _ in range(repeats)), key=_rate) for kind in KINDS]
    (int8, int8_rate), (floats, float_rate) = found
    return MachineRates(threads, read, int8_rate or None, int8, float_rate or None, floats)


KINDS = ("int8", "float")


def _rate(pair: tuple[str, float]) -> float:
    return pair[1]
