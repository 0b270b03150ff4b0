"""The small slice in float64, layer by layer, and nothing of ours in it: gguf reads the file, the model is written out.

    x = embed[ids]
    x += attention(norm x) wo;  h = norm x;  x += shared(h) + expert(sigmoid(l) h),  l the largest of router h
    logits = norm(x) head^T

Every row of a layer feeds the keys and values of the next, so all rows of all layers are computed, but of the last one
only the wanted rows. Work of 65,536 tokens: 18e12 operations in float64, about 0.4 GB an array of rows, 2.5 GB in all.
Each chunk of a layer is kept in a file when it is done (in all 2.8 GB, until the end), and an interrupted run goes on
from there. Source of the mathematics: transformers' Llama 4 (rope on three layers of four, whose queries and keys are
normed after it and see their chunk alone; the fourth sees everything and its queries have a temperature).
"""

import sys
import time
from pathlib import Path

import gguf
import numpy as np
import torch

CHUNK, GLOBAL_EVERY = 8192, 4
FLOOR_SCALE, ATTN_SCALE = 8192, 0.1
"""Of Llama 4: a GGUF file has no key for these four."""
QUERIES = 128
"""Rows of a block of attention: with 3 heads and 65,536 keys 200 MB of scores."""
ROWS = 4096
"""Rows of a block of everything else."""


class Weights:
    """Tensors of the file in float64, decoded when asked for; and its numbers."""

    def __init__(self, path):
        self._reader = gguf.GGUFReader(path)
        self._tensors = {t.name: t for t in self._reader.tensors}
        self.layers = self.number("block_count")
        self.heads, self.kv_heads = self.number("attention.head_count"), self.number("attention.head_count_kv")
        self.head_size = self.number("attention.key_length")
        self.experts = self.number("expert_count")
        self.eps = self.number("attention.layer_norm_rms_epsilon")
        self.rope_base = self.number("rope.freq_base")

    def number(self, key):
        return self._reader.get_field(f"llama4.{key}").contents()

    def __call__(self, name, expert=None):
        tensor = self._tensors[f"{name}.weight"]
        data = tensor.data if expert is None else tensor.data[expert]
        return torch.from_numpy(gguf.quants.dequantize(data, tensor.tensor_type).astype(np.float64))


