"""What rides along with a pass: adapters per row, observers per weight, the trace, the norm without the head."""

from collections import defaultdict
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from parity_cases import CASES, OP_SETS, TEXT, Case, OpSet, ours, tolerance

from helpers import Choices, put
from herd.batch import packed
from herd.checkpoint.walk import WeightSpec, walk
from herd.model import forward, hidden, place_weights
from herd.ops.contract import Adapters, Extras, LowRank
from herd.weights import Dense, Experts, LoRA, Model, Moe

CASE = CASES["experts interleaved with dense layers"]
RANK, SCALE = 3, 0.7
EMBED = "model.embed_tokens"
op_sets = pytest.mark.parametrize("op_set", OP_SETS, ids=lambda o: o.name)


def adaptable(case: Case) -> list[WeightSpec]:
    """Every matrix and expert stack that a pass multiplies by."""
    return [w for w in walk(case.config) if w.kind != "vector" and w.name != EMBED]


def low_rank(wanted: WeightSpec, seed: int) -> LowRank:
    """A random pair of about a third of the weight's own size."""
    rng = np.random.default_rng([seed, len(wanted.name), *wanted.shape])
    *stack, outputs, inputs = wanted.shape if wanted.kind == "matrix" else (wanted.shape[i] for i in (0, 2, 1))
    down = rng.normal(size=(*stack, RANK, inputs)).astype(np.float32) / np.float32(np.sqrt(inputs))
    up = rng.normal(size=(*stack, outputs, RANK)).astype(np.float32) * np.float32(0.3)
    return LowRank(down, up, SCALE)


def nodes(node: Any) -> dict[str, Any]:
    """Every named matrix and stack of a tree."""
    if isinstance(node, Dense | Experts | LoRA):
        return {node.name: node}
    if isinstance(node, tuple):
        return {name: x for item in node for name, x in nodes(item).items()}
    fields = vars(node).values() if hasattr(node, "kind") else ()
    return {name: x for item in fields for name, x in nodes(item).items()}


def merged(weights: Model, pairs: dict[str, LowRank]) -> Model:
    """The tree with scale * up down added in float64."""
    weights = deepcopy(weights)
    for name, node in nodes(weights).items():
        if name in pairs:
            delta = pairs[name].scale * (pairs[name].up.astype(np.float64) @ pairs[name].down)
            delta = delta.swapaxes(1, 2) if node.kind == "experts" else delta
            put(node, w=(node.w + delta).astype(np.float32))
    return weights


def placed(ops: Any, pair: LowRank | None) -> LowRank | None:
    return pair if pair is None else replace(pair, down=ops.array(pair.down), up=ops.array(pair.up))


def run(
    ops: Any, case: Case, weights: Model, extras: Extras | None = None, lengths: Any = None, rows: Any = None
) -> Any:
    context = ops.place(packed(lengths or [len(case.ids)], case.config.chunk, rows))
    return ops.numpy(forward(ops, case.config, place_weights(ops, weights), case.ids, context, extras=extras))


@op_sets
@pytest.mark.parametrize("name", ["experts interleaved with dense layers", "two experts a token", "dense, no chunk"])
def test_an_adapter_per_row_equals_merged_weights(name: str, op_set: OpSet) -> None:
    """Three documents in one batch: the first adapter, none, the second."""
    ops, case = op_set.make(), CASES[name]
    first = {w.name: low_rank(w, 1) for w in adaptable(case)}
    second = {w.name: low_rank(w, 2) for w in adaptable(case) if "k_proj" not in w.name}
    lengths = [30, 24, len(case.ids) - 54]
    pairs = {n: [placed(ops, first[n]), placed(ops, second.get(n))] for n in first}
    rows_T = np.repeat([0, -1, 1], lengths)
    got = run(ops, case, case.weights, Extras(Adapters(pairs, rows_T)), lengths)
    plain = run(ops, case, case.weights, None, lengths)
    for k, adapter in enumerate([first, {}, second]):
        own = slice(sum(lengths[:k]), sum(lengths[: k + 1]))
        expected = run(ops, case, merged(case.weights, adapter), None, lengths)[own]
        np.testing.assert_allclose(got[own], expected, rtol=0, atol=2 * tolerance(case, expected))
        assert (np.abs(got[own] - plain[own]).max() > 0.1) == bool(adapter)


