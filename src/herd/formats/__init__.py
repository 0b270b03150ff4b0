"""Number formats of weights: byte layout, why this group size, `encode` and `decode`, plain and exact.

`decode` gives exactly the values that the bytes stand for; every kernel in `native/` is tested against it. A new format
is one `Format` in a file of its own and one row of `FORMATS`. What it is not: a model, a file, a kernel.

    name    weights a block  bytes  bits a weight  file
    f32     1                4      32             floats.py
    f16     1                2      16
    bf16    1                2      16
    q4_0    32               18     4.5            simple.py
    q4_1    32               20     5
    q8_0    32               34     8.5
    q5_0    32               22     5.5            q5.py
    q5_1    32               24     6
    iq4_nl  32               18     4.5            iq4.py
    iq4_xs  256              136    4.25
    q2_k    256              84     2.625          q2_k.py
    q3_k    256              110    3.4375         q3_k.py
    q4_k    256              144    4.5            q4_k.py
    q5_k    256              176    5.5            q5_k.py
    q6_k    256              210    6.5625         q6_k.py

    read, not written:
    mxfp4   32               17     4.25           mxfp4.py
    tq1_0   256              54     1.6875         ternary.py
    tq2_0   256              66     2.0625
    iq1_s   256              50     1.5625         iq1.py
    iq1_m   256              56     1.75
    iq2_xxs 256              66     2.0625         iq2.py
    iq2_xs  256              74     2.3125
    iq2_s   256              82     2.5625
    iq3_xxs 256              98     3.0625         iq3.py
    iq3_s   256              110    3.4375
"""

import numpy.typing as npt

from herd.errors import BadCheckpoint, fail
from herd.formats.floats import BF16, F16, F32, bf16_from_float32, float32_from_bf16, to_float32
from herd.formats.format import Bytes, Floats, Format
from herd.formats.iq1 import IQ1_M, IQ1_S
from herd.formats.iq2 import IQ2_S, IQ2_XS, IQ2_XXS
from herd.formats.iq3 import IQ3_S, IQ3_XXS
from herd.formats.iq4 import IQ4_NL, IQ4_XS
from herd.formats.mxfp4 import MXFP4
from herd.formats.q2_k import Q2_K
from herd.formats.q3_k import Q3_K
from herd.formats.q4_k import Q4_K
from herd.formats.q5 import Q5_0, Q5_1
from herd.formats.q5_k import Q5_K
from herd.formats.q6_k import Q6_K
from herd.formats.simple import Q4_0, Q4_1, Q8_0
from herd.formats.ternary import TQ1_0, TQ2_0

__all__ = [
    "FORMATS",
    "WRITTEN",
    "Format",
    "bf16_from_float32",
    "by_ggml_type",
    "decode",
    "encode",
    "float32_from_bf16",
    "get",
    "row_bytes",
    "to_float32",
]

FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        *(F32, F16, BF16),
        *(Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL),
        *(Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_XS),
        *(MXFP4, TQ1_0, TQ2_0, IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S),
    )
}
"""Every format that Herd reads, by name."""

WRITTEN = tuple(name for name, f in FORMATS.items() if f.encode_blocks is not None)
"""Formats that it writes, too."""

_BY_TYPE = {f.ggml_type: f for f in FORMATS.values()}


def get(name: str) -> Format:
    """The format of this name. Raises BadCheckpoint for another."""
    if name not in FORMATS:
        fail(BadCheckpoint, "number format", got=name, expected=", ".join(FORMATS))
    return FORMATS[name]


def by_ggml_type(ggml_type: int) -> Format | None:
    """The format with this id in GGUF files, or None."""
    return _BY_TYPE.get(ggml_type)


def row_bytes(name: str, inputs: int) -> int:
    """Bytes of a row of `inputs` weights. Raises BadCheckpoint when they are not a whole number of blocks."""
    return get(name).row_bytes(inputs)


def decode(name: str, codes: Bytes, inputs: int) -> Floats:
    """uint8 [..., row_bytes] -> float32 [..., inputs], exactly. Raises BadCheckpoint for another shape."""
    return get(name).decode(codes, inputs)


def encode(name: str, x: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Bytes:
    """float [..., inputs] -> uint8 [..., row_bytes]. Raises BadCheckpoint for what the format cannot hold.

    weights: importances [inputs] of the columns: the sum of weight * error^2 is made small (`Format.encode`).
    """
    return get(name).encode(x, weights)