def rms(x, eps):
    """x / sqrt(mean(x^2) + eps) over the last axis."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def by_rows(f, x):
    """f of each block of rows of x, joined."""
    return torch.cat([f(part) for part in x.split(ROWS)])


def rotated(x_TNH, positions_T, base):
    """Adjacent pairs (2m, 2m + 1) turned by t * base^(-2m / H)."""
    H = x_TNH.shape[-1]
    freqs = base ** (-torch.arange(0, H, 2, dtype=torch.float64) / H)
    angles = (positions_T.double()[:, None] * freqs)[:, None]
    even, odd = x_TNH[..., 0::2], x_TNH[..., 1::2]
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


def attention(q_RNH, at_R, k_SKH, v_SKH, first):
    """softmax(q k^T / sqrt(H)) v of the queries at positions at_R (ascending), over the keys from position `first` to
    the own one. Each row of scores is held whole, so the softmax is the plain one."""
    group = q_RNH.shape[1] // k_SKH.shape[1]
    o_RNH = torch.empty_like(q_RNH)
    for a in range(0, len(at_R), QUERIES):
        at = at_R[a : a + QUERIES]
        count = int(at[-1]) + 1 - first
        later = torch.arange(first, first + count) > at[:, None]
        for k in range(k_SKH.shape[1]):
            heads = slice(k * group, (k + 1) * group)
            q = q_RNH[a : a + QUERIES, heads].transpose(0, 1) / q_RNH.shape[-1] ** 0.5
            scores = q.flatten(0, 1) @ k_SKH[:count, k].T
            scores.view(group, len(at), -1).masked_fill_(later, -torch.inf)
            o = torch.softmax(scores, -1) @ v_SKH[:count, k]
            o_RNH[a : a + QUERIES, heads] = o.view(group, len(at), -1).transpose(0, 1)
    return o_RNH


def attended(w, i, x_TD, at_R):
    """o_RNH of layer i for the rows at_R: of one chunk, unless the layer sees everything."""
    p, sees_all = f"blk.{i}.", (i + 1) % GLOBAL_EVERY == 0
    norm = w(p + "attn_norm")
    first = 0 if sees_all else int(at_R[0]) // CHUNK * CHUNK
    seen = torch.arange(first, int(at_R[-1]) + 1)

    def projected(name, x):
        matrix = w(p + name)
        return by_rows(lambda rows: (rms(rows, w.eps) * norm) @ matrix.T, x).unflatten(-1, (-1, w.head_size))

    q, k, v = projected("attn_q", x_TD[at_R]), projected("attn_k", x_TD[seen]), projected("attn_v", x_TD[seen])
    if sees_all:
        q *= (1 + ATTN_SCALE * torch.log1p(torch.floor((at_R + 1) / FLOOR_SCALE).double()))[:, None, None]
    else:
        q, k = rms(rotated(q, at_R, w.rope_base), w.eps), rms(rotated(k, seen, w.rope_base), w.eps)
    return attention(q, at_R, k, v, first)


def gated(x, gate, up, down):
    """down (silu(gate x) * up x), rows in blocks."""
    return by_rows(lambda rows: (torch.nn.functional.silu(rows @ gate.T) * (rows @ up.T)) @ down.T, x)


def mixture(w, i, x_RD):
    """x plus the shared and the chosen expert; and the choice of each row."""
    p = f"blk.{i}."
    h = rms(x_RD, w.eps) * w(p + "ffn_norm")
    logit_R, choice_R = (h @ w(p + "ffn_gate_inp").T).max(-1)
    y = x_RD + gated(h, *(w(f"{p}ffn_{part}_shexp") for part in ("gate", "up", "down")))
    for e in range(w.experts):
        rows = (choice_R == e).nonzero()[:, 0]
        if len(rows):
            z = h[rows] * torch.sigmoid(logit_R[rows, None])
            y[rows] += gated(z, *(w(f"{p}ffn_{part}_exps", e) for part in ("gate", "up", "down")))
    return y, choice_R


def layer(w, i, x_TD, at_R):
    """Of the rows at_R after layer i: x_RD, the choice of each row, and what its attention gave, o_RNH."""
    o = attended(w, i, x_TD, at_R)
    x = x_TD[at_R] + o.flatten(1) @ w(f"blk.{i}.attn_output").T
    return *mixture(w, i, x), o


def save(path, **arrays):
    """Whole or not at all."""
    part = path.with_suffix(".part.npz")
    np.savez(part, **arrays)
    part.rename(path)


def chunk_file(kept, i, a):
    """Rows from a on, after layer i."""
    return Path(f"{kept}.layer{i}.{a}.npz")


def all_rows(w, i, x_TD, kept):
    """x_TD and choices_T after layer i, a chunk at a time; each chunk goes to a file, or comes from there."""
    parts = []
    for a in range(0, len(x_TD), CHUNK):
        path = chunk_file(kept, i, a)
        if not path.exists():
            began = time.monotonic()
            x, choice, _ = layer(w, i, x_TD, torch.arange(a, min(a + CHUNK, len(x_TD))))
            save(path, x=x.numpy(), choice=choice.numpy().astype(np.int8))
            print(f"  float64, layer {i} from {a}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        parts.append(dict(np.load(path)))
    return torch.from_numpy(np.concatenate([p["x"] for p in parts])), np.concatenate([p["choice"] for p in parts])


def reference(model, ids, at, kept):
    """{logits [R, V], attended [R, N, H] of the last layer, choices [L, T] (-1: not computed)} in float64 of the rows
    `at`, kept in the file `kept`.npz; files of chunks go when that is there."""
    done = kept.with_suffix(".npz")
    if done.exists():
        return dict(np.load(done))
    w, at_R = Weights(model), torch.as_tensor(at)
    x, choices = w("token_embd")[torch.as_tensor(ids)], np.full((w.layers, len(ids)), -1, np.int8)
    for i in range(w.layers - 1):
        x, choices[i] = all_rows(w, i, x, kept)
    x, choice, o = layer(w, w.layers - 1, x, at_R)
    choices[-1, at] = choice.numpy()
    logits = (rms(x, w.eps) * w("output_norm")) @ w("output").T
    save(done, logits=logits.numpy(), attended=o.numpy(), choices=choices)
    for path in done.parent.glob(f"{kept.name}.layer*.npz"):
        path.unlink()
    return dict(np.load(done))
