"""Speed on a slice of a Llama 4 model, the peer and the machine's limit beside us in one call.

    scripts/bench make_slice scout.gguf --shape scout --quant q4_k
    scripts/bench slice scout.gguf --peer PYTHON_WITH_LLAMA_CPP [--rounds 7] [--json FILE]

decode1: one token at a time from an empty context; prefill512: one prompt of 512 tokens. Rounds of ours and peer in
turn; medians, and the median of the pairs' ratios. The peer runs twice: in its default (weights repacked at load) and
without repacking, since each wins somewhere. Bytes: the weights one decoded token must read (embedding table left out).
"""

import argparse
import json
import os
import statistics
import time

import limits
import numpy as np
from harness import Peer, add_peer, machine, paired

from herd.checkpoint import open_checkpoint
from herd.engine.runner import Piece, Runner
from herd.ops.native import NativeOps


class Ours:
    """The model over native ops with a paged cache: no sampler, no text."""

    def __init__(self, path, threads, context, kv):
        start = time.perf_counter()
        self.checkpoint = open_checkpoint(path)
        self.c = self.checkpoint.config
        self.w = self.checkpoint.load()
        self.runner = Runner(self.c, self.w, NativeOps(threads=threads), context=context, kv_dtype=kv)
        self.rng = np.random.default_rng(1)
        self.load_s = time.perf_counter() - start

    def run(self, pieces):
        """Seconds of a fresh sequence fed in these pieces."""
        lease = self.runner.lease()
        start = time.perf_counter()
        for n in pieces:
            self.runner.run([Piece(lease, self.rng.integers(0, self.c.vocab_size - 2, n).tolist())])
        seconds = time.perf_counter() - start
        self.runner.drop(lease)
        return seconds


def token_bytes(c, w):
    """Weight bytes that one decoded token reads: everything but the embedding table, A of E experts."""
    total = node_bytes(w.head)
    for b in w.blocks:
        total += sum(node_bytes(x) for x in (b.q, b.k, b.v, b.o))
        if b.ffn.kind == "moe":
            routed = node_bytes(b.ffn.gate_up) + node_bytes(b.ffn.down)
            total += node_bytes(b.ffn.router) + routed * c.experts_per_token // c.num_experts
        mlp = b.ffn.shared if b.ffn.kind == "moe" else b.ffn
        total += sum(node_bytes(x) for x in (mlp.gate, mlp.up, mlp.down))
    return total


def node_bytes(node):
    """Bytes of one weight node."""
    if node.kind == "pair":
        return node_bytes(node.gate) + node_bytes(node.up)
    return node.codes.nbytes if node.kind == "packed" else node.w.nbytes


def measure(ours, peer, setting, size, a):
    """Both workloads against one setting of the peer."""
    probes = []

    def decode():
        probes.append(limits.kernels(a.threads, 1)["read_GB/s", a.threads][0])
        return ours.run([1] * a.tokens)

    x, y, ratio = paired(decode, lambda: peer.decode(count=a.tokens)["seconds"], a.rounds)
    read, rate = statistics.median(probes), size * a.tokens / x / 1e9
    yield {
        "workload": "decode1", "peer": setting, "ours_tok_s": a.tokens / x, "peer_tok_s": a.tokens / y,
        "ratio": ratio, "ours_GB_s": rate, "read_GB_s": read, "share_of_read": rate / read,
    }  # fmt: skip
    rounds = max(3, a.rounds // 2)
    x, y, ratio = paired(lambda: ours.run([512]), lambda: peer.prefill(count=512)["seconds"], rounds)
    yield {
        "workload": "prefill512", "peer": setting, "ours_tok_s": 512 / x, "peer_tok_s": 512 / y, "ratio": ratio
    }  # fmt: skip


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("model")
    add_peer(ap)
    ap.add_argument("--rounds", type=int, default=7)
    ap.add_argument("--threads", type=int, default=os.cpu_count())
    ap.add_argument("--tokens", type=int, default=16)
    ap.add_argument("--kv", default="f16")
    ap.add_argument("--json")
    a = ap.parse_args()
    ours = Ours(a.model, a.threads, 1024, a.kv)
    size = token_bytes(ours.c, ours.w)
    out = {
        "machine": machine(),
        "model": os.path.basename(a.model),
        "threads": a.threads,
        "load_s": ours.load_s,
        "bytes_per_token": size,
        "runs": [],
    }
    ours.run([8])
    for repack in (True, False):
        peer = Peer(a.peer)
        peer.load(path=a.model, threads=a.threads, context=1024, repack=repack)
        peer.prefill(count=8)
        out["runs"] += measure(ours, peer, "default (repacked)" if repack else "not repacked", size, a)
        peer.close()
    for run in out["runs"]:
        print("  ".join(f"{k} {v:.2f}" if isinstance(v, float) else f"{k} {v}" for k, v in run.items()))
    print(out["machine"])
    if a.json:
        with open(a.json, "w") as f:
            json.dump(out, f, indent=1)


if __name__ == "__main__":
    main()
