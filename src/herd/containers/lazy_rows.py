"""Arrays that are made from a file's bytes a few rows at a time, so that a large stack never needs to be in memory."""

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from herd.formats.dtypes import Array

PIECE_BYTES = 8 << 20


class LazyArray:
    """Looks like an array [O, I] or [E, O, I] and is made when asked for: `x[e]`, `x[start:stop]`, `np.asarray(x)`.

    make(at, start, stop): rows of the matrix at `at`, () or (e,), as an array of `dtype`. Of `x[e, rows, columns]` the
    matrix e is made whole and kept until another is asked for: columns come piece by piece.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: Any,
        make: Callable[[tuple[int, ...], int, int], Array],
        at: tuple[int, ...] = (),
    ) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self._make, self._at = make, at
        self._kept: tuple[int, Array] | None = None

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Size in bytes of the whole array, were it in memory."""
        return int(prod(self.shape) * self.dtype.itemsize)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, int) and self.ndim == 3:
            if not -len(self) <= key < len(self):
                raise IndexError(key)
            return LazyArray(self.shape[1:], self.dtype, self._make, (*self._at, key % len(self)))
        if isinstance(key, slice) and self.ndim == 2:
            start, stop, step = key.indices(self.shape[0])
            assert step == 1, step
            return self._make(self._at, start, max(start, stop))
        if isinstance(key, tuple) and isinstance(key[0], int) and self.ndim == 3:
            if self._kept is None or self._kept[0] != key[0]:
                self._kept = (key[0], np.asarray(self[key[0]]))
            return self._kept[1][key[1:]]
        return np.asarray(self)[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        out = np.empty(self.shape, self.dtype)
        if self.ndim == 3:
            for i in range(len(self)):
                self[i].__array_into__(out[i])
        else:
            self.__array_into__(out)
        return out if dtype is None else out.astype(dtype)

    def __array_into__(self, out: Array) -> None:
        row_bytes = max(1, self.shape[1] * self.dtype.itemsize)
        step = max(1, PIECE_BYTES // row_bytes)
        for start in range(0, self.shape[0], step):
            out[start : start + step] = self[start : start + step]
