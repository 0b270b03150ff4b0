"""Random weights for tests, plans and training from scratch."""

import zlib
from math import prod, sqrt

import numpy as np

from herd.checkpoint.hf.write import save_hf
from herd.config import Llama4Config
from herd.formats.dtypes import Array, cast, dtype_name
from herd.weights import Dense, Experts, Linear, Model, build

__all__ = ["RandomSource", "random_model", "save_hf"]


class RandomSource:
    """Random weights: linear layers N(0, 1/inputs), norms 1 + 0.1 N, biases and embeddings 0.1 N.

    Every tensor depends on the seed and its own name only, so the order of asking does not matter. Values are drawn in
    float32 and rounded to `dtype` ("float32", "float16", "bfloat16" as uint16 bits).
    """

    def __init__(self, config: Llama4Config, seed: int = 0, dtype: str = "float32") -> None:
        self.config = config
        self.seed = seed
        self.dtype = dtype_name(dtype)

    def vector(self, name: str, shape: tuple[int, ...]) -> Array:
        """A vector around 1 for norm weights, around 0 otherwise."""
        centre = 1.0 if "norm" in name and name.endswith(".weight") else 0.0
        return self._draw(name, shape, 0.1, centre)

    def matrix(self, name: str, outputs: int, inputs: int, *, bias: bool = False) -> Linear:
        """A matrix whose outputs are about as large as its inputs."""
        w = self._draw(name + ".weight", (outputs, inputs), 1 / sqrt(inputs))
        return Dense(w, self._draw(name + ".bias", (outputs,), 0.1) if bias else None, name)

    def experts(self, name: str, num_experts: int, inputs: int, outputs: int) -> Linear:
        """One stack, input-major."""
        return Experts(self._draw(name, (num_experts, inputs, outputs), 1 / sqrt(inputs)), name)

    def _draw(self, name: str, shape: tuple[int, ...], scale: float, centre: float = 0.0) -> Array:
        rng = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
        values = rng.standard_normal(prod(shape), dtype=np.float32).reshape(shape)
        return cast(values * np.float32(scale) + np.float32(centre), self.dtype, name)


def random_model(config: Llama4Config, seed: int = 0, dtype: str = "float32") -> Model:
    """A whole random model in memory."""
    return build(config, RandomSource(config, seed, dtype))
