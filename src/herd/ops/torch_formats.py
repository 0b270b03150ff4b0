"""Block formats decoded with PyTorch's integer operations, on whatever device the codes lie: exactly `formats.decode`.

Packed weights stay packed on a device; a matrix is decoded when an operation wants it and forgotten after. Each decoder
does the float32 operations of its twin in `herd.formats` in the same order, so that the values are equal bit for bit;
the byte layouts stand there. What it is not: an encoder, a kernel.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from herd.errors import BadCheckpoint, fail
from herd.formats import strips
from herd.formats.iq4 import VALUES
from herd.formats.mxfp4 import VALUES as FOUR_BITS
from herd.ops import torch_codebooks


def decode(name: str, codes: Tensor, inputs: int) -> Tensor:
    """uint8 [..., row_bytes] -> float32 [..., inputs], on the codes' device. Raises BadCheckpoint for a format that is
    not here, or rows of another length."""
    if name not in DECODERS:
        fail(BadCheckpoint, "format of a weight", got=name, expected=", ".join(DECODERS))
    block, size, decoder = DECODERS[name]
    if inputs % block or codes.shape[-1] != inputs // block * size:
        fail(
            BadCheckpoint,
            f"{name} row of {inputs} weights",
            got=f"{codes.shape[-1]} bytes",
            expected=f"{inputs // block * size if inputs % block == 0 else f'whole blocks of {block}'}",
        )
    return decoder(codes.reshape(-1, size)).reshape(*codes.shape[:-1], inputs)


def from_strips(name: str, codes: Tensor, outputs: int) -> Tensor:
    """`strips.from_strips` on a device: uint8 [..., strips, 16 * row_bytes] -> [..., outputs, row_bytes]."""
    *front, count, strip_bytes = codes.shape
    size = strips.block_bytes(name)
    blocks = strip_bytes // (strips.ROWS * size)
    given = codes.reshape(-1, count, blocks, strips.ROWS * size)
    fields, at = [], 0
    for unit, number in strips.UNITS[name]:
        end = at + unit * number
        field = given[..., strips.ROWS * at : strips.ROWS * end].reshape(-1, count, blocks, number, strips.ROWS, unit)
        fields.append(field.permute(0, 1, 4, 2, 3, 5).reshape(-1, count, strips.ROWS, blocks, end - at))
        at = end
    rows = torch.cat(fields, -1)
    return rows.reshape(*front, count * strips.ROWS, blocks * size)[..., :outputs, :]


def pick_rows(name: str, codes: Tensor, rows: Tensor) -> Tensor:
    """Rows of a matrix in strips: [strips, 16 * row_bytes] -> [len(rows), row_bytes]."""
    wanted, place = torch.unique(rows // strips.ROWS, return_inverse=True)
    found = from_strips(name, codes[wanted], len(wanted) * strips.ROWS)
    return found[place * strips.ROWS + rows % strips.ROWS]


def _half(blocks: Tensor, at: int) -> Tensor:
    """The float16 from byte `at` of each block, as float32 [n, 1]."""
    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def _nibbles(packed: Tensor) -> Tensor:
    """[n, 16] -> [n, 32]: low halves, then high halves."""
    return torch.cat([packed & 15, packed >> 4], 1)


def _bits(packed: Tensor, step: int) -> Tensor:
    """[n, m] -> [n, 8 / step, m]: the fields of `step` bits of every byte, lowest first."""
    shifts = torch.arange(0, 8, step, dtype=torch.uint8, device=packed.device)
    return (packed[:, None] >> shifts[None, :, None]) & ((1 << step) - 1)


def _scaled(scale: Tensor, q: Tensor, minimum: Tensor | None = None) -> Tensor:
    """scale [n, groups] times q [n, 256], less minimum [n, groups]."""
    n, groups = scale.shape
    values = scale[:, :, None] * q.reshape(n, groups, -1)
    if minimum is not None:
        values = values - minimum[:, :, None]
    return values.reshape(n, -1)


def _q4_0(b: Tensor) -> Tensor:
    return _half(b, 0) * (_nibbles(b[:, 2:]).float() - 8)


def _q4_1(b: Tensor) -> Tensor:
    return _half(b, 0) * _nibbles(b[:, 4:]).float() + _half(b, 2)


def _five(b: Tensor, at: int) -> Tensor:
    """The fifth bits from byte `at` and the nibbles after them -> 0..31, [n, 32] float32."""
    fifth = _bits(b[:, at : at + 4], 1).transpose(1, 2).reshape(-1, 32)
    return (_nibbles(b[:, at + 4 :]) | (fifth << 4)).float()


def _q5_0(b: Tensor) -> Tensor:
    return _half(b, 0) * (_five(b, 2) - 16)


def _q5_1(b: Tensor) -> Tensor:
    return _half(b, 0) * _five(b, 4) + _half(b, 2)


def _q8_0(b: Tensor) -> Tensor:
    return b[:, 2:].contiguous().view(torch.int8).float() * _half(b, 0)


def _runs(packed: Tensor) -> Tensor:
    """[n, 64] -> 2-bit codes [n, 256] in the order of the weights."""
    return _bits(packed.reshape(-1, 32), 2).reshape(-1, 256)


def _q2_k(b: Tensor) -> Tensor:
    scale, minimum = _half(b, 80) * (b[:, :16] & 15).float(), _half(b, 82) * (b[:, :16] >> 4).float()
    return _scaled(scale, _runs(b[:, 16:80]).float(), minimum)


def _q3_k(b: Tensor) -> Tensor:
    third = _bits(b[:, :32], 1).reshape(-1, 256)
    low = _bits(b[:, 96:104], 4).reshape(-1, 16)
    high = _bits(b[:, 104:108], 2).reshape(-1, 16)
    scale = _half(b, 108) * ((low | (high << 4)).float() - 32)
    return _scaled(scale, (_runs(b[:, 32:96]) | (third << 2)).float() - 4)


def _twelve(b: Tensor) -> tuple[Tensor, Tensor]:
    """Scales and minima of q4_k and q5_k as float32 [n, 8], times d and dmin."""
    first, second, third = b[:, 4:8], b[:, 8:12], b[:, 12:16]
    scales = torch.cat([first & 63, (third & 15) | (first >> 6 << 4)], 1)
    minima = torch.cat([second & 63, (third >> 4) | (second >> 6 << 4)], 1)
    return _half(b, 0) * scales.float(), _half(b, 2) * minima.float()


def _pairs(packed: Tensor) -> Tensor:
    """[n, 128] -> the lower 4 bits of the codes [n, 256]: runs of 32 bytes, low nibbles first."""
    return _bits(packed.reshape(-1, 32), 4).reshape(-1, 256)


def _q4_k(b: Tensor) -> Tensor:
    scale, minimum = _twelve(b)
    return _scaled(scale, _pairs(b[:, 16:]).float(), minimum)


def _q5_k(b: Tensor) -> Tensor:
    scale, minimum = _twelve(b)
    fifth = _bits(b[:, 16:48], 1).reshape(-1, 256)
    return _scaled(scale, (_pairs(b[:, 48:]) | (fifth << 4)).float(), minimum)


def _q6_k(b: Tensor) -> Tensor:
    n = len(b)
    lower = _bits(b[:, :128].reshape(2 * n, 64), 4)  # [2n, 2, 64]: nibbles of 64 bytes of each half
    lower = lower.reshape(n, 256)
    upper = _bits(b[:, 128:192].reshape(2 * n, 32), 2).reshape(n, 256)
    scale = _half(b, 208) * b[:, 192:208].contiguous().view(torch.int8).float()
    return _scaled(scale, (lower | (upper << 4)).float() - 32)


def _levels(q: Tensor, values: npt.NDArray[np.int8] = VALUES) -> Tensor:
    return torch.tensor(values.tolist(), dtype=torch.float32, device=q.device)[q.int()]


def _iq4_nl(b: Tensor) -> Tensor:
    return _half(b, 0) * _levels(_nibbles(b[:, 2:]))


def _iq4_xs(b: Tensor) -> Tensor:
    high = _bits(b[:, 2:4], 2).transpose(1, 2).reshape(-1, 8)
    low = _bits(b[:, 4:8], 4).transpose(1, 2).reshape(-1, 8)
    scale = _half(b, 0) * ((low | (high << 4)).float() - 32)
    return _scaled(scale, _levels(_nibbles(b[:, 8:].reshape(-1, 16))).reshape(-1, 256))


def _mxfp4(b: Tensor) -> Tensor:
    e = b[:, :1].int()
    bits = torch.where(e < 2, 0x00200000 << e.clamp(max=1), (e - 1).clamp(min=0) << 23)
    return bits.view(torch.float32) * _levels(_nibbles(b[:, 1:]), FOUR_BITS)


def _float(kind: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda b: b.contiguous().view(kind).float()


DECODERS: dict[str, tuple[int, int, Callable[[Tensor], Tensor]]] = {
    "f32": (1, 4, _float(torch.float32)),
    "f16": (1, 2, _float(torch.float16)),
    "bf16": (1, 2, _float(torch.bfloat16)),
    "q4_0": (32, 18, _q4_0),
    "q4_1": (32, 20, _q4_1),
    "q5_0": (32, 22, _q5_0),
    "q5_1": (32, 24, _q5_1),
    "q8_0": (32, 34, _q8_0),
    "iq4_nl": (32, 18, _iq4_nl),
    "q2_k": (256, 84, _q2_k),
    "q3_k": (256, 110, _q3_k),
    "q4_k": (256, 144, _q4_k),
    "q5_k": (256, 176, _q5_k),
    "q6_k": (256, 210, _q6_k),
    "iq4_xs": (256, 136, _iq4_xs),
    "mxfp4": (32, 17, _mxfp4),
    "tq1_0": (256, 54, torch_codebooks.tq1_0),
    "tq2_0": (256, 66, torch_codebooks.tq2_0),
    "iq1_s": (256, 50, torch_codebooks.iq1_s),
    "iq1_m": (256, 56, torch_codebooks.iq1_m),
    "iq2_xxs": (256, 66, torch_codebooks.iq2_xxs),
    "iq2_xs": (256, 74, torch_codebooks.iq2_xs),
    "iq2_s": (256, 82, torch_codebooks.iq2_s),
    "iq3_xxs": (256, 98, torch_codebooks.iq3_xxs),
    "iq3_s": (256, 110, torch_codebooks.iq3_s),
}
"""Weights of a block, its bytes, its decoder."""
