"""Tiny models of every kind that the family has, run here and by transformers; the tolerance both are held to.

Each case is a config, random weights of ours, ids (and tiles), and one forward pass over all of them. The weights go
to transformers through the Hugging Face folder that we write, so that names and orders in files are proven as well.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import import_module
from math import lcm, log1p
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from herd.batch import Context, packed
from herd.checkpoint import random_model, save_hf
from herd.config import TINY, Llama4Config, RopeScaling, VisionConfig, is_dense_llama
from herd.model import forward, place_weights
from herd.weights import Model

EPS32 = 2.0**-24
"""Unit roundoff of float32."""
TEXT = replace(TINY, vision=None)
LONG = 4 * 16 + 7
"""Crosses four chunk borders, and four steps of the temperature."""


@dataclass(frozen=True)
class Case:
    """One model and one prompt."""

    config: Llama4Config
    length: int = LONG
    seed: int = 1
    tiles: tuple[int, ...] = ()
    """Tiles of each image in the prompt."""

    @property
    def ids(self) -> np.ndarray:
        """Random text; each image's tiles become runs of patch ids between ordinary ones."""
        rng = np.random.default_rng([self.seed, 7])
        text = rng.integers(0, 250, self.length).tolist()
        for tiles in reversed(self.tiles):
            image = [self.config.image_start_id]
            for _ in range(tiles):
                image += [self.config.patch_id] * self.config.tokens_per_tile + [251]
            text[5:5] = [*image, self.config.image_end_id, 252]
        return np.asarray(text, np.int64)

    @property
    def pixels(self) -> np.ndarray | None:
        """Tiles [I, 3, S, S] in -1..1, no two alike."""
        if not self.tiles:
            return None
        assert self.config.vision is not None
        size = self.config.vision.image_size
        rng = np.random.default_rng([self.seed, 8])
        return rng.uniform(-1, 1, (sum(self.tiles), 3, size, size)).astype(np.float32)

    @property
    def weights(self) -> Model:
        """Ours, as numpy."""
        return random_model(self.config, self.seed)

    @property
    def context(self) -> Context:
        """One document."""
        return packed([len(self.ids)], self.config.chunk)


RELEASED_VISION = VisionConfig(
    # The widths that transformers' vision code takes for granted: MLP 4U = U / ratio^2, both adapter widths the same,
    # eps 1e-5 whatever the config says. Runs through its own from_pretrained, nothing patched.
    image_size=28,
    patch_size=7,
    width=64,
    num_layers=2,
    num_heads=2,
    mlp_width=256,
    adapter_width=96,
    output_width=96,
)

