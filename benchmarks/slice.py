"""Speed on a slice of a Llama 4 model, the peer and the machine's limit beside us in one call.

    python benchmarks/make_slice.py scout.gguf --shape scout --quant q4_k
    python benchmarks/slice.py scout.gguf --peer PYTHON_WITH_LLAMA_CPP [--rounds 7] [--json FILE]

decode1: one token at a time from an empty context; prefill512: one prompt of 512 tokens. Rounds of probe, ours and peer
in turn; medians, and the median of the pairs' ratios. The peer runs twice: in its default (weights repacked at load) and
without repacking, since each wins somewhere. Bytes: the weights one decoded token must read (embedding table left out).
"""

import argparse
import json
import os
import statistics
import time

import limits
import numpy as np
from harness import Peer, machine, paired

from herd.cache.pages import Pager
from herd.checkpoint import open_checkpoint
from herd.model import forward
from herd.ops.native import NativeOps
from herd.weights import build


class Ours:
    """The model over native ops with a paged cache: no sampler, no text."""

    def __init__(self, path, threads, context, kv):
        start = time.perf_counter()
        self.checkpoint = open_checkpoint(path)
        self.c = self.checkpoint.config
        self.ops = NativeOps(threads=threads)
        self.w = self.checkpoint.load()
        page = 64
        pages = -(-context // page) + 1
        self.kv = [self.ops.new_kv(pages * page, self.c.num_kv_heads, self.c.head_size, kv) for _ in self.c.layers]
        self.pages, self.page = pages, page
        self.rng = np.random.default_rng(1)
        self.load_s = time.perf_counter() - start

    def run(self, pieces):
        """Seconds of a fresh sequence fed in these pieces."""
        pager = Pager(chunk=self.c.chunk, num_pages=self.pages, num_chunk_pages=self.pages, page_size=self.page)
        sequence = pager.new_sequence()
        start = time.perf_counter()
        for n in pieces:
            ids = self.rng.integers(0, self.c.vocab_size - 2, n)
            context = pager.step([(sequence, n)], rows="last")
            forward(self.ops, self.c, self.w, ids, self.ops.place(context), kv=self.kv)
            pager.commit()
        return time.perf_counter() - start


def token_bytes(w):
    """Weight bytes that one decoded token reads: everything but the embedding table, A of E experts."""
    total, c = 0, w.config

    class Sizes:
        def vector(self, name, shape):
            return w.source.vector(name, shape)

        def matrix(self, name, outputs, inputs, *, bias=False):
            nonlocal total
            node = w.source.matrix(name, outputs, inputs, bias=bias)
            if name != "model.embed_tokens" or c.tied_embeddings:
                total += node_bytes(node)
            return node

        def experts(self, name, num_experts, inputs, outputs):
            nonlocal total
            node = w.source.experts(name, num_experts, inputs, outputs)
            total += node_bytes(node) * c.experts_per_token // num_experts
            return node

    build(c, Sizes())
    return total


def node_bytes(node):
    """Bytes of one weight node."""
    if node.kind == "pair":
        return node_bytes(node.gate) + node_bytes(node.up)
    return node.codes.nbytes if node.kind == "packed" else node.w.nbytes


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("model")
    ap.add_argument("--peer", required=True)
    ap.add_argument("--rounds", type=int, default=7)
    ap.add_argument("--threads", type=int, default=os.cpu_count())
    ap.add_argument("--tokens", type=int, default=16)
    ap.add_argument("--kv", default="f16")
    ap.add_argument("--json")
    a = ap.parse_args()
    ours = Ours(a.model, a.threads, 1024, a.kv)
    size = token_bytes(ours.checkpoint)
    out = {"machine": machine(), "model": os.path.basename(a.model), "threads": a.threads, "load_s": ours.load_s,
           "bytes_per_token": size, "runs": []}
    for repack in (True, False):
        peer = Peer(a.peer)
        peer.load(path=a.model, threads=a.threads, context=1024, repack=repack)
        for warm in (ours.run, ):
            warm([8])
        peer.prefill(count=8)
        setting = "default (repacked)" if repack else "not repacked"
        probes = []

        def probe():
            found = limits.kernels(a.threads, 1)
            probes.append(found["read_GB/s", a.threads][0])

        def decode():
            probe()
            return ours.run([1] * (a.tokens + 2)) * a.tokens / (a.tokens + 2)

        x, y, ratio = paired(decode, lambda: peer.decode(count=a.tokens)["seconds"], a.rounds)
        read = statistics.median(probes)
        gbs = size * a.tokens / x / 1e9
        out["runs"].append({"workload": "decode1", "peer": setting, "ours_tok_s": a.tokens / x, "peer_tok_s": a.tokens / y,
                            "ratio": ratio, "ours_GB_s": gbs, "read_GB_s": read, "share_of_read": gbs / read})
        x, y, ratio = paired(lambda: ours.run([512]), lambda: peer.prefill(count=512)["seconds"], max(3, a.rounds // 2))
        out["runs"].append({"workload": "prefill512", "peer": setting, "ours_tok_s": 512 / x, "peer_tok_s": 512 / y,
                            "ratio": ratio})
        peer.close()
    for run in out["runs"]:
        print("  ".join(f"{k} {v:.2f}" if isinstance(v, float) else f"{k} {v}" for k, v in run.items()))
    print(out["machine"])
    if a.json:
        with open(a.json, "w") as f:
            json.dump(out, f, indent=1)


if __name__ == "__main__":
    main()
