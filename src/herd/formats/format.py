"""`Format`: what every number format of a weight row has, and the walk over rows in pieces that fit a cache.

A format is bytes <-> float32 of one block; a row is a whole number of blocks, a matrix is rows. Nothing here knows a
model, a file or a processor: kernels in `native/` read the same bytes and are tested against `decode`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from herd.errors import BadCheckpoint, UsageError, fail

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

PIECE = 1 << 18
"""Weights decoded or encoded at a time: 1 MiB of float32, so that the steps of one piece stay in the L2 or L3 cache."""

LARGEST = 2.0**40
"""Beyond every block format's reach whatever its scale; below it, no sum of squares in a search leaves float32."""


@dataclass(frozen=True)
class Format:
    """One number format. `decode_blocks` maps uint8 [n, block_bytes] to float32 [n, block], `encode_blocks` back."""

    name: str
    ggml_type: int
    """The id of this type in a GGUF file."""
    block: int
    """Weights a block."""
    block_bytes: int
    decode_blocks: Callable[[Bytes], Floats]
    encode_blocks: Callable[[Floats, Floats | None], Bytes] | None = None
    """(weights [n, block], their importances, of the same shape, or None) -> codes. None: read, not written."""
    packed: bool = True
    """False for plain floats, which numpy can hold as they are."""

    @property
    def bits(self) -> float:
        """Bits a weight, scales included."""
        return 8 * self.block_bytes / self.block

    def fits(self, inputs: int) -> bool:
        """Whether a row of this many weights is a whole number of blocks."""
        return inputs > 0 and inputs % self.block == 0

    def row_bytes(self, inputs: int) -> int:
        """Bytes of a row of `inputs` weights. Raises BadCheckpoint when they are not a whole number of blocks."""
        if not self.fits(inputs):
            fail(BadCheckpoint, f"{self.name} row", got=f"{inputs} weights", expected=f"a multiple of {self.block}")
        return inputs // self.block * self.block_bytes

    def decode(self, codes: Bytes, inputs: int) -> Floats:
        """uint8 [..., row_bytes] -> float32 [..., inputs], exactly the values that the bytes stand for.

        A NaN or infinite scale gives NaN or infinite weights (never an error): a file's content is not judged here.
        """
        row_bytes = self.row_bytes(inputs)
        if codes.dtype != np.uint8 or codes.ndim < 1 or codes.shape[-1] != row_bytes:
            fail(
                BadCheckpoint,
                f"{self.name} codes of rows of {inputs} weights",
                got=f"{codes.dtype} {codes.shape}",
                expected=f"uint8 [..., {row_bytes}]",
            )
        out = np.empty((*codes.shape[:-1], inputs), np.float32)
        blocks, values = codes.reshape(-1, self.block_bytes), out.reshape(-1, self.block)
        step = max(1, PIECE // self.block)
        # inf * 0 is NaN on purpose, and silent: it is what the bytes say
        with np.errstate(invalid="ignore", over="ignore"):
            for i in range(0, len(blocks), step):
                values[i : i + step] = self.decode_blocks(np.ascontiguousarray(blocks[i : i + step]))
        return out

    def encode(self, x: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Bytes:
        """float [..., inputs] -> uint8 [..., row_bytes]. Raises BadCheckpoint for values that the format cannot hold.

        weights: importances [inputs] of the columns, not negative: then a search makes the sum of weight * error^2
        small (plain floats round as ever). One under a millionth of their mean counts as that, so that no column comes
        out as noise. Raises UsageError for other ones.

        Block formats refuse NaN and infinity, since one such weight would spoil its whole block, and magnitudes whose
        scale leaves float16. `f16` refuses finite values above 65504. UsageError for a format that is not written.
        """
        if self.encode_blocks is None:
            fail(UsageError, f"{self.name} is read, not written", do="choose another number format")
        values = np.asarray(x, np.float32)
        if values.ndim < 1:
            fail(BadCheckpoint, f"{self.name} encode", got="a scalar", expected="rows")
        inputs = values.shape[-1]
        out = np.empty((*values.shape[:-1], self.row_bytes(inputs)), np.uint8)
        blocks, codes = values.reshape(-1, self.block), out.reshape(-1, self.block_bytes)
        importances = None if weights is None else _importances(weights, inputs).reshape(-1, self.block)
        step = max(1, PIECE // self.block)
        for i in range(0, len(blocks), step):
            piece = np.ascontiguousarray(blocks[i : i + step])
            if self.packed:
                self._check_range(piece)
            column = None if importances is None else np.arange(i, i + len(piece)) % len(importances)
            codes[i : i + step] = self.encode_blocks(piece, None if importances is None else importances[column])
        return out

    def _check_range(self, piece: Floats) -> None:
        peak = float(np.abs(piece).max())
        if not np.isfinite(peak):
            fail(BadCheckpoint, f"{self.name} encode", got="a NaN or infinite weight", expected="finite weights")
        if peak > LARGEST:
            fail(BadCheckpoint, f"{self.name} encode", got=f"a weight of {peak:g}", expected="scales of at most 65504")


def _importances(weights: npt.ArrayLike, inputs: int) -> Floats:
    """Checked, with a mean of 1, none below 1e-6."""
    given = np.asarray(weights, np.float64)
    if given.shape != (inputs,):
        fail(UsageError, "importances of columns", got=f"shape {given.shape}", expected=f"({inputs},)")
    mean = float(given.mean())
    if not np.isfinite(mean) or (given < 0).any():
        fail(UsageError, "importances of columns", got="a negative, NaN or infinite one", expected="finite, 0 or more")
    if mean == 0:
        fail(UsageError, "importances of columns", got="zeros", expected="one above 0", do="encode without importances")
    return np.maximum(given / mean, 1e-6).astype(np.float32)


def half(x: Floats, name: str) -> npt.NDArray[np.float16]:
    """Finite float32 -> float16, nearest even. Raises BadCheckpoint when a finite value would become infinite."""
    with np.errstate(over="ignore"):
        halves = x.astype(np.float16)
    if (np.isinf(halves) & np.isfinite(x)).any():
        fail(
            BadCheckpoint,
            f"{name} encode",
            got=f"{float(np.abs(x[np.isfinite(x)]).max()):g}",
            expected="values of at most 65504",
        )
    return halves


def inverse(x: Floats) -> Floats:
    """1 / x in float32; 0 where x is 0 or so small that its inverse is infinite (such a scale is 0 in float16)."""
    with np.errstate(divide="ignore", over="ignore"):
        inv = np.float32(1.0) / x
    return np.where(np.isfinite(inv), inv, np.float32(0.0))


def half_bytes(halves: npt.NDArray[np.float16]) -> Bytes:
    """float16 [n, k] -> little-endian bytes [n, 2k]."""
    return np.ascontiguousarray(halves.astype("<f2")).view(np.uint8)


def halves_at(blocks: Bytes, start: int, count: int = 1) -> Floats:
    """`count` little-endian float16 from byte `start` of each block, as float32 [n, count]."""
    return np.ascontiguousarray(blocks[:, start : start + 2 * count]).view("<f2").astype(np.float32)
