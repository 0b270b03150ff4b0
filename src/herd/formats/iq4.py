"""4-bit codes that name one of sixteen fixed values: iq4_nl, iq4_xs. Sources: GGML's types 20 and 23.

Characteristics: weights look like a bell, so the sixteen values lie close together near zero and wide apart outside:

    VALUES  -127 -104 -83 -65 -49 -35 -22 -10   1  13  25  38  53  69  89 113

    iq4_nl   32 weights, 18 bytes, 4.5 bits     | d f16 | 16 bytes: weight i low nibble of byte i, 16 + i high |
                                                w = d * VALUES[q]
    iq4_xs   256 weights, 136 bytes, 4.25 bits  | d f16 | u16: top 2 bits of 8 scales | 4 bytes: low 4 bits of them |
                                                | 128 bytes: codes, group after group, each as in iq4_nl |
                                                w[32 j + i] = (d * (scale[j] - 32)) * VALUES[q], scale 0..63

    top bits of scale[j]: bits 2 j and 2 j + 1 of the u16; low bits: byte j / 2, low nibble for even j, high for odd

Why: at four bits the spacing of the values matters more than a minimum does. iq4_nl takes q4_0's bytes for a tenth less
error, for rows that are no multiple of 256; iq4_xs takes 6 bits of scale for each 32 weights and is the smallest format
of 4 bits. Their products need a look-up, one byte shuffle, before the integer dot product.

The values are unequal about zero, so the sign of d is chosen, too. Encoding is a search of ours: a grid of scales of
both signs, least squares for each. Errors measured: docs/formats.md.
"""

import numpy as np
import numpy.typing as npt

from herd.formats.format import Bytes, Floats, Format, half, half_bytes, halves_at
from herd.formats.search import by_group, safe_divide, total
from herd.formats.simple import join_nibbles, split_nibbles
from herd.formats.symmetric import encode_symmetric

VALUES: npt.NDArray[np.int8] = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8
)
GROUPS, GROUP = 8, 32
_TABLE = VALUES.astype(np.float32)
_TOP_BITS = np.arange(0, 16, 2, dtype=np.uint16)[None, :]


def _decode_nl(blocks: Bytes) -> Floats:
    return halves_at(blocks, 0) * _TABLE[split_nibbles(blocks[:, 2:])]


def unpack_scales(packed: Bytes) -> Bytes:
    """uint8 [n, 6] -> scales, uint8 [n, 8] of 0..63 (32 stands for 0)."""
    high = ((np.ascontiguousarray(packed[:, :2]).view("<u2") >> _TOP_BITS) & 3).astype(np.uint8)
    low: Bytes = np.stack([packed[:, 2:] & 15, packed[:, 2:] >> 4], axis=2).reshape(-1, GROUPS)
    return low | (high << np.uint8(4))


def pack_scales(scales: Bytes) -> Bytes:
    """The inverse of `unpack_scales`."""
    high = np.bitwise_or.reduce((scales >> 4).astype(np.uint16) << _TOP_BITS, axis=1, keepdims=True)
    low = (scales[:, 0::2] & 15) | (scales[:, 1::2] << 4)
    return np.concatenate([np.ascontiguousarray(high.astype("<u2")).view(np.uint8), low], axis=1)


def _decode_xs(blocks: Bytes) -> Floats:
    n = len(blocks)
    scale = halves_at(blocks, 0) * (unpack_scales(blocks[:, 2:8]).astype(np.float32) - np.float32(32))
    values = _TABLE[split_nibbles(blocks[:, 8:].reshape(-1, 16))].reshape(n, GROUPS, GROUP)
    return (scale[:, :, None] * values).reshape(n, GROUPS * GROUP)


_MIDDLES = (_TABLE[1:] + _TABLE[:-1]) / np.float32(2)
_REACHES = np.concatenate([np.arange(76, 132, 4), -np.arange(76, 148, 4)]).astype(np.float32)
"""Tried scales: the weight of largest magnitude lands on this point of the scale of VALUES."""


def _code(x: Floats, step: Floats) -> Bytes:
    """The code of the value nearest to x / step."""
    at = safe_divide(x, step)
    q = np.zeros(at.shape, np.uint8)
    for middle in _MIDDLES:
        q += at > middle
    return q


def _value(x: Floats, step: Floats) -> Floats:
    """The value nearest to x / step."""
    return _TABLE[_code(x, step)]


def _fit(x: Floats, w: Floats | None) -> Floats:
    """x [n, 32] -> scale [n], of either sign, of x ~ scale * VALUES[q]."""
    extreme = np.take_along_axis(x, np.abs(x).argmax(axis=1, keepdims=True), axis=1)
    best = np.full(len(x), np.inf, np.float32)
    best_scale = np.zeros(len(x), np.float32)
    for reach in _REACHES:
        values = _value(x, extreme / reach)
        scale = safe_divide(total(x * values, w, 1), total(np.square(values), w, 1))
        error = total(np.square(x - scale[:, None] * values), w, 1)
        better = error < best
        best[better], best_scale[better] = error[better], scale[better]
    return best_scale


def _encode_nl(x: Floats, weights: Floats | None) -> Bytes:
    d = half(_fit(x, weights)[:, None], "iq4_nl")
    return np.concatenate([half_bytes(d), join_nibbles(_code(x, d.astype(np.float32)))], axis=1)


def _encode_xs(x: Floats, weights: Floats | None) -> Bytes:
    groups = x.reshape(-1, GROUPS, GROUP)
    scale = _fit(*by_group(x, weights, GROUP)).reshape(-1, GROUPS)
    d, scales, _ = encode_symmetric(groups, scale, 32, _value, "iq4_xs", weights)
    q = _code(groups, (d * scales)[:, :, None])
    packed = pack_scales((scales + 32).astype(np.uint8))
    codes = join_nibbles(q.reshape(-1, GROUP)).reshape(-1, 128)
    return np.concatenate([half_bytes(half(d, "iq4_xs")), packed, codes], axis=1)


IQ4_NL = Format("iq4_nl", 20, GROUP, 18, _decode_nl, _encode_nl)
IQ4_XS = Format("iq4_xs", 23, GROUPS * GROUP, 136, _decode_xs, _encode_xs)
