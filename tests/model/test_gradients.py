"""The reference op set is differentiable, and its gradients are right: by finite differences, and transformers' own."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity_cases import CASES, EPS32, _load

from herd.batch import packed
from herd.checkpoint import random_model, save_hf
from herd.checkpoint.walk import TreeSource, walk
from herd.config import TINY, Llama4Config, VisionConfig
from herd.model import forward
from herd.weights import Dense, Experts, Linear, build

torch = pytest.importorskip("torch")
from herd.ops.torch import TorchOps  # noqa: E402

SMALL = replace(
    TINY,
    width=8,
    num_heads=2,
    num_kv_heads=1,
    head_size=4,
    vocab_size=11,
    dense_width=6,
    expert_width=5,
    num_experts=2,
    chunk=3,
    floor_scale=2,
    vision=None,
    bos_id=None,
    eos_ids=(),
    image_start_id=8,
    image_end_id=9,
    patch_id=10,
)
VISION = VisionConfig(
    image_size=4,
    patch_size=1,
    width=8,
    num_layers=1,
    num_heads=2,
    mlp_width=6,
    adapter_width=5,
    output_width=7,
    norm_eps=1e-3,
)


class Tensors:
    """A source of weights that are leaves of a graph, by tensor name."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def vector(self, name: str, shape: tuple[int, ...]) -> Any:
        return self.values[name]

    def matrix(self, name: str, outputs: int, inputs: int, *, bias: bool = False) -> Linear:
        return Dense(self.values[name + ".weight"], self.values[name + ".bias"] if bias else None, name)

    def experts(self, name: str, num_experts: int, inputs: int, outputs: int) -> Linear:
        return Experts(self.values[name], name)


def leaves(c: Llama4Config, dtype: Any, seed: int) -> dict[str, Any]:
    """Every tensor of a random model, in the order of the walk, wanting a gradient."""
    source = TreeSource(c, random_model(c, seed))
    found = {}
    for wanted in walk(c):
        for name in wanted.tensors:
            if wanted.kind == "vector":
                value = source.vector(name, wanted.shape)
            elif wanted.kind == "experts":
                value = source.experts(name, *wanted.shape).w
            else:
                node: Any = source.matrix(wanted.name, *wanted.shape)
                value = node.bias if name.endswith(".bias") else node.w
            found[name] = torch.from_numpy(np.array(value)).to(dtype).requires_grad_()
    return found


@pytest.mark.parametrize(
    "c",
    [
        SMALL,
        replace(SMALL, experts_per_token=2, moe_interleave=1),
        replace(SMALL, tied_embeddings=True, num_layers=2),
        replace(SMALL, vision=VISION, num_layers=1),
    ],
    ids=["all kinds of layer", "two experts a token", "tied", "vision"],
)
def test_gradients_are_those_of_finite_differences(c: Llama4Config) -> None:
    ops = TorchOps(dtype=torch.float64)
    names = list(values := leaves(c, torch.float64, seed=5))
    ids, pixels = np.array([3, 1, 4, 1, 5, 2]), None
    if c.vision:
        ids = np.array([3, 10, 10, 10, 10, 2])
        pixels = torch.from_numpy(np.random.default_rng(2).uniform(-1, 1, (1, 3, 4, 4))).requires_grad_()
    context = ops.place(packed([len(ids)], c.chunk))

    def logits(*tensors: Any) -> Any:
        given = dict(zip(names, tensors, strict=False))
        return forward(ops, c, build(c, Tensors(given)), ids, context, tensors[-1] if c.vision else None)

    inputs = [*values.values(), *([pixels] if c.vision else [])]
    assert torch.autograd.gradcheck(logits, inputs, fast_mode=True)


@pytest.mark.parametrize("name", ["experts interleaved with dense layers", "images of one and of several tiles"])
def test_gradients_are_those_of_transformers(name: str) -> None:
    pytest.importorskip("transformers")
    case = CASES[name]
    c, ids = case.config, torch.from_numpy(case.ids)
    targets = ids.roll(-1)
    mine = leaves(c, torch.float32, case.seed)
    ops = TorchOps()
    pixels = None if case.pixels is None else torch.from_numpy(case.pixels)
    out = forward(ops, c, build(c, Tensors(mine)), case.ids, ops.place(case.context), pixels)
    torch.nn.functional.cross_entropy(out, targets).backward()

    with tempfile.TemporaryDirectory() as parent:
        model = _load(save_hf(Path(parent) / "model", c, case.weights), c)
    given: dict[str, Any] = {"input_ids": ids[None]}
    if pixels is not None:
        model.language_model.register_forward_hook(lambda module, a, out: setattr(out, "image_outputs", None))
        given["pixel_values"] = pixels
    torch.nn.functional.cross_entropy(model(**given, use_cache=False).logits[0], targets).backward()

    theirs = {n.removeprefix("language_model."): p.grad for n, p in model.named_parameters()}
    assert set(theirs) == set(mine)
    # As parity_cases.tolerance, forward and back (twice the depth), for the norm of a whole gradient: no largest of
    # many.
    depth = 2 * (5 * c.num_layers + (5 * c.vision.num_layers + 4 if c.vision else 0) + 1)
    limit = np.sqrt(2) * EPS32 * np.sqrt(depth * 256)
    for key, grad in mine.items():
        assert theirs[key].norm() > 0, key
        off = float((grad.grad - theirs[key]).norm() / theirs[key].norm())
        assert off < limit, f"{key}: off by {off:.1e}, at most {limit:.1e}"
