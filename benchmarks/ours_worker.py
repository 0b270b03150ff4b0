"""Herd behind a pipe, as peer_worker.py has llama.cpp: the model over its op set and cache, no sampler, no text.

One JSON request a line on stdin, one JSON reply a line on stdout:
    load {path, threads, context, sequences, kv, piece, pack} -> {load_s, token_bytes, ...}
    context {length, sequences, kv, piece} -> {}                  a cache of this kind, kept from call to call
    fill {depth} -> {}              fill_random {depth} -> {resident_bytes, kv_bytes, read_bytes}
                                    memory {} -> {rss_bytes, peak_bytes}
    prefill {count, depth} -> T     decode {count, depth} -> T    many {sequences, steps} -> T
T is {seconds, others_s}, as in peer_worker.py.
"""

import json
import sys
import time

import numpy as np
import quiet

from herd.checkpoint.open import open_checkpoint
from herd.checkpoint.strip_pieces import native_pack
from herd.engine.runner import Chunk, Runner
from herd.model import place_weights
from herd.ops.native import NativeOps
from herd.planning.work import token_bytes
from herd.store.auto_pack import packed_for

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
            # Runner shares one chunk's pages among all sequences; here each may hold a chunk of its own
            chunks = (sequences - 1) * min(self.c.chunk or 0, length)
            runner = Runner(
                self.c,
                self.w,
                self.ops,
                context=length * sequences,
                kv_dtype=kv,
                piece=piece + chunks,
                sequences=sequences,
            )
            self.kept[key] = runner, {}
        self.runner, self.deep = self.kept[key]
        self.piece = piece
        return {}

    def _random(self, n):
        return self.rng.integers(0, self.c.vocab_size - 2, n).tolist()

    def _feed(self, lease, count):
        for a in range(0, count, self.piece):
            self.runner.run([Chunk(lease, self._random(min(self.piece, count - a)))])

    def fill(self, depth):
        """A sequence of so many positions, kept for later; it goes on from the deepest shorter one."""
        if depth not in self.deep:
            below = max((d for d in self.deep if d < depth), default=0)
            lease = self.runner.cache.fork(self.deep[below]) if below else self.runner.lease()
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
        assert count <= self.piece, (count, self.piece)
        with quiet.Watch() as watch:
            self.runner.compute([Chunk(lease, self._random(count))])
        self.runner.pager.commit(lease, 0)  # nothing of it is kept
        return watch.figures

    def decode(self, count, depth=0):
        if depth:
            self.fill(depth)
        lease = self.deep[depth] if depth else self.runner.lease()
        with quiet.Watch() as watch:
            for token in self._random(count):
                self.runner.run([Chunk(lease, [token])])
        if not depth:
            self.runner.drop(lease)
        elif self.runner.rollback(lease, depth) != depth:
            raise SystemExit(f"{depth} cannot be gone back to")
        return watch.figures

    def many(self, sequences, steps):
        leases = [self.runner.lease() for _ in range(sequences)]
        for lease in leases:
            self.runner.run([Chunk(lease, self._random(SHORT), rows=())])
        with quiet.Watch() as watch:
            for _ in range(steps):
                self.runner.run([Chunk(x, [t]) for x, t in zip(leases, self._random(sequences), strict=True)])
        for lease in leases:
            self.runner.drop(lease)
        return watch.figures

    def fill_random(self, depth):
        """A sequence of so many positions that nobody computed: seeded random keys and values, page after page, written
        as passes write them. For the row `million` of peer.py alone: no text has such a cache."""
        from herd.planning.memory import cache_bytes

        before = quiet.memory()["rss_bytes"]
        runner, K, H = self.runner, self.c.num_kv_heads, self.c.head_size
        page = runner.pager.page_size
        pairs = [self.rng.standard_normal((2, page, K, H), np.float32) for _ in range(8)]
        lease = runner.lease()
        for at in range(0, depth, page):
            n = min(page, depth - at)
            context = runner.pager.step([(lease, n)], [])
            for i, (layer, kv) in enumerate(zip(self.c.layers, runner.kv, strict=True)):
                segments = context.chunk if layer.chunked else context.full
                keys, values = pairs[(at // page + i) % len(pairs)]
                self.ops.kv_write(kv, segments.slots_T, keys[:n], values[:n])
                if segments.closing is not None and len(segments.closing):
                    exact, coarse = segments.closing.T
                    self.ops.close_pages(kv, exact, coarse)
            runner.pager.commit(lease)
        self.deep[depth] = lease
        # of the layers that see everything, by the plan's formula: linear in the depth, but for what a chunk holds
        some = self.c.chunk or 0
        more = cache_bytes(self.c, depth, "int4") - cache_bytes(self.c, some, "int4")
        read = more * depth / (depth - some)
        return {"resident_bytes": quiet.memory()["rss_bytes"] - before, "kv_bytes": read, "read_bytes": read}

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
