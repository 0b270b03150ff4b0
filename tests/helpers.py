"""What several tests need: tiny models with random weights, in float32, over either op set."""

import functools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from herd import formats
from herd.checkpoint.hf.write import save_hf
from herd.checkpoint.random_weights import RandomSource, random_model
from herd.config import TINY, Llama4Config
from herd.formats import strips
from herd.model import place_weights
from herd.ops.contract import Ops
from herd.text.special import SMALL
from herd.weights import Linear, Packed

TINY_TEXT = replace(TINY, vision=None)
TINY_DENSE = replace(
    # as Llama 2/3 files become: all layers dense, all with RoPE, no chunks
    TINY_TEXT, num_experts=0, expert_width=0, moe_interleave=0, nope_interval=0, chunk=None, use_qk_norm=False,
    temperature_tuning=False, rope_scaling=None, tied_embeddings=True,
)  # fmt: skip

OP_SETS = ("torch", "native")
PATIENCE_S = 120.0
"""How long tests wait for what is there in a moment: on a busy machine too, only a hang takes longer."""


def until(what: object, holds: Callable[[], object]) -> None:
    """Wait until it holds. Fails with what was not there after PATIENCE_S."""
    end_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end_s, what
        time.sleep(0.01)


@dataclass
class Choices:
    """A routing that keeps everything: (layer, experts_TA, scores_TA)."""

    choices: list[tuple[int, Any, Any]] = field(default_factory=list)

    def __call__(self, layer: int, experts_TA: Any, scores_TA: Any) -> None:
        self.choices.append((layer, experts_TA, scores_TA))

    def pass_over(self, positions_T: Any) -> None:
        pass


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


def put(node: Any, **values: Any) -> None:
    """Change a node of a tree that is the test's own and that no op set has bound; nodes are frozen otherwise."""
    vars(node).update(values)


def with_block(model: Any, i: int, **parts: Any) -> Any:
    """The model with other parts in one layer."""
    blocks = list(model.blocks)
    blocks[i] = replace(blocks[i], **parts)
    return replace(model, blocks=tuple(blocks))


def placed(config: Llama4Config, ops: Ops, seed: int = 0) -> Any:
    """The random model, on an op set."""
    return place_weights(ops, weights(config, seed))


class Quantized(RandomSource):
    """The random model, its matrices in a number format. layout: "rows" or "strips", see weights.Packed."""

    def __init__(self, config: Llama4Config, format: str, layout: str = "rows", seed: int = 0) -> None:
        super().__init__(config, seed)
        self._format, self._layout = format, layout

    def matrix(self, name: str, outputs: int, inputs: int, *, bias: bool = False) -> Linear:
        """[O, I]."""
        node: Any = super().matrix(name, outputs, inputs, bias=bias)
        return self._packed(node.w, node.bias, name)

    def experts(self, name: str, num_experts: int, inputs: int, outputs: int) -> Linear:
        """[E, O, I]: blocks lie along the inputs."""
        node: Any = super().experts(name, num_experts, inputs, outputs)
        return self._packed(np.ascontiguousarray(node.w.swapaxes(1, 2)), None, name)

    def _packed(self, w: Any, bias: Any, name: str) -> Packed:
        codes = formats.encode(self._format, w)
        if self._layout == "strips":
            codes = strips.to_strips(self._format, codes)
        return Packed(self._format, codes, w.shape, bias, name, self._layout)


def byte_tokenizer_files(vocab_size: int = 320) -> dict[str, str]:
    """The files of `Tokenizer.bytes_only` in a Hugging Face folder: 256 bytes, no merges, the same specials."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]  # GPT-2's: these stand for themselves
    others = iter(range(256, 512))
    letters = [chr(b) if b in printable else chr(next(others)) for b in range(256)]
    names = [*SMALL, *(f"<|spare_{n}|>" for n in range(vocab_size - 256 - len(SMALL)))]
    tokenizer = {
        "model": {"type": "BPE", "vocab": {c: i for i, c in enumerate(letters)}, "merges": []},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "added_tokens": [{"id": 256 + i, "content": name, "special": True} for i, name in enumerate(names)],
    }
    config = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "add_bos_token": True}
    return {"tokenizer.json": json.dumps(tokenizer), "tokenizer_config.json": json.dumps(config)}


def wanting(token_id: int, config: Llama4Config = TINY) -> Any:
    """A model to which nothing is likelier than this id, whatever it has read; all others are as likely as each other.
    Every position's state is the same vector of ones, and only this id's row of the head is not zero."""
    model = random_model(config, 0)
    arrays = [model.head.w, *(block.o.w for block in model.blocks)]
    for block in model.blocks:
        mlps = (block.ffn,) if block.ffn.kind == "mlp" else (block.ffn.shared, block.ffn)
        arrays += [mlp.down.w for mlp in mlps]
    for array in arrays:
        array[:] = 0
    model.embed.w[:] = 1
    model.norm.w[:] = 1
    model.head.w[token_id] = 1
    return model


def hf_folder(folder: Path, config: Llama4Config = TINY, seed: int = 0, model: Any = None, **texts: str) -> Path:
    """A whole tiny checkpoint on disk; `texts`: further files, name -> content. model: its weights; None: random."""
    model = weights(config, seed) if model is None else model
    return save_hf(folder, config, model, texts={**byte_tokenizer_files(config.vocab_size), **texts})
