"""Perplexity of a model in every number format, ours over llama.cpp's, on files that llama.cpp quantised.

    scripts/bench perplexity --peer PYTHON_WITH_LLAMA_CPP [--model smollm2] [--tokens 2048] [--types q4_0,q4_k]

The model becomes an f16 file (`herd convert`), llama.cpp's quantiser makes each type of it, mixtures and fall-backs as
it chooses them, and both engines compute the logits of the same windows of data/manual.txt. Asked for: a ratio within
0.5% for the types of 32-weight blocks; for the others KL(ours || llama.cpp) of at most 1e-3 and the same best token at
99% of the positions, here and (below) on files all of one type, made of a random Llama 4 of width 512. For those the
best token is told twice: at all positions, and where llama.cpp's best two are at least a tenth of the logits' deviation
apart, since the next tokens of a random model are nearly alike. Beside ours stands llama.cpp against itself: its
kernels over repacked weights and those over the file's round to the same numbers and add in another order.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from harness import HERE, add_peer, machine

from herd import convert
from herd.batch import packed
from herd.checkpoint import open_checkpoint
from herd.checkpoint.gguf.keys import FILE_TYPES
from herd.model import forward, place_weights
from herd.store import stored

SMALL = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl")
SUPER = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_xs")
MIXED = FILE_TYPES | {"q3_k": 12, "q4_k": 15, "q5_k": 17}
"""llama.cpp's file types, of K types the usual mixtures (M)."""


class Compared:
    """Sums over positions."""

    def __init__(self):
        self.ours = self.theirs = self.kl = 0.0
        self.scored = self.count = self.same = self.apart = self.same_apart = 0

    def add(self, ours, theirs, following):
        """Logits [T, V] of both; the T - 1 ids that follow the first ones."""
        clear = np.partition(theirs, -2, axis=1)[:, -2:] @ [-1, 1] > 0.1 * theirs.std(axis=1)
        p, q = (log_softmax(x) for x in (ours, theirs))
        same = ours.argmax(axis=1) == theirs.argmax(axis=1)
        rows = np.arange(len(following))
        self.ours -= float(p[rows, following].sum())
        self.theirs -= float(q[rows, following].sum())
        self.kl += float((np.exp(p) * (p - q)).sum())
        self.scored, self.count = self.scored + len(rows), self.count + len(p)
        self.same, self.apart = self.same + int(same.sum()), self.apart + int(clear.sum())
        self.same_apart += int(same[clear].sum())

    def row(self):
        a, b = (float(np.exp(x / self.scored)) for x in (self.ours, self.theirs))
        return {
            "perplexity": a, "peer": b, "ratio": a / b, "kl": self.kl / self.count, "argmax": self.same / self.count,
            "argmax_apart": self.same_apart / max(1, self.apart),
        }  # fmt: skip


def log_softmax(x):
    x = x.astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def peer(python, *arguments):
    done = subprocess.run([python, str(HERE / "perplexity_peer.py"), *map(str, arguments)], capture_output=True)
    if done.returncode:
        raise SystemExit(done.stderr.decode(errors="replace")[-2000:])


def compare(python, path, ids, window, ops):
    """Both engines over the windows of ids; and the peer with itself."""
    ids_path, found, noise = path.with_suffix(".ids.npy"), Compared(), Compared()
    kept = [path.with_suffix(f".{i}.npy") for i in range(2)]
    np.save(ids_path, np.asarray(ids, np.int32))
    for repack, out in enumerate(kept):
        peer(python, "logits", path, ids_path, window, repack, out)
    plain, theirs = (np.load(out, mmap_mode="r") for out in kept)
    with open_checkpoint(path) as checkpoint:
        config, weights = checkpoint.config, place_weights(ops, checkpoint.load())
        for a in range(0, len(ids), window):
            piece, rows = np.asarray(ids[a : a + window]), slice(a, a + window)
            context = ops.place(packed([len(piece)], config.chunk))
            ours = ops.numpy(forward(ops, config, weights, piece, context))
            found.add(ours, np.array(theirs[rows]), piece[1:])
            noise.add(np.array(plain[rows]), np.array(theirs[rows]), piece[1:])
    for out in kept:
        out.unlink()
    return found.row() | {f"self_{k}": v for k, v in noise.row().items() if k not in ("perplexity", "peer")}


def op_set(name):
    if name == "native":
        from herd.ops.native import NativeOps

        return NativeOps()
    from herd.ops.torch import TorchOps

    return TorchOps()


def fixture_maker():
    """tests/fixtures/make_gguf.py: a random Llama 4."""
    path = HERE.parent / "tests" / "fixtures" / "make_gguf.py"
    spec = importlib.util.spec_from_file_location("make_gguf", path)
    module = sys.modules["make_gguf"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_peer(parser)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tokens", type=int, default=2048, help="of the model; 0: the random Llama 4 alone")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--types", default=",".join(SMALL + SUPER))
    parser.add_argument("--ops", choices=["native", "torch"], default="native", help="torch: exact, float32 throughout")
    parser.add_argument("--json", help="append one line a row to this file")
    a = parser.parse_args()
    types = a.types.split(",")
    print(machine(), flush=True)
    print(f"{'':18} perplexity     peer    ratio       KL  argmax   apart | peer itself: ratio, KL, argmax, apart")

    def told(name, row):
        print(
            f"{name:18} {row['perplexity']:10.4f} {row['peer']:8.4f} {row['ratio']:8.5f} {row['kl']:8.1e} "
            f"{row['argmax']:7.2%} {row['argmax_apart']:7.2%} | {row['self_ratio']:8.5f} {row['self_kl']:8.1e} "
            f"{row['self_argmax']:7.2%} {row['self_argmax_apart']:7.2%}",
            flush=True,
        )
        if a.json:
            with Path(a.json).open("a") as f:
                f.write(json.dumps({"workload": name, **row, "machine": machine()}) + "\n")

    ops = op_set(a.ops)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "f16.gguf"
        if a.tokens:
            convert.convert(stored.resolve(a.model), base, "f16")
            with open_checkpoint(base) as checkpoint:
                text = (HERE / "data/manual.txt").read_text()
                ids = checkpoint.load_tokenizer().encode(text)[: a.tokens]
        for kind in types if a.tokens else ():
            file = Path(folder) / f"{kind}.gguf"
            peer(a.peer, "quantize", base, file, MIXED[kind], 0)
            told(f"{a.model.split('/')[-1][:10]} {kind}", compare(a.peer, file, ids, a.window, ops))
            file.unlink()
        make = fixture_maker()
        make.write(base, "llama4-pure")
        ids = np.random.default_rng(0).integers(0, make.VOCAB, 512).tolist()
        for kind in (x for x in types if x in SUPER):
            file = Path(folder) / f"{kind}.gguf"
            peer(a.peer, "quantize", base, file, FILE_TYPES[kind], 1)
            told(f"random {kind}", compare(a.peer, file, ids, 64, ops))
            file.unlink()


if __name__ == "__main__":
    main()
