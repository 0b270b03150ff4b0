"""What an adapter (rank 16 on q, k, v, o) costs a decode step of the Scout slice: pairs of steps without and with.

The slice is made in memory: 4 layers of Scout's shape in Q4_K strips and its vocabulary. --experts: of each layer;
a token reads one whatever their number.
"""

import argparse
import statistics
import time
from dataclasses import replace

import numpy as np

from herd import formats
from herd.checkpoint.walk import walk
from herd.config import SCOUT
from herd.engine.adapters import Adapter
from herd.engine.runner import Chunk, Runner
from herd.model import place_weights
from herd.ops.contract import LowRank
from herd.ops.native import NativeOps
from herd.ops.native_weights import to_strips
from herd.weights import Packed, build

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


class Repeated:
    """A source of Q4_K matrices that repeat 64 random rows: every byte is read all the same."""

    def __init__(self):
        self.rng = np.random.default_rng(1)
        self.rows = {}

    def vector(self, name, shape):
        return np.ones(shape, np.float32)

    def matrix(self, name, outputs, inputs, *, bias=False):
        return self._packed(name, (outputs, inputs))

    def experts(self, name, num_experts, inputs, outputs):
        return self._packed(name, (num_experts, outputs, inputs))

    def _packed(self, name, shape):
        inputs = shape[-1]
        if inputs not in self.rows:
            w = self.rng.normal(size=(64, inputs)).astype(np.float32) / np.float32(np.sqrt(inputs))
            self.rows[inputs] = formats.encode("q4_k", w)
        codes = np.resize(self.rows[inputs], (*shape[:-1], self.rows[inputs].shape[-1]))
        return to_strips(Packed("q4_k", codes, shape, None, name))


def low_rank(config, rank, seed):
    rng = np.random.default_rng(seed)
    found = {}
    for w in walk(config):
        if w.name.endswith(ATTENTION) and w.name.startswith("model.layers."):
            outputs, inputs = w.shape
            down = rng.normal(size=(rank, inputs)).astype(np.float32) / np.float32(np.sqrt(inputs))
            found[w.name] = LowRank(down, rng.normal(size=(outputs, rank)).astype(np.float32) * np.float32(0.1), 0.5)
    return found


def step(runner, leases, adapters, token):
    """Seconds of one decode step."""
    start = time.perf_counter()
    runner.run([Chunk(lease, [token], adapter=adapter) for lease, adapter in zip(leases, adapters, strict=True)])
    return time.perf_counter() - start


def compare(runner, adapters: list[Adapter], pairs):
    """(median step without, with, median and quartiles of the ratios)."""
    leases = [[runner.lease() for _ in adapters] for _ in range(2)]
    kinds = [None] * len(adapters), adapters
    for side in (0, 1):
        for lease, adapter in zip(leases[side], kinds[side], strict=True):
            runner.run([Chunk(lease, list(range(100, 116)), adapter=adapter)])
        step(runner, leases[side], kinds[side], 7)
    plain, adapted = [], []
    for i in range(pairs):
        times = [0.0, 0.0]
        for side in (0, 1) if i % 2 else (1, 0):
            times[side] = step(runner, leases[side], kinds[side], 200 + i)
        plain.append(times[0])
        adapted.append(times[1])
    for lease in leases[0] + leases[1]:
        runner.drop(lease)
    ratios = [b / a for a, b in zip(plain, adapted, strict=True)]
    return statistics.median(plain), statistics.median(adapted), statistics.quantiles(ratios, n=4)


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--threads", type=int, default=0)
    ap.add_argument("--experts", type=int, default=16)
    ap.add_argument("--rank", type=int, default=16)
    ap.add_argument("--pairs", type=int, default=31)
    a = ap.parse_args()
    config = replace(SCOUT, num_layers=4, num_experts=a.experts, vision=None)
    ops = NativeOps(threads=a.threads)
    weights = place_weights(ops, build(config, Repeated()))
    runner = Runner(config, weights, ops, context=1024, kv_dtype="bf16", piece=64, sequences=32)
    made = [runner.ready_adapter(f"adapter {n}", low_rank(config, a.rank, n)) for n in range(8)]
    print(f"{made[0].num_bytes / 1e6:.1f} MB an adapter of rank {a.rank}; medians of {a.pairs} pairs")
    for name, adapters in (("1 sequence", made[:1]), ("8, one adapter", made[:1] * 8), ("8, 8 adapters", made)):
        plain, adapted, (low, ratio, high) = compare(runner, adapters, a.pairs)
        line = f"{name:16} {1000 * plain:7.1f} ms without, {1000 * adapted:7.1f} ms with"
        print(f"{line}, ratio {ratio:.3f} ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
