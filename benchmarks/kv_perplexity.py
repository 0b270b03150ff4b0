"""Perplexity with keys and values in each type, paired token by token against bf16 and against f32.

    scripts/bench kv_perplexity [--model smollm2] [--tokens 20000] [--window 1024] [--json FILE] [--state FOLDER]

The same windows of data/manual.txt, each read alone, through the engine's paged cache in f32, f16, bf16, int8 and int4.
Every token has a negative log-likelihood in each type, and what is told is the mean of their differences: the text's
own spread, which is far larger, cancels. Twice:
- `served`: weights as the file has them. A product by quantised weights rounds its inputs to int8, so any change of the
  keys draws that rounding anew: differences carry its noise whatever the type.
- `float`: the same weights decoded to float32. No input is rounded, so what differs is what the type of the cache does.

Issue 3 asks, and `float` decides: int8 within 0.1% of bf16, int4 within 1%. Neighbouring tokens share their contexts,
so the standard error takes blocks of 256 positions as its units. An int4 cache holds the first page of 256 and the one
being written exactly, in bf16: below position 512 its rows are those of bf16, so it is told from there on as well.
What is computed is kept in --state, a file a window, so a run may be cut off and go on; another model, text or type
has other files, another build of the engine has not. Exit 1 unless the whole interval of 95% of `float`, all positions,
lies within what is asked.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from harness import HERE, machine

from herd import convert
from herd.checkpoint import open_checkpoint
from herd.engine.runner import Chunk, Runner
from herd.errors import HerdError
from herd.model import place_weights
from herd.ops.native import NativeOps
from herd.passes.likelihood import windows
from herd.store import stored

TYPES = ("f32", "f16", "bf16", "int8", "int4")
BASES = ("bf16", "f32")
BLOCK = 256
"""Positions of a unit of the standard error, and of an exact page of an int4 cache."""
EXACT = 2 * BLOCK
"""Positions from here on may see int4 pages: those behind the first and before their own."""
ASKED = {"int8": 0.001, "int4": 0.01}
"""Of |ratio to bf16 - 1|."""


def nll(runner, ids):
    """[T - 1] in float64: -log p of each id but the first, given those before it."""
    out_T = np.empty(len(ids) - 1)
    lease = runner.lease()
    for start in range(0, len(out_T), BLOCK):
        part = ids[start : min(start + BLOCK, len(out_T))]
        l_RV = runner.run([Chunk(lease, part, rows=range(len(part)))]).astype(np.float64)
        rows = np.arange(len(l_RV))
        peak_R = l_RV.max(axis=1)
        sums_R = np.exp(l_RV - peak_R[:, None]).sum(axis=1)
        out_T[start + rows] = peak_R + np.log(sums_R) - l_RV[rows, np.asarray(ids)[start + rows + 1]]
    runner.drop(lease)
    return out_T


class StoredResponse:
    """Likelihoods of windows, a file each."""

    def __init__(self, folder, about):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._about = folder, about

    def get(self, ids, compute):
        """[types, T - 1]: what is kept of this window, else `compute()`."""
        digest = hashlib.sha256(self._about.encode() + np.asarray(ids, np.int64).tobytes()).hexdigest()[:16]
        path = self._folder / f"{digest}.npy"
        if path.exists():
            return np.load(path)
        found, part = compute(), path.with_suffix(".part")
        with part.open("wb") as f:
            np.save(f, found)
        part.replace(path)
        return found


def likelihoods(path, texts, kept):
    """[types, T - 1] of each window; each is computed in all types before the next is begun."""
    ops = NativeOps()
    with open_checkpoint(path) as checkpoint:
        config, weights = checkpoint.config, place_weights(ops, checkpoint.load())
        context = -(-max(map(len, texts)) // BLOCK) * BLOCK
        runners = [Runner(config, weights, ops, context=context, kv_dtype=kind, piece=BLOCK) for kind in TYPES]
        out = []
        for i, ids in enumerate(texts):
            began = time.monotonic()
            out.append(kept.get(ids, lambda ids=ids: np.stack([nll(runner, ids) for runner in runners])))
            print(f"  window {i + 1} of {len(texts)}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return out


def paired(differences, first):
    """Mean of paired differences from position `first` of each window on, its standard error by blocks, and counts.

    The sums of the blocks, less what their tokens would have at the mean, are the independent terms of the error.
    """
    blocks = [d[a : a + BLOCK] for d in differences for a in range(first, len(d), BLOCK)]
    sums, counts = np.array([b.sum() for b in blocks]), np.array([len(b) for b in blocks])
    tokens, units = int(counts.sum()), len(blocks)
    mean = float(sums.sum() / tokens)
    error = float(np.sqrt(((sums - mean * counts) ** 2).sum() * units / (units - 1)) / tokens)
    return mean, error, tokens, units


def rows(weights, found):
    """A row a type, base and range of positions."""
    for kind in TYPES:
        for base in BASES:
            for first in (0, EXACT) if kind == "int4" else (0,):
                if kind == base:
                    continue
                differences = [x[TYPES.index(kind)] - x[TYPES.index(base)] for x in found]
                mean, error, tokens, units = paired(differences, first)
                ratio, low, high = (float(np.exp(mean + z * error)) for z in (0, -1.96, 1.96))
                scored = np.concatenate([x[TYPES.index(kind)][first:] for x in found])
                yield {
                    "weights": weights, "kv": kind, "base": base, "first": first, "perplexity": np.exp(scored.mean()),
                    "ratio": ratio, "low": low, "high": high, "mean": mean, "error": error,
                    "per_token": float(np.concatenate([d[first:] for d in differences]).std()),
                    "tokens": tokens, "blocks": units,
                }  # fmt: skip


def told(row):
    """Prints the row; a line when its interval is not within what is asked."""
    print(
        f"{row['weights']:6} {row['kv']:4} / {row['base']:4} from {row['first']:3}: {row['perplexity']:8.4f}, "
        f"{row['ratio'] - 1:+9.4%} ({row['low'] - 1:+.4%} to {row['high'] - 1:+.4%}), a token {row['per_token']:.1e}; "
        f"{row['tokens']} tokens, {row['blocks']} blocks",
        flush=True,
    )
    limit = ASKED.get(row["kv"]) if (row["weights"], row["base"], row["first"]) == ("float", "bf16", 0) else None
    if limit is None or max(abs(row["low"] - 1), abs(row["high"] - 1)) <= limit:
        return None
    settled = row["low"] - 1 > limit or row["high"] - 1 < -limit
    return f"{row['kv']}: {'not within' if settled else 'not shown to be within'} the {limit:.1%} of bf16 that is asked"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tokens", type=int, default=20000)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--weights", default="float,served", help="float, served, or both")
    parser.add_argument("--json", help="append one line a row to this file")
    parser.add_argument("--state", help="folder of what is kept between runs; none: nothing is kept")
    a = parser.parse_args()
    kinds = a.weights.split(",")
    if unknown := set(kinds) - {"float", "served"}:
        parser.error(f"--weights: got {', '.join(sorted(unknown))}, expected float, served or both")
    if min(a.window, a.tokens) < 2 * EXACT:
        parser.error(f"--window {a.window}, --tokens {a.tokens}: at least {2 * EXACT} each, to read int4 in two blocks")
    try:
        source = Path(stored.resolve(a.model))
    except HerdError as problem:
        raise SystemExit(str(problem)) from None
    with open_checkpoint(source) as checkpoint:
        ids = checkpoint.load_tokenizer().encode((HERE / "data/manual.txt").read_text())[: a.tokens]
    texts = windows(ids, a.window, None)
    print(f"{machine()}; {a.model}, {len(ids)} tokens, {len(texts)} windows of {a.window}", flush=True)
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in kinds:
            path = source
            if kind == "float":
                path = Path(folder) / "f32.gguf"
                convert.convert(source, path, "f32")
            about = f"{kind} {TYPES} {source.stat().st_size} {source.stat().st_mtime_ns}"
            found = likelihoods(path, texts, StoredResponse(Path(a.state or folder), about))
            for row in rows(kind, found):
                missed.append(told(row))
                if a.json:
                    with Path(a.json).open("a") as f:
                        f.write(json.dumps({"workload": "kv_perplexity", **row, "machine": machine()}) + "\n")
    missed = [line for line in missed if line]
    print("\n".join(missed) if missed else "within what is asked")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