CASES = {
    "experts in every layer": Case(replace(TEXT, moe_interleave=1)),
    "experts interleaved with dense layers": Case(TEXT),
    "one token": Case(TEXT, length=1),
    "two experts a token": Case(replace(TEXT, experts_per_token=2, moe_interleave=1), seed=2),
    "no QK norm, no rope scaling": Case(replace(TEXT, use_qk_norm=False, rope_scaling=None)),
    "no temperature": Case(replace(TEXT, temperature_tuning=False)),
    "a chunk that divides nothing": Case(replace(TEXT, chunk=13, floor_scale=11, attn_scale=0.3)),
    "a RoPE layer with full attention": Case(replace(TEXT, chunk_pattern=(True, False, True, False))),
    "patterns layer by layer": Case(
        replace(TEXT, rope_pattern=(True, False, False, True), moe_pattern=(True, False, False, True), moe_interleave=0)
    ),
    "dense, no chunk": Case(replace(TEXT, num_experts=0, expert_width=0, moe_interleave=0, chunk=None)),
    "attention biases": Case(replace(TEXT, attention_bias=True)),
    "tied embeddings": Case(replace(TEXT, tied_embeddings=True)),
    "a large eps": Case(replace(TEXT, norm_eps=0.05)),
    "square experts": Case(replace(TEXT, expert_width=TINY.width, moe_interleave=1)),
    "square gate and up": Case(replace(TEXT, expert_width=TINY.width // 2, moe_interleave=1)),
    "image of one tile": Case(TINY, length=20, tiles=(1,)),
    "images of one and of several tiles": Case(TINY, length=20, tiles=(1, 3)),
    "vision of released widths": Case(replace(TINY, vision=RELEASED_VISION), length=20, tiles=(3, 1)),
    "dense Llama": Case(
        replace(
            TEXT,
            num_experts=0,
            expert_width=0,
            moe_interleave=0,
            nope_interval=0,
            chunk=None,
            use_qk_norm=False,
            temperature_tuning=False,
            # high above low, so that some frequencies are blended
            rope_scaling=RopeScaling(8.0, 1.0, 4.0, 64),
            attention_bias=True,
            mlp_bias=True,
        )
    ),
}


def random_case(seed: int) -> Case:
    """Any text model of the family with small numbers: heads, widths, patterns, chunk, experts, scaling."""
    rng = np.random.default_rng([seed, 9])

    def pick(*choices: Any) -> Any:
        return choices[rng.integers(len(choices))]

    layers, kv = int(rng.integers(1, 6)), pick(1, 2, 3)
    heads = kv * pick(1, 2, 5)
    experts = pick(0, 1, 3, 8)
    low = pick(1.0, 2.0)
    config = replace(
        TEXT,
        num_layers=layers,
        # transformers wants a multiple of the heads, our kernels one of 32
        width=lcm(32, heads) * pick(1, 2),
        num_heads=heads,
        num_kv_heads=kv,
        head_size=pick(32, 64),
        vocab_size=300,
        dense_width=32 * pick(1, 3, 5),
        expert_width=32 * pick(1, 2, 5) if experts else 0,
        num_experts=experts,
        experts_per_token=1 if experts < 2 else pick(1, 1, 2),
        moe_interleave=pick(1, 2, 3) if experts else 0,
        nope_interval=pick(2, 3, 4),
        chunk=pick(None, 1, 5, 16, 64),
        use_qk_norm=pick(True, False),
        rope_theta=pick(1e4, 5e5),
        rope_scaling=pick(None, RopeScaling(pick(2.0, 16.0), low, low * pick(1.0, 4.0), pick(16, 64, 8192))),
        temperature_tuning=pick(True, False),
        floor_scale=pick(1, 7, 16),
        attn_scale=pick(0.1, 0.5),
        norm_eps=pick(1e-5, 1e-3, 0.1),
        tied_embeddings=pick(True, False),
    )
    return Case(config, length=int(rng.integers(1, 90)), seed=seed)


def ours(ops: Any, case: Case, *, config: Llama4Config | None = None, **changed: Any) -> np.ndarray:
    """Logits [T, V] of our model. `changed` replaces weights, context, ids or pixels (deliberate mistakes)."""
    weights = place_weights(ops, changed.get("weights", case.weights))
    context = ops.place(changed.get("context", case.context))
    pixels = changed.get("pixels", case.pixels)
    out = forward(ops, config or case.config, weights, case.ids, context, None if pixels is None else ops.array(pixels))
    return np.asarray(ops.numpy(out))


@lru_cache(maxsize=len(CASES))
def theirs(name: str) -> np.ndarray:
    """Logits [T, V] of transformers for one of CASES."""
    return run_transformers(CASES[name])


def run_transformers(case: Case) -> np.ndarray:
    """Logits [T, V] of transformers on the same weights, float32, eager attention."""
    torch, _ = pytest.importorskip("torch"), pytest.importorskip("transformers")
    with tempfile.TemporaryDirectory() as parent:
        folder = save_hf(Path(parent) / "model", case.config, case.weights)
        model = _load(folder, case.config)
    args = {"input_ids": torch.from_numpy(case.ids)[None]}
    if case.tiles:
        # 5.24.0's outermost forward reads a field that its own text model does not return; give it one.
        model.language_model.register_forward_hook(lambda module, given, out: setattr(out, "image_outputs", None))
        args["pixel_values"] = torch.from_numpy(case.pixels)
    with torch.no_grad():
        return model(**args, use_cache=False).logits[0].numpy()


def _load(folder: Path, c: Llama4Config) -> Any:
    import torch
    import transformers

    kind = "Llama4ForConditionalGeneration" if c.vision else "Llama4ForCausalLM"
    cls = getattr(transformers, "LlamaForCausalLM" if is_dense_llama(c) else kind)
    if c.vision is None or c.vision is RELEASED_VISION:
        return cls.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    # transformers ties widths and eps of its vision code that the equations leave free (see RELEASED_VISION): give its
    # modules the config's, so that a mistake that only such equalities hide is seen. Its arithmetic stays.
    from safetensors.torch import load_file

    v = c.vision
    model = cls._from_config(transformers.Llama4Config.from_pretrained(folder), attn_implementation="eager").eval()
    adapter = model.vision_model.vision_adapter.mlp
    adapter.fc1 = torch.nn.Linear(v.width * v.pixel_shuffle**2, v.adapter_width, bias=False)
    adapter.fc2 = torch.nn.Linear(v.adapter_width, v.output_width, bias=False)
    for module in model.vision_model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = v.norm_eps
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    return model


def tolerance(case: Case, logits: np.ndarray) -> float:
    """Largest difference that rounding alone explains between two float32 evaluations of the same logits.

    A float32 sum of K products is off by about sqrt(K) * eps of the product of the norms (K * eps at worst; Higham,
    Accuracy and Stability of Numerical Algorithms, ch. 3). Sums that follow one another: per layer q and k, softmax
    with v, o, up, down (5), as many in a tower layer, 4 in patches and adapter, the head. Each block reads its input
    normalised, so a relative error is handed on with a gain near 1; the errors are independent, so variances add:
    relative error sqrt(depth * K) * eps of the last x. A logit is a row of the head times that x, and its error is a
    row times an error of that relative size in another direction: as large, relative to the usual logit. The largest
    of T * V normal numbers (10^4) is 4.5 deviations. Two evaluations, each with its own: sqrt(2). Temperature
    multiplies scores, so a softmax hands on errors of its input by as much more.
    """
    c = case.config
    sums = max(c.width, c.dense_width, c.expert_width)
    depth = 5 * c.num_layers + 1
    if case.tiles:
        assert c.vision is not None
        sums = max(sums, c.vision.width * c.vision.pixel_shuffle**2, c.vision.mlp_width)
        depth += 5 * c.vision.num_layers + 4
    usual_logit = float(np.sqrt(np.square(logits).mean()))
    hottest = 1 + c.attn_scale * log1p(len(case.ids) // c.floor_scale) if any(x.tuned for x in c.layers) else 1.0
    return hottest * float(np.sqrt(2)) * 4.5 * EPS32 * float(np.sqrt(depth * sums)) * usual_logit


@dataclass(frozen=True)
class OpSet:
    """An op set by name; skipped where it is not built."""

    name: str
    make: Callable[[], Any] = field(compare=False)


def _torch_ops() -> Any:
    pytest.importorskip("torch")
    return import_module("herd.ops.torch").TorchOps()


def _native_ops() -> Any:
    return import_module("herd.ops.native").NativeOps(threads=1)


OP_SETS = [OpSet("torch", _torch_ops), OpSet("native", _native_ops)]