@op_sets
def test_adapters_follow_their_rows_when_only_some_logits_are_wanted(op_set: OpSet) -> None:
    ops = op_set.make()
    pairs = {"lm_head": [placed(ops, low_rank(w, 1)) for w in adaptable(CASE) if w.name == "lm_head"]}
    rows_T = np.where(np.arange(len(CASE.ids)) % 2, 0, -1)
    extras = Extras(Adapters(pairs, rows_T))
    every = run(ops, CASE, CASE.weights, extras)
    some = run(ops, CASE, CASE.weights, extras, rows=[3, 2, 69])
    np.testing.assert_allclose(some, every[[3, 2, 69]], rtol=0, atol=tolerance(CASE, every))


@op_sets
def test_a_lora_node_equals_merged_weights_and_is_observed_once(op_set: OpSet) -> None:
    ops = op_set.make()
    pairs = {w.name: low_rank(w, 1) for w in adaptable(CASE)}
    wrapped = _wrap(deepcopy(CASE.weights), pairs)
    seen, plain = Seen(ops), Seen(ops)
    got = run(ops, CASE, wrapped, Extras(observe=seen))
    expected = run(ops, CASE, merged(CASE.weights, pairs), Extras(observe=plain))
    np.testing.assert_allclose(got, expected, rtol=0, atol=2 * tolerance(CASE, expected))
    assert {k: len(x) for k, x in seen.rows.items()} == {k: len(x) for k, x in plain.rows.items()}


def _wrap(node: Any, pairs: dict[str, LowRank]) -> Any:
    if isinstance(node, tuple):
        return tuple(_wrap(x, pairs) for x in node)
    if isinstance(node, Dense | Experts):
        pair = pairs.get(node.name)
        return node if pair is None else LoRA(node, pair.down, pair.up, pair.scale, node.name)
    if hasattr(node, "kind"):
        return type(node)(**{k: _wrap(x, pairs) for k, x in vars(node).items()})
    return node


class Seen:
    """An observer that keeps every row it is shown, by weight and expert."""

    def __init__(self, ops: Any) -> None:
        self.ops = ops
        self.parts: dict[tuple[str, int | None], list[np.ndarray]] = defaultdict(list)

    def seen(self, name: str, x_RI: Any, expert: int | None = None) -> None:
        self.parts[name, expert].append(np.array(self.ops.numpy(x_RI)))

    @property
    def rows(self) -> dict[tuple[str, int | None], np.ndarray]:
        return {key: np.concatenate(parts).astype(np.float64) for key, parts in self.parts.items()}


@op_sets
@pytest.mark.parametrize("name", ["experts interleaved with dense layers", "two experts a token"])
def test_the_observer_sees_the_input_of_every_weight(name: str, op_set: OpSet) -> None:
    """Each weight's rows, against what the rows of the weights before it and plain equations in float64 give."""
    ops, case = op_set.make(), CASES[name]
    observer, trace = Seen(ops), Choices()
    c, T, w = case.config, len(case.ids), case.weights
    context = ops.place(case.context)
    forward(ops, c, place_weights(ops, w), case.ids, context, extras=Extras(observe=observer), routing=trace)
    rows = observer.rows
    assert {n for n, _ in rows} == {w.name for w in adaptable(case)}
    x = w.embed.w[case.ids].astype(np.float64)
    choices = {layer: (experts, scores) for layer, experts, scores in trace.choices}
    assert set(choices) == {i for i, layer in enumerate(c.layers) if layer.moe}
    # rows of float32 passes against float64: the largest inputs of down, products of two, are about 5
    close = {"rtol": 0, "atol": 5 * tolerance(case, np.ones(1))}
    for i, b in enumerate(w.blocks):
        p = f"model.layers.{i}."
        h = _rms(x, b.norm1)
        for kind in "qkv":
            np.testing.assert_allclose(rows[f"{p}self_attn.{kind}_proj", None], h, **close)
        x = x + rows[f"{p}self_attn.o_proj", None] @ b.o.w.T.astype(np.float64)
        h, f = _rms(x, b.norm2), p + "feed_forward."
        if isinstance(b.ffn, Moe):
            experts_TA, scores_TA = choices[i]
            np.testing.assert_allclose(rows[f + "router", None], h, **close)
            logits = h @ b.ffn.router.w.T.astype(np.float64)
            np.testing.assert_array_equal(experts_TA, np.argsort(-logits, 1, kind="stable")[:, : c.experts_per_token])
            chosen = np.take_along_axis(logits, experts_TA, 1)
            np.testing.assert_allclose(scores_TA, 1 / (1 + np.exp(-chosen)), **close)
            x = _mlp(rows, f + "shared_expert.", h, b.ffn.shared, close, x)
            counted = 0
            for e in range(c.num_experts):
                at, slot = np.nonzero(experts_TA == e)
                counted += len(at)
                if not len(at):
                    assert (f + "experts.gate_up_proj", e) not in rows
                    continue
                z = scores_TA[at, slot][:, None] * h[at]
                np.testing.assert_allclose(rows[f + "experts.gate_up_proj", e], z, **close)
                gate, up = np.split(z @ b.ffn.gate_up.w[e].astype(np.float64), 2, 1)
                np.testing.assert_allclose(rows[f + "experts.down_proj", e], _silu(gate) * up, **close)
                np.add.at(x, at, _silu(gate) * up @ b.ffn.down.w[e].astype(np.float64))
            assert counted == T * c.experts_per_token
        else:
            x = _mlp(rows, f, h, b.ffn, close, x)
    np.testing.assert_allclose(rows["lm_head", None], _rms(x, w.norm), **close)


