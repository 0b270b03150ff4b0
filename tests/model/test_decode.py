"""Token by token, in uneven pieces or all at once: the same logits, whatever the pages and however borders fall."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from parity_cases import CASES, OP_SETS, TEXT, Case, OpSet, ours, tolerance

from herd.batch import packed
from herd.cache import Pager
from herd.cache.audit import check_pages
from herd.config import TINY
from herd.model import encode_images, forward, place_weights

CHUNK = 16
BORDERS = [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 1]
TAIL = 3
"""Tokens decoded one by one after the prefill of each length."""


class Session:
    """A model with a paged cache, and as many sequences as asked for."""

    def __init__(self, ops: Any, case: Case, page_size: int, dtype: str = "f32", sequences: int = 1) -> None:
        c = case.config
        self.ops, self.config = ops, c
        self.weights = place_weights(ops, case.weights)
        pages, chunk_pages = sequences * -(-128 // page_size), sequences * -(-128 // page_size)
        self.pager = Pager(c.chunk, page_size, pages, chunk_pages)
        self.kv = [
            ops.new_kv((chunk_pages if k.chunked else pages) * page_size, c.num_kv_heads, c.head_size, dtype)
            for k in c.layers
        ]
        self.leases = [self.pager.lease() for _ in range(sequences)]

    def run(self, work: list[tuple[int, np.ndarray]], features: Any = None, commit: int | None = None) -> np.ndarray:
        """Logits of all new rows of these (sequence, ids)."""
        ids = np.concatenate([ids for _, ids in work])
        context = self.pager.step([(self.leases[i], len(ids)) for i, ids in work], range(len(ids)))
        out = forward(
            self.ops,
            self.config,
            self.weights,
            ids,
            self.ops.place(context),
            kv=self.kv,
            features_RD=features,
        )
        for i, _ in work:
            self.pager.commit(self.leases[i], commit)
        check_pages(self.pager)
        return np.asarray(self.ops.numpy(out))


def pieces(length: int, kind: str) -> Iterator[int]:
    """Sizes that add up to `length`."""
    sizes = {"one by one": [1], "uneven": [5, 1, 7, 2, 11], "all at once": [length], "over a border": [CHUNK + 3, 2]}
    done = i = 0
    while done < length:
        n = min(sizes[kind][i % len(sizes[kind])], length - done)
        yield n
        done, i = done + n, i + 1


op_sets = pytest.mark.parametrize("op_set", OP_SETS, ids=lambda o: o.name)


@op_sets
@pytest.mark.parametrize("page_size", [1, 4, 16])
@pytest.mark.parametrize("length", BORDERS)
@pytest.mark.parametrize("kind", ["one by one", "uneven", "over a border"])
def test_pieces_equal_one_pass_across_borders(kind: str, length: int, page_size: int, op_set: OpSet) -> None:
    ops, case = op_set.make(), Case(TEXT, length=length + TAIL)
    expected = ours(ops, case)
    session, start, got = Session(ops, case, page_size), 0, []
    for n in [*pieces(length, kind), *[1] * TAIL]:
        got.append(session.run([(0, case.ids[start : start + n])]))
        start += n
    np.testing.assert_allclose(np.concatenate(got), expected, rtol=0, atol=tolerance(case, expected))


@op_sets
@pytest.mark.parametrize("name", ["dense, no chunk", "a RoPE layer with full attention", "dense Llama"])
def test_pieces_equal_one_pass_for_other_patterns(name: str, op_set: OpSet) -> None:
    ops, case = op_set.make(), CASES[name]
    expected = ours(ops, case)
    session, start, got = Session(ops, case, 4), 0, []
    for n in [*pieces(60, "uneven"), *[1] * (len(case.ids) - 60)]:
        got.append(session.run([(0, case.ids[start : start + n])]))
        start += n
    np.testing.assert_allclose(np.concatenate(got), expected, rtol=0, atol=tolerance(case, expected))


@op_sets
def test_sequences_of_any_length_share_a_batch(op_set: OpSet) -> None:
    """Prefills beside decodes, sequences at different places of their chunks."""
    ops = op_set.make()
    cases = [Case(TEXT, length=40, seed=1), replace(Case(TEXT, length=19, seed=1)), Case(TEXT, length=34, seed=1)]
    texts = [case.ids if i != 1 else case.ids[::-1].copy() for i, case in enumerate(cases)]
    expected = [_one_pass(ops, cases[0], ids) for ids in texts]
    session = Session(ops, cases[0], 4, sequences=3)
    got: list[list[np.ndarray]] = [[], [], []]
    done = [0, 0, 0]
    steps = [(17, 0, 1), (1, 3, 14), (1, 13, 1), (12, 1, 1), (1, 1, 16), (8, 1, 1)]
    for step in steps:
        work = [(i, texts[i][done[i] : done[i] + n]) for i, n in enumerate(step) if n]
        rows = session.run(work)
        for i, ids in work:
            got[i].append(rows[: len(ids)])
            rows, done[i] = rows[len(ids) :], done[i] + len(ids)
    assert done == [40, 19, 34]
    for parts, one in zip(got, expected, strict=True):
        np.testing.assert_allclose(np.concatenate(parts), one, rtol=0, atol=tolerance(cases[0], one))


@op_sets
def test_a_rejected_speculation_over_a_chunk_edge_leaves_no_trace(op_set: OpSet) -> None:
    ops, case = op_set.make(), Case(TEXT, length=3 * CHUNK)
    expected = ours(ops, case)
    session = Session(ops, case, 4)
    session.run([(0, case.ids[: CHUNK - 2])])
    wrong = case.ids[::-1][:6].copy()
    wrong[0] = case.ids[CHUNK - 2]
    session.run([(0, wrong)], commit=1)  # rows 14..19 ran, over the edge at 16; only row 14 was right
    rest = session.run([(0, case.ids[CHUNK - 1 :])])
    np.testing.assert_allclose(rest, expected[CHUNK - 1 :], rtol=0, atol=tolerance(case, expected))


@op_sets
def test_an_image_prompt_may_be_cut_inside_an_image(op_set: OpSet) -> None:
    ops, case = op_set.make(), CASES["images of one and of several tiles"]
    expected = ours(ops, case)
    session, start, used, got = Session(ops, case, 4), 0, 0, []
    features = encode_images(ops, case.config.vision, session.weights.vision, ops.array(case.pixels))
    assert len(features) == sum(case.tiles) * TINY.tokens_per_tile
    for n in pieces(len(case.ids), "uneven"):
        ids = case.ids[start : start + n]
        patches = int((ids == case.config.patch_id).sum())
        got.append(session.run([(0, ids)], features[used : used + patches] if patches else None))
        start, used = start + n, used + patches
    assert used == len(features)
    np.testing.assert_allclose(np.concatenate(got), expected, rtol=0, atol=tolerance(case, expected))


@op_sets
@pytest.mark.parametrize(("dtype", "unit"), [("f16", 2.0**-11), ("bf16", 2.0**-8)])
def test_a_half_precision_cache_costs_its_own_rounding_only(dtype: str, unit: float, op_set: OpSet) -> None:
    """Keys and values are rounded once, each by a relative `unit` at most: logits move by a few of those, and move."""
    ops, case = op_set.make(), Case(replace(TEXT, num_experts=0, expert_width=0, moe_interleave=0), length=40)
    expected = ours(ops, case)
    got = np.concatenate([(s := Session(ops, case, 4, dtype)).run([(0, case.ids[:30])]), s.run([(0, case.ids[30:])])])
    off = np.abs(got - expected).max()
    # One rounding of k (moves scores) and of v per layer, deviations add in squares, 4.5 of them at most.
    assert off < 4.5 * unit * np.sqrt(2 * case.config.num_layers) * np.abs(expected).std()
    assert off > unit / 100


def _one_pass(ops: Any, case: Case, ids: np.ndarray) -> np.ndarray:
    weights, context = place_weights(ops, case.weights), ops.place(packed([len(ids)], case.config.chunk))
    return np.asarray(ops.numpy(forward(ops, case.config, weights, ids, context)))
