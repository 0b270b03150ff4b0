#!/usr/bin/env python3
"""Attention alone, by KV type, depth and number of new rows, as a share of the machine's limits.

    attention.py [--types bf16 int8 int4 f16] [--heads 40,8,128] [--depths 8000 16384] [--rows 1 512] [--threads 2]
                 [--seconds 0.5] [--no-limits] [--json]

One layer whose cache was filled with random keys. GB/s count the keys and values that a call reads once, TFLOP/s four
operations for each query head, dim and key that is seen (multiply and add, two products). The limits (limits.py, same
process, before and after) are the read bandwidth and the bf16 dot products.
"""

import argparse
import json
import statistics
import time

import limits
import numpy as np
from harness import machine

from herd import _native
from herd.batch import Context, Segments
from herd.ops.native import NativeOps
from herd.plan.memory import head_bytes

PAGE = 256


def filled(ops, kind, slots, heads, rng):
    """A cache whose slots all hold something; int4: pages closed from one exact page after another."""
    _, K, H = heads
    rows = [rng.standard_normal((PAGE, K, H), np.float32) for _ in range(8)]
    if kind == "int4":
        kv = ops.new_kv(slots, K, H, kind, exact_slots=4 * PAGE, rope=False)
        for i in range(4):
            ops.kv_write(kv, np.arange(i * PAGE, (i + 1) * PAGE), rows[i], rows[i + 4])
        pages = np.arange(slots // PAGE)
        ops.close_pages(kv, pages % 4, pages)
        return kv
    kv = ops.new_kv(slots, K, H, kind)
    for i in range(slots // PAGE):
        ops.kv_write(kv, np.arange(i * PAGE, (i + 1) * PAGE), rows[i % 8], rows[(i + 3) % 8])
    return kv


def placed(ops, kind, depth, new):
    """One sequence of `depth` positions, and `new` rows more."""
    n = depth + new
    pages, positions = np.arange(-(-n // PAGE)), np.arange(depth, n)
    if kind != "int4":
        s = Segments(np.array([0, new]), np.array([n]), pages[None], positions, PAGE)
    else:  # cut at the borders of pages; own pages take turns in the exact pool
        edges = sorted({depth, n, *range(-(-depth // PAGE) * PAGE, n, PAGE)})
        ends = np.array(edges[1:])
        own = 1 + (ends - 1) // PAGE % 3
        slots = (1 + positions // PAGE % 3) * PAGE + positions % PAGE
        exact = np.stack([np.zeros_like(own), own], 1)
        s = Segments(np.array(edges) - depth, ends, np.tile(pages, (len(ends), 1)), slots, PAGE, exact)
    return ops.place(Context(positions, s, s)).whole


def timed(call, seconds):
    """Median seconds of a call."""
    found, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(found) < 3:
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def measure(a):
    """One dict a type, depth and number of rows."""
    ops, rng = NativeOps(a.threads), np.random.default_rng(0)
    heads = N, K, H = tuple(int(x) for x in a.heads.split(","))
    slots = -(-(max(a.depths) + max(a.rows)) // PAGE) * PAGE
    for kind in a.types:
        kv = filled(ops, kind, slots, heads, rng)
        for depth in a.depths:
            for new in a.rows:
                q, k = rng.standard_normal((new, N, H), np.float32), rng.standard_normal((new, K, H), np.float32)
                segments = placed(ops, kind, depth, new)
                seconds = timed(lambda q=q, k=k, s=segments, kv=kv: ops.attend(q, k, k, s, kv), a.seconds)
                read = (depth + new) * K * head_bytes(kind, H, rope=kind != "int4")
                flop = 4 * N * H * (new * depth + new * (new + 1) / 2)
                yield {
                    "kv": kind,
                    "depth": depth,
                    "rows": new,
                    "ms": round(seconds * 1e3, 3),
                    "GB/s": round(read / seconds / 1e9, 2),
                    "TFLOP/s": round(flop / seconds / 1e12, 4),
                }


def best(threads):
    """The machine's limits now, by name."""
    return {name: max(values) for (name, t), values in limits.kernels(threads, 2).items() if t == threads}


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--types", nargs="+", default=["bf16", "int8", "int4", "f16"])
    ap.add_argument("--heads", default="40,8,128", help="query heads, KV heads, head size (Scout; small: 12,4,64)")
    ap.add_argument("--depths", nargs="+", type=int, default=[8000, 16384])
    ap.add_argument("--rows", nargs="+", type=int, default=[1, 512])
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--seconds", type=float, default=0.5)
    ap.add_argument("--no-limits", action="store_true")
    ap.add_argument("--json", action="store_true")
    a = ap.parse_args()
    limit = {} if a.no_limits else best(a.threads)
    rows = list(measure(a))
    if limit:
        after = best(a.threads)
        limit = {name: max(value, after[name]) for name, value in limit.items()}
    isa = _native.isa_info()["chosen"]
    if a.json:
        for row in rows:
            print(json.dumps({**row, "heads": a.heads, "isa": isa, "limits": limit, "machine": machine()}))
        return
    print(f"{machine()}, {isa}, {a.threads} threads, heads {a.heads}; limits: {limit}")
    read, dots = limit.get("read_GB/s"), limit.get("bf16_TFLOP/s")
    for row in rows:
        share = row["GB/s"] / read if read else 0
        work = row["TFLOP/s"] / dots if dots else 0
        print(
            f"{row['kv']:>5} depth {row['depth']:>7} rows {row['rows']:>4} {row['ms']:9.2f} ms "
            f"{row['GB/s']:7.1f} GB/s ({share:4.0%}) {row['TFLOP/s']:8.3f} TFLOP/s ({work:4.0%})"
        )


if __name__ == "__main__":
    main()
