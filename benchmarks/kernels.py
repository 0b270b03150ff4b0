#!/usr/bin/env python3
"""Products with weights alone, by format and number of rows, as a share of the machine's limits.

    kernels.py [--formats q4_k q8_0 bf16 ...] [--rows 1,2,4,8,32,512] [--threads N] [--shape 8192,5120] [--layout rows]
               [--seconds 0.3] [--json]

A Scout-shaped matrix (5,120 inputs, 8,192 outputs), as many experts of it as fill --megabytes, taken in turn, so that
no weight is still in a cache. GB/s count the weights' bytes, TOP/s two operations for each row, input and output.
Before and after a format the limits are probed (limits.py): reads, and int8 dot products (float32 multiply-adds for
float weights). A row is the median of its calls.
"""

import argparse
import json
import os
import statistics
import time

import limits
import numpy as np
from harness import machine

from herd import _native, formats
from herd.formats import strips

FLOATS = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16}
NAMES = (*strips.UNITS, *FLOATS)


def weight(name, layout, outputs, inputs, experts, rng):
    """A stack of `experts` matrices: sixty-four rows of normal weights, again and again."""
    some = rng.standard_normal((64, inputs), np.float32) / inputs**0.5
    if name in FLOATS:
        rows = (some.view(np.uint32) >> 16).astype(np.uint16) if name == "bf16" else some.astype(FLOATS[name])
    else:
        # of formats that are only read, bytes below 64: no scale is infinite, whatever byte it lies in
        bytes_a_row = formats.row_bytes(name, inputs)
        written = name in formats.WRITTEN
        rows = formats.encode(name, some) if written else rng.integers(0, 64, (64, bytes_a_row), np.uint8)
        if layout == "strips":
            rows = strips.to_strips(name, rows)
    count = outputs if layout == "rows" or name in FLOATS else outputs // strips.ROWS
    shape = (experts, count, rows.shape[1])
    room = np.empty(int(np.prod(shape)) * rows.itemsize + 64, np.uint8)  # packed files start tensors at whole lines
    start = -room.ctypes.data % 64
    stack = room[start : start + room.size - 64].view(rows.dtype).reshape(shape)
    stack.reshape(-1, *rows.shape)[:] = rows
    in_strips = layout == "strips" and name not in FLOATS
    return _native.weight(stack, name, [experts, outputs, inputs], strips=in_strips)


def row_bytes(name, inputs):
    """Bytes of a row of weights."""
    return inputs * np.dtype(FLOATS[name]).itemsize if name in FLOATS else formats.row_bytes(name, inputs)


def timed(w, rows, outputs, inputs, experts, seconds, rng):
    """Median seconds of a product, the experts in turn."""
    x, y = rng.standard_normal((rows, inputs), np.float32), np.empty((rows, outputs), np.float32)
    found, end = [], time.perf_counter() + seconds
    while len(found) <= experts or time.perf_counter() < end:
        start = time.perf_counter()
        _native.linear(x, w, y, len(found) % experts)
        found.append(time.perf_counter() - start)
    return statistics.median(found[1:])


def measure(a, probe):
    """One dict a format and number of rows."""
    rng = np.random.default_rng(0)
    outputs, inputs = a.shape
    for name in a.formats:
        matrix = outputs * row_bytes(name, inputs)
        experts = max(2, -(-a.megabytes * 1_000_000 // matrix))
        w = weight(name, a.layout, outputs, inputs, experts, rng)
        peak = "fp32_TFLOP/s" if name in FLOATS else "int8_TOP/s"

        def limit(peak=peak):
            return [[probe(one, a.threads) or 0.0 for one in ("read_GB/s", peak)] for _ in range(2)]

        before = limit()
        taken = [timed(w, rows, outputs, inputs, experts, a.seconds, rng) for rows in a.rows]
        read, work = (max(values) for values in zip(*before, *limit(), strict=True))
        for rows, seconds in zip(a.rows, taken, strict=True):
            gb, top = matrix / seconds / 1e9, 2 * rows * outputs * inputs / seconds / 1e12
            yield {
                "format": name,
                "rows": rows,
                "ms": round(seconds * 1e3, 3),
                "GB/s": round(gb, 2),
                "of_read": round(gb / read, 3) if read else None,
                "TOP/s": round(top, 4),
                "of_peak": round(top / work, 3) if work else None,
                "limits": {"read_GB/s": read, peak: work},
            }


def numbers(text):
    """Numbers with commas between them."""
    return [int(x) for x in text.split(",")]


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--formats", nargs="+", default=list(NAMES), choices=NAMES, metavar="NAME")
    ap.add_argument("--rows", type=numbers, default=[1, 2, 4, 8, 32, 512])
    ap.add_argument("--threads", type=int, default=os.cpu_count())
    ap.add_argument("--shape", type=numbers, default=[8192, 5120], help="outputs (a multiple of 64), inputs")
    ap.add_argument("--layout", choices=("strips", "rows"), default="strips")
    ap.add_argument("--megabytes", type=int, default=256, help="weights of a format")
    ap.add_argument("--seconds", type=float, default=0.3, help="for each row of the table")
    ap.add_argument("--json", action="store_true")
    a = ap.parse_args()
    if len(a.shape) != 2 or a.shape[0] % 64 or a.shape[1] % 256:
        ap.error("--shape: outputs in multiples of 64, inputs of 256")
    _native.set_threads(a.threads)
    isa = _native.isa_info()["chosen"]
    if not a.json:
        print(f"{machine()}, {isa}, {a.threads} threads, [{a.shape[0]} x {a.shape[1]}] in {a.layout}")
    probe = limits.Probe(1024)
    for row in measure(a, probe):
        if a.json:
            found = {**row, "shape": a.shape, "layout": a.layout, "threads": a.threads, "isa": isa}
            print(json.dumps({**found, "machine": machine()}), flush=True)
            continue
        read, work = row["limits"].values()
        print(
            f"{row['format']:>6} rows {row['rows']:>4} {row['ms']:9.3f} ms "
            f"{row['GB/s']:7.2f} GB/s ({row['of_read'] or 0:4.0%} of {read:.1f}) "
            f"{row['TOP/s']:7.4f} TOP/s ({row['of_peak'] or 0:4.0%} of {work:.2f})",
            flush=True,
        )
    probe.close()


if __name__ == "__main__":
    main()
