"""Herd behind a pipe, as peer_worker.py has llama.cpp: the model over its op set and cache, no sampler, no text.

One JSON request a line on stdin, one JSON reply a line on stdout:
    load {path, threads, context, sequences, kv, piece, pack} -> {load_s, token_bytes, ...}
    context {length, sequences, kv, piece} -> {}                  a cache of this kind, kept from call to call
    fill {depth} -> {}              memory {} -> {rss_bytes, peak_bytes}
    prefill {count, depth} -> T     decode {count, depth} -> T    many {sequences, steps} -> T
T is {seconds, others_s}, as in peer_worker.py.
"""

import json
import sys
import time

import numpy as np
import quiet

from herd.checkpoint.auto_pack import packed_for
from herd.checkpoint.open import open_checkpoint
from herd.checkpoint.strip_pieces import native_pack
from herd.engine.runner import Piece, Runner
from herd.machine.work import token_bytes
from herd.model import forward, place_weights
from herd.ops.native import NativeOps

SHORT = 16
"""Tokens in each sequence before `many` decodes."""


class Worker:
    def __init__(self):
        self.rng = np.random.default_rng(1)
        self.kept = {}

    def load(self, path, threads=2, context=1024, sequences=1, kv="bf16", piece=512, pack=True):
        start = time.perf_counter()
        self.ops = NativeOps(threads=threads)
        self.checkpoint = packed_for(open_checkpoint(path), pack=pack and native_pack() is not None)
        self.c = self.checkpoint.config
        self.w = place_weights(self.ops, self.checkpoint.load())
        self.context(context, sequences, kv, piece)
        return {
            "load_s": time.perf_counter() - start,
            "token_bytes": token_bytes(self.c, self.w),
            "file_bytes": self.checkpoint.size_bytes,
            "layout": getattr(self.w.head, "layout", "rows"),
            "kv": kv,
        }

    def context(self, length, sequences=1, kv="bf16", piece=512):
        """A cache of this kind: kept from an earlier call, with what it was filled with, or new."""
        key = (length, sequences, kv, piece)
        if key not in self.kept:
            runner = Runner(
                self.c, self.w, self.ops, context=length * sequences, kv_dtype=kv, piece=piece, sequences=sequences
            )
            self.kept[key] = runner, {}
        self.runner, self.deep = self.kept[key]
        self.piece = piece
        return {}

    def _random(self, n):
        return self.rng.integers(0, self.c.vocab_size - 2, n).tolist()

    def _feed(self, lease, count):
        for a in range(0, count, self.piece):
            self.runner.run([Piece(lease, self._random(min(self.piece, count - a)))])

    def fill(self, depth):
        """A sequence of so many positions, kept for later; it goes on from the deepest shorter one."""
        if depth not in self.deep:
            below = max((d for d in self.deep if d < depth), default=0)
            lease = self.runner.pager.fork(self.deep[below]) if below else self.runner.lease()
            self._feed(lease, depth - below)
            self.deep[depth] = lease
        return {}

    def prefill(self, count, depth=0):
        if not depth:
            lease = self.runner.lease()
            with quiet.Watch() as watch:
                self._feed(lease, count)
            self.runner.drop(lease)
            return watch.figures
        self.fill(depth)
        lease = self.deep[depth]
        pager, ids = self.runner.pager, np.asarray(self._random(count))
        assert count <= self.piece, (count, self.piece)
        with quiet.Watch() as watch:  # what Runner.run does, but nothing is kept
            context = pager.step([(lease, count)], [count - 1])
            forward(self.ops, self.c, self.w, ids, self.ops.place(context), kv=self.runner.kv)
            pager.commit(lease, 0)
        return watch.figures

    def decode(self, count, depth=0):
        if depth:
            self.fill(depth)
        lease = self.deep[depth] if depth else self.runner.lease()
        with quiet.Watch() as watch:
            for token in self._random(count):
                self.runner.run([Piece(lease, [token])])
        if not depth:
            self.runner.drop(lease)
        elif self.runner.rollback(lease, depth) != depth:
            raise SystemExit(f"{depth} cannot be gone back to")
        return watch.figures

    def many(self, sequences, steps):
        leases = [self.runner.lease() for _ in range(sequences)]
        for lease in leases:
            self.runner.run([Piece(lease, self._random(SHORT), rows=())])
        with quiet.Watch() as watch:
            for _ in range(steps):
                self.runner.run([Piece(x, [t]) for x, t in zip(leases, self._random(sequences), strict=True)])
        for lease in leases:
            self.runner.drop(lease)
        return watch.figures

    def memory(self):
        return quiet.memory()


def main():
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        reply = getattr(worker, request.pop("do"))(**request)
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
