"""The op contract in C++ on the CPU: numpy float32 in and out, weights straight from their file's bytes.

What it is: shapes, outputs and one call into `herd._native` per operation, which checks every array again and runs on
its own threads with the GIL released. What it is not: arithmetic in Python, except the tables made once a pass.
Kernels exist for any processor, AVX2, AVX-VNNI, AVX-512 (with VNNI, and with bfloat16 dots) and NEON; the environment
variable HERD_ISA (portable, avx2, avxvnni, avx512, avx512bf16, neon), read once at import, forces one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from herd import _native, formats
from herd.batch import Context, Ints
from herd.config import Llama4Config
from herd.errors import UsageError, fail
from herd.ops import native_composed as composed
from herd.ops import native_stack as stacks
from herd.ops import native_weights as handles
from herd.ops.contract import Adapters, Drawn, Draws, Extras
from herd.weights import Array, Linear, Mlp, Model, Moe, Norm, Vision, WeightNode

Floats = npt.NDArray[np.float32]

MOST_STACK_ROWS = 64
"""Rows of a pass that goes through all layers in one call: with more, the scratch memory of an operation is given back
before the next."""
LOSS_ROWS = 64
"""Rows whose logits a loss holds at a time: 100 MiB of float64 with 202,048 ids."""


class CosSin(NamedTuple):
    """cos_TM, sin_TM."""

    cos: Floats
    sin: Floats


@dataclass(frozen=True)
class PlacedSegments:
    """`Segments` and the native copy of their integers, checked."""

    starts: Ints
    kv_lens: Ints
    pages: Ints | None
    slots_T: Ints | None
    page_size: int
    spans: Any
    exact_pages: Ints | None = None
    closing: Ints | None = None

    def __len__(self) -> int:
        return len(self.kv_lens)


@dataclass(frozen=True)
class PlacedContext:
    """`Context` as this op set wants it."""

    positions_T: Ints
    full: PlacedSegments
    chunk: PlacedSegments
    rows: Ints | None


def _ints(x: Any) -> Ints:
    return np.ascontiguousarray(x, np.int64)


def _floats(x: Any) -> Floats:
    return np.ascontiguousarray(x, np.float32)


def _placed(s: Any) -> PlacedSegments:
    if isinstance(s, PlacedSegments):
        return s
    starts, lengths = _ints(s.starts), _ints(s.kv_lens)
    pages = None if s.pages is None else _ints(s.pages)
    slots = None if s.slots_T is None else _ints(s.slots_T)
    exact, closing = (None if x is None else _ints(x) for x in (s.exact_pages, s.closing))
    spans = _native.spans(starts, lengths, pages, slots, s.page_size, exact, closing)
    return PlacedSegments(starts, lengths, pages, slots, s.page_size, spans, exact, closing)


class NativeOps:
    """The native op set. threads: 0 means as many as processors this process may use.

    The threads are its own: they start at its first operation (again in a child of fork) and end with it. Operations of
    one op set, from several Python threads, take turns; op sets do not wait for each other.
    """

    name = "native"
    draws = False

    def __init__(self, threads: int = 0) -> None:
        if threads < 0:
            fail(UsageError, "threads", got=threads, expected="0 (all) or more")
        self.threads = _native.Threads(threads)

    def bind(self, node: WeightNode) -> None:
        """Make its native handle, which checks its arrays. Raises UsageError, ValueError."""
        handles.bind(node)

    # -- once a pass -----------------------------------------------------------------------------------------------

    def array(self, x: Any) -> Array:
        """As numpy; float32, float16, uint16 (bfloat16) and integers stay, other floats become float32."""
        x = np.asarray(x)
        if x.dtype.kind == "f" and x.dtype not in (np.float32, np.float16):
            x = x.astype(np.float32)
        return x

    def numpy(self, x: Array) -> Any:
        """As numpy float32."""
        return formats.to_float32(x) if x.dtype == np.uint16 else np.asarray(x, np.float32)

    def place(self, context: Context) -> PlacedContext:
        """Check the segments and hand their integers to C++."""
        full = _placed(context.full)
        chunk = full if context.chunk is context.full else _placed(context.chunk)
        rows = None if context.rows is None else _ints(context.rows)
        return PlacedContext(_ints(context.positions_T), full, chunk, rows)

    def new_kv(
        self,
        num_slots: int,
        num_kv_heads: int,
        head_size: int,
        dtype: str = "f32",
        *,
        exact_slots: int = 0,
        rope: bool = True,
    ) -> Any:
        """A zeroed cache; memory is taken as it is written."""
        return _native.cache(num_slots, num_kv_heads, head_size, dtype, exact_slots, rope)

    def kv_read(self, kv: Any, slots: Any) -> tuple[Any, Any]:
        """Keys and values of these slots, copied."""
        at = _ints(slots)
        keys, values = (np.empty((len(at), kv.num_heads, kv.head_size), np.float32) for _ in range(2))
        _native.kv_move(kv, at, keys, values, False, self.threads)
        return keys, values

    def kv_write(self, kv: Any, slots: Any, keys: Any, values: Any) -> None:
        """Put keys and values into these slots."""
        _native.kv_move(kv, _ints(slots), _floats(keys), _floats(values), True, self.threads)

    def copy_pages(self, kv: Any, source: Any, target: Any, page_size: int, *, exact: bool = False) -> None:
        """Copy whole pages."""
        _native.copy_pages(kv, _ints(source), _ints(target), page_size, exact, self.threads)

    def close_pages(self, kv: Any, exact: Any, pages: Any) -> None:
        """Exact pages to coarse ones."""
        _native.close_pages(kv, _ints(exact), _ints(pages), self.threads)

    # -- text ------------------------------------------------------------------------------------------------------

    def embed(self, ids_T: Any, w: Linear) -> Floats:
        """Rows of the table."""
        handle = handles.weight(w)
        ids = _ints(ids_T)
        x_TD = np.empty((len(ids), handle.num_inputs), np.float32)
        _native.embed(ids, handle, x_TD, self.threads)
        return x_TD

    def put_rows(self, x_TD: Array, rows_R: Any, new_RD: Array) -> Floats:
        """Image features in their places."""
        x = _owned(x_TD)
        x[np.asarray(rows_R)] = new_RD
        return x

    def angles(self, positions_T: Array, freqs_M: Sequence[float], scale: float = 1.0) -> CosSin:
        """Products in float64, so that far positions keep their phase."""
        a = np.asarray(positions_T, np.float64)[:, None] * np.asarray(freqs_M, np.float64)
        return CosSin((scale * np.cos(a)).astype(np.float32), (scale * np.sin(a)).astype(np.float32))

    def angles_from(self, angles_TM: Any) -> CosSin:
        """cos and sin of given angles."""
        a = np.asarray(angles_TM, np.float64)
        return CosSin(np.cos(a).astype(np.float32), np.sin(a).astype(np.float32))

    def temperature(self, positions_T: Array, floor_scale: int, attn_scale: float) -> Floats:
        """Scale of the query at each position."""
        steps = (np.asarray(positions_T, np.int64) + 1) // floor_scale
        return (1 + attn_scale * np.log1p(steps.astype(np.float64))).astype(np.float32)

    def qkv(
        self,
        x_TD: Array,
        norm: Norm,
        wq: Linear,
        wk: Linear,
        wv: Linear,
        head_size: int,
        cos_sin: Any | None,
        qk_eps: float | None,
        q_scale_T: Array | None,
        extras: Extras | None = None,
    ) -> tuple[Floats, Floats, Floats]:
        """Norm, three projections, then rope, QK norm, temperature, each when given."""
        x, H = _floats(x_TD), head_size
        cos, sin = (None, None) if cos_sin is None else cos_sin
        if not composed.is_plain(extras, wq, wk, wv):
            h = self.norm(x, norm)
            q, k, v = (self._linear(h, w, extras).reshape(len(x), -1, H) for w in (wq, wk, wv))
            _native.shape_heads(q, k, cos, sin, qk_eps, q_scale_T, self.threads)
            return q, k, v
        weights = [handles.weight(w) for w in (wq, wk, wv)]
        q, k, v = (np.empty((len(x), w.num_outputs // H, H), np.float32) for w in weights)
        _native.qkv(x, handles.norm_weight(norm), *weights, H, cos, sin, qk_eps, q_scale_T, q, k, v, self.threads)
        return q, k, v

    def attend(
        self, q_TNH: Array, k_TKH: Array, v_TKH: Array, segments: Any, kv: Any | None, causal: bool = True
    ) -> Floats:
        """Exact attention, segment by segment."""
        q = _floats(q_TNH)
        o_TNH = np.empty_like(q)
        spans = _placed(segments).spans
        _native.attend(q, _floats(k_TKH), _floats(v_TKH), spans, kv, causal, o_TNH, self.threads)
        return o_TNH

    def out_add(
        self, x_TD: Array, o_TNH: Array, wo: Linear, extras: Extras | None = None, residual: bool = True
    ) -> Floats:
        """Output projection."""
        o = _floats(o_TNH).reshape(len(o_TNH), -1)
        if not composed.is_plain(extras, wo):
            return _sum(x_TD, self._linear(o, wo, extras), residual)
        handle = handles.weight(wo)
        y = _owned(x_TD) if residual else np.empty((len(o), handle.num_outputs), np.float32)
        _native.linear(o, handle, y, 0, residual, self.threads)
        return y

    def mlp_add(self, x_TD: Array, norm: Norm, mlp: Mlp, extras: Extras | None = None, residual: bool = True) -> Floats:
        """Dense MLP."""
        if not composed.is_plain(extras, mlp.gate, mlp.up, mlp.down):
            return _sum(x_TD, composed.ffn(self.norm(x_TD, norm), mlp, extras, self.threads), residual)
        x = _owned(x_TD) if residual else _floats(x_TD)
        y = None if residual else np.empty_like(x)
        _native.mlp(x, handles.norm_weight(norm), *_mlp(mlp), y, self.threads)
        return x if y is None else y

    def moe_add(
        self,
        x_TD: Array,
        norm: Norm,
        moe: Moe,
        num_experts: int,
        experts_per_token: int,
        extras: Extras | None = None,
        residual: bool = True,
        routing: Any | None = None,
    ) -> Floats:
        """Shared expert and the chosen ones; the score multiplies the expert's input."""
        shared, experts_TA, scores_TA = moe.shared, *_choice(len(x_TD), experts_per_token)
        parts = (moe.router, moe.gate_up, moe.down, shared.gate, shared.up, shared.down)
        if not composed.is_plain(extras, *parts):
            h = self.norm(x_TD, norm)
            experts_TA, scores_TA = self.route(h, moe.router, experts_per_token, extras)
            if routing is not None:
                routing(experts_TA, scores_TA)
            sum_TD = composed.ffn(h, shared, extras, self.threads)
            sum_TD = composed.experts(sum_TD, h, moe, experts_TA, scores_TA, extras, self.threads)
            return _sum(x_TD, sum_TD, residual)
        x = _owned(x_TD) if residual else _floats(x_TD)
        y = None if residual else np.empty_like(x)
        stacks = (*handles.halves(moe.gate_up), handles.weight(moe.down))
        _native.moe(
            x,
            handles.norm_weight(norm),
            handles.weight(moe.router),
            *stacks,
            *_mlp(shared),
            num_experts,
            experts_per_token,
            y,
            experts_TA,
            scores_TA,
            self.threads,
        )
        if routing is not None:
            routing(experts_TA, scores_TA)
        return x if y is None else y

    def route(
        self, h_TD: Array, router: Linear, experts_per_token: int, extras: Extras | None = None
    ) -> tuple[Array, Floats]:
        """The choice of each row and its scores."""
        experts_TA, scores_TA = _choice(len(h_TD), experts_per_token)
        _native.choose(self._linear(_floats(h_TD), router, extras), experts_TA, scores_TA)
        return experts_TA, scores_TA

    def experts(
        self,
        h_TD: Array,
        moe: Moe,
        experts_TA: Array,
        scores_TA: Array,
        num_experts: int,
        extras: Extras | None = None,
    ) -> Floats:
        """The chosen experts alone."""
        h, scores = _floats(h_TD), _floats(scores_TA)
        if not composed.is_plain(extras, moe.gate_up, moe.down):
            return composed.experts(np.zeros_like(h), h, moe, np.asarray(experts_TA), scores, extras, self.threads)
        stacks = (*handles.halves(moe.gate_up), handles.weight(moe.down))
        y_TD = np.empty_like(h)
        _native.experts(h, *stacks, np.ascontiguousarray(experts_TA, np.int32), scores, y_TD, self.threads)
        return y_TD

    def layers(
        self,
        x_TD: Array,
        w: Model,
        c: Llama4Config,
        far: Any | None,
        near: Any | None,
        temperature_T: Array | None,
        context: PlacedContext,
        kv: Sequence[Any],
        routing: Any | None = None,
        adapters: Adapters | None = None,
    ) -> Floats | None:
        """All layers in one call for few rows, where the way between calls is what costs. With adapters it is the
        operations: beside a decode step of large layers, a call more for each of theirs is little."""
        T, L = len(x_TD), c.num_layers
        stack = stacks.of(w, c) if T <= MOST_STACK_ROWS and adapters is None else None
        if stack is None:
            return None
        x, A = _owned(x_TD), c.experts_per_token
        experts_LTA, scores_LTA = np.empty((L, T, A), np.int32), np.empty((L, T, A), np.float32)
        spans = context.full.spans, context.chunk.spans
        _native.layers(x, stack, far, near, temperature_T, *spans, tuple(kv), experts_LTA, scores_LTA, self.threads)
        if routing is not None:
            for i, layer in enumerate(c.layers):
                if layer.moe:
                    routing(i, experts_LTA[i], scores_LTA[i])
        return x

    def norm(self, x_TD: Array, norm: Norm) -> Floats:
        """RMS norm or LayerNorm."""
        x = _floats(x_TD)
        y = np.empty_like(x)
        _native.norm(x, handles.norm_weight(norm), y, self.threads)
        return y

    def head_loss(self, x_TD: Array, norm: Norm, w: Linear, targets_T: Any, extras: Extras | None = None) -> Floats:
        """The loss of each row, summed in float64, a few rows at a time. It has no gradient."""
        targets, losses = _ints(targets_T), np.zeros(len(x_TD), np.float32)
        for start in range(0, len(x_TD), LOSS_ROWS):
            rows = np.arange(start, min(start + LOSS_ROWS, len(x_TD)))
            rows = rows[targets[rows] >= 0]
            l_RV = self.head(x_TD, norm, w, rows, extras).astype(np.float64)
            l_RV -= l_RV.max(axis=1, keepdims=True)
            losses[rows] = np.log(np.exp(l_RV).sum(axis=1)) - l_RV[np.arange(len(rows)), targets[rows]]
        return losses

    def finite(self, x: Array) -> bool:
        """Whether all values are finite."""
        return bool(np.isfinite(self.numpy(x)).all())

    def draw(self, logits_RV: Array, draws: Draws) -> Drawn:
        """The host draws: `engine.sampler`."""
        raise NotImplementedError("draw: logits of the native op set are drawn from on the host")

    def head(
        self, x_TD: Array, norm: Norm, w: Linear, rows_R: Any | None = None, extras: Extras | None = None
    ) -> Floats:
        """Logits of the wanted rows."""
        x = _floats(x_TD)
        rows = None if rows_R is None else _ints(rows_R)
        if not composed.is_plain(extras, w):
            x = x if rows is None else x[rows]
            return self._linear(self.norm(x, norm), w, composed.rows_of(extras, rows))
        handle = handles.weight(w)
        logits = np.empty((len(x) if rows is None else len(rows), handle.num_outputs), np.float32)
        _native.head(x, handles.norm_weight(norm), handle, rows, logits, self.threads)
        return logits

    # -- vision ----------------------------------------------------------------------------------------------------

    def patches(self, pixels_I3SS: Array, vision: Vision, patch_size: int, extras: Extras | None = None) -> Floats:
        """Tiles -> rows of patches, the class token last in each tile, after the first norm."""
        pixels = _floats(pixels_I3SS)
        I, C, S, _ = pixels.shape  # noqa: E741
        g, P = S // patch_size, patch_size
        unfolded = pixels.reshape(I, C, g, P, g, P).transpose(0, 2, 4, 1, 3, 5).reshape(I * g * g, C * P * P)
        x = self._linear(unfolded, vision.patch, extras)
        places, token = formats.to_float32(vision.places_MU), formats.to_float32(vision.class_U)
        rows = np.empty((I, g * g + 1, x.shape[-1]), np.float32)
        rows[:, :-1] = x.reshape(I, g * g, -1)
        rows[:, -1] = token
        rows += places
        return self.norm(rows.reshape(I * (g * g + 1), -1), vision.pre)

    def adapt(
        self,
        x_TU: Array,
        vision: Vision,
        num_tiles: int,
        grid: int,
        pixel_shuffle: int,
        extras: Extras | None = None,
    ) -> Floats:
        """Rows of patches -> rows of text features."""
        x = self.norm(x_TU, vision.post).reshape(num_tiles, -1, x_TU.shape[-1])[:, :-1]
        U, s, g = x.shape[-1], pixel_shuffle, grid // pixel_shuffle
        x = x.reshape(num_tiles, g, s, g, s, U).transpose(0, 1, 3, 2, 4, 5).reshape(-1, s * s * U)
        for w in (vision.fc1, vision.fc2):
            x = self._linear(x, w, extras)
            _native.gelu(x, self.threads)
        return self._linear(x, vision.project, extras)

    def _linear(self, x_TI: Floats, w: Linear, extras: Extras | None) -> Floats:
        return composed.linear(x_TI, w, extras, self.threads)


def _choice(rows: int, experts_per_token: int) -> tuple[npt.NDArray[np.int32], Floats]:
    """Room for experts and scores."""
    shape = rows, experts_per_token
    return np.empty(shape, np.int32), np.empty(shape, np.float32)


def _mlp(mlp: Mlp) -> tuple[Any, Any, Any]:
    return None if mlp.gate is None else handles.weight(mlp.gate), handles.weight(mlp.up), handles.weight(mlp.down)


def _owned(x: Any) -> Floats:
    """x itself when it can be written to, else a copy: the residual stream is consumed."""
    own: Floats = _floats(x)
    return own if own.flags.writeable else own.copy()


def _sum(x_TD: Array, y_TD: Floats, residual: bool) -> Floats:
    if residual:
        y_TD += x_TD
    return y_TD
