"""Parts of a model on different op sets: experts on one, all else and the cache on the other, through the runner."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from helpers import OP_SETS, TINY_TEXT, Choices, op_set, placed, weights
from herd.config import TINY, Llama4Config
from herd.engine.runner import Chunk, Runner
from herd.model import place_weights
from herd.ops.contract import Adapters, Extras, LowRank
from herd.ops.hybrid import HybridOps
from herd.weights import LoRA, WeightNode

PAIRS = [("native", "torch"), ("torch", "native")]
IDS = np.random.default_rng(11).integers(0, 256, 60).tolist()
ALL_EXPERTS = replace(TINY_TEXT, moe_interleave=1, experts_per_token=2)
# float32, 4 layers: op sets differ by the order of sums; logits are of size 1
CLOSE = {"rtol": 2e-4, "atol": 2e-4}


def hybrid(main: str, far: str, config: Llama4Config) -> tuple[Any, Any]:
    ops: Any = HybridOps(op_set(main), op_set(far))
    return ops, place_weights(ops, weights(config), where=ops.where)


def logits(ops: Any, model: Any, config: Llama4Config, kv: str = "f32", routing: Any = None) -> np.ndarray:
    """A prompt in pieces that cross chunks, then token by token, beside another sequence."""
    runner = Runner(config, model, ops, context=256, kv_dtype=kv, sequences=2)
    a, b = runner.lease(), runner.lease()
    found = [
        runner.run([Chunk(a, IDS[:13], rows=range(13)), Chunk(b, IDS[30:37])], routing),
        runner.run([Chunk(a, IDS[13:40], rows=range(27)), Chunk(b, IDS[37:38])], routing),
        *(runner.run([Chunk(b, [i]), Chunk(a, [i])], routing) for i in IDS[40:50]),
    ]
    return np.concatenate(found)


@pytest.mark.parametrize("kv", ["f32", "int8"])
@pytest.mark.parametrize("config", [TINY_TEXT, ALL_EXPERTS], ids=["every second layer", "two experts a token"])
@pytest.mark.parametrize(("main", "far"), PAIRS)
def test_logits_of_prefill_and_decode_are_those_of_either_alone(
    main: str, far: str, config: Llama4Config, kv: str
) -> None:
    # what differs in the last bit may become another number in a cache of int8, a step of 1/127 of a head's largest
    close = CLOSE if kv == "f32" else {"rtol": 0, "atol": 1e-2}
    kept, alone = Choices(), Choices()
    found = logits(*hybrid(main, far, config), config, kv, kept)
    for name, routing in ((main, alone), (far, None)):
        ops = op_set(name)
        np.testing.assert_allclose(found, logits(ops, placed(config, ops), config, kv, routing), **close)
    assert len(kept.choices) == len(alone.choices) > 0
    for (i, experts, scores), (j, others, their_scores) in zip(kept.choices, alone.choices, strict=True):
        assert i == j
        np.testing.assert_array_equal(experts, others)
        np.testing.assert_allclose(scores, their_scores, **close)


def test_two_op_sets_of_a_kind_are_one() -> None:
    mine = op_set("native")
    found = logits(*hybrid("native", "native", TINY_TEXT), TINY_TEXT)
    np.testing.assert_allclose(found, logits(mine, placed(TINY_TEXT, mine), TINY_TEXT), **CLOSE)


def arrays(node: Any, name: str = "") -> list[tuple[str, Any]]:
    """(name of the weight, array) of a tree."""
    if isinstance(node, WeightNode):
        name = getattr(node, "name", "") or name
        return [found for key, x in vars(node).items() if not key.startswith("_") for found in arrays(x, name)]
    if isinstance(node, tuple):
        return [found for x in node for found in arrays(x, name)]
    return [(name, node)] if hasattr(node, "dtype") else []


def test_a_rule_says_by_canonical_name_where_each_array_lies() -> None:
    torch = pytest.importorskip("torch")
    asked: list[str] = []
    main, far = op_set("native"), op_set("torch")

    def where(name: str) -> Any:
        asked.append(name)
        return far if "layers.1." in name else main

    model = place_weights(main, weights(TINY), where=where)
    found = arrays(model)
    assert {name for name, x in found if isinstance(x, torch.Tensor)} == {n for n, _ in found if "layers.1." in n}
    assert len({n for n, _ in found if "layers.1." in n}) > 8
    assert "" not in asked
    assert {"vision_model.class_embedding", "vision_model.positional_embedding_vlm", "lm_head"} <= set(asked)


def test_an_adapter_without_a_name_lies_where_its_base_does() -> None:
    asked = []
    base = weights(TINY_TEXT).blocks[0].q
    ops = op_set("native")
    down, up = np.zeros((2, 64), np.float32), np.zeros((128, 2), np.float32)
    place_weights(ops, LoRA(base, down, up, 1.0), where=lambda name: asked.append(name) or ops)  # type: ignore[func-returns-value]
    assert set(asked) == {base.name}


@pytest.mark.parametrize(("main", "far"), PAIRS)
def test_adapters_of_experts_are_added_where_the_experts_are(main: str, far: str) -> None:
    config = TINY_TEXT
    rng = np.random.default_rng(2)
    blocks = weights(config).blocks
    i = next(i for i, b in enumerate(blocks) if b.ffn.kind == "moe")
    name, E, F, D = blocks[i].ffn.down.name, config.num_experts, config.expert_width, config.width
    low = rng.normal(size=(E, 2, F)).astype(np.float32), rng.normal(size=(E, D, 2)).astype(np.float32)
    x = rng.normal(size=(9, D)).astype(np.float32)

    def layer(ops: Any, near: Any, model: Any, rows: Any, residual: bool) -> np.ndarray:
        pairs = {name: [LowRank(near.array(low[0]), near.array(low[1]), 0.5)]}
        extras, b = Extras(Adapters(pairs, rows)), model.blocks[i]
        y = ops.moe_add(ops.array(x.copy()), b.norm2, b.ffn, E, config.experts_per_token, extras, residual)
        return np.asarray(ops.numpy(y))

    ops, model = hybrid(main, far, config)
    alone = op_set(main)
    rows = np.arange(9) % 2 - 1
    for residual in (True, False):
        expected = layer(alone, alone, placed(config, alone), rows, residual)
        np.testing.assert_allclose(layer(ops, ops.far, model, rows, residual), expected, **CLOSE)
    without = layer(ops, ops.far, model, np.full(9, -1), False)
    assert not np.allclose(without, expected, atol=0.1)


@pytest.mark.parametrize("name", OP_SETS)
def test_routing_and_experts_apart_are_the_layer_with_experts(name: str) -> None:
    ops: Any = op_set(name)
    config = ALL_EXPERTS
    b = placed(config, ops).blocks[0]
    x = np.random.default_rng(4).normal(size=(7, config.width)).astype(np.float32)
    h = ops.norm(ops.array(x.copy()), b.norm2)
    choice = ops.route(h, b.ffn.router, 2)
    apart = ops.mlp_add(ops.array(x.copy()), b.norm2, b.ffn.shared) + ops.experts(h, b.ffn, *choice, 4)
    whole = ops.moe_add(ops.array(x.copy()), b.norm2, b.ffn, 4, 2)
    np.testing.assert_allclose(ops.numpy(apart), ops.numpy(whole), **CLOSE)
    assert ops.numpy(ops.experts(h[:0], b.ffn, *(y[:0] for y in choice), 4)).shape == (0, config.width)
