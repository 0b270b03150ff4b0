"""llama.cpp behind a pipe: run by harness.Peer under a Python that has llama-cpp-python, never imported by Herd.

One JSON request a line on stdin, one JSON reply a line on stdout:
    load {path, threads, context, sequences, flash, repack, kv}   -> {load_s}
    tokenize {text} -> {ids}        greedy {ids, count} -> {ids, gaps}        nll {ids, window} -> {nll, count}
    logits {ids} -> {logits}        prefill {count, depth} -> {seconds}       decode {count, depth} -> {seconds}
"""

import ctypes
import json
import random
import sys
import time

import llama_cpp as L
import numpy as np

KV_TYPES = {"f32": 0, "f16": 1, "q8_0": 8}
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

    def load(self, path, threads=2, context=1024, sequences=1, flash=True, repack=True, kv="f16"):
        start = time.perf_counter()
        params = L.llama_model_default_params()
        params.use_extra_bufts = repack
        self.model = L.llama_model_load_from_file(path.encode(), params)
        if not self.model:
            raise SystemExit("".join(LOG[-20:]))
        p = L.llama_context_default_params()
        p.n_ctx, p.n_seq_max = context * sequences, sequences
        p.n_batch, p.n_ubatch = 2048, 512
        p.n_threads = p.n_threads_batch = threads
        p.flash_attn_type = 1 if flash else 0
        p.type_k = KV_TYPES[kv]
        p.type_v = KV_TYPES[kv] if flash else 1
        self.ctx = L.llama_init_from_model(self.model, p)
        if not self.ctx:
            raise SystemExit("".join(LOG[-20:]))
        self.memory = L.llama_get_memory(self.ctx)
        self.vocab = L.llama_model_get_vocab(self.model)
        self.vocab_size = L.llama_vocab_n_tokens(self.vocab)
        self.batch = L.llama_batch_init(2048, 0, 1)
        return {"load_s": time.perf_counter() - start}

    def _decode(self, ids, start, wanted):
        """wanted: a set of indices into ids whose logits are kept."""
        b = self.batch
        b.n_tokens = len(ids)
        for i, token in enumerate(ids):
            b.token[i], b.pos[i], b.n_seq_id[i], b.logits[i] = token, start + i, 1, i in wanted
            b.seq_id[i][0] = 0
        if L.llama_decode(self.ctx, b):
            raise SystemExit("llama_decode failed\n" + "".join(LOG[-5:]))
        L.llama_synchronize(self.ctx)

    def _row(self, i):
        return np.ctypeslib.as_array(L.llama_get_logits_ith(self.ctx, i), (self.vocab_size,)).copy()

    def _forget(self, start):
        L.llama_memory_seq_rm(self.memory, 0, start, -1)
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

    def _fill(self, depth):
        if self.filled != depth:
            self._forget(0)
            for a in range(0, depth, 2048):
                n = min(2048, depth - a)
                self._decode(self._random(n), a, {n - 1})
            self.filled = depth

    def prefill(self, count, depth=0):
        self._fill(depth)
        start = time.perf_counter()
        for a in range(0, count, 2048):
            n = min(2048, count - a)
            self._decode(self._random(n), depth + a, {n - 1})
        seconds = time.perf_counter() - start
        self._forget(depth)
        return {"seconds": seconds}

    def decode(self, count, depth=0):
        self._fill(depth)
        start = time.perf_counter()
        for i in range(count):
            self._decode(self._random(1), depth + i, {0})
        seconds = time.perf_counter() - start
        self._forget(depth)
        return {"seconds": seconds}


def main():
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        reply = getattr(worker, request.pop("do"))(**request)
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
