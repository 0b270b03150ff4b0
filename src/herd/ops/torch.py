"""The op contract in PyTorch: differentiable, any device, the reference that other op sets are held against.

Equations stand in `contract`; here they are written as plainly as speed on a GPU allows. Weights may be the data
nodes of `herd.weights` holding tensors, or an `nn.Module` with the same attribute names (training).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from herd.batch import Context
from herd.errors import UsageError, fail
from herd.formats.strips import ROWS
from herd.ops import torch_attention, torch_draw, torch_experts, torch_formats, torch_kv
from herd.ops.contract import Drawn, Draws, Extras, LowRank
from herd.ops.torch_attention import PlacedSegments
from herd.ops.torch_shared import wide

DECODED = 1 << 26
"""Weights of a packed matrix that are decoded at a time: 256 MiB of float32, whatever the vocabulary."""

LOGITS = 1 << 24
"""Logits that a loss holds at a time: 64 MiB of float32."""
IGNORED = -100
"""PyTorch's number for a row without a target."""


class CosSin(NamedTuple):
    """cos_TM, sin_TM in float32 (float64 when the op set computes in float64)."""

    cos: Tensor
    sin: Tensor


@dataclass(frozen=True)
class PlacedContext:
    """`Context` on the device."""

    positions_T: Tensor
    full: PlacedSegments
    chunk: PlacedSegments
    rows: Tensor | None


