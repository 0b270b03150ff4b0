"""What a reader of a quantised form is asked, and what several of them need."""

from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from herd.checkpoint.coded import E2M1, E4M3, Coded, Decoded, Mxfp4, Rows, low_nibbles_first, rows_of
from herd.checkpoint.hf.stored import FLOATS, Stored
from herd.errors import BadCheckpoint, fail
from herd.formats import to_float32
from herd.formats.dtypes import Array

WRITTEN_BY = "llm-compressor, GPTQModel, AutoAWQ, bitsandbytes, modelopt and mlx-lm write forms that are read"


class Form:
    """A quantised form of a folder. Raises BadCheckpoint for settings and tensors that are not read."""

    def __init__(self, stored: Stored, settings: Mapping[str, Any]) -> None:
        self.stored, self.settings = stored, settings
        self.check()

    def check(self) -> None:
        """Raise BadCheckpoint, naming the setting, when config.json describes what is not read."""

    def coded(self, name: str, outputs: int, inputs: int) -> Coded | None:
        """The matrix `name` [outputs, inputs] as it is stored; None when it is plain floats. It asks for each of its
        tensors."""
        raise NotImplementedError

    def is_plain(self, name: str) -> bool:
        """Whether the matrix is floats, as in any folder."""
        return name + ".weight" in self.stored and self.stored.dtype(name + ".weight") in FLOATS

    def refuse(self, setting: str, got: object, expected: str, do: str = WRITTEN_BY) -> NoReturn:
        """Raise BadCheckpoint for a setting."""
        fail(BadCheckpoint, f"{self.stored.path}: {setting}", got=str(got), expected=expected, do=do)

    def scale_rows(self, name: str, outputs: int) -> Rows:
        """Scales [O, 1], [O], or one for all, as [n, 1]."""
        found = self.stored.expect(name, FLOATS, (outputs, 1), (outputs,), (), (1,), (1, 1)).reshape(-1)
        return rows_of(np.broadcast_to(found[:, None], (outputs, 1)))


class Plain(Form):
    """Floats in a folder whose experts do not stand fused."""

    def coded(self, name: str, outputs: int, inputs: int) -> Coded | None:
        """See Form: nothing is."""
        return None


def fp8(codes: Array, scales: Rows) -> Decoded:
    """w = scale * e4m3. codes: uint8 [O, I]; scales: [n, 1] or [n, I]."""
    return Decoded(lambda start, stop: E4M3[codes[start:stop]] * scales(start, stop))


def scales_of_blocks(found: Array, high: int, wide: int, inputs: int) -> Rows:
    """Scales of blocks of `high` outputs and `wide` inputs, one an element, as [n, I]; the last blocks may be cut."""

    def rows(start: int, stop: int) -> Array:
        lines = to_float32(np.ascontiguousarray(found[start // high : -(-stop // high)]))
        every = np.repeat(lines, high, axis=0)[start % high :][: stop - start]
        return np.repeat(every, wide, axis=1)[:, :inputs]

    return rows


def fp4(data: Array, scales: Rows, group: int) -> Decoded:
    """w = scale * e2m1, two codes a byte, the even input low. data: uint8 [O, I / 2]; scales: [n, I / group]."""

    def floats(start: int, stop: int) -> Array:
        values: Array = E2M1[low_nibbles_first(data[start:stop])] * np.repeat(scales(start, stop), group, axis=1)
        return values

    return Decoded(floats)


def mxfp4(data: Array, exponents: Array) -> Mxfp4:
    """data: uint8 [O, I / 2], the even input low; exponents: uint8 [O, I / 32]."""
    return Mxfp4(lambda i, j: low_nibbles_first(data[i:j]), lambda i, j: exponents[i:j], len(data))
