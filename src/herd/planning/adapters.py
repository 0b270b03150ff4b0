"""Bytes of a LoRA adapter, as arithmetic on a config: down [r, I] and up [O, r] of each matrix, in float32.

What it is not: an adapter (`engine.adapters`, which holds them in float32 whatever they came in).
"""

from collections.abc import Collection
from typing import Any

from herd.config import Llama4Config
from herd.weights import Dense, Linear, build, is_vision

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLPS = ("gate_proj", "up_proj", "down_proj")
EXPERTS = ("experts.gate_up_proj", "experts.down_proj")
"""Names of the stacks of routed experts: each expert has a pair of its own."""


def adapter_bytes(
    config: Llama4Config,
    rank: int,
    targets: Collection[str] = ATTENTION,
    layers: Collection[int] | None = None,
) -> int:
    """Bytes of an adapter of this rank on the matrices of the text layers whose names end with one of `targets`.

    layers: numbers of those that have it; None: all. "down_proj" alone is that of MLPs, shared experts included;
    "experts.down_proj" that of routed experts.
    """
    counter = _Counter(frozenset(targets), None if layers is None else frozenset(layers))
    build(config, counter)
    return 4 * rank * counter.sides


class _Counter:
    """A `Source` that adds up inputs and outputs of what is wanted."""

    def __init__(self, targets: frozenset[str], layers: frozenset[int] | None) -> None:
        self._targets, self._layers = targets, layers
        self.sides = 0

    def vector(self, name: str, shape: tuple[int, ...]) -> Any:
        return None

    def matrix(self, name: str, outputs: int, inputs: int, *, bias: bool = False) -> Linear:
        self._add(name, name.rsplit(".", 1)[-1], outputs + inputs)
        return _NOTHING

    def experts(self, name: str, num_experts: int, inputs: int, outputs: int) -> Linear:
        self._add(name, "experts." + name.rsplit(".", 1)[-1], num_experts * (inputs + outputs))
        return _NOTHING

    def _add(self, name: str, target: str, sides: int) -> None:
        path = name.split(".")
        if is_vision(name) or path[:2] != ["model", "layers"] or target not in self._targets:
            return
        if self._layers is None or int(path[2]) in self._layers:
            self.sides += sides


_NOTHING = Dense(None)
