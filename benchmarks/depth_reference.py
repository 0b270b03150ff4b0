"""The small slice in float64, layer by layer, and nothing of ours in it: gguf reads the file, the model is written out.

    x = embed[ids]
    x += attention(norm x) wo;  h = norm x;  x += shared(h) + expert(sigmoid(l) h),  l the largest of router h
    logits = norm(x) head^T

Every row of a layer feeds the keys and values of the next, so all rows of all layers are computed, but of the last one
only the wanted rows. Work of 65,536 tokens: 18e12 operations in float64, about 0.4 GB an array of rows, 2.5 GB in all.
Each layer is kept in a file when it is done, and an interrupted run goes on from there. Source of the mathematics:
transformers' Llama 4 (rope on three layers of four, whose queries and keys are normed after it and see their chunk
alone; the fourth sees everything and its queries have a temperature).
"""

import os
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


def attention(q_RNH, at_R, k_TKH, v_TKH, chunked):
    """softmax(q k^T / sqrt(H)) v of the queries at positions at_R (ascending): keys up to the own one, of the same
    chunk where `chunked`. Each row of scores is held whole, so the softmax is the plain one."""
    group = q_RNH.shape[1] // k_TKH.shape[1]
    o_RNH = torch.empty_like(q_RNH)
    for a in range(0, len(at_R), QUERIES):
        at = at_R[a : a + QUERIES]
        first, last = int(at[0]) // CHUNK * CHUNK if chunked else 0, int(at[-1]) + 1
        keys = torch.arange(first, last)
        hidden = keys > at[:, None]
        if chunked:
            hidden |= keys // CHUNK != at[:, None] // CHUNK
        for k in range(k_TKH.shape[1]):
            heads = slice(k * group, (k + 1) * group)
            q = q_RNH[a : a + QUERIES, heads].transpose(0, 1) / q_RNH.shape[-1] ** 0.5
            scores = q.flatten(0, 1) @ k_TKH[first:last, k].T
            scores.view(group, len(at), -1).masked_fill_(hidden, -torch.inf)
            o = torch.softmax(scores, -1) @ v_TKH[first:last, k]
            o_RNH[a : a + QUERIES, heads] = o.view(group, len(at), -1).transpose(0, 1)
    return o_RNH


def attended(w, i, x_TD, at_R):
    """o_RNH of layer i for the rows at_R."""
    p, H, positions = f"blk.{i}.", w.head_size, torch.arange(len(x_TD))
    norm, sees_all = w(p + "attn_norm"), (i + 1) % GLOBAL_EVERY == 0

    def projected(name, x):
        matrix = w(p + name)
        return by_rows(lambda rows: (rms(rows, w.eps) * norm) @ matrix.T, x).unflatten(-1, (-1, H))

    q, k, v = projected("attn_q", x_TD[at_R]), projected("attn_k", x_TD), projected("attn_v", x_TD)
    if sees_all:
        q *= (1 + ATTN_SCALE * torch.log1p(torch.floor((at_R + 1) / FLOOR_SCALE).double()))[:, None, None]
    else:
        q, k = rms(rotated(q, at_R, w.rope_base), w.eps), rms(rotated(k, positions, w.rope_base), w.eps)
    return attention(q, at_R, k, v, not sees_all)


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


def save(path, **arrays):
    """Whole or not at all."""
    part = path.with_suffix(".part.npz")
    np.savez(part, **arrays)
    part.rename(path)


def reference(model, ids, at, kept):
    """{logits [R, V], attended [R, N, H] of the last layer, choices [L, T] (-1: not computed)} in float64 of the rows
    `at`; layers go to files `kept`.layerN.npz."""
    done = kept.with_suffix(".npz")
    if done.exists():
        return dict(np.load(done))
    w, at_R = Weights(model), torch.as_tensor(at)
    begun = [i for i in range(w.layers - 1) if layer_file(kept, i).exists()]
    if begun:
        state = np.load(layer_file(kept, begun[-1]))
        x, choices, start = torch.from_numpy(state["x"]), state["choices"], begun[-1] + 1
    else:
        x, choices, start = w("token_embd")[torch.as_tensor(ids)], np.full((w.layers, len(ids)), -1, np.int8), 0
    for i in range(start, w.layers):
        began = time.monotonic()
        rows = at_R if i == w.layers - 1 else torch.arange(len(ids))
        o = attended(w, i, x, rows)
        x = x[rows] + o.flatten(1) @ w(f"blk.{i}.attn_output").T
        x, choice = mixture(w, i, x)
        choices[i, rows.numpy()] = choice.numpy()
        print(f"  float64, layer {i}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        if i < w.layers - 1:
            save(layer_file(kept, i), x=x.numpy(), choices=choices)
            if i:
                os.unlink(layer_file(kept, i - 1))
    logits = (rms(x, w.eps) * w("output_norm")) @ w("output").T
    save(done, logits=logits.numpy(), attended=o.numpy(), choices=choices)
    layer_file(kept, w.layers - 2).unlink()
    return dict(np.load(done))


def layer_file(kept, i):
    return Path(f"{kept}.layer{i}.npz")
