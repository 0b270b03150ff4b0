"""Two bits and a little: iq2_xxs, iq2_xs, iq2_s, eight magnitudes by an index, and signs. GGML's types 16, 17, 22.

    iq2_xxs  256 weights, 66 bytes, 2.0625 bits  | d f16 | for 32 weights: 4 bytes of indices, u32 |
                                                 the u32: signs of eight weights i in seven bits from bit 7 i
                                                 (`codebooks.SEVEN`), scale s of 32 weights in the top 4
    iq2_xs   256 weights, 74 bytes, 2.3125 bits  | d f16 | 32 x u16: index of 9 bits, seven bits of signs |
                                                 | 8 bytes: scales s of 16 weights, low nibble first |
    iq2_s    256 weights, 82 bytes, 2.5625 bits  | d f16 | 32 bytes: low 8 bits of the indices | 32 bytes: signs |
                                                 | 8 bytes: their upper 2 bits | 8 bytes: scales as in iq2_xs |

    all: w = (d * (0.5 + s) / 4) * magnitude * sign, magnitudes 8, 25, 43

Why: of the 6561 points of eight magnitudes, 256 to 1024 that lie well in space cost 8 to 10 bits instead of 13; the
eighth sign is saved where the other seven may say it. Larger codebooks and finer scales cost a quarter of a bit each.

Read, not written: a good choice of entries needs importances and a search of another kind.
"""

import numpy as np

from herd.formats.codebooks import SEVEN, codebook, signs, words
from herd.formats.format import Bytes, Floats, Format, halves_at

_SEVENS = np.array([0, 7, 14, 21], np.uint32)
_NIBBLES = np.array([0, 4], np.uint8)
_PAIRS = np.array([0, 2, 4, 6], np.uint8)


def scales_of_nibbles(blocks: Bytes, start: int, count: int) -> Floats:
    """`count` bytes from byte `start` -> their nibbles, low ones first, as float32 [n, 2 * count]."""
    return (blocks[:, start : start + count, None] >> _NIBBLES & 15).reshape(-1, 2 * count).astype(np.float32)


def signed(scale: Floats, magnitude: Floats, sign: Floats) -> Floats:
    """scale [n, groups] times magnitudes and signs of 256 weights -> [n, 256]."""
    groups = scale.shape[1]
    values: Floats = scale[:, :, None] * magnitude.reshape(-1, groups, 256 // groups)
    return values.reshape(-1, 256) * sign.reshape(-1, 256)


def _scale(d: Floats, s: Floats) -> Floats:
    return d * (np.float32(0.5) + s) * np.float32(0.25)


def _decode_xxs(blocks: Bytes) -> Floats:
    second = words(blocks, 2, 16, 4)[:, 1::2]
    index = blocks[:, 2:].reshape(-1, 8, 8)[:, :, :4]
    sign = signs(SEVEN[second[:, :, None] >> _SEVENS & 127])
    scale = _scale(halves_at(blocks, 0), (second >> 28).astype(np.float32))
    return signed(scale, codebook("iq2_xxs")[index], sign)


def _decode_xs(blocks: Bytes) -> Floats:
    code = words(blocks, 2, 32, 2)
    scale = _scale(halves_at(blocks, 0), scales_of_nibbles(blocks, 66, 8))
    return signed(scale, codebook("iq2_xs")[code & 511], signs(SEVEN[code >> 9]))


def _decode_s(blocks: Bytes) -> Floats:
    top = (blocks[:, 66:74, None] >> _PAIRS & 3).reshape(-1, 32)
    index = blocks[:, 2:34].astype(np.intp) | top.astype(np.intp) << 8
    scale = _scale(halves_at(blocks, 0), scales_of_nibbles(blocks, 74, 8))
    return signed(scale, codebook("iq2_s")[index], signs(blocks[:, 34:66]))


IQ2_XXS = Format("iq2_xxs", 16, 256, 66, _decode_xxs)
IQ2_XS = Format("iq2_xs", 17, 256, 74, _decode_xs)
IQ2_S = Format("iq2_s", 22, 256, 82, _decode_s)
