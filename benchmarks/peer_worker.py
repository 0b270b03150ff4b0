"""llama.cpp behind a pipe: run by harness.Peer under a Python that has llama-cpp-python, never imported by Herd.

One JSON request a line on stdin, one JSON reply a line on stdout:
    load {path, threads, context, sequences, flash, repack, kv}   -> {load_s}
    context {length, sequences, flash, kv, ubatch} -> {}          a new context over the loaded model, empty
    tokenize {text} -> {ids}        greedy {ids, count} -> {ids, gaps}        nll {ids, window} -> {nll, count}
    logits {ids} -> {logits}        fill {depth} -> {}            save {path} -> {}       restore {path, depth} -> {}
    prefill {count, depth} -> T     decode {count, depth} -> T    many {sequences, steps} -> T
    memory {} -> {rss_bytes, peak_bytes}
T is {seconds, others_s}: others_s, the CPU seconds that other processes took meanwhile (quiet.py).
"""

import ctypes
import json
import random
import sys
import time

import llama_cpp as L
import numpy as np
import quiet

KV_TYPES = {"f32": 0, "f16": 1, "q8_0": 8}
BATCH = 2048
SHORT = 16
"""Tokens in each sequence before `many` decodes."""
LOG = []


@L.llama_log_callback
def _log(level, text, data):
    LOG.append(text.decode(errors="replace"))


class Worker:
    def __init__(self):
        L.llama_log_set(_log, ctypes.c_void_p(0))
        L.llama_backend_init()
        self.rng = random.Random(1)
        self.filled = 0
        self.ctx = None
        self.batch = L.llama_batch_init(BATCH, 0, 1)

    def load(self, path, threads=2, context=1024, sequences=1, flash=True, repack=True, kv="f16"):
        start = time.perf_counter()
        params = L.llama_model_default_params()
        params.use_extra_bufts = repack
        self.model = L.llama_model_load_from_file(path.encode(), params)
        if not self.model:
            raise SystemExit("".join(LOG[-20:]))
        self.threads = threads
        self.vocab = L.llama_model_get_vocab(self.model)
        self.vocab_size = L.llama_vocab_n_tokens(self.vocab)
        self.context(context, sequences, flash, kv)
        return {"load_s": time.perf_counter() - start}

    def context(self, length, sequences=1, flash=True, kv="f16", ubatch=512):
        if self.ctx:
            L.llama_free(self.ctx)
        p = L.llama_context_default_params()
        p.n_ctx, p.n_seq_max = length * sequences, sequences
        p.n_batch, p.n_ubatch = BATCH, ubatch
        p.n_threads = p.n_threads_batch = self.threads
        p.flash_attn_type = 1 if flash else 0
        p.type_k = KV_TYPES[kv]
        p.type_v = KV_TYPES[kv] if flash else 1  # without flash attention it keeps values in float16 only
        self.ctx = L.llama_init_from_model(self.model, p)
        if not self.ctx:
            raise SystemExit("".join(LOG[-20:]))
        self.cells = L.llama_get_memory(self.ctx)
        self.filled = 0
        return {}

    def _run(self, rows):
        """rows: (token, position, sequence, wants logits)."""
        b = self.batch
        b.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            b.token[i], b.pos[i], b.n_seq_id[i], b.logits[i] = token, position, 1, wanted
            b.seq_id[i][0] = sequence
        if L.llama_decode(self.ctx, b):
            raise SystemExit("llama_decode failed\n" + "".join(LOG[-5:]))
        L.llama_synchronize(self.ctx)

    def _decode(self, ids, start, wanted):
        """wanted: a set of indices into ids whose logits are kept."""
        self._run([(token, start + i, 0, i in wanted) for i, token in enumerate(ids)])

    def _row(self, i):
        return np.ctypeslib.as_array(L.llama_get_logits_ith(self.ctx, i), (self.vocab_size,)).copy()

    def _forget(self, start, sequence=0):
        if not L.llama_memory_seq_rm(self.cells, sequence, start, -1):
            raise SystemExit(f"positions from {start} on cannot be taken out of the cache")
        if sequence == 0:
            self.filled = start

    def tokenize(self, text):
        raw = text.encode()
        out = (L.llama_token * (len(raw) + 8))()
        n = L.llama_tokenize(self.vocab, raw, len(raw), out, len(out), False, False)
        return {"ids": list(out[:n])}

    def greedy(self, ids, count):
        self._forget(0)
        self._decode(ids, 0, {len(ids) - 1})
        row, at, out, gaps = self._row(len(ids) - 1), len(ids), [], []
        for _ in range(count):
            top = np.argpartition(row, -2)[-2:]
            top = top[np.argsort(-row[top])]
            out.append(int(top[0]))
            gaps.append(float(row[top[0]] - row[top[1]]))
            if L.llama_vocab_is_eog(self.vocab, out[-1]):
                break
            self._decode([out[-1]], at, {0})
            at, row = at + 1, self._row(0)
        return {"ids": out, "gaps": gaps}

    def logits(self, ids):
        self._forget(0)
        self._decode(ids, 0, set(range(len(ids))))
        return {"logits": [self._row(i).tolist() for i in range(len(ids))]}

    def nll(self, ids, window):
        total, count = 0.0, 0
        for a in range(0, len(ids) - 1, window):
            piece = ids[a : a + window]
            if len(piece) < 2:
                break
            self._forget(0)
            self._decode(piece, 0, set(range(len(piece))))
            for i in range(len(piece) - 1):
                row = self._row(i).astype(np.float64)
                top = row.max()
                total += float(np.log(np.exp(row - top).sum()) + top - row[piece[i + 1]])
                count += 1
        return {"nll": total, "count": count}

    def _random(self, n):
        return [self.rng.randrange(self.vocab_size - 2) for _ in range(n)]

    def _feed(self, start, count):
        for a in range(start, start + count, BATCH):
            n = min(BATCH, start + count - a)
            self._decode(self._random(n), a, {n - 1})

    def fill(self, depth):
        """A cache of so many positions; what is there is kept."""
        if self.filled > depth:
            self._forget(depth)
        self._feed(self.filled, depth - self.filled)
        self.filled = depth
        return {}

    def save(self, path):
        if not L.llama_state_seq_save_file(self.ctx, path.encode(), 0, (L.llama_token * 1)(0), 1):
            raise SystemExit(f"the cache cannot be written to {path}")
        return {}

    def restore(self, path, depth):
        """A cache that `save` wrote, of any model whose keys have the same shape."""
        self._forget(0)
        tokens, n = (L.llama_token * 1)(), ctypes.c_size_t()
        if not L.llama_state_seq_load_file(self.ctx, path.encode(), 0, tokens, 1, ctypes.byref(n)):
            raise SystemExit(f"{path}: not a cache for this context\n" + "".join(LOG[-5:]))
        self.filled = depth
        return {}

    def prefill(self, count, depth=0):
        self.fill(depth)
        with quiet.Watch() as watch:
            self._feed(depth, count)
        self._forget(depth)
        return watch.figures

    def decode(self, count, depth=0):
        self.fill(depth)
        with quiet.Watch() as watch:
            for i in range(count):
                self._decode(self._random(1), depth + i, {0})
        self._forget(depth)
        return watch.figures

    def many(self, sequences, steps):
        for s in range(sequences):
            self._forget(0, s)
        for s in range(sequences):
            self._run([(t, i, s, False) for i, t in enumerate(self._random(SHORT))])
        with quiet.Watch() as watch:
            for i in range(steps):
                self._run([(t, SHORT + i, s, True) for s, t in enumerate(self._random(sequences))])
        self.filled = SHORT
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
