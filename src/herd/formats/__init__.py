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
    q4_k    256              144    4.5            q4_k.py
    q6_k    256              210    6.5625         q6_k.py
"""

import numpy.typing as npt

from herd.errors import BadCheckpoint, fail
from herd.formats.floats import BF16, F16, F32, bf16_from_float32, float32_from_bf16, to_float32
from herd.formats.format import Bytes, Floats, Format
from herd.formats.q4_k import Q4_K
from herd.formats.q6_k import Q6_K
from herd.formats.simple import Q4_0, Q4_1, Q8_0

__all__ = [
    "FORMATS",
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

FORMATS: dict[str, Format] = {f.name: f for f in (F32, F16, BF16, Q4_0, Q4_1, Q8_0, Q4_K, Q6_K)}
"""Every format that Herd reads and writes, by name."""

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


def encode(name: str, x: npt.ArrayLike) -> Bytes:
    """float [..., inputs] -> uint8 [..., row_bytes]. Raises BadCheckpoint for what the format cannot hold."""
    return get(name).encode(x)
