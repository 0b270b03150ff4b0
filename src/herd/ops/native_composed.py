"""Products of any weight kind, one at a time: the path of LoRA nodes, adapters and observers.

The plain path of `native` is one call an operation; here the same equations are put together from `_native.linear`, so
that low-rank terms and observers see every weight's input. Slower by the calls, equal in meaning. threads: the op set's
(`_native.Threads`); None: those of the process.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from herd import _native
from herd.ops import native_weights as handles
from herd.ops.contract import Extras, LowRank
from herd.weights import Linear, LoRA, Mlp, Moe, Pair

Floats = npt.NDArray[np.float32]


def is_plain(extras: Extras | None, *weights: Linear | None) -> bool:
    """Whether the native module can do it in one call: nobody observes, and no adapter has to do with these."""
    if extras is not None and (extras.observe is not None or _adapted(extras, weights)):
        return False
    return not any(isinstance(w, LoRA) or (isinstance(w, Pair) and not is_plain(None, w.gate, w.up)) for w in weights)


def _adapted(extras: Extras, weights: Sequence[Linear | None]) -> bool:
    if extras.adapters is None:
        return False
    names = (w.base.name if isinstance(w, LoRA) else w.name for w in weights if w is not None)
    return any(name in extras.adapters.pairs for name in names)


def product(x: Floats, handle: Any, expert: int = 0, threads: Any = None) -> Floats:
    """w[expert] x + bias."""
    y = np.empty((len(x), handle.num_outputs), np.float32)
    _native.linear(np.ascontiguousarray(x), handle, y, expert, False, threads)
    return y


def low_rank(x: Floats, down: Any, up: Any, scale: float, threads: Any = None) -> Floats:
    """scale * (x down^T) up^T."""
    z = product(x, handles.from_array(down), 0, threads)
    return product(np.multiply(z, np.float32(scale), out=z), handles.from_array(up), 0, threads)


def add_pair(y: Floats, x: Floats, pair: LowRank, expert: int = 0, threads: Any = None) -> None:
    """y += scale * (x down^T) up^T, of one matrix of a stack or of the only one."""
    down, up = handles.pair(pair)
    z = product(x, down, expert, threads)
    _native.linear(np.multiply(z, np.float32(pair.scale), out=z), up, y, expert, True, threads)


def add_adapters(y: Floats, x: Floats, pairs: Sequence[LowRank | None], ids: Any, expert: int, threads: Any) -> None:
    """Add to each row what its adapter adds; a row's result does not depend on what adapters others have."""
    for i, pair in enumerate(pairs):
        at = np.flatnonzero(ids == i) if pair is not None else ()
        if pair is None or not len(at):
            continue
        if len(at) == len(x):
            add_pair(y, x, pair, expert, threads)
        else:
            part = y[at]
            add_pair(part, x[at], pair, expert, threads)
            y[at] = part


def linear(x_TI: Floats, w: Linear, extras: Extras | None = None, threads: Any = None) -> Floats:
    """x w^T + bias with LoRA, adapters and observer."""
    if isinstance(w, LoRA):
        return linear(x_TI, w.base, extras, threads) + low_rank(x_TI, w.down, w.up, w.scale, threads)
    if extras is not None and extras.observe is not None:
        extras.observe.seen(w.name, x_TI)
    y_TO = product(x_TI, handles.weight(w), 0, threads)
    if extras is not None and extras.adapters is not None:
        ids_T = np.asarray(extras.adapters.rows_T)
        add_adapters(y_TO, x_TI, extras.adapters.pairs.get(w.name, ()), ids_T, 0, threads)
    return y_TO


def expert(x_RI: Floats, w: Linear, e: int, threads: Any = None) -> Floats:
    """Rows through matrix e of a stack, LoRA included; a Pair gives gate and up side by side."""
    if isinstance(w, LoRA):
        return expert(x_RI, w.base, e, threads) + low_rank(x_RI, w.down[e], w.up[e], w.scale, threads)
    if isinstance(w, Pair):
        return np.concatenate([expert(x_RI, w.gate, e, threads), expert(x_RI, w.up, e, threads)], 1)
    return product(x_RI, handles.weight(w), e, threads)


def _expert_with(x_RI: Floats, w: Linear, e: int, extras: Extras | None, ids_R: Any, threads: Any) -> Floats:
    name = w.base.name if isinstance(w, LoRA) else w.name
    if extras is not None and extras.observe is not None:
        extras.observe.seen(name, x_RI, e)
    y = expert(x_RI, w, e, threads)
    if extras is not None and extras.adapters is not None:
        add_adapters(y, x_RI, extras.adapters.pairs.get(name, ()), ids_R, e, threads)
    return y


def ffn(h_TD: Floats, mlp: Mlp, extras: Extras | None, threads: Any = None) -> Floats:
    """The two forms of weights.Mlp."""
    up = linear(h_TD, mlp.up, extras, threads)
    if mlp.gate is None:
        _native.gelu(up, threads)
    else:
        _native.silu_mul(linear(h_TD, mlp.gate, extras, threads), up, up, threads)
    return linear(up, mlp.down, extras, threads)


def experts(
    y_TD: Floats, h_TD: Floats, moe: Moe, experts_TA: Any, scores_TA: Any, extras: Extras | None, threads: Any = None
) -> Floats:
    """y + the chosen experts of s * h, expert by expert; y is consumed."""
    adapters = extras.adapters if extras is not None else None
    for e in np.unique(experts_TA).tolist():
        rows_R, choice_R = np.nonzero(experts_TA == e)
        ids_R = None if adapters is None else np.asarray(adapters.rows_T)[rows_R]
        x_RD = h_TD[rows_R] * scores_TA[rows_R, choice_R, None]
        both = _expert_with(x_RD, moe.gate_up, e, extras, ids_R, threads)
        F = both.shape[1] // 2
        inner = np.empty((len(both), F), np.float32)
        _native.silu_mul(np.ascontiguousarray(both[:, :F]), np.ascontiguousarray(both[:, F:]), inner, threads)
        y_TD[rows_R] += _expert_with(inner, moe.down, e, extras, ids_R, threads)
    return y_TD


def rows_of(extras: Extras | None, rows_R: Any) -> Extras | None:
    """The extras of a pass's wanted rows."""
    if extras is None or extras.adapters is None or rows_R is None:
        return extras
    return replace(extras, adapters=replace(extras.adapters, rows_T=np.asarray(extras.adapters.rows_T)[rows_R]))
