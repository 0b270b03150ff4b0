"""Tokens drawn where the logits are: `engine.sampler` for many rows at once, in PyTorch, without what needs a history.

The order of work is the host's: barred ids, greedy or temperature, top_k, top_p, min_p, and the given number by inverse
cumulative sum; in id order where nothing filters, else likeliest first, ties by id. Sums and exponentials are float64
but not the host's to the last bit: a number within c. 1e-13 of a border may fall on its other side. One array of
numbers crosses to the host. What it is not: penalties, biases, grammars (the host's), a source of numbers.
"""

import numpy as np
import torch
from torch import Tensor

from herd.ops.contract import Drawn, Draws


def draw(logits_RV: Tensor, draws: Draws) -> Drawn:
    """See contract.Ops.draw."""
    raw_nV = logits_RV[_placed(draws.rows_n, logits_RV)]
    largest_n = raw_nV.amax(-1)
    l_nV = raw_nV.index_fill(1, _placed(draws.barred_B, raw_nV), -torch.inf) if len(draws.barred_B) else raw_nV
    best_n = l_nV.argmax(-1)  # at a tie the lowest id
    largest_n = torch.where(largest_n.isfinite(), l_nV.gather(1, best_n[:, None])[:, 0], largest_n)
    hot_n = draws.temperatures_n > 0
    filters_n = (draws.top_ks_n > 0) | (draws.top_ps_n < 1) | (draws.min_ps_n > 0)
    ids_n = best_n
    for pick, chosen_n in ((_plain, hot_n & ~filters_n), (_filtered, hot_n & filters_n)):
        if chosen_n.any():
            at = np.flatnonzero(chosen_n)
            at_m = _placed(at, l_nV)
            ids_n = ids_n.index_copy(0, at_m, pick(l_nV[at_m].double(), draws, at))
    columns = [ids_n.double()[:, None], largest_n.double()[:, None], _logprobs(raw_nV, ids_n, draws.tops_n)]
    found = torch.cat(columns, 1).cpu().numpy()
    K = (found.shape[1] - 3) // 2
    top_ids_nK = found[:, 3 : 3 + K].astype(np.int64)
    return Drawn(found[:, 0].astype(np.int64), found[:, 1], found[:, 2], top_ids_nK, found[:, 3 + K :])


def _placed(x: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x)).to(like.device)


def _numbers(values_n: np.ndarray, at: np.ndarray, like: Tensor) -> Tensor:
    """A parameter of some draws, as a column."""
    return _placed(values_n[at], like)[:, None]


def _weights(l_mV: Tensor, draws: Draws, at: np.ndarray) -> Tensor:
    """exp(l / temperature), the largest 1."""
    return ((l_mV - l_mV.amax(-1, keepdim=True)) / _numbers(draws.temperatures_n, at, l_mV)).exp()


def _place(weights_mV: Tensor, draws: Draws, at: np.ndarray) -> Tensor:
    """The place [m, 1] that each number falls on."""
    p_mV = weights_mV / weights_mV.sum(-1, keepdim=True)
    place_m1 = torch.searchsorted(p_mV.cumsum(-1), _numbers(draws.uniforms_n, at, p_mV), right=True)
    places_V = torch.arange(p_mV.shape[1], device=p_mV.device)
    last_m1 = torch.where(p_mV > 0, places_V, 0).amax(-1, keepdim=True)  # the sum may round to just below 1
    return torch.minimum(place_m1, last_m1)


def _plain(l_mV: Tensor, draws: Draws, at: np.ndarray) -> Tensor:
    return _place(_weights(l_mV, draws, at), draws, at)[:, 0]


def _filtered(l_mV: Tensor, draws: Draws, at: np.ndarray) -> Tensor:
    sorted_mV, ids_mV = l_mV.sort(stable=True, dim=-1, descending=True)
    places_V = torch.arange(l_mV.shape[1], device=l_mV.device)
    top_k = np.where(draws.top_ks_n > 0, draws.top_ks_n, l_mV.shape[1])
    weights_mV = torch.where(places_V < _numbers(top_k, at, l_mV), _weights(sorted_mV, draws, at), 0.0)
    share = np.where(draws.top_ps_n < 1, draws.top_ps_n * (1.0 - 1e-12), np.inf)
    mass_m1 = _numbers(share, at, l_mV) * weights_mV.sum(-1, keepdim=True)
    num_m1 = (weights_mV.cumsum(-1) < mass_m1).sum(-1, keepdim=True) + 1
    is_kept = (places_V < num_m1) & (weights_mV >= _numbers(draws.min_ps_n, at, l_mV))
    place_m1 = _place(torch.where(is_kept, weights_mV, 0.0), draws, at)
    return ids_mV.gather(1, place_m1)[:, 0]


def _logprobs(raw_nV: Tensor, ids_n: Tensor, tops_n: np.ndarray) -> Tensor:
    """Columns: that of the drawn id; ids of the likeliest; theirs. Zeros for draws that want none."""
    most = min(max(0, int(tops_n.max(initial=-1))), raw_nV.shape[1])
    columns = raw_nV.new_zeros((len(raw_nV), 1 + 2 * most), dtype=torch.float64)
    at = np.flatnonzero(tops_n >= 0)
    if len(at):
        at_m = _placed(at, raw_nV)
        l_mV = raw_nV[at_m].double()
        norm_m1 = l_mV.logsumexp(-1, keepdim=True)
        parts = [l_mV.gather(1, ids_n[at_m][:, None]) - norm_m1]
        if most:
            values_mV, order_mV = l_mV.sort(stable=True, dim=-1, descending=True)
            parts += [order_mV[:, :most].double(), values_mV[:, :most] - norm_m1]
        columns[at_m] = torch.cat(parts, 1)
    return columns
