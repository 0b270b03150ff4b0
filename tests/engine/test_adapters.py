"""Adapters by name: beside each other in one pass, never in each other's cache, and equal to merged weights."""

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_invariance import KINDS, core_for, parts, run

from helpers import OP_SETS, TINY_TEXT, op_set, put, weights
from herd.batch import packed
from herd.checkpoint.walk import walk
from herd.config import Llama4Config
from herd.engine.adapters import MAX_RANK, Adapter, AdapterRegistry
from herd.engine.core import Core
from herd.engine.engine import Engine
from herd.engine.fake import FakeModel
from herd.engine.messages import StartedEvent, TokenEvent
from herd.engine.request import Request, SamplingOptions
from herd.engine.runner import Chunk, Runner
from herd.errors import DoesNotFit, HerdError, NotFound, UsageError
from herd.model import forward, place_weights
from herd.ops.contract import LowRank
from herd.ops.hybrid import HybridOps
from herd.text.stream import StreamDecoder
from herd.text.tokenizer import Tokenizer

BYTES = Tokenizer.bytes_only()
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def low_rank(config: Llama4Config, seed: int, rank: int = 3, parts: tuple[str, ...] = ATTENTION) -> dict[str, LowRank]:
    """Random pairs of a good part of the weights' own size."""
    rng = np.random.default_rng(seed)
    found = {}
    for w in walk(config):
        if w.kind == "vector" or not w.name.endswith(parts) or not w.name.startswith("model.layers."):
            continue
        *stack, outputs, inputs = w.shape if w.kind == "matrix" else (w.shape[i] for i in (0, 2, 1))
        down = rng.normal(size=(*stack, rank, inputs)) / np.sqrt(inputs)
        up = 0.3 * rng.normal(size=(*stack, outputs, rank))
        found[w.name] = LowRank(down.astype(np.float32), up.astype(np.float32), 0.7)
    return found


EVERY = (*ATTENTION, "gate_proj", "up_proj", "down_proj", "router", "gate_up_proj")


def add(core: Core, name: str, tensors: Any) -> Adapter:
    adapter = core.runner.ready_adapter(name, tensors)
    core.adapters.put(adapter)
    return adapter


@pytest.mark.parametrize("name", KINDS)
def test_requests_with_and_without_adapters_do_not_feel_each_other(name: str) -> None:
    """To the bit: in one pass with others, with common beginnings, as alone; those without one as where there is
    none."""
    config, rng = KINDS[name].config, random.Random(5)
    adapters = {"a": low_rank(config, 1), "b": low_rank(config, 2, 5, EVERY)}
    together = core_for(name, pages=12, places=6, budget=32)
    for which, tensors in adapters.items():
        add(together, which, tensors)
    base = [rng.randrange(250) for _ in range(24)]
    asked = [
        Request(
            number=number,
            ids=base[: rng.choice((8, 16, 20))] + [rng.randrange(250) for _ in range(3)],
            options=SamplingOptions(max_tokens=8, logprobs=2, temperature=rng.choice((0.0, 1.0))),
            seed=number,
            adapter=(None, "a", "b")[number % 3],
        )
        for number in range(9)
    ]
    found = run(together, list(asked), rng)
    assert together.counters.cached_tokens > 0 or KINDS[name].page_size > len(base)
    said = set()
    for order in asked:
        core = core_for(name, pages=None, places=1, budget=64)
        if order.adapter is not None:
            add(core, order.adapter, adapters[order.adapter])
        alone = run(core, [order], rng)[order.number]
        assert [(t.token_id, t.logprob) for t in found[order.number]] == [(t.token_id, t.logprob) for t in alone]
        said.add(alone[0].logprob)
    assert len(said) == len(asked), "adapters change what is said"


def merged(config: Llama4Config, tensors: dict[str, LowRank]) -> Any:
    """The weights with scale * up down added, in float64."""
    torch = pytest.importorskip("torch")
    from herd.ops.torch import TorchOps

    ops = TorchOps("cpu", torch.float64)
    tree = place_weights(ops, weights(config))

    def walk_nodes(node: Any) -> None:
        if isinstance(node, tuple):
            for one in node:
                walk_nodes(one)
        elif hasattr(node, "kind"):
            if node.kind in ("dense", "experts") and node.name in tensors:
                pair = tensors[node.name]
                delta = pair.scale * (pair.up.astype(np.float64) @ pair.down.astype(np.float64))
                delta = delta.swapaxes(1, 2) if node.kind == "experts" else delta
                put(node, w=node.w + torch.from_numpy(delta))
            else:
                for one in vars(node).values():
                    walk_nodes(one)

    walk_nodes(tree)
    return ops, tree


