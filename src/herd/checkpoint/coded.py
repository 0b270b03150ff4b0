"""Quantised matrices of other tools, as rows that are made when asked for: whole numbers in groups, or any decoder.

    Grouped   w = scale[output, group] * (q - zero[output, group]), or scale * q + base. A block format of Herd whose
              whole numbers reach as far holds that without loss, where groups are a multiple of 32 and all scales are
              exact in float16: q - zero in -8..7 is q4_0, in -16..15 q5_0, in -128..127 q8_0; with a base, q in 0..15
              is q4_1, in 0..31 q5_1. So 4 bits with zero points are q5_0. Any other becomes floats.
    Mxfp4     w = 2^(exponent - 127) * e2m1, an exponent for 32 inputs: mxfp4, without loss, where none is NaN.
    Decoded   floats, made row by row: FP8, NVFP4, code books.

Floats are bfloat16 (2^-9 of a value lost), float16 where the checkpoint's own type is float16 (2^-12), float32 for
routers. Codes of eight and four bits that are floats themselves:

    e4m3      sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinity, 0x7F and 0xFF are NaN; largest 448
    e2m1      sign, 2 bits of exponent (bias 1), 1 of mantissa: 0, 0.5, 1, 1.5, 2, 3, 4, 6
    e8m0      2^(code - 127); 255 is NaN

Sources: OCP 8-bit floating point specification 1.0; OCP microscaling formats 1.0. What it is not: names of tensors
and their packing (`hf`, `meta`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np

from herd.containers.lazy_rows import LazyArray
from herd.formats import bf16_from_float32, row_bytes, to_float32
from herd.formats.dtypes import Array
from herd.formats.simple import join_nibbles
from herd.formats.whole_numbers import BLOCK, RANGES, RANGES_WITH_BASE, whole_blocks
from herd.weights import Dense, Packed

Rows: TypeAlias = Callable[[int, int], Array]
"""(start, stop) -> rows start to stop of something that has one row for each output."""
Floats = Literal["bf16", "f16", "f32"]


def _e4m3() -> Array:
    code = np.arange(256)
    exponent, mantissa = (code >> 3) & 15, code & 7
    size = np.where(exponent > 0, (8 + mantissa) * 2.0 ** (exponent - 10), mantissa * 2.0**-9)
    size = np.where((code & 127) == 127, np.nan, size)
    return np.where(code < 128, size, -size).astype(np.float32)


E4M3 = _e4m3()
"""Value of every code, float32 [256]."""
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
"""Value of every code, float32 [16]."""
E8M0 = np.append(np.ldexp(np.float32(1), np.arange(-127, 128)), np.nan).astype(np.float32)
"""Value of every code, float32 [256]."""


@dataclass(frozen=True)
class Decoded:
    """A matrix [O, I] that some decoder makes: `floats(start, stop)` are rows in float32."""

    floats: Rows
    formats: tuple[str, ...] = ()
    """No block format holds it."""

    def blocks(self, format: str, start: int, stop: int) -> Array:
        """Never asked for."""
        raise NotImplementedError(format)


@dataclass(frozen=True)
class Mxfp4:
    """A matrix [O, I] of e2m1 codes, uint8 [n, I], and e8m0 exponents, uint8 [n, I / 32]."""

    codes: Rows
    exponents: Rows
    outputs: int

    @cached_property
    def formats(self) -> tuple[str, ...]:
        """mxfp4, unless there is a NaN: in that format the exponent 255 is a number like others."""
        return () if (self.exponents(0, self.outputs) == 255).any() else ("mxfp4",)

    def floats(self, start: int, stop: int) -> Array:
        """Rows start to stop as float32."""
        values: Array = E2M1[self.codes(start, stop)] * np.repeat(E8M0[self.exponents(start, stop)], BLOCK, axis=1)
        return values

    def blocks(self, format: str, start: int, stop: int) -> Array:
        """Rows start to stop as blocks of mxfp4, uint8 [n, row_bytes]."""
        nibbles = join_nibbles(self.codes(start, stop).reshape(-1, BLOCK))
        return np.concatenate([self.exponents(start, stop).reshape(-1, 1), nibbles], axis=1).reshape(stop - start, -1)


@dataclass(frozen=True)
class Grouped:
    """A matrix [O, I] of whole numbers with a scale for each group of inputs (see the top of this file).

    codes: uint8 [n, I], 0 to `top`; scales: float32 [n, groups]; zeros: one number for all, or int16 [n, groups];
    bases: float32 [n, groups], added instead of a zero taken off; group_of: of each input its group, where groups are
    not simply one after the other.
    """

    codes: Rows
    scales: Rows
    outputs: int
    inputs: int
    groups: int
    top: int = 15
    zeros: Rows | int = 8
    bases: Rows | None = None
    group_of: Array | None = None

    def floats(self, start: int, stop: int) -> Array:
        """Rows start to stop as float32."""
        q = self.codes(start, stop).astype(np.float32)
        scales = self._wide(self.scales(start, stop))
        if self.bases is not None:
            return q * scales + self._wide(self.bases(start, stop))
        zeros = self.zeros if isinstance(self.zeros, int) else self._wide(self.zeros(start, stop))
        return (q - np.float32(zeros)) * scales

    def blocks(self, format: str, start: int, stop: int) -> Array:
        """Rows start to stop as blocks of `format`, uint8 [n, row_bytes]."""
        n = self.codes(start, stop).astype(np.int16)
        if self.bases is None:
            n -= np.int16(self.zeros) if isinstance(self.zeros, int) else self._wide(self.zeros(start, stop))
        repeat = self.inputs // self.groups // BLOCK
        parts = (self.scales,) if self.bases is None else (self.scales, self.bases)
        halves = np.stack([np.repeat(part(start, stop), repeat, axis=1) for part in parts], axis=-1)
        blocks = whole_blocks(format, halves.reshape(-1, len(parts)), n.reshape(-1, BLOCK))
        return blocks.reshape(stop - start, -1)

    @cached_property
    def formats(self) -> tuple[str, ...]:
        """Block formats that hold every value exactly, the smallest first; often none."""
        group = self.inputs // self.groups
        if self.group_of is not None or self.inputs % BLOCK or group % BLOCK or not self._exact:
            return ()
        low, high = self._span
        ranges = RANGES if self.bases is None else RANGES_WITH_BASE
        return tuple(name for name, (least, most) in ranges.items() if least <= low and high <= most)

    @cached_property
    def _span(self) -> tuple[int, int]:
        """The least and the greatest whole number that can be there."""
        if self.bases is not None:
            return 0, self.top
        zeros = np.asarray(self.zeros if isinstance(self.zeros, int) else self.zeros(0, self.outputs))
        return -int(zeros.max()), self.top - int(zeros.min())

    @property
    def _exact(self) -> bool:
        """Whether float16 holds all scales and bases."""
        parts = (self.scales,) if self.bases is None else (self.scales, self.bases)
        with np.errstate(over="ignore"):
            wide = (part(0, self.outputs) for part in parts)
            return all(bool((x.astype(np.float16).astype(np.float32) == x).all()) for x in wide)

    def _wide(self, x: Array) -> Array:
        """[n, groups] -> [n, I], or [n, 1] where there is one group."""
        if self.group_of is not None:
            return x[:, self.group_of]
        return x if self.groups == 1 else np.repeat(x, self.inputs // self.groups, axis=1)


Coded: TypeAlias = Decoded | Grouped | Mxfp4


def rows_of(array: Array) -> Rows:
    """Rows of an array of floats, or of its view, as float32."""
    return lambda start, stop: to_float32(np.ascontiguousarray(array[start:stop]))


def node_of(
    parts: Sequence[Coded],
    outputs: int,
    inputs: int,
    name: str,
    *,
    stack: bool,
    order: Array | None = None,
    floats: Floats = "bf16",
) -> Dense | Packed:
    """The node of one matrix [O, I], or of a stack [E, O, I] with one part for each expert. Nothing is decoded yet.

    order: for each row of the result its row in the file; None: the same. floats: the type of what no block format
    holds exactly; "f32": of everything (routers).
    """
    shape = (len(parts), outputs, inputs) if stack else (outputs, inputs)
    names = parts[0].formats if floats != "f32" else ()
    if held := next((name for name in names if all(name in part.formats for part in parts)), None):

        def blocks(at: tuple[int, ...], start: int, stop: int) -> Array:
            part = parts[at[0] if at else 0]
            return _in_order(lambda i, j: part.blocks(held, i, j), order, start, stop)

        codes = LazyArray((*shape[:-1], row_bytes(held, inputs)), np.uint8, blocks)
        return Packed(held, codes, shape, None, name)

    narrow, dtype = _NARROW[floats]

    def values(at: tuple[int, ...], start: int, stop: int) -> Array:
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):  # NaN and infinity are what the file says
            return narrow(_in_order(parts[at[0] if at else 0].floats, order, start, stop))

    return Dense(LazyArray(shape, dtype, values), None, name)


def _half(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return x.astype(np.float16)


_NARROW: dict[str, tuple[Callable[[Array], Array], Any]] = {
    "bf16": (bf16_from_float32, np.uint16),
    "f16": (_half, np.float16),
    "f32": (lambda x: x.astype(np.float32, copy=False), np.float32),
}


def _in_order(read: Rows, order: Array | None, start: int, stop: int) -> Array:
    """Rows start to stop of the reordered matrix; `order` moves rows inside a window that is read whole."""
    if order is None:
        return read(start, stop)
    wanted = order[start:stop]
    if not len(wanted):
        return read(0, 0)
    low = int(wanted.min())
    found: Array = read(low, int(wanted.max()) + 1)[wanted - low]
    return found


# -- packing ---------------------------------------------------------------------------------------------------------


def unpack_words(words: Array, bits: int, count: int) -> Array:
    """Codes in 32-bit words, uint8 [n, count]: code k + i of a word in bits i * bits and on. 32 // bits a word, what
    is left of it is unused."""
    shifts = np.arange(32 // bits, dtype=np.uint32) * np.uint32(bits)
    wide = np.ascontiguousarray(words).view(np.uint32)[:, :, None] >> shifts
    return (wide & np.uint32((1 << bits) - 1)).astype(np.uint8).reshape(len(words), -1)[:, :count]


def unpack_stream(words: Array, bits: int, count: int) -> Array:
    """Codes in 32-bit words, uint8 [n, count]: one stream of bits, low ones first, that words cut anywhere."""
    if 32 % bits == 0:
        return unpack_words(words, bits, count)
    data = np.ascontiguousarray(words).view(np.uint8)
    single = np.unpackbits(data, axis=1, count=count * bits, bitorder="little").reshape(len(words), count, bits)
    return np.packbits(single, axis=2, bitorder="little").reshape(len(words), count)


def low_nibbles_first(data: Array) -> Array:
    """uint8 [n, I / 2] -> the two codes of each byte, uint8 [n, I]."""
    return np.stack([data & np.uint8(15), data >> np.uint8(4)], axis=-1).reshape(len(data), -1)
