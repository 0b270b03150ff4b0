"""Float rows to the blocks of a number format, on all cores, with what that loses. Over `native/core/encode*`."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from herd import _native, formats
from herd.errors import BadCheckpoint, UsageError, fail

LEAST = 1e-6
"""Importances below this fraction of their mean count as it: no column may come out as noise."""


@dataclass
class EncodingLoss:
    """The error of encoding: sums over the weights of one tensor or several."""

    error2: float = 0.0
    weighted2: float = 0.0
    """Sum of importance * error^2."""
    x2: float = 0.0
    largest: float = 0.0
    """Largest error of a weight."""
    num_weights: int = 0

    def add(self, other: "EncodingLoss") -> None:
        """Add another's sums."""
        self.error2 += other.error2
        self.weighted2 += other.weighted2
        self.x2 += other.x2
        self.largest = max(self.largest, other.largest)
        self.num_weights += other.num_weights

    @property
    def relative(self) -> float:
        """Root mean square error over the root mean square of the weights."""
        return float(np.sqrt(self.error2 / self.x2)) if self.x2 > 0 else 0.0


def importance_of(mean_x2: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Mean squares of the inputs [I] -> importances of the columns: mean 1, none below LEAST.

    Raises UsageError for negative or non-finite ones; zeros throughout say nothing, so all columns become equal.
    """
    given = np.asarray(mean_x2, np.float64)
    mean = float(given.mean())
    if not np.isfinite(mean) or (given < 0).any():
        fail(UsageError, "importances", got="a negative, NaN or infinite one", expected="finite, 0 or more")
    if mean == 0:
        return np.ones(given.shape, np.float32)
    return np.maximum(given / mean, LEAST).astype(np.float32)


def encode_rows(
    format: str,
    rows: npt.NDArray[Any],
    importance: npt.NDArray[np.float32] | None = None,
    name: str = "",
    first: int = 0,
    threads: Any = None,
) -> tuple[npt.NDArray[np.uint8], EncodingLoss]:
    """Encode rows [n, I] (float32, float16, uint16 as bfloat16; any strides) to uint8 [n, row_bytes]; returns them and
    the error.

    importance: [I], of `importance_of`. name, first: the tensor and the row that `rows` begins at, for errors.
    threads: of a native op set; None: those of the process.
    Raises BadCheckpoint naming tensor, row and column of a NaN, an infinity, or what float16 scales cannot hold.
    """
    out = np.empty((len(rows), formats.row_bytes(format, rows.shape[1])), np.uint8)
    error2, weighted2, x2, largest, fault = _native.encode(format, rows, importance, out, threads)
    if fault is not None:
        why, row, column = fault
        value = float(formats.to_float32(rows[row : row + 1])[0, column])
        expected = "finite weights" if why == "not finite" else f"weights whose {format} scale is at most 65504"
        fail(BadCheckpoint, f"{name} row {first + row} column {column}", got=f"{value:g}", expected=expected)
    return out, EncodingLoss(error2, weighted2, x2, largest, rows.size)