def _mlp(rows: Any, prefix: str, h: np.ndarray, mlp: Any, close: Any, x: np.ndarray) -> np.ndarray:
    for name in ("gate_proj", "up_proj"):
        np.testing.assert_allclose(rows[prefix + name, None], h, **close)
    inner = _silu(h @ mlp.gate.w.T.astype(np.float64)) * (h @ mlp.up.w.T.astype(np.float64))
    np.testing.assert_allclose(rows[prefix + "down_proj", None], inner, **close)
    return x + inner @ mlp.down.w.T.astype(np.float64)


def _rms(x: np.ndarray, norm: Any) -> np.ndarray:
    return norm.w * x / np.sqrt(np.square(x).mean(-1, keepdims=True) + norm.eps)


def _silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


@op_sets
def test_watching_changes_nothing(op_set: OpSet) -> None:
    ops = op_set.make()
    watched = run(ops, CASE, CASE.weights, Extras(observe=Seen(ops)))
    np.testing.assert_allclose(watched, run(ops, CASE, CASE.weights), rtol=0, atol=tolerance(CASE, watched))


@op_sets
def test_the_residual_may_be_left_out_and_added_later(op_set: OpSet) -> None:
    ops, c = op_set.make(), TEXT
    w = place_weights(ops, CASE.weights)
    rng = np.random.default_rng(3)
    x = rng.normal(size=(9, c.width)).astype(np.float32)
    o = ops.array(rng.normal(size=(9, c.num_heads, c.head_size)).astype(np.float32))
    dense, moe = w.blocks[0], w.blocks[1]

    def calls(residual: bool) -> list[Any]:
        named = {} if residual else {"residual": False}
        return [
            ops.out_add(ops.array(x.copy()), o, dense.o, **named),
            ops.mlp_add(ops.array(x.copy()), dense.norm2, dense.ffn, **named),
            ops.moe_add(ops.array(x.copy()), moe.norm2, moe.ffn, c.num_experts, c.experts_per_token, **named),
        ]

    limit = {"rtol": 0, "atol": tolerance(CASE, np.ones(1))}
    for whole, part in zip(calls(True), calls(False), strict=True):
        assert np.abs(ops.numpy(part)).max() > 0.1
        np.testing.assert_allclose(ops.numpy(whole), x + ops.numpy(part), **limit)


@op_sets
def test_the_norm_can_be_had_without_the_head(op_set: OpSet) -> None:
    ops = op_set.make()
    w = place_weights(ops, CASE.weights)
    last = hidden(ops, CASE.config, w, CASE.ids, ops.place(CASE.context))
    normed = ops.numpy(ops.norm(last, w.norm)).astype(np.float64)
    expected = ours(ops, CASE)
    np.testing.assert_allclose(normed @ CASE.weights.head.w.T, expected, rtol=0, atol=tolerance(CASE, expected))


@op_sets
def test_images_are_refused_where_they_do_not_fit(op_set: OpSet) -> None:
    from herd.errors import UsageError

    ops, case = op_set.make(), CASES["image of one tile"]
    with pytest.raises(UsageError, match="an image was given to a text model"):
        ours(ops, CASE, pixels=case.pixels)
    with pytest.raises(UsageError, match=r"image features: got 8, expected 4, one a patch token"):
        ours(ops, case, pixels=np.concatenate([case.pixels, case.pixels]))
    with pytest.raises(UsageError, match=r"tiles: got shape \(1, 3, 14, 14\), expected \[I, 3, 28, 28\]"):
        ours(ops, case, pixels=case.pixels[:, :, :14, :14])
