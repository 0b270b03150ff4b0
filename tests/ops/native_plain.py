"""The op contract in plain float64 numpy, for the tests of the native op set: written from the contract's equations."""

import math

import numpy as np

from herd import formats
from herd.weights import Dense, Experts, LoRA, Packed, Pair

EPS = 2.0**-24  # half a unit in the last place of float32: the relative rounding error of one operation
FLOATS = ("f32", "f16", "bf16")
PACKED = ("q4_0", "q4_1", "q8_0", "q4_k", "q6_k")
_erf = np.frompyfunc(math.erf, 1, 1)


def unaligned(array):
    """The same values at an odd address, read-only, as a mapped file may give them."""
    raw = np.zeros(array.nbytes + 64, np.uint8)
    start = 1 if raw.ctypes.data % 2 == 0 else 2
    raw[start : start + array.nbytes] = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
    view = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    view.flags.writeable = False
    return view


def array(rng, shape, kind="f32", scale=1.0):
    """Random values in a float format."""
    x = (rng.standard_normal(shape) * scale).astype(np.float32)
    if kind == "f16":
        return x.astype(np.float16)
    return formats.bf16_from_float32(x) if kind == "bf16" else x


def matrix(rng, kind, shape, *, bias=False, name="", at=unaligned):
    """A weight node [.., O, I] of any format, at an unaligned address."""
    w = array(rng, shape, scale=shape[-1] ** -0.5)
    b = array(rng, shape[-2:-1]) if bias else None
    if kind in FLOATS:
        return Dense(at(array(rng, shape, kind, shape[-1] ** -0.5)), b, name)
    codes = formats.encode(kind, w)
    return Packed(kind, at(codes.reshape(*shape[:-1], -1)), shape, b, name)


def inputs_of(kind, small):
    """A number of inputs that the format can hold: an odd one for floats, whole blocks otherwise."""
    if kind in FLOATS:
        return (37, 300)[not small]
    return {"q4_k": (256, 768), "q6_k": (256, 768)}.get(kind, (32, 672))[not small]


def values(w, e=None):
    """The float64 matrix [O, I] of a node (of expert e in a stack)."""
    if isinstance(w, LoRA):
        down, up = (values(Dense(x), e) for x in (w.down, w.up))
        return values(w.base, e) + w.scale * up @ down
    if isinstance(w, Pair):
        return np.concatenate([values(w.gate, e), values(w.up, e)])
    if isinstance(w, Experts):
        return formats.to_float32(np.array(w.w))[e].T.astype(np.float64)
    if isinstance(w, Packed):
        m = formats.decode(w.format, w.codes, w.shape[-1]).reshape(w.shape)
    else:
        m = formats.to_float32(np.array(w.w))
    return (m if e is None else m[e]).astype(np.float64)


def linear(x, w, e=None):
    y = np.asarray(x, np.float64) @ values(w, e).T
    bias = getattr(w, "bias", None)
    return y if bias is None else y + bias


def rms(x, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


def norm(x, n):
    x = np.asarray(x, np.float64)
    w = formats.to_float32(n.w)
    if n.bias is None:
        return w * rms(x, n.eps)
    d = x - x.mean(-1, keepdims=True)
    return d / np.sqrt((d * d).mean(-1, keepdims=True) + n.eps) * w + formats.to_float32(n.bias)


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return x * 0.5 * (1 + _erf(x / math.sqrt(2)).astype(np.float64))


def rotate(x_TNH, cos, sin):
    a, b, c, s = x_TNH[..., 0::2], x_TNH[..., 1::2], cos[:, None], sin[:, None]
    y = np.empty_like(x_TNH)
    y[..., 0::2], y[..., 1::2] = a * c - b * s, a * s + b * c
    return y


def attend(q_TNH, keys, values_, first):
    """One segment. keys [S, K, H]; row j sees the first `first + j` keys (first None: all)."""
    T, N, H = q_TNH.shape
    G = N // keys.shape[1]
    out = np.empty((T, N, H))
    for t in range(T):
        seen = len(keys) if first is None else first + t
        for n in range(N):
            score = keys[:seen, n // G].astype(np.float64) @ q_TNH[t, n].astype(np.float64) / math.sqrt(H)
            p = np.exp(score - score.max())
            out[t, n] = (p / p.sum()) @ values_[:seen, n // G]
    return out


def ffn(h, m):
    up = linear(h, m.up)
    return linear(gelu(up) if m.gate is None else silu(linear(h, m.gate)) * up, m.down)


def moe(h, m, A):
    logits = linear(h, m.router)
    chosen = np.argsort(-logits, -1, kind="stable")[:, :A]
    scores = 1 / (1 + np.exp(-np.take_along_axis(logits, chosen, -1)))
    y = ffn(h, m.shared)
    for t in range(len(h)):
        for a in range(A):
            gate, up = np.split(linear(h[t] * scores[t, a], m.gate_up, chosen[t, a]), 2)
            y[t] += linear(silu(gate) * up, m.down, chosen[t, a])
    return y, chosen, scores


def product_bound(x, w, c=4):
    """c * eps * |x|_2 * |w|_2 per output, of the contract. Packed weights are summed as codes, zero point apart: the
    codes' size, at most |w| + 2 max |w| per weight, takes the place of |w|."""
    w = np.abs(values(w))
    size = np.sqrt((w * w).sum(-1)) + 2 * w.max(-1) * math.sqrt(w.shape[-1])
    return c * EPS * np.linalg.norm(np.asarray(x, np.float64), axis=-1)[:, None] * size


def steps_bound(x, w):
    """What quantising activations can do to w x: half a step, max |x| of the group / 254, per input. Groups are of 32
    inputs, of 256 for formats with such blocks."""
    n = 256 if formats.get(w.format).block == 256 else 32
    groups = np.abs(np.pad(x, ((0, 0), (0, -x.shape[1] % n)))).reshape(len(x), -1, n).max(-1) / 254
    step = np.repeat(groups, n, -1)[:, : x.shape[1]] * (1 + 1e-5)
    return step @ np.abs(values(w)).T


def whole_steps(rng, rows, inputs):
    """Activations that int8 groups of 32 or of 256 hold exactly: multiples of a power of two, 127 of them in every
    group."""
    k = rng.integers(-127, 128, (rows, inputs))
    k[:, ::32] = 127
    scale = np.exp2(rng.integers(-9, -5, (rows, -(-inputs // 256))))
    return (k * np.repeat(scale, 256, -1)[:, :inputs]).astype(np.float32)
