"""Plain floats: f32, f16, bf16. One weight a block, no scale.

    format  bytes  sign exponent fraction   largest     relative rounding error
    f32     4      1    8        23         3.4e38      2^-24 (6.0e-8)
    f16     2      1    5        10         65504       2^-11 (4.9e-4); absolute 2^-25 below 6.1e-5 (subnormal)
    bf16    2      1    8        7          3.4e38      2^-8  (3.9e-3)

All little-endian. In Herd an array of numpy dtype uint16 holds bfloat16 bits: numpy has no such type.
"""

import numpy as np
import numpy.typing as npt

from herd.formats.format import Bytes, Floats, Format, half, half_bytes


def bf16_from_float32(x: npt.ArrayLike) -> npt.NDArray[np.uint16]:
    """float32 of any shape -> bfloat16 bits, nearest, ties to even.

    NaN stays NaN (made quiet, sign and upper payload kept); values above the largest bfloat16 by half a step become
    infinite, as IEEE 754 rounding says.
    """
    bits = np.asarray(x, np.float32).view(np.uint32)
    nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    # The largest non-NaN pattern is infinity, 0xFF800000: adding 0x8000 to it cannot wrap.
    rounded = (
        np.where(nan, np.uint32(0), bits) + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    ) >> np.uint32(16)
    return np.where(nan, (bits >> np.uint32(16)) | np.uint32(0x40), rounded).astype(np.uint16)


def float32_from_bf16(bits: npt.NDArray[np.uint16]) -> Floats:
    """bfloat16 bits of any shape -> float32, exact."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_float32(x: npt.NDArray[np.generic]) -> Floats:
    """An array as `herd.weights` holds it (float32, float16, or uint16 for bfloat16 bits) -> float32, exact."""
    return float32_from_bf16(x.astype(np.uint16, copy=False)) if x.dtype == np.uint16 else x.astype(np.float32)


F32 = Format(
    "f32",
    0,
    1,
    4,
    decode_blocks=lambda b: b.view("<f4").astype(np.float32),
    encode_blocks=lambda x, _: np.ascontiguousarray(x.astype("<f4")).view(np.uint8),
    packed=False,
)

F16 = Format(
    "f16",
    1,
    1,
    2,
    decode_blocks=lambda b: b.view("<f2").astype(np.float32),
    encode_blocks=lambda x, _: half_bytes(half(x, "f16")),
    packed=False,
)


def _decode_bf16(blocks: Bytes) -> Floats:
    return float32_from_bf16(blocks.view("<u2").astype(np.uint16))


def _encode_bf16(x: Floats, _: Floats | None) -> Bytes:
    return np.ascontiguousarray(bf16_from_float32(x).astype("<u2")).view(np.uint8)


BF16 = Format("bf16", 30, 1, 2, _decode_bf16, _encode_bf16, packed=False)