@pytest.mark.parametrize("name", OP_SETS)
@pytest.mark.parametrize("parts", [ATTENTION, EVERY], ids=["attention", "everything"])
def test_an_adapter_equals_merged_weights_in_float64(name: str, parts: tuple[str, ...]) -> None:
    """Two sequences of one pass, cut into pieces over the cache: one with it and one without."""
    ops, config = op_set(name), TINY_TEXT
    tensors = low_rank(config, 1, parts=parts)
    runner = Runner(config, place_weights(ops, weights(config)), ops, context=128, page_size=4, sequences=2)
    adapter = runner.ready_adapter("a", tensors)
    ids = np.random.default_rng(3).integers(0, 250, 40).tolist()
    leases = runner.lease(), runner.lease()
    rows = []
    for start, stop in ((0, 17), (17, 38), (38, 39), (39, 40)):
        part = ids[start:stop]
        pieces = [Chunk(leases[0], part, rows=range(len(part)), adapter=adapter), Chunk(leases[1], part)]
        rows.append(runner.run(pieces)[: len(part)])
    exact, tree = merged(config, tensors)
    wanted = exact.numpy(forward(exact, config, tree, np.asarray(ids), exact.place(packed([len(ids)], config.chunk))))
    np.testing.assert_allclose(np.concatenate(rows), wanted, rtol=2e-4, atol=2e-4)  # float32, logits of size 1
    plain = exact.numpy(
        forward(
            exact, config, place_weights(exact, weights(config)), np.asarray(ids),
            exact.place(packed([len(ids)], config.chunk)),
        )
    )  # fmt: skip
    assert np.abs(plain - wanted).max() > 0.1


def wrong() -> dict[str, tuple[Any, str]]:
    good = low_rank(TINY_TEXT, 1)
    name = next(iter(good))
    pair = good[name]
    experts = low_rank(TINY_TEXT, 1, parts=("gate_up_proj",))
    stack = next(iter(experts))
    return {
        "no mapping": ([pair], "got list"),
        "nothing": ({}, "got nothing"),
        "no name": ({7: pair}, "a weight"),
        "no such weight": ({"model.layers.99.self_attn.q_proj": pair}, "layers.99"),
        "the head": ({"lm_head": pair}, "lm_head"),
        "no pair": ({name: (pair.down, pair.up)}, f"{name}: got tuple"),
        "another width": ({name: replace(pair, down=pair.down[:, 1:])}, f"{name}: got down"),
        "another rank": ({name: replace(pair, up=pair.up[:, 1:])}, f"{name}: got down"),
        "rank 0": ({name: LowRank(pair.down[:0], pair.up[:, :0], 1.0)}, f"{name}: got down"),
        "one axis": ({name: replace(pair, down=pair.down[0])}, f"{name}: got down"),
        "too many ranks": (
            {name: LowRank(np.zeros((MAX_RANK + 1, 64), "f4"), np.zeros((64, MAX_RANK + 1), "f4"), 1.0)},
            f"to {MAX_RANK}",
        ),
        "no stack": ({stack: LowRank(experts[stack].down[0], experts[stack].up[0], 1.0)}, f"{stack}: got down"),
        "integers": ({name: replace(pair, up=pair.up.astype(int))}, f"{name} up: got int64"),
        "no array": ({name: replace(pair, down=None)}, f"{name} down: got NoneType"),
        "not finite": ({name: replace(pair, up=pair.up * np.inf)}, f"{name} up"),
        "no scale": ({name: replace(pair, scale="1")}, f"{name} scale"),
        "a scale without end": ({name: replace(pair, scale=float("nan"))}, f"{name} scale"),
    }


@pytest.mark.parametrize("what", wrong())
def test_what_is_wrong_with_an_adapter_is_named(what: str) -> None:
    tensors, where = wrong()[what]
    ops = op_set("native")
    runner = Runner(TINY_TEXT, place_weights(ops, weights(TINY_TEXT)), ops, context=32)
    with pytest.raises(UsageError, match="adapter a") as error:
        runner.ready_adapter("a", tensors)
    assert where in str(error.value)


def test_packed_weights_have_the_shapes_that_they_stand_for() -> None:
    tree, ops = parts("q4_0")
    runner = Runner(KINDS["q4_0"].config, tree, ops, context=32)
    assert runner.ready_adapter("a", low_rank(KINDS["q4_0"].config, 1, parts=EVERY)).num_bytes > 0


def test_the_shelf_is_bounded_in_number_and_bytes() -> None:
    shelf = AdapterRegistry(most=2, most_bytes=100)
    made = {name: Adapter.of(name, {}, 40) for name in "abc"}
    shelf.put(made["a"])
    shelf.put(made["b"])
    with pytest.raises(DoesNotFit):
        shelf.put(made["c"])
    shelf.put(Adapter.of("b", {}, 60))  # in the place of the other one
    with pytest.raises(DoesNotFit, match="101 bytes"):
        shelf.put(Adapter.of("b", {}, 61))
    assert shelf.names == ("a", "b")
    for bad in ("", None, 7, []):
        with pytest.raises(UsageError):
            shelf.drop(bad)  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        shelf.drop("c")
    shelf.drop("a")
    shelf.put(made["c"])
    assert shelf.names == ("b", "c")
    assert shelf.get(None) is None
    with pytest.raises(NotFound, match="b, c"):
        shelf.get("a")


def next_id(ids: list[int]) -> int:
    """Depends on every id, and on the adapter that each was computed with."""
    return sum(i % 9973 * (t + 1) for t, i in enumerate(ids)) % 97


