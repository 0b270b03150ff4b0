"""Packed attention of the torch op set: segments as arrays on the device, exact attention over all of them at once.

    place     Segments -> PlacedSegments, once a pass: where a segment's rows and keys begin, the slot of each key
    attend    q [T, N, H] and the keys of all segments, one after another -> o [T, N, H]

On a CUDA card fp16 and bf16 go to PyTorch's variable-length flash attention, which takes the device's arrays. All else
is one custom operation, so that a compiled block sees no loop: inside, segment by segment from a host copy of the
borders, without waiting for a device. Its gradient is formed from blocks of rows whose probabilities are computed
again. What it is not: a kernel, the cache (`torch_kv`).
"""

import functools
import inspect
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from herd.batch import Segments
from herd.ops.torch_shared import operation, wide, wide_type

BLOCK = 256
"""Rows whose probabilities are held at a time by the gradient."""


@dataclass(frozen=True)
class PlacedSegments:
    """`Segments` on the device. Segment s has rows starts[s]:starts[s+1] and keys key_starts[s]:key_starts[s+1]."""

    starts: Tensor
    """[segments + 1] int32."""
    key_starts: Tensor
    borders: Tensor
    """[2, segments + 1]: both again, int64, on the host."""
    most_rows: int
    most_keys: int
    """The most rows and keys of one segment."""
    keys_at: Tensor | None
    """Slot in the cache of each key, one segment after another; None: the keys are the rows."""
    is_exact: Tensor | None
    """Whether it is a slot of the exact pool (int4)."""
    slots_T: Tensor | None
    closing: Tensor | None


def place(s: Segments, device: torch.device) -> PlacedSegments:
    """Index arrays to the device."""
    borders = np.stack([s.starts, np.concatenate([[0], np.cumsum(s.kv_lens)])]).astype(np.int64)
    widths = np.diff(borders, axis=1).max(1, initial=0)
    on_host = torch.from_numpy(borders)
    starts, key_starts = on_host.to(device)
    keys_at, is_exact = (None, None) if s.pages is None else _keys_at(s, key_starts, int(borders[1, -1]), device)
    slots_T, closing = (None if x is None else torch.from_numpy(x).to(device) for x in (s.slots_T, s.closing))
    most = int(widths[0]), int(widths[1])
    return PlacedSegments(starts.int(), key_starts.int(), on_host, *most, keys_at, is_exact, slots_T, closing)


