"""Does `herd` say what llama.cpp says? Same file, same ids: greedy tokens and perplexity, the peer beside us.

    scripts/bench agreement --peer PYTHON_WITH_LLAMA_CPP [--model smollm2]

Ten prompts (data/prompts.json), 32 greedy tokens each. A prompt agrees when all tokens do. Both engines round
activations to int8, which moves logits; so more is told of each: where the peer differs from itself when it sees the
same tokens in one batch, where exact arithmetic (float32 activations, decoded weights) differs from the peer, and the
peer's logit gap at our first difference beside the deviation of its gaps from exact ones.
Perplexity over the first 20,000 tokens of data/manual.txt in windows of 1,024.
"""

import argparse
import dataclasses
import json
import math

import numpy as np
from harness import HERE, Peer, add_peer, machine

import herd
from herd import formats
from herd.batch import packed
from herd.checkpoint import open_checkpoint
from herd.model import forward
from herd.ops.native import NativeOps
from herd.store import stored
from herd.weights import Dense


class Exact:
    """The same weights decoded to float32, float32 activations: no rounding but float32's own."""

    def __init__(self, path):
        self.ops = NativeOps()
        checkpoint = open_checkpoint(path)
        self.c = checkpoint.config
        self.w = self._decoded(checkpoint.load(), {})

    def _decoded(self, node, seen):
        if isinstance(node, tuple):
            return tuple(self._decoded(x, seen) for x in node)
        if not dataclasses.is_dataclass(node):
            return node
        if id(node) not in seen:
            if node.kind == "packed":
                seen[id(node)] = Dense(
                    formats.decode(node.format, np.asarray(node.codes), node.shape[-1]), None, node.name
                )
            else:
                fields = {f.name: self._decoded(getattr(node, f.name), seen) for f in dataclasses.fields(node)}
                seen[id(node)] = type(node)(**fields)
        return seen[id(node)]

    def logits(self, ids):
        """[T, V]"""
        context = self.ops.place(packed([len(ids)], self.c.chunk))
        return np.asarray(forward(self.ops, self.c, self.w, np.asarray(ids), context))


def gaps(logits, of):
    """Logit of the first of each pair over the second."""
    rows = np.arange(len(logits))
    return logits[rows, of[:, 1]] - logits[rows, of[:, 0]]


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_peer(ap)
    ap.add_argument("--model", default="smollm2")
    ap.add_argument("--kv", default="auto")
    ap.add_argument("--count", type=int, default=32)
    ap.add_argument("--window", type=int, default=1024)
    ap.add_argument("--tokens", type=int, default=20_000)
    a = ap.parse_args()
    print(machine())
    peer = Peer(a.peer)
    path = str(stored.resolve(a.model))
    exact = Exact(path)
    peer.load(path=path, context=a.window)
    same = same_self = same_exact = 0
    noise, ours_at = [], []
    with herd.load(a.model, kv=a.kv) as m:
        for prompt in json.loads((HERE / "data/prompts.json").read_text())["prompts"]:
            ids = m.tokenize([{"role": "user", "content": prompt}])
            theirs = peer.greedy(ids=ids, count=a.count)
            ours = m.complete(ids, temperature=0.0, repetition_penalty=1.0, max_tokens=a.count).ids
            n = min(len(ours), len(theirs["ids"]))
            at = next((i for i in range(n) if ours[i] != theirs["ids"][i]), None)
            full = [*ids, *theirs["ids"][:-1]]
            batched = np.array(peer.logits(ids=full)["logits"], np.float32)[len(ids) - 1 :]
            true = exact.logits(full)[len(ids) - 1 :]
            told = np.array(theirs["ids"])
            self_at, exact_at = (np.flatnonzero(x.argmax(1) != told).tolist() for x in (batched, true))
            best = batched.argsort(1)[:, -2:]
            noise.append(gaps(batched, best) - gaps(true, best))
            same, same_self, same_exact = same + (at is None), same_self + (not self_at), same_exact + (not exact_at)
            if at is not None:
                ours_at.append(theirs["gaps"][at])
            told_gap = "" if at is None else f" at {at}, where the peer's gap is {theirs['gaps'][at]:.3f}"
            print(
                f"{'same' if at is None else 'DIFF'}{told_gap}; the peer itself differs at {self_at or 'none'}, exact "
                f"arithmetic at {exact_at or 'none'}: {prompt[:40]!r}",
                flush=True,
            )
        deviation = float(np.std(np.concatenate(noise)))
        print(
            f"agree with the peer's greedy tokens: ours {same}, the peer in one batch {same_self}, exact {same_exact} "
            f"of 10; the peer's gaps deviate from exact ones by {deviation:.3f}; gaps at our differences: at most "
            f"{max(ours_at, default=0):.3f}",
            flush=True,
        )
        text = (HERE / "data/manual.txt").read_text()
        ids = m.tokenize(text)
        if ids != peer.tokenize(text=text)["ids"]:
            raise SystemExit("the tokenizers disagree on manual.txt")
        ids = ids[: a.tokens]
        theirs = peer.nll(ids=ids, window=a.window)
        ours = m.perplexity(ids, context=a.window)
        if ours.scored_tokens != theirs["count"]:
            raise SystemExit(f"scored tokens differ: ours {ours.scored_tokens}, peer {theirs['count']}")
        q = math.exp(theirs["nll"] / theirs["count"])
        print(f"perplexity ours {ours.value:.4f}, peer {q:.4f}, ratio {ours.value / q:.5f}")
    peer.close()


if __name__ == "__main__":
    main()