class TorchOps:
    """The reference op set. `dtype` is that of activations and of weights placed by `array`.

    draws: whether tokens are drawn where the logits are; None: on any device but the CPU, whose logits the host has.
    Raises UsageError for a device that this PyTorch cannot compute on: nothing goes to another one in silence.
    """

    name = "torch"

    def __init__(
        self, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, draws: bool | None = None
    ) -> None:
        self.device = _usable(device)
        self.dtype = dtype
        self.draws = self.device.type != "cpu" if draws is None else draws

    def bind(self, node: Any) -> None:
        """Nothing to make: PyTorch takes tensors as they are."""

    # -- once a pass -----------------------------------------------------------------------------------------------

    def array(self, x: Any) -> Tensor:
        """numpy -> tensor: uint16 is read as bfloat16; floating values become `self.dtype`."""
        if isinstance(x, Tensor):
            return x.to(self.device, self.dtype if x.is_floating_point() else x.dtype)
        x = np.ascontiguousarray(x)
        if not x.flags.writeable:
            x = x.copy()
        if x.dtype == np.uint16:
            return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16).to(self.device, self.dtype)
        tensor = torch.from_numpy(x)
        return tensor.to(self.device, self.dtype if tensor.is_floating_point() else tensor.dtype)

    def numpy(self, x: Tensor) -> Any:
        """Tensor -> numpy float32."""
        return x.detach().float().cpu().numpy()

    def place(self, context: Context) -> PlacedContext:
        """Index arrays to the device."""
        full = torch_attention.place(context.full, self.device)
        chunk = full if context.chunk is context.full else torch_attention.place(context.chunk, self.device)
        rows = None if context.rows is None else self._ids(context.rows)
        return PlacedContext(self._ids(context.positions_T), full, chunk, rows)

    def _ids(self, x: Any) -> Tensor:
        return torch.as_tensor(np.asarray(x) if not isinstance(x, Tensor) else x).to(self.device, torch.int64)

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
        """Zeroed cache of one layer."""
        return torch_kv.new_kv(num_slots, num_kv_heads, head_size, dtype, exact_slots, rope, self.device, self.dtype)

    def kv_read(self, kv: Any, slots: Any) -> tuple[Any, Any]:
        """Keys and values of these slots."""
        keys, values = torch_kv.read(kv, self._ids(slots))
        return self.numpy(keys), self.numpy(values)

    def kv_write(self, kv: Any, slots: Any, keys: Any, values: Any) -> None:
        """Put keys and values into these slots."""
        torch_kv.write(kv, self._ids(slots), self.array(keys), self.array(values))

    def copy_pages(self, kv: Any, source: Any, target: Any, page_size: int, *, exact: bool = False) -> None:
        """Copy whole pages."""
        torch_kv.copy_pages(kv, self._ids(source), self._ids(target), page_size, exact)

    def close_pages(self, kv: Any, exact: Any, pages: Any) -> None:
        """Exact pages to coarse ones."""
        torch_kv.close_pages(kv, self._ids(exact), self._ids(pages))

    # -- weights: the three functions that know their kinds ----------------------------------------------------------

    def linear(self, x_TI: Tensor, w: Any, extras: Extras | None = None) -> Tensor:
        """x w^T + bias, any kind of matrix, with the adapters of `extras`."""
        if w.kind == "lora":
            return self.linear(x_TI, w.base, extras) + _low_rank(x_TI, w.down, w.up, w.scale)
        if extras is not None and extras.observe is not None:
            extras.observe.seen(w.name, x_TI)
        if w.kind == "dense":
            y_TO: Tensor = F.linear(x_TI, w.w.to(x_TI.dtype), w.bias)
        elif w.kind == "packed":
            y_TO = self._packed_linear(x_TI, w)
        else:
            raise NotImplementedError(f"linear over weight kind {w.kind!r}")
        if extras is not None and extras.adapters is not None:
            rows_T = self._ids(extras.adapters.rows_T)
            for i, pair in enumerate(extras.adapters.pairs.get(w.name, ())):
                if pair is not None:
                    added_TO = _low_rank(x_TI, pair.down, pair.up, pair.scale)
                    y_TO = y_TO + torch.where((rows_T == i)[:, None], added_TO, 0)
        return y_TO

    def _packed_linear(self, x_TI: Tensor, w: Any) -> Tensor:
        O, I = w.shape  # noqa: E741
        step = max(1, DECODED // I // ROWS) * ROWS
        parts = [F.linear(x_TI, self.unpack(w, slice(a, min(a + step, O))).to(x_TI.dtype)) for a in range(0, O, step)]
        y_TO = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        return y_TO if w.bias is None else y_TO + w.bias

    def grouped(self, x_RI: Tensor, ends_E: Tensor, w: Any, extras: Extras | None, rows_R: Tensor) -> Tensor:
        """Rows sorted by expert; ends[e] is the end row of expert e; rows_R the pass's row of each."""
        name = w.base.name if w.kind == "lora" else w.name
        if extras is not None and extras.observe is not None:
            start = 0
            for e, end in enumerate(ends_E.tolist()):
                if end > start:
                    extras.observe.seen(name, x_RI[start:end], e)
                start = end
        y_RO = self._stack(x_RI, ends_E, w)
        adapters = extras.adapters if extras else None
        pairs: Sequence[LowRank | None] = adapters.pairs.get(name, ()) if adapters else ()
        if adapters and pairs:
            ids_R = self._ids(adapters.rows_T)[rows_R]
            for i, pair in enumerate(pairs):
                if pair is not None:
                    y_RO = y_RO + torch.where((ids_R == i)[:, None], self._low_ranks(x_RI, ends_E, pair), 0)
        return y_RO

    def _stack(self, x_RI: Tensor, ends_E: Tensor, w: Any) -> Tensor:
        """Each row times the matrix of its expert, whatever holds it."""
        if w.kind == "lora":
            return self._stack(x_RI, ends_E, w.base) + self._low_ranks(x_RI, ends_E, w)
        if w.kind == "pair":
            return torch.cat([self._stack(x_RI, ends_E, half) for half in (w.gate, w.up)], 1)
        if w.kind == "packed":
            codes = w.codes if isinstance(w.codes, Tensor) else self.array(w.codes)
            y_RO: Tensor = torch_experts.grouped(x_RI, ends_E, codes, w.format, w.layout, *w.shape[-2:], False)
            return y_RO
        if w.kind not in ("experts", "dense"):
            raise NotImplementedError(f"experts of weight kind {w.kind!r}")
        return _grouped(x_RI, ends_E, w.w if w.kind == "experts" else w.w.mT)

    def _low_ranks(self, x_RI: Tensor, ends_E: Tensor, pair: Any) -> Tensor:
        """The product of a pair of stacks; pair: a LowRank or a LoRA node."""
        inner_Rr = _grouped(x_RI, ends_E, pair.down.mT)
        y_RO: Tensor = _grouped(inner_Rr, ends_E, pair.up.mT) * pair.scale
        return y_RO

    def unpack(self, w: Any, rows: Any = None) -> Tensor:
        """The exact values of a packed matrix, as `self.dtype`: all, or the rows of a tensor or of a slice.

        The codes stay packed; what is decoded here lives as long as the operation that asked. A slice of strips begins
        at a whole one.
        """
        codes, outputs = w.codes if isinstance(w.codes, Tensor) else self.array(w.codes), w.shape[-2]
        if w.layout == "rows":
            codes = codes if rows is None else codes[rows]
        elif isinstance(rows, Tensor):
            codes = torch_formats.pick_rows(w.format, codes, rows)
        elif isinstance(rows, slice):
            assert rows.start % ROWS == 0, rows
            codes = codes[rows.start // ROWS : -(-rows.stop // ROWS)]
            codes = torch_formats.from_strips(w.format, codes, rows.stop - rows.start)
        else:
            codes = torch_formats.from_strips(w.format, codes, outputs)
        return torch_formats.decode(w.format, codes, w.shape[-1]).to(self.dtype)

    # -- text ------------------------------------------------------------------------------------------------------

    def embed(self, ids_T: Any, w: Any) -> Tensor:
        """Rows of the table."""
        if w.kind == "packed":
            return self.unpack(w, self._ids(ids_T))
        return F.embedding(self._ids(ids_T), w.w).to(self.dtype)

    def put_rows(self, x_TD: Tensor, rows_R: Any, new_RD: Tensor) -> Tensor:
        """Image features in their places."""
        return x_TD.index_copy(0, self._ids(rows_R), new_RD.to(x_TD.dtype))

    def angles(self, positions_T: Any, freqs_M: Sequence[float], scale: float = 1.0) -> CosSin:
        """Products in float64, so that far positions keep their phase; tables in float32."""
        freqs = torch.tensor(freqs_M, dtype=torch.float64, device=self.device)
        return self._cos_sin(self._ids(positions_T).double()[:, None] * freqs, scale)

    def angles_from(self, angles_TM: Any) -> CosSin:
        """cos and sin of given angles."""
        a = angles_TM if isinstance(angles_TM, Tensor) else torch.as_tensor(np.asarray(angles_TM, np.float64))
        return self._cos_sin(a.to(self.device, torch.float64), 1.0)

    def _cos_sin(self, angles_TM: Tensor, scale: float) -> CosSin:
        kind = torch.promote_types(self.dtype, torch.float32)
        return CosSin((scale * angles_TM.cos()).to(kind), (scale * angles_TM.sin()).to(kind))

    def temperature(self, positions_T: Any, floor_scale: int, attn_scale: float) -> Tensor:
        """Scale of the query at each position."""
        steps = torch.div(self._ids(positions_T) + 1, floor_scale, rounding_mode="floor").double()
        return (1 + attn_scale * torch.log1p(steps)).to(torch.promote_types(self.dtype, torch.float32))

    def qkv(
        self,
        x_TD: Tensor,
        norm: Any,
        wq: Any,
        wk: Any,
        wv: Any,
        head_size: int,
        cos_sin: CosSin | None,
        qk_eps: float | None,
        q_scale_T: Tensor | None,
        extras: Extras | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Norm, three projections, then rope, QK norm, temperature, each when given."""
        h = self.norm(x_TD, norm)
        q, k, v = (_split(self.linear(h, w, extras), head_size) for w in (wq, wk, wv))
        if cos_sin is not None:
            q, k = self.rotate(q, cos_sin), self.rotate(k, cos_sin)
        if qk_eps is not None:
            q, k = rms(q, qk_eps), rms(k, qk_eps)
        if q_scale_T is not None:
            q = (wide(q) * q_scale_T[:, None, None]).to(q.dtype)
        return q, k, v

    def rotate(self, x_TNH: Tensor, cos_sin: CosSin) -> Tensor:
        """Adjacent pairs (2m, 2m+1) turned by their angle."""
        a, b = _split(wide(x_TNH), 2).unbind(-1)
        cos, sin = cos_sin.cos[:, None], cos_sin.sin[:, None]
        return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2).to(x_TNH.dtype)

    def attend(
        self,
        q_TNH: Tensor,
        k_TKH: Tensor,
        v_TKH: Tensor,
        segments: PlacedSegments,
        kv: Any | None,
        causal: bool = True,
    ) -> Tensor:
        """Exact attention over packed segments."""
        if kv is None:
            return torch_attention.attend(q_TNH, k_TKH, v_TKH, segments, causal)
        assert segments.keys_at is not None and segments.slots_T is not None
        torch_kv.write(kv, segments.slots_T, k_TKH, v_TKH)
        if segments.closing is not None:
            torch_kv.close_pages(kv, segments.closing[:, 0], segments.closing[:, 1])
        at_S = segments.keys_at
        if segments.is_exact is not None:  # numbered as `read` does: exact ones first
            at_S = torch.where(segments.is_exact, at_S, at_S + len(kv.exact.keys))
        k_SKH, v_SKH = (x.to(q_TNH.dtype) for x in torch_kv.read(kv, at_S))
        return torch_attention.attend(q_TNH, k_SKH, v_SKH, segments, causal)

    def out_add(
        self, x_TD: Tensor, o_TNH: Tensor, wo: Any, extras: Extras | None = None, residual: bool = True
    ) -> Tensor:
        """Output projection."""
        y = self.linear(o_TNH.flatten(1), wo, extras)
        return x_TD + y if residual else y

    def ffn(self, h_TD: Tensor, mlp: Any, extras: Extras | None) -> Tensor:
        """The two forms of weights.Mlp."""
        up = self.linear(h_TD, mlp.up, extras)
        inner = F.gelu(up) if mlp.gate is None else F.silu(self.linear(h_TD, mlp.gate, extras)) * up
        return self.linear(inner, mlp.down, extras)

    def mlp_add(self, x_TD: Tensor, norm: Any, mlp: Any, extras: Extras | None = None, residual: bool = True) -> Tensor:
        """Dense MLP."""
        y = self.ffn(self.norm(x_TD, norm), mlp, extras)
        return x_TD + y if residual else y

    def route(
        self, h_TD: Tensor, router: Any, experts_per_token: int, extras: Extras | None = None
    ) -> tuple[Tensor, Tensor]:
        """experts_TA and scores_TA. A stable sort keeps the lower expert at a tie, as the contract asks."""
        logits_TE = self.linear(h_TD, router, extras)
        experts_TA = torch.sort(logits_TE, dim=-1, descending=True, stable=True).indices[:, :experts_per_token]
        return experts_TA, torch.sigmoid(wide(logits_TE.gather(1, experts_TA))).to(h_TD.dtype)

    def moe_add(
        self,
        x_TD: Tensor,
        norm: Any,
        moe: Any,
        num_experts: int,
        experts_per_token: int,
        extras: Extras | None = None,
        residual: bool = True,
        routing: Any | None = None,
    ) -> Tensor:
        """Shared expert and the chosen ones; the score multiplies the expert's input."""
        h = self.norm(x_TD, norm)
        experts_TA, scores_TA = self.route(h, moe.router, experts_per_token, extras)
        if routing is not None:
            routing(experts_TA.cpu().numpy(), self.numpy(scores_TA))
        y_TD = self._experts_add(self.ffn(h, moe.shared, extras), h, moe, experts_TA, scores_TA, num_experts, extras)
        return x_TD + y_TD if residual else y_TD

    def experts(
        self,
        h_TD: Tensor,
        moe: Any,
        experts_TA: Tensor,
        scores_TA: Tensor,
        num_experts: int,
        extras: Extras | None = None,
    ) -> Tensor:
        """The chosen experts alone."""
        return self._experts_add(torch.zeros_like(h_TD), h_TD, moe, experts_TA, scores_TA, num_experts, extras)

    def _experts_add(
        self,
        y_TD: Tensor,
        h: Tensor,
        moe: Any,
        experts_TA: Tensor,
        scores_TA: Tensor,
        num_experts: int,
        extras: Extras | None,
    ) -> Tensor:
        experts_R, order_R = torch.sort(experts_TA.flatten(), stable=True)
        rows_R = order_R // experts_TA.shape[1]
        ends_E = torch.searchsorted(experts_R, torch.arange(num_experts, device=h.device), right=True)
        z_RD = self.scaled(h[rows_R], scores_TA.flatten()[order_R])
        gate, up = self.grouped(z_RD, ends_E, moe.gate_up, extras, rows_R).chunk(2, -1)
        return y_TD.index_add(0, rows_R, self.grouped(F.silu(gate) * up, ends_E, moe.down, extras, rows_R))

    def scaled(self, h_RD: Tensor, scores_R: Tensor) -> Tensor:
        """The expert's input."""
        return h_RD * scores_R[:, None]

    def layers(self, *arguments: Any) -> None:
        """Nothing to gain: each operation is many kernels anyway."""
        return

    def norm(self, x_TD: Tensor, norm: Any) -> Tensor:
        """RMS norm (cast down before the weight is applied, as the checkpoints were trained) or LayerNorm."""
        if norm.bias is not None:
            return F.layer_norm(x_TD, x_TD.shape[-1:], norm.w.to(x_TD.dtype), norm.bias.to(x_TD.dtype), norm.eps)
        return norm.w.to(x_TD.dtype) * rms(x_TD, norm.eps)  # type: ignore[no-any-return]

    def head(self, x_TD: Tensor, norm: Any, w: Any, rows_R: Any | None = None, extras: Extras | None = None) -> Tensor:
        """Logits of the wanted rows."""
        if rows_R is not None:
            at = self._ids(rows_R)
            x_TD, extras = x_TD[at], self._of_rows(extras, at)
        return wide(self.linear(self.norm(x_TD, norm), w, extras))

    def _of_rows(self, extras: Extras | None, at: Tensor | slice) -> Extras | None:
        """Adapters of some rows."""
        if extras is None or extras.adapters is None:
            return extras
        return replace(extras, adapters=replace(extras.adapters, rows_T=self._ids(extras.adapters.rows_T)[at]))

    def head_loss(self, x_TD: Tensor, norm: Any, w: Any, targets_T: Any, extras: Extras | None = None) -> Tensor:
        """Cross-entropy of each row, a few rows at a time; their logits are made again for the gradient."""
        targets, num_ids = self._ids(targets_T), _outputs(w)

        def losses(x_RD: Tensor, rows: slice) -> Tensor:
            logits_RV = self.head(x_RD, norm, w, None, self._of_rows(extras, rows))
            targets_R = targets[rows]
            return F.cross_entropy(logits_RV, targets_R.where(targets_R >= 0, IGNORED), reduction="none")

        step = max(1, LOGITS // num_ids)
        parts = []
        for start in range(0, max(1, len(x_TD)), step):
            rows = slice(start, start + step)
            parts.append(checkpoint(losses, x_TD[rows], rows, use_reentrant=False, preserve_rng_state=False))
        return torch.cat(parts)

    def finite(self, x: Tensor) -> bool:
        """Whether all values are finite."""
        return bool(torch.isfinite(x).all())

    def draw(self, logits_RV: Tensor, draws: Draws) -> Drawn:
        """Tokens of rows of logits."""
        return torch_draw.draw(logits_RV.detach(), draws)

    # -- vision ----------------------------------------------------------------------------------------------------

    def patches(self, pixels_I3SS: Any, vision: Any, patch_size: int, extras: Extras | None = None) -> Tensor:
        """Tiles -> rows of patches, the class token last in each tile, after the first norm."""
        pixels = self.array(pixels_I3SS)
        I, C, S, _ = pixels.shape  # noqa: E741
        g, P = S // patch_size, patch_size
        x = pixels.reshape(I, C, g, P, g, P).permute(0, 2, 4, 1, 3, 5).reshape(I, g * g, C * P * P)
        x = self.linear(x.flatten(0, 1), vision.patch, extras).unflatten(0, (I, -1))  # type: ignore[no-untyped-call]
        x = torch.cat([x, vision.class_U.to(x.dtype).expand(I, 1, -1)], 1) + vision.places_MU
        return self.norm(x, vision.pre).flatten(0, 1)

    def adapt(
        self,
        x_TU: Tensor,
        vision: Any,
        num_tiles: int,
        grid: int,
        pixel_shuffle: int,
        extras: Extras | None = None,
    ) -> Tensor:
        """Rows of patches -> rows of text features."""
        x = self.norm(x_TU, vision.post).reshape(num_tiles, -1, x_TU.shape[-1])[:, :-1]
        U, s, g = x.shape[-1], pixel_shuffle, grid // pixel_shuffle
        x = x.reshape(num_tiles, g, s, g, s, U).permute(0, 1, 3, 2, 4, 5).reshape(-1, s * s * U)
        x = F.gelu(self.linear(x, vision.fc1, extras))
        return self.linear(self.last_gelu(self.linear(x, vision.fc2, extras)), vision.project, extras)

    def last_gelu(self, x: Tensor) -> Tensor:
        """Llama 4's adapter has a GELU after its second layer, too."""
        return F.gelu(x)


def _usable(device: str | torch.device) -> torch.device:
    try:
        found = torch.device(device)
    except RuntimeError:
        fail(UsageError, "device", got=str(device), expected="cpu, cuda or cuda:N")
    if found.type == "cuda":
        if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
            fail(
                UsageError,
                f"device {found}",
                got=f"PyTorch {torch.__version__}, built for the CPU only",
                do="install a PyTorch with CUDA (pytorch.org), or leave --device out",
            )
        number = torch.cuda.device_count()
        if not torch.cuda.is_available() or (found.index or 0) >= number:
            fail(
                UsageError,
                f"device {found}",
                got=f"{number} CUDA cards that PyTorch can use" if number else "no CUDA card that PyTorch can use",
                do="see nvidia-smi and herd doctor, or leave --device out",
            )
    return found


def rms(x: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last axis."""
    f = wide(x)
    return (f * torch.rsqrt(f.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def _outputs(w: Any) -> int:
    """Rows of a matrix of any kind."""
    if w.kind == "lora":
        return _outputs(w.base)
    return int((w.shape if w.kind == "packed" else w.w.shape)[-2])


def _split(x: Tensor, size: int) -> Tensor:
    return x.reshape(*x.shape[:-1], -1, size)


def _low_rank(x: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    return F.linear(F.linear(x, down.to(x.dtype)), up.to(x.dtype)) * scale


def _grouped(x_RI: Tensor, ends_E: Tensor, w_EIO: Tensor) -> Tensor:
    y_RO: Tensor = torch_experts.grouped(x_RI, ends_E, w_EIO, torch_experts.DENSE, "", 0, 0, False)
    return y_RO