def _keys_at(s: Segments, key_starts: Tensor, total: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
    pages, lens = torch.from_numpy(s.pages).to(device), key_starts.diff()
    owner_S = torch.repeat_interleave(torch.arange(len(s), device=device), lens, output_size=total)
    place_S = torch.arange(total, device=device) - key_starts[owner_S]
    page_S, within_S = place_S // s.page_size, place_S % s.page_size
    held_S, is_exact = pages[owner_S, page_S], None
    if s.exact_pages is not None:
        first_S, own_S = torch.from_numpy(s.exact_pages).to(device)[owner_S].unbind(1)
        is_first, is_own = page_S == 0, page_S == ((lens - 1) // s.page_size)[owner_S]
        held_S, is_exact = torch.where(is_first, first_S, torch.where(is_own, own_S, held_S)), is_first | is_own
    return held_S * s.page_size + within_S, is_exact


def attend(q_TNH: Tensor, k_SKH: Tensor, v_SKH: Tensor, s: PlacedSegments, causal: bool) -> Tensor:
    """The queries of a segment are the last of its keys' positions."""
    if _can_flash(q_TNH) and (flash := varlen()) is not None:
        window = (-1, 0) if causal else (-1, -1)
        args = q_TNH, k_SKH, v_SKH, s.starts, s.key_starts, s.most_rows, s.most_keys
        return flash(*args, window_size=window, enable_gqa=True)  # type: ignore[no-any-return]
    o_TNH: Tensor = packed(q_TNH, k_SKH, v_SKH, s.borders, causal)
    return o_TNH


@functools.cache
def varlen() -> Any:
    """PyTorch's, where it takes what is passed above; imported when it is wanted, as it brings the compiler along."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if {"window_size", "enable_gqa"} <= inspect.signature(varlen_attn).parameters.keys() else None


def _can_flash(q_TNH: Tensor) -> bool:
    """Types, head sizes and cards that flash attention is made for."""
    is_half = q_TNH.is_cuda and q_TNH.dtype in (torch.float16, torch.bfloat16)
    size = q_TNH.shape[-1]
    return is_half and size % 8 == 0 and size <= 256 and torch.cuda.get_device_capability(q_TNH.device) >= (8, 0)


def packed_attention(q_TNH: Tensor, k_SKH: Tensor, v_SKH: Tensor, borders: Tensor, causal: bool) -> Tensor:
    """Segment by segment; `borders` lies on the host."""
    out_TNH = torch.empty_like(q_TNH, memory_format=torch.contiguous_format)
    for rows, keys in _spans(borders):
        out_TNH[rows] = _one(q_TNH[rows], k_SKH[keys], v_SKH[keys], causal)
    return out_TNH


def _spans(borders: Tensor) -> list[tuple[slice, slice]]:
    rows, keys = ([slice(a, b) for a, b in pairwise(x)] for x in borders.tolist())
    return [pair for pair in zip(rows, keys, strict=True) if pair[0].stop > pair[0].start]


def _one(q_TNH: Tensor, k_SKH: Tensor, v_SKH: Tensor, causal: bool) -> Tensor:
    T, S = len(q_TNH), len(k_SKH)
    mask = _seen(T, S, q_TNH.device) if causal and 1 < T < S else None  # a last row alone sees all
    q, k, v = (x.transpose(0, 1)[None] for x in (q_TNH, k_SKH, v_SKH))
    o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal and T == S, enable_gqa=True)
    return o[0].transpose(0, 1)


def _seen(T: int, S: int, device: torch.device) -> Tensor:
    """[T, S]: which keys each of the last T positions sees."""
    return torch.arange(S, device=device) <= torch.arange(S - T, S, device=device)[:, None]


# -- the gradient -------------------------------------------------------------------------------------------------


def packed_attention_backward(
    g_TNH: Tensor, q_TNH: Tensor, k_SKH: Tensor, v_SKH: Tensor, borders: Tensor, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, summed in at least float32."""
    gq, gk, gv = (torch.zeros(x.shape, dtype=wide_type(x.dtype), device=x.device) for x in (q_TNH, k_SKH, v_SKH))
    for rows, keys in _spans(borders):
        for a in range(rows.start, rows.stop, BLOCK):
            b = min(a + BLOCK, rows.stop)
            seen = slice(keys.start, keys.stop - (rows.stop - b) if causal else keys.stop)
            parts = _block_backward(g_TNH[a:b], q_TNH[a:b], k_SKH[seen], v_SKH[seen], causal)
            gq[a:b] = parts[0]
            gk[seen] += parts[1]
            gv[seen] += parts[2]
    return gq.to(q_TNH.dtype), gk.to(k_SKH.dtype), gv.to(v_SKH.dtype)


def _block_backward(
    g_TNH: Tensor, q_TNH: Tensor, k_SKH: Tensor, v_SKH: Tensor, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """o = p v with p = softmax(q k^T / sqrt(H)), of rows that are the last of the keys' positions."""
    (T, N, H), (S, K, _) = q_TNH.shape, k_SKH.shape
    q_KGTH, g_KGTH = (wide(x).reshape(T, K, N // K, H).permute(1, 2, 0, 3) for x in (q_TNH, g_TNH))
    k_K1SH, v_K1SH = (wide(x).transpose(0, 1)[:, None] for x in (k_SKH, v_SKH))
    scores = q_KGTH @ k_K1SH.mT * H**-0.5
    if causal:
        scores = scores.masked_fill(~_seen(T, S, scores.device), -torch.inf)
    p = scores.softmax(-1)
    gp = g_KGTH @ v_K1SH.mT
    gs = p * (gp - (gp * p).sum(-1, keepdim=True)) * H**-0.5
    gk, gv = ((x.mT @ y).sum(1).transpose(0, 1) for x, y in ((gs, q_KGTH), (p, g_KGTH)))
    return (gs @ k_K1SH).permute(2, 0, 1, 3).reshape(T, N, H), gk, gv


def _like(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in tensors)


packed_backward = operation(packed_attention_backward, lambda g, q, k, v, borders, causal: _like(q, k, v))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.causal = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, g_TNH: Tensor) -> tuple[Tensor | None, ...]:
    return (*packed_backward(g_TNH, *ctx.saved_tensors, ctx.causal), None, None)


packed = operation(packed_attention, lambda q, *_: _like(q)[0], gradient=(_gradients, _keep))
