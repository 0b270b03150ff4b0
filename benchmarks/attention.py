#!/usr/bin/env python3
"""Attention alone, by heads, KV type, depth and number of new rows, as a share of the machine's limits.

    attention.py [--types bf16 int8 int4 f16] [--heads 40,8,128 12,4,64] [--depths 8000 16384] [--rows 1 512]
                 [--threads 2] [--seconds 0.5] [--no-limits] [--json]

One layer whose cache was filled with random keys. GB/s count the keys and values that a call reads once, GFLOP/s four
operations for each query head, dim and key that is seen (multiply and add, two products). The limits (limits.py) are
the read bandwidth of memory, probed before and after each row (keys of small heads that stay in the last-level cache
exceed it), and the bf16 dot products, where the processor has them.
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
from herd.planning.layers import head_bytes

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
    return ops.place(Context(positions, s, s)).full


def timed(call, seconds):
    """Median seconds of a call."""
    found, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(found) < 3:
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def bytes_read(kind, n, K, H):
    """Keys and values of n positions; of int4 the first page and the last one are bf16."""
    exact = min(n, PAGE + (n - 1) % PAGE + 1) if kind == "int4" else 0
    return K * ((n - exact) * head_bytes(kind, H, rope=kind != "int4") + exact * head_bytes("bf16", H))


def measure(a, heads, probe):
    """One dict a type, depth and number of rows. probe: what is asked for the read bandwidth now, or None."""
    ops, rng = NativeOps(a.threads), np.random.default_rng(0)
    N, K, H = heads
    slots = -(-(max(a.depths) + max(a.rows)) // PAGE) * PAGE
    for kind in a.types:
        kv = filled(ops, kind, slots, heads, rng)
        for depth in a.depths:
            for new in a.rows:
                q, k = rng.standard_normal((new, N, H), np.float32), rng.standard_normal((new, K, H), np.float32)
                segments = placed(ops, kind, depth, new)
                reads = [probe("read_GB/s", a.threads)] if probe else []
                seconds = timed(lambda q=q, k=k, s=segments, kv=kv: ops.attend(q, k, k, s, kv), a.seconds)
                reads += [probe("read_GB/s", a.threads)] if probe else []
                read = bytes_read(kind, depth + new, K, H)
                flop = 4 * N * H * (new * depth + new * (new + 1) / 2)
                yield {
                    "heads": f"{N},{K},{H}",
                    "kv": kind,
                    "depth": depth,
                    "rows": new,
                    "ms": round(seconds * 1e3, 3),
                    "GB/s": round(read / seconds / 1e9, 2),
                    "GFLOP/s": round(flop / seconds / 1e9, 1),
                    "probe_GB/s": round(max(reads), 2) if reads else None,
                }


def shown(row, dots):
    """One line. dots: TFLOP/s of bf16 products that the machine can do, or None."""
    probe = row["probe_GB/s"]
    read = f" ({row['GB/s'] / probe:4.0%} of {probe:.1f})" if probe else ""
    work = f" ({row['GFLOP/s'] / 1e3 / dots:4.0%})" if dots else ""
    return (
        f"{row['heads']:>9} {row['kv']:>5} depth {row['depth']:>7} rows {row['rows']:>4} {row['ms']:9.2f} ms "
        f"{row['GB/s']:7.1f} GB/s{read} {row['GFLOP/s']:8.1f} GFLOP/s{work}"
    )


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--types", nargs="+", default=["bf16", "int8", "int4", "f16"])
    heads_help = "query heads, KV heads, head size: Scout's and the small slice's"
    ap.add_argument("--heads", nargs="+", default=["40,8,128", "12,4,64"], help=heads_help)
    ap.add_argument("--depths", nargs="+", type=int, default=[8000, 16384])
    ap.add_argument("--rows", nargs="+", type=int, default=[1, 512])
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--seconds", type=float, default=0.5)
    ap.add_argument("--no-limits", action="store_true")
    ap.add_argument("--json", action="store_true")
    a = ap.parse_args()
    probe = None if a.no_limits else limits.Probe()
    dots = probe("bf16_TFLOP/s", a.threads) if probe else None
    isa = _native.isa_info()["chosen"]
    if not a.json:
        print(
            f"{machine()}, {isa}, {a.threads} threads; bf16 products: {f'{dots:.3f} TFLOP/s' if dots else 'no figure'}"
        )
    for heads in a.heads:
        for row in measure(a, tuple(int(x) for x in heads.split(",")), probe):
            if a.json:
                row |= {"isa": isa, "threads": a.threads, "bf16_TFLOP/s": dots, "machine": machine()}
            print(json.dumps(row) if a.json else shown(row, dots), flush=True)
    if probe:
        probe.close()


if __name__ == "__main__":
    main()
