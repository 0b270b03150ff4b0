"""Exactness at depth: a long prefill of the small slice against float64, by bands of positions.

    scripts/bench depth --models FOLDER [--tokens 65536] [--kv bf16] [--json FILE]

The engine's Runner computes one prompt in passes of 512 rows over its paged cache, twice: `exact`, with decoded float32
weights and float32 keys, so that nothing is rounded but by float32 itself; and `served`, with weights as in the file,
activations rounded to int8 in groups of 32, keys and values as --kv says. depth_reference.py computes the same in
float64 from the same file without any of our code. Compared are 32 positions after the first 512, with the edges of
the chunks (8191, 8192, 8193, ...), and 32 within the first 512: what a short prompt gives, as no row sees a later one.

Columns, medians of a band (and the largest): |ours - float64| / |float64| of the logits; the same of what the attention
of the last layer gives, which sees every position before; KL(float64 || ours). `switched` counts positions that chose
another expert than float64 did in some layer: a choice is a step of the function, behind which errors say nothing of
rounding, so these are counted and left out of the bounds. Ids are drawn with the frequencies of words (the n-th as
1/n): keys alike add up at any depth, where with uniform ids the output of attention would vanish as 1/sqrt(depth).
What is computed is kept under FOLDER/depth, layer by layer and chunk by chunk, so a run may be cut off and go on.

Bounds on the relative errors:
- exact, the largest of any band: a product of K terms is off by at most 4 eps sqrt(K) of its norm (the contract of
  ops: 4 eps |a| |b|, and |ab| is |a| |b| / sqrt(K) for what is not aligned). Six products lie one behind another in a
  layer and one in the head, independent: their squares add. K = 1024, 8 layers: 4 * 2^-23 * 32 * 7 = 1.07e-4.
- served, the median of any band: the largest of 32 normal values is about 2.4 deviations, whatever its sign, so a
  step is 2.4 / 127 and an error step / sqrt(12) = 0.0055 of a value; four such roundings a layer and
  one before the head, squares added. Keys and values add two roundings a layer of their type. Twice the sum, since gate
  and up are multiplied and both carry the error: 2 (0.0055 sqrt(33) + 0.0011 * 4) = 0.072 with bf16 keys.
- neither grows with depth: the median of the deepest band is at most twice that of the first 512.
For scale: a page of 256 lost out of 65,536 keys alike changes attention by 4e-3, forty times the bound of exact.
Exit 1 when one is missed, or when most positions of a band switched, so that it shows nothing.
"""

import argparse
import hashlib
import itertools
import json
import sys
import time
from pathlib import Path

import numpy as np
import slices
from agreement import Exact
from depth_reference import reference, save
from harness import machine
from perplexity import log_softmax

from herd.checkpoint import open_checkpoint
from herd.engine.runner import Chunk, Runner
from herd.model import place_weights
from herd.ops.native import NativeOps

MODEL, SHORT, COUNT, PIECE, CHUNK = "small-q4_0", 512, 32, 512, 8192
INT8_ROUNDING = 2.4 / 127 / 12**0.5
KV_ROUNDING = {"f32": 0.0, "bf16": 2**-8 / 12**0.5, "int8": INT8_ROUNDING, "int4": 2 * 2.4 / 15 / 12**0.5}
"""Relative error of one element: half a step is the largest, a step over sqrt(12) the deviation."""
GROWTH = 2.0


def prompt(tokens, vocab):
    """Seeded ids with the frequencies of words; which id is frequent is drawn, too."""
    rng = np.random.default_rng(65536)
    weight = 1 / np.arange(1, vocab + 1)
    return rng.permutation(vocab)[rng.choice(vocab, tokens, p=weight / weight.sum())]


def positions(tokens):
    """Ascending: COUNT in the first SHORT, COUNT after them, of which as many as there are lie around chunk edges."""
    short = np.linspace(0, SHORT - 1, COUNT).astype(int)
    edges = {e + d for e in range(CHUNK, tokens, CHUNK) for d in (-1, 0, 1)} | {tokens - 1}
    rest = np.linspace(SHORT, tokens - 2, COUNT * 4).astype(int)
    rest = [p for p in np.random.default_rng(0).permutation(rest).tolist() if p not in edges]
    deep = sorted(edges)[-COUNT:]
    return np.sort(np.concatenate([short, deep, rest[: COUNT - len(deep)]]).astype(np.int64))


class Watched(NativeOps):
    """Keeps, of a pass, the keys and values of each layer and what the last layer's attention gave."""

    def begin(self):
        self.written = []

    def attend(self, q_TNH, k_TKH, v_TKH, *arguments, **options):
        self.written.append((k_TKH, v_TKH))
        self.attended = super().attend(q_TNH, k_TKH, v_TKH, *arguments, **options)
        return self.attended


