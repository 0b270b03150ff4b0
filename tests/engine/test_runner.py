"""Any cut of a prompt into passes gives the logits of one pass: the cache against no cache, on both op sets."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from helpers import OP_SETS, TINY_DENSE, TINY_TEXT, op_set, placed
from herd.batch import packed
from herd.config import TINY, Llama4Config
from herd.engine.runner import Chunk, Runner
from herd.errors import UsageError
from herd.model import forward

C = 16
LENGTHS = (C - 1, C, C + 1, 2 * C + 1)
RNG = np.random.default_rng(7)
IDS = RNG.integers(0, 256, 4 * C).tolist()
# float32, 4 layers: the two paths differ by the order of sums; logits are of size 1
CLOSE = {"rtol": 2e-4, "atol": 2e-4}


def one_pass(config: Llama4Config, ops: Any, ids: list[int], pixels: Any = None) -> np.ndarray:
    context = ops.place(packed([len(ids)], config.chunk))
    return np.asarray(ops.numpy(forward(ops, config, placed(config, ops), np.asarray(ids), context, pixels)))


def runner_for(config: Llama4Config, ops: Any, **arguments: Any) -> Runner:
    return Runner(config, placed(config, ops), ops, **{"context": 4 * C, "kv_dtype": "f32", **arguments})


def in_pieces(runner: Runner, ids: list[int], sizes: list[int]) -> np.ndarray:
    """Logits of all rows, from passes of these sizes (the last one repeats)."""
    lease, out, start = runner.lease(), [], 0
    while start < len(ids):
        n = min(sizes.pop(0) if len(sizes) > 1 else sizes[0], len(ids) - start)
        out.append(runner.run([Chunk(lease, ids[start : start + n], rows=range(n))]))
        start += n
        runner.cache.check()
    runner.drop(lease)
    return np.concatenate(out)


@pytest.mark.parametrize("name", OP_SETS)
@pytest.mark.parametrize("page_size", [1, 4, 16])
@pytest.mark.parametrize("length", LENGTHS)
def test_token_by_token_and_uneven_pieces_equal_one_pass(name: str, page_size: int, length: int) -> None:
    ops, ids = op_set(name), IDS[:length]
    wanted = one_pass(TINY_TEXT, ops, ids)
    runner = runner_for(TINY_TEXT, ops, page_size=page_size)
    for sizes in ([1], [C - 1, 1], [C, 1], [C + 1, 2], [3, 5, 1, 9, 4], [length]):
        np.testing.assert_allclose(in_pieces(runner, ids, list(sizes)), wanted, **CLOSE)


@pytest.mark.parametrize("name", OP_SETS)
@pytest.mark.parametrize("config", [TINY_DENSE, replace(TINY_TEXT, moe_interleave=1, use_qk_norm=False)])
def test_dense_and_all_moe_models_too(name: str, config: Llama4Config) -> None:
    ops, ids = op_set(name), IDS[: 2 * C + 1]
    wanted = one_pass(config, ops, ids)
    runner = runner_for(config, ops)
    for sizes in ([1], [7, 11]):
        np.testing.assert_allclose(in_pieces(runner, ids, list(sizes)), wanted, **CLOSE)


@pytest.mark.parametrize("name", OP_SETS)
def test_sequences_side_by_side_do_not_see_each_other(name: str) -> None:
    ops = op_set(name)
    runner = runner_for(TINY_TEXT, ops, sequences=2, context=8 * C, page_size=4)
    a_ids, b_ids = IDS[: C + 5], IDS[20 : 20 + C + 9]
    a, b = runner.lease(), runner.lease()
    runner.run([Chunk(a, a_ids[:13], rows=()), Chunk(b, b_ids[:20], rows=())])
    last = runner.run([Chunk(b, b_ids[20:]), Chunk(a, a_ids[13:])])
    np.testing.assert_allclose(last[0], one_pass(TINY_TEXT, ops, b_ids)[-1], **CLOSE)
    np.testing.assert_allclose(last[1], one_pass(TINY_TEXT, ops, a_ids)[-1], **CLOSE)


@pytest.mark.parametrize("name", OP_SETS)
@pytest.mark.parametrize("back", [C + 2, C + 1, C, C - 1, 3])
def test_rolling_back_and_going_on_equals_one_pass(name: str, back: int) -> None:
    ops = op_set(name)
    runner = runner_for(TINY_TEXT, ops, page_size=4)
    lease = runner.lease()
    runner.run([Chunk(lease, IDS[: C + 3], rows=())])
    start = runner.cache.rollback(lease, back)
    assert start == (back if back > C else back // C * C)
    other = [*IDS[:back], *IDS[40:50]]
    found = runner.run([Chunk(lease, other[start:])])
    np.testing.assert_allclose(found[0], one_pass(TINY_TEXT, ops, other)[-1], **CLOSE)


@pytest.mark.parametrize("name", OP_SETS)
@pytest.mark.parametrize("size", [1, 3, 8, 40])
def test_images_may_be_cut_anywhere(name: str, size: int) -> None:
    ops = op_set(name)
    vision, rows = TINY.vision, TINY.tokens_per_tile
    assert vision is not None
    pixels = np.random.default_rng(1).uniform(-1, 1, (2, 3, vision.image_size, vision.image_size)).astype(np.float32)
    ids = [*IDS[:9], *[TINY.patch_id] * rows, 5, *[TINY.patch_id] * rows, *IDS[:12]]
    wanted = one_pass(TINY, ops, ids, ops.array(pixels))
    runner = runner_for(TINY, ops, page_size=4)
    features = runner.encode_images(pixels)
    assert len(features) == 2 * rows
    lease, out, used = runner.lease(), [], 0
    for start in range(0, len(ids), size):
        piece = ids[start : start + size]
        n = piece.count(TINY.patch_id)
        out.append(runner.run([Chunk(lease, piece, (features[used : used + n],) if n else (), range(len(piece)))]))
        used += n
    np.testing.assert_allclose(np.concatenate(out), wanted, **CLOSE)


@pytest.mark.parametrize("name", OP_SETS)
def test_a_pass_that_breaks_leaves_the_sequence_as_it_was(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ops = op_set(name)
    runner = runner_for(TINY_TEXT, ops, page_size=4)
    lease = runner.lease()
    runner.run([Chunk(lease, IDS[: C - 2], rows=())])
    with monkeypatch.context() as patch:

        def broken(*_: Any, **__: Any) -> Any:
            raise KeyboardInterrupt

        patch.setattr(ops, "head", broken)
        with pytest.raises(KeyboardInterrupt):
            runner.run([Chunk(lease, IDS[C - 2 : C + 4])])
    assert lease.length == C - 2
    runner.cache.check()
    found = runner.run([Chunk(lease, IDS[C - 2 : C + 1])])
    np.testing.assert_allclose(found[0], one_pass(TINY_TEXT, ops, IDS[: C + 1])[-1], **CLOSE)


@pytest.mark.parametrize("name", OP_SETS)
def test_the_last_rows_only_are_computed_by_the_head(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ops = op_set(name)
    runner = runner_for(TINY_TEXT, ops)
    seen: list[Any] = []
    head = ops.head

    def spy(x: Any, norm: Any, w: Any, rows: Any = None, extras: Any = None) -> Any:
        seen.append([int(r) for r in rows])
        return head(x, norm, w, rows, extras)

    monkeypatch.setattr(ops, "head", spy)
    lease = runner.lease()
    assert runner.run([Chunk(lease, IDS[:5], rows=())]).shape == (0, TINY_TEXT.vocab_size)
    assert runner.run([Chunk(lease, IDS[5:9])]).shape == (1, TINY_TEXT.vocab_size)
    assert seen == [[3]]


@pytest.mark.parametrize("name", OP_SETS)
@pytest.mark.parametrize("kv", ["f16", "bf16"])
def test_half_width_caches_stay_near(name: str, kv: str) -> None:
    ops, ids = op_set(name), IDS[: 2 * C + 1]
    wanted = one_pass(TINY_TEXT, ops, ids)
    found = in_pieces(runner_for(TINY_TEXT, ops, kv_dtype=kv), ids, [5])
    error = np.abs(found - wanted)
    eps = {"f16": 2.0**-11, "bf16": 2.0**-8}[kv]
    assert 0 < np.median(error) < 4 * eps  # a close tie of two experts may flip single rows


def test_an_image_to_a_text_model_is_refused() -> None:
    with pytest.raises(UsageError, match="an image was given to a text model"):
        runner_for(TINY_TEXT, op_set("native")).encode_images(np.zeros((1, 3, 28, 28), np.float32))


class Rows:
    """A reader that keeps what it is given."""

    def __init__(self, *, states: bool) -> None:
        self.states = states
        self.taken: list[tuple[int, Any]] = []

    def take(self, position: int, rows_RX: Any) -> None:
        self.taken.append((position, rows_RX.copy()))


@pytest.mark.parametrize("name", OP_SETS)
@pytest.mark.parametrize("block", [1, 5, 100])
def test_a_reader_takes_a_block_of_logits_at_once_and_nobody_else_feels_it(
    name: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("herd.engine.runner.LOGITS_BYTES", 4 * TINY_TEXT.vocab_size * block)
    runner = runner_for(TINY_TEXT, op_set(name), sequences=3)
    reader, other = Rows(states=False), runner.lease()
    lease = runner.lease()
    runner.run([Chunk(lease, IDS[:3], rows=())])
    found = runner.run([Chunk(other, IDS[:7]), Chunk(lease, IDS[3:20], rows=range(2, 17), reader=reader)])
    again = runner.lease()
    wanted = runner.run([Chunk(again, IDS[:20], rows=range(20))])
    np.testing.assert_allclose(found, wanted[6:7], **CLOSE)
    assert [len(rows) for _, rows in reader.taken] == [min(block, 15 - i) for i in range(0, 15, block)]
    assert [position for position, _ in reader.taken] == list(range(5, 20, block))
    np.testing.assert_allclose(np.concatenate([rows for _, rows in reader.taken]), wanted[5:], **CLOSE)
    if name == "native":
        np.testing.assert_array_equal(np.concatenate([rows for _, rows in reader.taken]), wanted[5:])


@pytest.mark.parametrize("name", OP_SETS)
def test_a_reader_of_states_takes_what_the_head_would_see(name: str) -> None:
    ops, reader = op_set(name), Rows(states=True)
    runner = runner_for(TINY_TEXT, ops, sequences=2)
    lease, other = runner.lease(), runner.lease()
    wanted = runner.run([Chunk(other, IDS[:5]), Chunk(lease, IDS[:9], rows=range(9), reader=reader)])
    ((position, states_TD),) = reader.taken
    assert (position, wanted.shape) == (0, (1, TINY_TEXT.vocab_size))
    logits = ops.numpy(ops.head(ops.array(states_TD), runner.weights.norm, runner.weights.head))
    np.testing.assert_allclose(logits, one_pass(TINY_TEXT, ops, IDS[:9]), **CLOSE)
