"""Random weights in every number format, those that Herd reads and does not write among them."""

import math

import numpy as np

from herd import formats

_HALVES_AT = {
    **dict.fromkeys(("q4_1", "q5_1", "q4_k", "q5_k"), (0, 2)),
    **{"q2_k": (80, 82), "q3_k": (108,), "q6_k": (208,), "tq1_0": (52,), "tq2_0": (64,)},
}
"""Where a block's float16 stand, when not at 0 alone."""


def set_scales(name: str, blocks: np.ndarray, scale: int) -> None:
    """Write the bits of a float16 as every scale of the blocks [n, block_bytes]; of mxfp4, its upper byte."""
    if name == "mxfp4":
        blocks[:, 0] = scale >> 8
        return
    if name == "iq1_m":  # in the upper nibbles of four numbers
        for i in range(4):
            blocks[:, 49 + 2 * i] = blocks[:, 49 + 2 * i] & 15 | (scale >> 4 * i & 15) << 4
        return
    for at in _HALVES_AT.get(name, (0,)):
        blocks[:, at : at + 2] = np.frombuffer(np.uint16(scale).tobytes(), np.uint8)


def random_codes(name: str, rng: np.random.Generator, shape: tuple[int, ...], deviation: float = 1.0) -> np.ndarray:
    """uint8 [..., row_bytes] of weights of this shape: encoded, or random codes under a scale that suits them."""
    f = formats.get(name)
    if name in formats.WRITTEN:
        return formats.encode(name, rng.standard_normal(shape, np.float32) * np.float32(deviation))
    blocks = rng.integers(0, 256, (math.prod(shape) // f.block, f.block_bytes), np.uint8)
    one = 127 << 8 if name == "mxfp4" else 0x3C00
    set_scales(name, blocks, one)
    wanted = deviation / float(f.decode(blocks, f.block).std())
    near = np.float16(wanted).view(np.uint16)
    set_scales(name, blocks, 127 + round(math.log2(wanted)) << 8 if name == "mxfp4" else int(near))
    if name != "mxfp4":  # codes need not be symmetric: a mean of all weights would drown the rest of a product
        flipped = rng.random(len(blocks)) < 0.5
        part = blocks[flipped]
        set_scales(name, part, int(near) | 0x8000)
        blocks[flipped] = part
    return blocks.reshape(*shape[:-1], -1)
