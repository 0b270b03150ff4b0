"""Quantised matrices of other tools: FP8 (e4m3) with a scale for each output, int4 with a scale for each group.

    e4m3     1 byte: sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinity, 0x7F and 0xFF are NaN; largest 448.
             w = scale[output] * code, in float32; handed on as bfloat16 (2^-9 of the value lost, beside the 2^-4 that
             the code itself has).
    int4     w = scale[output, input // group] * q, q -8..7. That is what a q4_0 block of 32 holds, so a matrix whose
             scales are all exact in float16 becomes q4_0 without loss; any other becomes bfloat16.

Sources: OCP 8-bit floating point specification 1.0; compressed-tensors' formats float-quantized and pack-quantized.
What it is not: names of tensors (`hf.quantized`, `meta.source`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from herd.containers.lazy_rows import LazyArray
from herd.formats import bf16_from_float32, to_float32
from herd.formats.dtypes import Array
from herd.weights import Dense, Packed

BLOCK = 32


def _e4m3() -> Array:
    code = np.arange(256)
    exponent, mantissa = (code >> 3) & 15, code & 7
    size = np.where(exponent > 0, (8 + mantissa) * 2.0 ** (exponent - 10), mantissa * 2.0**-9)
    size = np.where((code & 127) == 127, np.nan, size)
    return np.where(code < 128, size, -size).astype(np.float32)


E4M3 = _e4m3()
"""Value of every code, float32 [256]."""


@dataclass(frozen=True)
class Fp8:
    """A matrix [O, I] in FP8: codes uint8 [O, I], scales [O] or [1]."""

    codes: Array
    scales: Array

    def floats(self, start: int, stop: int) -> Array:
        """Rows start to stop as float32."""
        scales = to_float32(self.scales)
        part = scales if len(scales) == 1 else scales[start:stop]
        values: Array = E4M3[self.codes[start:stop]] * part[:, None]
        return values


@dataclass(frozen=True)
class Int4:
    """A matrix [O, I] in int4: scales [O, groups]; `read(start, stop)` returns q + 8 of rows, uint8 [n, I]."""

    read: Callable[[int, int], Array]
    scales: Array
    inputs: int

    @property
    def group(self) -> int:
        """Number of inputs that share a scale."""
        return self.inputs // int(self.scales.shape[1])

    def floats(self, start: int, stop: int) -> Array:
        """Rows start to stop as float32."""
        q = self.read(start, stop).astype(np.float32) - np.float32(8)
        scales = to_float32(self.scales[start:stop])
        values: Array = (q.reshape(len(q), -1, self.group) * scales[:, :, None]).reshape(len(q), self.inputs)
        return values

    @property
    def is_q4_0(self) -> bool:
        """Whether q4_0 holds every value exactly."""
        if self.inputs % BLOCK or self.group % BLOCK:
            return False
        wide = to_float32(np.ascontiguousarray(self.scales))
        with np.errstate(over="ignore"):
            return bool((wide.astype(np.float16).astype(np.float32) == wide).all())

    def q4_0(self, start: int, stop: int) -> Array:
        """Rows as q4_0 blocks, uint8 [n, I / 32 * 18]: in each block the scale, then weights 0..15 in the low nibbles,
        16..31 in the high ones."""
        q = self.read(start, stop)
        blocks = q.reshape(len(q), -1, 2, BLOCK // 2)
        halves = to_float32(self.scales[start:stop]).astype("<f2")
        out = np.empty((len(q), self.inputs // BLOCK, 2 + BLOCK // 2), np.uint8)
        scales = np.repeat(halves, self.group // BLOCK, axis=1)
        out[:, :, :2] = np.ascontiguousarray(scales).view(np.uint8).reshape(*scales.shape, 2)
        out[:, :, 2:] = blocks[:, :, 0] | (blocks[:, :, 1] << 4)
        return out.reshape(len(q), -1)


Coded = Fp8 | Int4


def node_of(
    parts: Sequence[Coded], outputs: int, inputs: int, name: str, *, stack: bool, order: Array | None = None
) -> Dense | Packed:
    """The node of one matrix [O, I], or of a stack [E, O, I] with one part for each expert. Nothing is decoded yet.

    order: for each row of the result its row in the file; None: the same.
    """
    shape = (len(parts), outputs, inputs) if stack else (outputs, inputs)
    whole = [part for part in parts if isinstance(part, Int4)]
    if len(whole) == len(parts) and all(part.is_q4_0 for part in whole):
        row_bytes = inputs // BLOCK * 18

        def blocks(at: tuple[int, ...], start: int, stop: int) -> Array:
            part = whole[at[0] if at else 0]
            return _in_order(part.q4_0, order, start, stop)

        return Packed("q4_0", LazyArray((*shape[:-1], row_bytes), np.uint8, blocks), shape, None, name)

    def bits(at: tuple[int, ...], start: int, stop: int) -> Array:
        return bf16_from_float32(_in_order(parts[at[0] if at else 0].floats, order, start, stop))

    return Dense(LazyArray(shape, np.uint16, bits), None, name)


def _in_order(read: Callable[[int, int], Array], order: Array | None, start: int, stop: int) -> Array:
    """Rows start to stop of the reordered matrix; `order` moves rows inside a window that is read whole."""
    if order is None:
        return read(start, stop)
    wanted = order[start:stop]
    if not len(wanted):
        return read(0, 0)
    low = int(wanted.min())
    found: Any = read(low, int(wanted.max()) + 1)[wanted - low]
    return found  # type: ignore[no-any-return]


def unpack_int32(words: Array, inputs: int) -> Array:
    """Unpack int4 of compressed-tensors: int32 [n, ceil(I / 8)], input 8 k + i in bits 4 i to 4 i + 3 of word k, as q +
    8."""
    shifts = np.arange(0, 32, 4, dtype=np.uint32)
    wide = np.ascontiguousarray(words).view(np.uint32)[:, :, None] >> shifts
    return (wide & np.uint32(15)).astype(np.uint8).reshape(len(words), -1)[:, :inputs]
