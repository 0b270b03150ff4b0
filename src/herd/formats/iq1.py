"""Under two bits: iq1_s, iq1_m, eight weights of -1, 0 and 1 by an index of 11 bits. Sources: GGML's types 19 and 29.

    iq1_s   256 weights, 50 bytes, 1.5625 bits  | d f16 | 32 bytes: low 8 bits of the indices |
                                                | 8 x u16 h, for 32 weights each: index i's upper 3 bits at bit 3 i, |
                                                | scale s at bits 12 to 14, bit 15: the shift is negative |
                                                w = (d * (2 s + 1)) * (entry +- 1/8)
    iq1_m   256 weights, 56 bytes, 1.75 bits    | 32 bytes: low 8 bits | 16 bytes: for indices 2 i (low nibble) and |
                                                | 2 i + 1, upper 3 bits, and bit 3: the shift is negative |
                                                | 4 x u16: scale j of 16 weights at bit 3 (j mod 4) of number |
                                                | j div 4; their top 4 bits, lowest first, are d, a float16 |
                                                w = (d * (2 s + 1)) * (entry +- 1/8)

Why: 2048 of the 6561 points that eight such weights have serve as nearly all, so 11 bits hold what 13 would. The shift
makes up for groups that lean to one side. The coarsest formats there are: for models that fit no other way.

Read, not written: a good choice of entries needs importances and a search of another kind.
"""

import numpy as np
import numpy.typing as npt

from herd.formats.codebooks import codebook, words
from herd.formats.format import Bytes, Floats, Format, halves_at

_SHIFT = np.float32(0.125)
_THREES = np.array([0, 3, 6, 9], np.uint32)
_NIBBLES = np.array([0, 4], np.uint8)


def _values(scale: Floats, index: Bytes, top: npt.NDArray[np.integer], shift: Floats) -> Floats:
    """scale [n, 256 / group]; low 8 bits, upper 3 and shift of 32 indices -> weights [n, 256]."""
    entry = codebook("iq1")[index.astype(np.intp) | top.astype(np.intp) << 8] + shift[:, :, None]
    groups = scale.shape[1]
    values: Floats = scale[:, :, None] * entry.reshape(-1, groups, 256 // groups)
    return values.reshape(-1, 256)


def _decode_s(blocks: Bytes) -> Floats:
    high = words(blocks, 34, 8, 2)
    scale = halves_at(blocks, 0) * (2 * (high >> 12 & 7) + 1).astype(np.float32)
    top = (high[:, :, None] >> _THREES & 7).reshape(-1, 32)
    shift = np.where(high & 0x8000, -_SHIFT, _SHIFT).repeat(4, axis=1)
    return _values(scale, blocks[:, 2:34], top, shift)


def _decode_m(blocks: Bytes) -> Floats:
    packed = words(blocks, 48, 4, 2)
    d = (packed[:, 0] >> 12 | packed[:, 1] >> 12 << 4 | packed[:, 2] >> 12 << 8 | packed[:, 3] >> 12 << 12)[:, None]
    scales = (packed[:, :, None] >> _THREES & 7).reshape(-1, 16)
    scale = d.astype(np.uint16).view(np.float16).astype(np.float32) * (2 * scales + 1).astype(np.float32)
    high = (blocks[:, 32:48, None] >> _NIBBLES & 15).reshape(-1, 32)
    return _values(scale, blocks[:, :32], high & 7, np.where(high & 8, -_SHIFT, _SHIFT))


IQ1_S = Format("iq1_s", 19, 256, 50, _decode_s)
IQ1_M = Format("iq1_m", 29, 256, 56, _decode_m)
