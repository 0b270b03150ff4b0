"""The grouped product of experts as one custom operation: each row times the matrix of its expert.

    grouped(x [R, I], ends [E], w) -> y [R, O]      rows ends[e-1] : ends[e] times matrix e

Rows are sorted by expert and `ends` stays on the device. Nothing here waits for one: sizes depend on R and E alone, so
that a compiled block has no break. On a CUDA card bf16 is PyTorch's grouped product. Everything else there takes one
matrix at a time: each row's where rows are fewer than experts, else every expert's with all rows, of which its own are
kept. On the CPU `ends` can be looked at, and only experts with rows are computed.
Packed weights are decoded one matrix at a time. The gradient goes to x, and to w where it is not packed.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from herd.ops import torch_formats
from herd.ops.torch_shared import operation

DENSE = ""
"""The format of weights that are not packed."""


def grouped_product(
    x_RI: Tensor, ends_E: Tensor, w: Tensor, format: str, layout: str, outputs: int, inputs: int, turned: bool
) -> Tensor:
    """w: [E, I, O], or codes of packed matrices [outputs, inputs], which x is multiplied by the transpose of (turned:
    by themselves). outputs, inputs: of packed ones."""
    if _has_kernel(x_RI, w):
        return F.grouped_mm(x_RI, w, offs=ends_E.int())
    stack = _Stack(w, format, layout, outputs, inputs, turned, x_RI.dtype)
    y_RO = x_RI.new_zeros(len(x_RI), stack.outputs)
    experts_R = experts_of(ends_E, len(x_RI))
    if len(x_RI) <= len(ends_E):
        for r in range(len(x_RI)):
            y_RO[r] = x_RI[r] @ stack.matrix(experts_R[r : r + 1])[0]
    else:
        for e in range(len(ends_E)):
            y_RO = torch.where((experts_R == e)[:, None], x_RI @ stack.matrix(e), y_RO)
    return y_RO


def _on_cpu(
    x_RI: Tensor, ends_E: Tensor, w: Tensor, format: str, layout: str, outputs: int, inputs: int, turned: bool
) -> Tensor:
    stack = _Stack(w, format, layout, outputs, inputs, turned, x_RI.dtype)
    y_RO = x_RI.new_empty(len(x_RI), stack.outputs)
    for e, rows in _used(ends_E):
        y_RO[rows] = x_RI[rows] @ stack.matrix(e)
    return y_RO


def _fake(
    x_RI: Tensor, ends_E: Tensor, w: Tensor, format: str, layout: str, outputs: int, inputs: int, turned: bool
) -> Tensor:
    return x_RI.new_empty(x_RI.shape[0], _outputs(w, format, outputs, inputs, turned))


def experts_of(ends_E: Tensor, num_rows: int) -> Tensor:
    """The expert of each row."""
    return torch.searchsorted(ends_E, torch.arange(num_rows, device=ends_E.device), right=True)


def _used(ends_E: Tensor) -> list[tuple[int, slice]]:
    """Experts with rows, and their rows; of `ends` that lie on the host."""
    ends = ends_E.tolist()
    return [(e, slice(a, b)) for e, (a, b) in enumerate(zip([0, *ends], ends, strict=False)) if b > a]


def _has_kernel(x_RI: Tensor, w: Tensor) -> bool:
    """Whether PyTorch has a grouped product and it is made for these: bf16 on a card, rows of whole 16 bytes."""
    is_bf16 = x_RI.is_cuda and x_RI.dtype == w.dtype == torch.bfloat16 and hasattr(F, "grouped_mm")
    return is_bf16 and len(x_RI) > 0 and x_RI.shape[-1] % 8 == 0 and w.shape[-1] % 8 == 0


def _outputs(w: Tensor, format: str, outputs: int, inputs: int, turned: bool) -> int:
    if format == DENSE:
        return w.shape[-1]
    return inputs if turned else outputs


class _Stack:
    """Matrices [I, O] of a stack of any form."""

    def __init__(
        self, w: Tensor, format: str, layout: str, outputs: int, inputs: int, turned: bool, dtype: torch.dtype
    ) -> None:
        self._w, self._format, self._layout, self._shape = w, format, layout, (outputs, inputs)
        self._turned, self._dtype = turned, dtype
        self.outputs = _outputs(w, format, outputs, inputs, turned)

    def matrix(self, which: int | Tensor) -> Tensor:
        """The matrix [I, O] of one expert, or [n, I, O] of several."""
        if self._format == DENSE:
            return self._w[which].to(self._dtype)
        codes, (outputs, inputs) = self._w[which], self._shape
        if self._layout == "strips":
            codes = torch_formats.from_strips(self._format, codes, outputs)
        m_OI = torch_formats.decode(self._format, codes, inputs).to(self._dtype)
        return m_OI if self._turned else m_OI.mT


# -- the gradient -------------------------------------------------------------------------------------------------


def grouped_weight_gradients(x_RI: Tensor, g_RO: Tensor, ends_E: Tensor) -> Tensor:
    """[E, I, O]: the sum over each expert's rows of x g^T."""
    if _has_kernel(x_RI, g_RO):
        return F.grouped_mm(x_RI.mT, g_RO, offs=ends_E.int())
    experts_R = experts_of(ends_E, len(x_RI))
    own = ((experts_R == e)[:, None] for e in range(len(ends_E)))
    return torch.stack([torch.where(rows, x_RI, 0).mT @ torch.where(rows, g_RO, 0) for rows in own])


def _weights_on_cpu(x_RI: Tensor, g_RO: Tensor, ends_E: Tensor) -> Tensor:
    gw_EIO = x_RI.new_zeros(len(ends_E), x_RI.shape[1], g_RO.shape[1])
    for e, rows in _used(ends_E):
        gw_EIO[e] = x_RI[rows].mT @ g_RO[rows]
    return gw_EIO


weight_gradients = operation(
    grouped_weight_gradients,
    lambda x_RI, g_RO, ends_E: x_RI.new_empty(ends_E.shape[0], x_RI.shape[1], g_RO.shape[1]),
    cpu=_weights_on_cpu,
)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x_RI, ends_E, w, *ctx.form = inputs
    ctx.save_for_backward(x_RI if ctx.needs_input_grad[2] else None, ends_E, w)


def _gradients(ctx: Any, g_RO: Tensor) -> tuple[Tensor | None, ...]:
    (x_RI, ends_E, w), (format, layout, outputs, inputs, turned) = ctx.saved_tensors, ctx.form
    g_RO, gx_RI, gw = g_RO.contiguous(), None, None
    if ctx.needs_input_grad[0]:
        turn = w.mT if format == DENSE else w
        gx_RI = grouped(g_RO, ends_E, turn, format, layout, outputs, inputs, not turned)
    if ctx.needs_input_grad[2]:
        gw = weight_gradients(x_RI, g_RO, ends_E).to(w.dtype)
    return gx_RI, None, gw, None, None, None, None, None


grouped = operation(grouped_product, _fake, cpu=_on_cpu, gradient=(_gradients, _keep))
