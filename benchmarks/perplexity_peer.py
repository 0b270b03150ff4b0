"""llama.cpp for perplexity.py, one job a run, under a Python that has llama-cpp-python; never imported by Herd.

The jobs:
    quantize SOURCE TARGET FILE_TYPE PURE       its own quantiser; PURE 1: every matrix in the one type
    logits PATH IDS.npy WINDOW REPACK OUT.npy   float32 [T, V], each window of ids from an empty cache of float32;
                                                REPACK 0: its kernels over weights as the file has them
"""

import sys

import llama_cpp as L
import numpy as np
from peer_worker import LOG, Worker


def quantize(source, target, file_type, pure):
    L.llama_backend_init()
    params = L.llama_model_quantize_default_params()
    params.ftype, params.pure, params.nthread = int(file_type), pure == "1", 2
    if L.llama_model_quantize(source.encode(), target.encode(), params):
        raise SystemExit(f"llama.cpp cannot quantise {source}\n" + "".join(LOG[-10:]))


def logits(path, ids_path, window, repack, out_path):
    ids, window = np.load(ids_path).tolist(), int(window)
    worker = Worker()
    worker.load(path, context=max(window, 256), repack=repack == "1")
    L.llama_free(worker.ctx)
    params = L.llama_context_default_params()
    params.n_ctx = params.n_batch = max(window, 256)
    params.type_k = params.type_v = 0
    params.flash_attn_type = 0  # its flash attention rounds to float16
    worker.ctx = L.llama_init_from_model(worker.model, params)
    worker.cells = L.llama_get_memory(worker.ctx)
    out = np.lib.format.open_memmap(out_path, "w+", np.float32, (len(ids), worker.vocab_size))
    for a in range(0, len(ids), window):
        piece = ids[a : a + window]
        worker._forget(0)
        worker._decode(piece, 0, set(range(len(piece))))
        for i in range(len(piece)):
            out[a + i] = worker._row(i)
    out.flush()


if __name__ == "__main__":
    {"quantize": quantize, "logits": logits}[sys.argv[1]](*sys.argv[2:])
