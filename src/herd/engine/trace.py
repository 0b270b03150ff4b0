"""`--trace`: which expert each token went to, as JSON lines.

    {"position": 17, "layer": 3, "experts": [5], "scores": [0.8132]}

One line per token and MoE layer, layer by layer within a pass, positions from 0 in the sequence.
"""

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from herd.batch import Ints
from herd.errors import UsageError, fail


class RoutingTrace(Protocol):
    """A `Routing` that is told first which rows it will be called for."""

    def pass_over(self, positions_T: Ints) -> None:
        """Set the positions of the rows that the next calls are about."""

    def __call__(self, layer: int, experts_TA: Any, scores_TA: Any) -> None:
        """Take the experts of one layer, and their scores, for each of these rows."""


class RoutingLog:
    """A `Routing` that writes to a file. Use it in `with`; raises UsageError when the file cannot be written."""

    def __init__(self, path: str | Path) -> None:
        try:
            self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            fail(UsageError, "trace file", got=str(path), expected=f"a file to write: {error.strerror}")
        except ValueError:  # a zero byte, a lone surrogate
            fail(UsageError, "trace file", got=str(path), expected="a name that a file can have")
        self._positions_T: Ints = np.zeros(0, np.int64)

    def pass_over(self, positions_T: Ints) -> None:
        """See RoutingTrace."""
        self._positions_T = positions_T

    def __call__(self, layer: int, experts_TA: Any, scores_TA: Any) -> None:
        """See RoutingTrace: writes one line for each row."""
        rows = zip(self._positions_T.tolist(), experts_TA.tolist(), scores_TA.tolist(), strict=True)
        for position, experts, scores in rows:
            line = {"position": position, "layer": layer, "experts": experts, "scores": [round(s, 6) for s in scores]}
            self._file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        """Flush and close the file."""
        self._file.close()

    def __enter__(self) -> "RoutingLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
