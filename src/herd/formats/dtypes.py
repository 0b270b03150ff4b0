"""The three float types of Hugging Face files, their names, and casts between them. bfloat16 is uint16 bits."""

from typing import Any

import numpy as np
import numpy.typing as npt

from herd.errors import BadCheckpoint, UsageError, fail
from herd.formats import bf16_from_float32, to_float32

Array = npt.NDArray[Any]

STORED: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(np.uint16),
}
"""How numpy stores each."""
_SHORT = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


def dtype_name(dtype: str) -> str:
    """The long name of `dtype` ("bf16" -> "bfloat16"). Raises UsageError for another."""
    name = _SHORT.get(dtype, dtype)
    if name not in STORED:
        fail(UsageError, "dtype", got=dtype, expected="float32, float16 or bfloat16")
    return name


def cast(x: Array, dtype: str, name: str = "a tensor") -> Array:
    """`x` (float32, float16 or bfloat16 bits) as `dtype`, bit for bit when it is that already.

    Raises BadCheckpoint when a finite value is too large for float16: it would become infinity in silence.
    """
    if x.dtype == STORED[dtype]:
        return x
    wide = to_float32(x)
    if dtype == "float32":
        return wide
    if dtype == "bfloat16":
        return bf16_from_float32(wide)
    with np.errstate(over="ignore"):
        half = wide.astype(np.float16)
    if (np.isinf(half) & np.isfinite(wide)).any():
        fail(BadCheckpoint, f"{name} holds values above 65504, the most float16 can", do="use bf16 or f32")
    return half
