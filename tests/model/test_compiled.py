"""A compiled block: one graph without a break, whatever is packed into a batch, with the numbers of the eager one."""

import itertools
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_gradients import Tensors, leaves

from helpers import TINY_TEXT, placed
from herd.batch import packed
from herd.config import Llama4Config
from herd.engine.runner import Chunk, Runner
from herd.model import forward, text
from herd.weights import build

torch = pytest.importorskip("torch")
from torch._dynamo.utils import counters  # noqa: E402

from herd.ops.torch import TorchOps  # noqa: E402

NUM_BATCHES, STEADY = 20, 3
"""Batches, and those that may bring new graphs: sizes are learnt to be any from two that differ."""
KINDS = len({(layer.rope, layer.moe, layer.chunked) for layer in TINY_TEXT.layers})
"""Of layers. Each makes up to three graphs: as first seen, with any number of rows, and with any number of segments."""
EPS32 = 2.0**-24


def batches(config: Llama4Config) -> list[list[int]]:
    """Lengths of documents: one or many, shorter and longer than a chunk. None is of one row in all: PyTorch makes a
    graph of its own for a size of 1."""
    rng, found = np.random.default_rng(0), dict[tuple[int, ...], None]()
    while len(found) < NUM_BATCHES:
        found[tuple(rng.integers(2, 2 * (config.chunk or 20) + 8, rng.integers(1, 6)).tolist())] = None
    return [list(lengths) for lengths in found]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    with torch._dynamo.config.patch(recompile_limit=3 * KINDS):
        yield
    torch._dynamo.reset()


def num_graphs() -> int:
    assert not counters["graph_break"]
    return int(counters["stats"]["unique_graphs"])  # 0 where nothing is compiled


def close(found: Any, wanted: Any, c: Llama4Config) -> None:
    """By rounding: another order of sums in each operation of each layer, for logits of size 1."""
    norm = float(torch.linalg.vector_norm(wanted))
    assert float(torch.linalg.vector_norm(found - wanted)) <= 4 * EPS32 * np.sqrt(c.width * 8 * c.num_layers) * norm


def over_batches(c: Llama4Config, call: Any) -> list[int]:
    """Graphs after each batch; every one's logits are the eager ones."""
    ops, rng, graphs = TorchOps(), np.random.default_rng(1), []
    w = placed(c, ops)
    for lengths in batches(c):
        ids, context = rng.integers(0, 256, sum(lengths)), ops.place(packed(lengths, c.chunk))
        close(forward(ops, c, w, ids, context, call=call), forward(ops, c, w, ids, context), c)
        graphs.append(num_graphs())
    return graphs


def test_twenty_packed_batches_make_no_new_graph_after_the_third() -> None:
    graphs = over_batches(TINY_TEXT, torch.compile(text.block, backend="eager", fullgraph=True))
    assert graphs[0] == KINDS
    assert len(set(graphs[STEADY - 1 :])) == 1


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="the CPU's compiler needs a C++ compiler")
def test_the_cpus_compiler_gives_the_same_within_rounding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    config = replace(TINY_TEXT, experts_per_token=2, num_layers=2)  # a layer with experts and one without
    graphs = over_batches(config, torch.compile(text.block, fullgraph=True))
    assert len(set(graphs[STEADY - 1 :])) == 1


@pytest.mark.slow
def test_gradients_through_compiled_blocks_are_the_eager_ones() -> None:
    c, ops, rng = TINY_TEXT, TorchOps(), np.random.default_rng(2)
    values = leaves(c, torch.float32, 0)
    w, compiled = build(c, Tensors(values)), torch.compile(text.block, backend="aot_eager", fullgraph=True)

    def gradients(ids: Any, context: Any, call: Any) -> dict[str, Any]:
        x_TD = text.hidden(ops, c, w, ids, context, call=call)
        ops.head_loss(x_TD, w.norm, w.head, np.roll(ids, -1)).sum().backward()
        found = {name: value.grad for name, value in values.items()}
        for value in values.values():
            value.grad = None
        return found

    graphs = []
    for lengths in batches(c)[:5]:
        ids, context = rng.integers(0, 256, sum(lengths)), ops.place(packed(lengths, c.chunk))
        wanted, found = gradients(ids, context, text.block), gradients(ids, context, compiled)
        graphs.append(num_graphs())
        for name, grad in wanted.items():
            close(found[name], grad, c)
    assert len(set(graphs[STEADY - 1 :])) == 1


@pytest.mark.slow
@pytest.mark.parametrize("kv_dtype", ["f32", "int8"])
def test_blocks_over_a_cache_compile_too(kv_dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts in pieces and decodes of several sequences, as the engine makes them."""
    rng, c = np.random.default_rng(3), TINY_TEXT
    prompts = [rng.integers(0, 256, n).tolist() for n in (19, 3, 40)]

    def run() -> Any:
        ops = TorchOps()
        runner = Runner(c, placed(c, ops), ops, context=256, page_size=4, sequences=3, kv_dtype=kv_dtype)
        leases, out = [runner.lease() for _ in prompts], []
        for start, end in itertools.pairwise([0, 5, 11, 12, 13, 16, 17, 18, 19]):
            running = [(x, ids) for x, ids in zip(leases, prompts, strict=True) if len(ids) > start]
            out.append(torch.from_numpy(runner.run([Chunk(x, ids[start:end]) for x, ids in running])))
            graphs.append(num_graphs())
        return torch.cat(out)

    graphs: list[int] = []
    wanted = run()
    graphs.clear()
    compiled = torch.compile(text.block, backend="eager", fullgraph=True)
    hidden = text.hidden
    monkeypatch.setattr(
        "herd.engine.runner.hidden", lambda *args, **named: hidden(*args, **{**named, "call": compiled})
    )
    close(run(), wanted, c)
    assert len(set(graphs[STEADY - 1 :])) == 1
