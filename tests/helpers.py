"""What several tests need: tiny models with random weights, in float32, over either op set."""

import functools
from dataclasses import replace
from typing import Any

import pytest

from herd.checkpoint.sources import random_model
from herd.config import TINY, Llama4Config
from herd.model import place_weights
from herd.ops.contract import Ops

TINY_TEXT = replace(TINY, vision=None)
TINY_DENSE = replace(
    # as Llama 2/3 files become: all layers dense, all with RoPE, no chunks
    TINY_TEXT, num_experts=0, expert_width=0, moe_interleave=0, nope_interval=0, chunk=None, use_qk_norm=False,
    temperature_tuning=False, rope_scaling=None, tied_embeddings=True,
)  # fmt: skip

OP_SETS = ("torch", "native")


@functools.cache
def weights(config: Llama4Config, seed: int = 0) -> Any:
    """A random model, as arrays; made once a config and seed."""
    return random_model(config, seed)


def op_set(name: str, threads: int = 1) -> Ops:
    """An op set by name; skips the test where it cannot be had (torch is optional)."""
    if name == "torch":
        torch = pytest.importorskip("torch")
        torch.set_num_threads(threads)
        from herd.ops.torch import TorchOps

        return TorchOps()
    from herd.ops.native import NativeOps

    return NativeOps(threads=threads)


def placed(config: Llama4Config, ops: Ops, seed: int = 0) -> Any:
    """The random model, on an op set."""
    return place_weights(ops, weights(config, seed))
