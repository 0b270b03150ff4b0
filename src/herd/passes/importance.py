"""The importance of a weight's columns: mean squares of its inputs, collected while the model reads a text.

The error that rounding puts into an output is sum_i dW[o, i] x_i; for inputs that are about independent its mean square
is sum_i dW[o, i]^2 E[x_i^2], so E[x_i^2] is what a rounding error in column i costs (Frantar et al., GPTQ, 2022: the
diagonal of the Hessian of the layer's output error; llama.cpp's "importance matrix" is the same).
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from herd.config import Llama4Config
from herd.passes.encode import importance_of

Floats64 = npt.NDArray[np.float64]

PRIOR_ROWS = 16
"""An expert's own statistics count as much as the prior once this many tokens have reached it."""


@dataclass
class InputStatistics:
    """The sum of squares [I] of `rows` inputs."""

    squares: Floats64
    rows: int = 0

    @property
    def mean(self) -> Floats64:
        """The mean squares [I]."""
        return self.squares / max(self.rows, 1)


@dataclass
class Importances:
    """Collects the statistics; an `ops.contract.Observer`."""

    weights: dict[str, InputStatistics] = field(default_factory=dict)
    experts: dict[tuple[str, int], InputStatistics] = field(default_factory=dict)

    def seen(self, name: str, x_RI: Any, expert: int | None = None) -> None:
        """See Observer."""
        x = np.asarray(x_RI, np.float32)
        # float32 rows, float64 sums over rows: squares of 30 rows at most in between
        squares = np.zeros(x.shape[1], np.float64)
        for start in range(0, len(x), 32):
            piece = x[start : start + 32]
            squares += np.einsum("ri,ri->i", piece, piece)
        keys: Any = (self.weights, name) if expert is None else (self.experts, (name, expert))
        table, key = keys
        entry = table.setdefault(key, InputStatistics(np.zeros(x.shape[1])))
        entry.squares += squares
        entry.rows += len(x)

    def of(self, name: str, expert: int | None = None) -> npt.NDArray[np.float32] | None:
        """Importances of the columns of a weight (and expert); None where the text said nothing.

        An expert's statistics are drawn towards the mean of all experts of the stack, PRIOR_ROWS rows strong. One that
        no token reached gets those of the layer's shared expert, whose inputs are the same but for the router's factor.
        """
        if expert is None:
            return importance_of(self.weights[name].mean) if name in self.weights else None
        own = self.experts.get((name, expert))
        if own is None:
            shared = self.weights.get(_shared_of(name))
            return None if shared is None else importance_of(shared.mean)
        all_squares = sum(s.squares for (stack, _), s in self.experts.items() if stack == name)
        prior, mean = importance_of(np.asarray(all_squares)), importance_of(own.mean)
        return importance_of((own.rows * mean + PRIOR_ROWS * prior) / (own.rows + PRIOR_ROWS))

    def unreached(self, config: Llama4Config) -> list[tuple[int, int]]:
        """The experts that no token reached, as (layer, expert)."""
        return [
            (i, e)
            for i, layer in enumerate(config.layers)
            if layer.moe
            for e in range(config.num_experts)
            if (f"model.layers.{i}.feed_forward.experts.down_proj", e) not in self.experts
        ]


def _shared_of(stack: str) -> str:
    """The shared expert's weight with the same inputs as a stack's."""
    name = stack.replace(".experts.", ".shared_expert.")
    return name.replace("gate_up_proj", "gate_proj")
