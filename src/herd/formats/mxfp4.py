"""mxfp4: floats of four bits that share an exponent. Sources: the OCP microscaling specification; GGML's type 39.

Characteristics: 32 weights in 17 bytes, 4.25 bits a weight.

    | exponent e | 16 bytes: weight i low nibble of byte i, 16 + i high |
    w = 2^(e - 128) * VALUES[q]

    VALUES  0 1 2 3 4 6 8 12, then the same with a minus (twice the values of e2m1, hence 128 and not 127)

Why: processors with units for it take it as it is. The exponent alone has no mantissa, so on bell-shaped weights it is
coarser than iq4_nl; models that were trained with it lose nothing. Read, not written.
"""

import numpy as np
import numpy.typing as npt

from herd.formats.format import Bytes, Floats, Format
from herd.formats.simple import split_nibbles

VALUES: npt.NDArray[np.int8] = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)
_TABLE = VALUES.astype(np.float32)


def _decode(blocks: Bytes) -> Floats:
    e = blocks[:, :1].astype(np.uint32)
    bits = np.where(e < 2, np.uint32(0x00200000) << e, (e - np.uint32(1)) << np.uint32(23))  # below 2: subnormal
    return bits.view(np.float32) * _TABLE[split_nibbles(blocks[:, 1:])]


MXFP4 = Format("mxfp4", 39, 32, 17, _decode)
