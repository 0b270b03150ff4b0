"""Blocks of 32 weights of whole numbers that are known already: nothing is searched for and nothing is rounded."""

import numpy as np
import numpy.typing as npt

from herd.formats.format import Bytes, Floats, half_bytes
from herd.formats.q5 import join_fives
from herd.formats.simple import BLOCK, join_nibbles

__all__ = ["BLOCK", "RANGES", "RANGES_WITH_BASE", "whole_blocks"]

RANGES = {"q4_0": (-8, 7), "q5_0": (-16, 15), "q8_0": (-128, 127)}
"""Format -> least and greatest whole number n of w = d * n."""
RANGES_WITH_BASE = {"q4_1": (0, 15), "q5_1": (0, 31)}
"""Format -> the same of w = d * n + m."""


def whole_blocks(format: str, halves: Floats, n: npt.NDArray[np.int16]) -> Bytes:
    """The bytes of blocks, uint8 [blocks, block_bytes], of d (and m) [blocks, 1 or 2], which float16 holds, and whole
    numbers [blocks, 32] in the format's range."""
    scale = half_bytes(halves.astype("<f2"))
    if format == "q8_0":
        return np.concatenate([scale, n.astype(np.int8).view(np.uint8)], axis=1)
    low = RANGES[format][0] if format in RANGES else 0
    codes = (n - np.int16(low)).astype(np.uint8)
    return np.concatenate([scale, (join_fives if format.startswith("q5") else join_nibbles)(codes)], axis=1)