def fake_core(*names: str) -> Core:
    core = Core(FakeModel(next_id, patch_id=266, page_size=2), budget=16, places=4)
    for name in names:
        add(core, name, {})
    return core


def drain(core: Core, steps: int = 1000) -> tuple[dict[int, list[int]], dict[int, int]]:
    """Tokens, and positions that were in the cache, by sequence."""
    said: dict[int, list[int]] = {}
    cached: dict[int, int] = {}
    while core.busy and steps:
        steps -= 1
        for event in core.step():
            if isinstance(event, TokenEvent):
                said.setdefault(event.number, []).append(event.token_id)
            if isinstance(event, StartedEvent):
                cached[event.number] = event.cached
    core.runner.cache.check()
    return said, cached


def order(number: int, adapter: str | None, tokens: int = 6, **fields: Any) -> Request:
    return Request(
        number=number, ids=list(range(1, 12)), options=SamplingOptions(max_tokens=tokens), adapter=adapter, **fields
    )


def test_cached_positions_are_found_with_the_same_adapter_alone() -> None:
    core = fake_core("a", "b")
    said: dict[int, list[int]] = {}
    for number, (adapter, found) in enumerate(((None, 0), ("a", 0), ("b", 0), (None, 10), ("a", 10), ("b", 10))):
        core.add(order(number, adapter))
        tokens, cached = drain(core)
        assert cached[number] == found
        said.update(tokens)
    assert said[0] == said[3]
    assert said[1] == said[4]
    assert said[2] == said[5]
    assert len({tuple(said[n]) for n in range(3)}) == 3


def test_whoever_runs_with_a_replaced_or_dropped_adapter_ends_with_it() -> None:
    core = fake_core("a")
    core.add(order(0, "a", 40, samples=((5, 0),)))
    begun, _ = drain(core, 4)
    add(core, "a", {})
    core.add(order(1, "a", 40))
    rest, cached = drain(core, 4)
    assert cached[1] == 0, "nothing of the old one is found"
    core.adapters.drop("a")
    with pytest.raises(NotFound, match="adapter: got a"):
        core.add(order(2, "a"))
    more, _ = drain(core)
    said = {n: begun.get(n, []) + rest.get(n, []) + more.get(n, []) for n in (0, 1, 5)}
    assert len(said[0]) == len(said[1]) == len(said[5]) == 40
    assert said[0] == said[5], "a further sample has it, too"
    # the ids of each were all computed with one adapter: serials differ, so do the answers
    assert said[0] != said[1]
    assert not core._entries


def test_requests_name_adapters_and_unknown_ones_are_refused() -> None:
    engine = Engine(FakeModel(next_id), lambda: StreamDecoder(BYTES))

    def said(adapter: Any) -> list[Any]:
        request = Request([1, 2, 3], SamplingOptions(max_tokens=4), adapter=adapter)
        return [step.token_id for step in engine.stream(engine.submit(request))]

    plain = said(None)
    with pytest.raises(NotFound, match="the model has no adapters"):
        said("a")
    engine.executor.add_adapter("a", {})
    assert engine.executor.adapters == ("a",)
    assert said("a") != plain
    assert said(None) == plain
    for bad in (7, "", b"a", "x" * 300, "\ud800", True):
        with pytest.raises(UsageError, match="adapter"):
            said(bad)
    engine.executor.drop_adapter("a")
    with pytest.raises(NotFound):
        engine.executor.drop_adapter("a")
    with pytest.raises(NotFound):
        said("a")
    engine.close()
    with pytest.raises(HerdError):
        engine.executor.add_adapter("a", {})


def test_an_adapter_outlives_new_weights() -> None:
    ops = op_set("native")

    def core(seed: int) -> Core:
        made = Runner(TINY_TEXT, place_weights(ops, weights(TINY_TEXT, seed)), ops, context=64, page_size=4)
        found = Core(made, budget=8, places=2)
        add(found, "a", low_rank(TINY_TEXT, 3))
        return found

    old, new = core(0), core(1)
    old.add(order(0, "a", 12))
    begun, _ = drain(old, 5)
    old.update_weights(old.runner.ready_weights(weights(TINY_TEXT, 1)))
    rest, _ = drain(old)
    text = [*range(1, 12), *begun[0]]
    new.add(Request(number=0, ids=text, options=SamplingOptions(max_tokens=len(rest[0])), adapter="a"))
    assert rest[0] == drain(new)[0][0]


def test_adapters_and_new_weights_lie_where_their_weights_do() -> None:
    """On two op sets: experts on one, all else on the other."""
    ops: Any = HybridOps(op_set("torch"), op_set("native"))
    found = []
    for seed in (1, 0):
        made = Runner(
            TINY_TEXT, place_weights(ops, weights(TINY_TEXT, seed), where=ops.where), ops, context=64, page_size=4
        )
        if seed:
            made.ready_weights(weights(TINY_TEXT, 0))()
        adapter = made.ready_adapter("a", low_rank(TINY_TEXT, 3, parts=EVERY))
        found.append(made.run([Chunk(made.lease(), list(range(1, 12)), adapter=adapter)]))
    np.testing.assert_array_equal(found[0], found[1])