class Choices:
    """A `RoutingTrace` that keeps the expert of each row."""

    def __init__(self, layers, tokens):
        self.experts_LT = np.full((layers, tokens), -1, np.int8)

    def pass_over(self, positions_T):
        self._at = positions_T

    def __call__(self, layer, experts_TA, scores_TA):
        self.experts_LT[layer, self._at] = experts_TA[:, 0]


def weights_of(path, kind, ops):
    """config, weights: decoded to float32 for `exact`, as the file has them for `served`."""
    if kind == "exact":
        exact = Exact(path)
        return exact.c, exact.w
    checkpoint = open_checkpoint(path)
    return checkpoint.config, place_weights(ops, checkpoint.load())


class Ours:
    """The engine's prefill, a chunk at a time: at a chunk's edge the layers that see everything alone have keys that
    are read again, so these are the state that is kept and that an interrupted run goes on from."""

    def __init__(self, path, kind, kv, tokens):
        self.ops = Watched()
        self.config, weights = weights_of(path, kind, self.ops)
        self.runner = Runner(self.config, weights, self.ops, context=tokens, kv_dtype=kv, piece=PIECE)
        self.lease, self.choices = self.runner.lease(), Choices(self.config.num_layers, tokens)
        self.full = [i for i, layer in enumerate(self.config.layers) if not layer.chunked]

    def restore(self, pairs):
        """pairs [whole layers, 2, T, K, H] into the cache, page after page as passes write them."""
        for a in range(0, pairs.shape[2], PIECE):
            segments = self.runner.pager.step([(self.lease, PIECE)], []).full
            for i, (keys, values) in zip(self.full, pairs, strict=True):
                self.ops.kv_write(self.runner.kv[i], segments.slots_T, keys[a : a + PIECE], values[a : a + PIECE])
                if segments.closing is not None and len(segments.closing):
                    self.ops.close_pages(self.runner.kv[i], *segments.closing.T)
            self.runner.pager.commit(self.lease)

    def chunk(self, ids, at, first):
        """Logits and attention of the wanted positions among ids, which begin at `first`; and their pairs."""
        logits, attended, pairs = [], [], []
        for a in range(0, len(ids), PIECE):
            rows = [int(p - first - a) for p in at if a <= p - first < a + PIECE]
            self.ops.begin()
            logits.append(self.runner.run([Chunk(self.lease, ids[a : a + PIECE].tolist(), rows=rows)], self.choices))
            attended.append(self.ops.attended[rows])
            pairs.append([self.ops.written[i] for i in self.full])
        return np.concatenate(logits), np.concatenate(attended), np.concatenate(pairs, axis=2)


def ours(path, kind, kv, ids, at, kept):
    """What `reference` returns, by our engine; kind: exact or served. Chunks that are done go to `kept`.chunks.npz."""
    state, engine = kept.with_suffix(".chunks.npz"), Ours(path, kind, kv, len(ids))
    if state.exists():
        before = np.load(state)
        logits, attended, pairs = ([before[name]] for name in ("logits", "attended", "pairs"))
        engine.choices.experts_LT[:] = before["choices"]
        engine.restore(pairs[0])
    else:
        logits, attended, pairs = [], [], []
    for first in range(sum(x.shape[2] for x in pairs), len(ids), CHUNK):
        began = time.monotonic()
        new = engine.chunk(ids[first : first + CHUNK], at, first)
        for full, part in zip((logits, attended, pairs), new, strict=True):
            full.append(part)
        found = {"logits": np.concatenate(logits), "attended": np.concatenate(attended)}
        found["choices"] = engine.choices.experts_LT
        save(state, **found, pairs=np.concatenate(pairs, axis=2))
        print(f"  {kind}, from {first}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    save(kept, **found)
    state.unlink()


def compared(got, true, at):
    """Per position: relative errors of logits and attention, KL, same best token, whether an expert was switched."""

    def relative(name):
        a, b = (x[name].reshape(len(at), -1).astype(np.float64) for x in (got, true))
        return np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)

    p, q = log_softmax(true["logits"]), log_softmax(got["logits"])
    return {
        "logits": relative("logits"),
        "attended": relative("attended"),
        "kl": (np.exp(p) * (p - q)).sum(axis=1),
        "same": p.argmax(axis=1) == q.argmax(axis=1),
        "switched": (got["choices"][:, at] != true["choices"][:, at]).any(axis=0),
    }


def bands(tokens):
    """[first, end) of each: the short prompt, the rest of the first chunk, then doubling."""
    edges = [0, SHORT, CHUNK]
    while edges[-1] < tokens:
        edges.append(edges[-1] * 2)
    return list(itertools.pairwise(edges))


