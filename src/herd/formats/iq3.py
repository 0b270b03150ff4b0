"""Three bits and a little: iq3_xxs, iq3_s, four magnitudes by an index, and signs. Sources: GGML's types 18 and 21.

    iq3_xxs  256 weights, 98 bytes, 3.0625 bits   | d f16 | 64 bytes: indices | 8 x u32, for 32 weights each: signs |
                                                  | and scale as in iq2_xxs (`iq2.py`) |
                                                  w = (d * (0.5 + s) / 2) * magnitude * sign
    iq3_s    256 weights, 110 bytes, 3.4375 bits  | d f16 | 64 bytes: low 8 bits of the indices | 8 bytes: their ninth |
                                                  | 32 bytes: signs | 4 bytes: scales s of 32 weights, low nibble |
                                                  | first |
                                                  w = (d * (1 + 2 s)) * magnitude * sign

Magnitudes: `codebooks.py`. Why: as iq2, in four dimensions and with eight magnitudes; a codebook is worth less there,
and eight dimensions would need one of 2^20 entries.

Read, not written: a good choice of entries needs importances and a search of another kind.
"""

import numpy as np

from herd.formats.codebooks import SEVEN, codebook, signs, words
from herd.formats.format import Bytes, Floats, Format, halves_at
from herd.formats.iq2 import scales_of_nibbles, signed

_SEVENS = np.array([0, 7, 14, 21], np.uint32)


def _decode_xxs(blocks: Bytes) -> Floats:
    packed = words(blocks, 66, 8, 4)
    scale = halves_at(blocks, 0) * (np.float32(0.5) + (packed >> 28).astype(np.float32)) * np.float32(0.5)
    sign = signs(SEVEN[packed[:, :, None] >> _SEVENS & 127])
    return signed(scale, codebook("iq3_xxs")[blocks[:, 2:66]], sign)


def _decode_s(blocks: Bytes) -> Floats:
    ninth = np.unpackbits(blocks[:, 66:74], axis=1, bitorder="little")
    index = blocks[:, 2:66].astype(np.intp) | ninth.astype(np.intp) << 8
    scale = halves_at(blocks, 0) * (np.float32(1) + np.float32(2) * scales_of_nibbles(blocks, 106, 4))
    return signed(scale, codebook("iq3_s")[index], signs(blocks[:, 74:106]))


IQ3_XXS = Format("iq3_xxs", 18, 256, 98, _decode_xxs)
IQ3_S = Format("iq3_s", 21, 256, 110, _decode_s)
