"""The formats with codebooks, and those of three values, decoded with PyTorch: twins of `herd.formats.iq1` to `iq3` and
`herd.formats.ternary`, bit for bit. `torch_formats.py` has the others and the table of all.
"""

from __future__ import annotations

import torch
from torch import Tensor

from herd.formats.codebooks import SEVEN, codebook


def _half(blocks: Tensor, at: int) -> Tensor:
    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def _fields(packed: Tensor, *shifts: int, mask: int) -> Tensor:
    """[n, m] -> [n, m, len(shifts)]: bits of each number from every shift on, under the mask."""
    return (packed[:, :, None] >> torch.tensor(shifts, dtype=packed.dtype, device=packed.device)) & mask


def _words(b: Tensor, start: int, count: int, size: int) -> Tensor:
    """Numbers of `size` bytes, little-endian, as int64 [n, count]."""
    parts = b[:, start : start + size * count].reshape(len(b), count, size).long()
    return (parts << (8 * torch.arange(size, device=b.device))).sum(2)


def _entries(name: str, index: Tensor) -> Tensor:
    return torch.tensor(codebook(name), device=index.device)[index.long()]


def _signs(bits: Tensor) -> Tensor:
    """[n, m] of eight bits -> [n, 8 m] of 1 and -1."""
    return 1 - 2 * _fields(bits, *range(8), mask=1).reshape(len(bits), -1).float()


def _of_seven(packed: Tensor) -> Tensor:
    """Signs of eight from seven bits: [n, m] -> [n, 8 m]."""
    return _signs(torch.tensor(SEVEN, device=packed.device)[packed])


def _signed(scale: Tensor, magnitude: Tensor, sign: Tensor) -> Tensor:
    n, groups = scale.shape
    return (scale[:, :, None] * magnitude.reshape(n, groups, -1)).reshape(n, -1) * sign


def _nibbles(packed: Tensor) -> Tensor:
    return _fields(packed, 0, 4, mask=15).reshape(len(packed), -1).float()


def iq1_s(b: Tensor) -> Tensor:
    """uint8 [n, 50] -> float32 [n, 256]."""
    high = _words(b, 34, 8, 2)
    scale = _half(b, 0) * (2 * (high >> 12 & 7) + 1).float()
    index = b[:, 2:34].long() | _fields(high, 0, 3, 6, 9, mask=7).reshape(-1, 32) << 8
    shift = 0.125 - 0.25 * (high >> 15).float()
    entry = _entries("iq1", index).reshape(-1, 8, 32) + shift[:, :, None]
    return (scale[:, :, None] * entry).reshape(-1, 256)


def iq1_m(b: Tensor) -> Tensor:
    """uint8 [n, 56] -> float32 [n, 256]."""
    packed = _words(b, 48, 4, 2)
    tops = packed >> 12
    d = tops[:, 0] | tops[:, 1] << 4 | tops[:, 2] << 8 | tops[:, 3] << 12
    half = torch.stack([d & 255, d >> 8], 1).to(torch.uint8)
    scale = _half(half, 0) * (2 * _fields(packed, 0, 3, 6, 9, mask=7).reshape(-1, 16) + 1).float()
    high = _fields(b[:, 32:48], 0, 4, mask=15).reshape(-1, 32)
    entry = _entries("iq1", b[:, :32].long() | (high & 7).long() << 8)
    entry = entry + (0.125 - 0.25 * (high >> 3).float())[:, :, None]
    return (scale[:, :, None] * entry.reshape(-1, 16, 16)).reshape(-1, 256)


def _quarters(d: Tensor, s: Tensor) -> Tensor:
    return d * (0.5 + s) * 0.25


def iq2_xxs(b: Tensor) -> Tensor:
    """uint8 [n, 66] -> float32 [n, 256]."""
    second = _words(b, 2, 16, 4)[:, 1::2]
    index = b[:, 2:].reshape(-1, 8, 8)[:, :, :4]
    sign = _of_seven(_fields(second, 0, 7, 14, 21, mask=127).reshape(-1, 32))
    return _signed(_quarters(_half(b, 0), (second >> 28).float()), _entries("iq2_xxs", index), sign)


def iq2_xs(b: Tensor) -> Tensor:
    """uint8 [n, 74] -> float32 [n, 256]."""
    code = _words(b, 2, 32, 2)
    return _signed(_quarters(_half(b, 0), _nibbles(b[:, 66:])), _entries("iq2_xs", code & 511), _of_seven(code >> 9))


def iq2_s(b: Tensor) -> Tensor:
    """uint8 [n, 82] -> float32 [n, 256]."""
    index = b[:, 2:34].long() | _fields(b[:, 66:74], 0, 2, 4, 6, mask=3).reshape(-1, 32).long() << 8
    return _signed(_quarters(_half(b, 0), _nibbles(b[:, 74:])), _entries("iq2_s", index), _signs(b[:, 34:66]))


def iq3_xxs(b: Tensor) -> Tensor:
    """uint8 [n, 98] -> float32 [n, 256]."""
    packed = _words(b, 66, 8, 4)
    scale = _half(b, 0) * (0.5 + (packed >> 28).float()) * 0.5
    sign = _of_seven(_fields(packed, 0, 7, 14, 21, mask=127).reshape(-1, 32))
    return _signed(scale, _entries("iq3_xxs", b[:, 2:66]), sign)


def iq3_s(b: Tensor) -> Tensor:
    """uint8 [n, 110] -> float32 [n, 256]."""
    index = b[:, 2:66].long() | _fields(b[:, 66:74], *range(8), mask=1).reshape(-1, 64).long() << 8
    scale = _half(b, 0) * (1 + 2 * _nibbles(b[:, 106:]))
    return _signed(scale, _entries("iq3_s", index), _signs(b[:, 74:106]))


def tq1_0(b: Tensor) -> Tensor:
    """uint8 [n, 54] -> float32 [n, 256]."""

    def digits(packed: Tensor, count: int) -> Tensor:
        powers = torch.tensor([1, 3, 9, 27, 81][:count], device=b.device)
        return ((packed[:, None].int() * powers[:, None] & 255) * 3 >> 8).reshape(len(b), -1)

    q = torch.cat([digits(b[:, :32], 5), digits(b[:, 32:48], 5), digits(b[:, 48:52], 4)], 1)
    return _half(b, 52) * (q.float() - 1)


def tq2_0(b: Tensor) -> Tensor:
    """uint8 [n, 66] -> float32 [n, 256]."""
    q = _fields(b[:, :64].reshape(-1, 32), 0, 2, 4, 6, mask=3).transpose(1, 2).reshape(-1, 256)
    return _half(b, 64) * (q.float() - 1)