def told(kind, found, at, tokens):
    """Prints a line a band; returns the bands' rows."""
    rows = []
    for first, end in bands(tokens):
        inside = (at >= first) & (at < end)
        kept = inside & ~found["switched"]
        row = {"kind": kind, "first": first, "end": min(end, tokens), "positions": int(inside.sum())}
        row |= {"switched": int((inside & found["switched"]).sum()), "same": int(found["same"][kept].sum())}
        for name in ("logits", "attended", "kl"):
            values = found[name][kept] if kept.any() else np.array([np.nan])
            row |= {f"{name}_median": float(np.median(values)), f"{name}_largest": float(values.max())}
        rows.append(row)
        print(
            f"{kind:7} {first:6}-{row['end'] - 1:<6} {row['positions']:3} positions, {row['switched']:2} switched; "
            f"logits {row['logits_median']:.1e} ({row['logits_largest']:.1e}), "
            f"attention {row['attended_median']:.1e} ({row['attended_largest']:.1e}), "
            f"KL {row['kl_median']:.1e}, best token {row['same']} of {kept.sum()}",
            flush=True,
        )
    return rows


def bound(kind, kv, layers, inner):
    """See above; inner: the longest sum of a product."""
    if kind == "exact":
        return 4 * 2**-23 * inner**0.5 * (6 * layers + 1) ** 0.5
    return 2 * (INT8_ROUNDING * (4 * layers + 1) ** 0.5 + KV_ROUNDING[kv] * (2 * layers) ** 0.5)


def misses(rows, limit, which):
    """A line for each bound that the bands miss; which: largest or median."""
    found = []
    for row in rows:
        where = f"{row['kind']}, {row['first']} to {row['end'] - 1}"
        if row["positions"] - row["switched"] <= row["positions"] / 2:
            found.append(f"{where}: {row['switched']} of {row['positions']} positions switched, nothing is shown")
        for name in ("logits", "attended"):
            if not row[f"{name}_{which}"] <= limit:
                found.append(f"{where}: {name} off by {row[f'{name}_{which}']:.2e}, bound {limit:.2e}")
    for name in ("logits_median", "attended_median"):
        if not rows[-1][name] <= GROWTH * rows[0][name]:
            found.append(f"{rows[0]['kind']}: {name} grows from {rows[0][name]:.2e} to {rows[-1][name]:.2e}")
    return found


def state_key(path, ids, at):
    """Of what is kept between runs: another file or prompt has others."""
    about = path.stat()
    full = f"{about.st_size} {about.st_mtime_ns}".encode() + ids.tobytes() + at.tobytes()
    return hashlib.sha256(full).hexdigest()[:8]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", help="folder of the slice and of what is computed of it")
    parser.add_argument("--tokens", type=int, default=65536)
    parser.add_argument("--kv", choices=KV_ROUNDING, default="bf16", help="keys and values of `served`")
    parser.add_argument("--json", help="append one line a band to this file")
    a = parser.parse_args()
    if a.tokens < CHUNK + PIECE or a.tokens % PIECE:
        parser.error(f"--tokens {a.tokens}: a multiple of {PIECE}, at least {CHUNK + PIECE}, to cross a chunk edge")
    place = slices.folder(a.models)
    path = slices.find(place, MODEL)
    with open_checkpoint(path) as checkpoint:
        config = checkpoint.config
    ids, at = prompt(a.tokens, config.vocab_size), positions(a.tokens)
    key = state_key(path, ids, at)
    kept = place / "depth" / key
    kept.parent.mkdir(exist_ok=True)
    print(f"{machine()}; {MODEL}, {a.tokens} tokens", flush=True)
    true = reference(path, ids, at, kept)
    missed = []
    for kind, kv in (("exact", "f32"), ("served", a.kv)):
        computed = Path(f"{kept}.{kind}.{kv}.npz")
        if not computed.exists():
            ours(path, kind, kv, ids, at, computed)
        got = dict(np.load(computed))
        rows = told(kind, compared(got, true, at), at, a.tokens)
        limit = bound(kind, kv, config.num_layers, max(config.width, config.expert_width))
        missed += misses(rows, limit, "largest" if kind == "exact" else "median")
        known = true["choices"] >= 0
        other = (got["choices"] != true["choices"])[known].mean()
        print(f"{kind:7} keys and values {kv}, bound {limit:.2e}; {other:.4%} of all choices of experts are others")
        if a.json:
            with Path(a.json).open("a") as f:
                f.writelines(json.dumps({"workload": "depth", "kv": kv, **row}) + "\n" for row in rows)
    print("\n".join(missed) if missed else "within the bounds at every depth")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
