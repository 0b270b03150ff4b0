"""A layer in one call: the bits of the four operations, for as long as its weights are the ones it was made of."""

from dataclasses import replace

import numpy as np
import pytest

from helpers import TINY_DENSE, TINY_TEXT, placed
from herd.engine.runner import Piece, Runner
from herd.ops import native_weights as handles
from herd.ops.native import MOST_BLOCK_ROWS, NativeOps
from herd.weights import LoRA

CONFIGS = {"experts": TINY_TEXT, "dense": TINY_DENSE}


class Apart(NativeOps):
    """The four operations, always."""

    def block(self, *layer, **companions):
        return None


def runner(ops, name, kv="bf16"):
    return Runner(CONFIGS[name], placed(CONFIGS[name], ops), ops, context=192, kv_dtype=kv, piece=128)


@pytest.mark.parametrize("kv", ["f32", "bf16", "int8"])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_bits_of_the_four_operations(isa, name, kv):
    runners = [runner(ops, name, kv) for ops in (NativeOps(2), Apart(2))]
    leases = [r.lease() for r in runners]
    rng = np.random.default_rng(5)
    for length in (MOST_BLOCK_ROWS + 3, 1, 7, 1, MOST_BLOCK_ROWS):
        ids = rng.integers(0, 256, length).tolist()
        choices = ([], [])
        found = [
            r.run([Piece(lease, ids, rows=range(length))], routing=_kept(seen))
            for r, lease, seen in zip(runners, leases, choices, strict=True)
        ]
        assert np.array_equal(*found), length
        assert len(choices[0]) == len(choices[1])
        for (experts, scores), (others, their_scores) in zip(*choices, strict=True):
            assert np.array_equal(experts, others) and np.array_equal(scores, their_scores)


def _kept(seen):
    class Kept:
        def pass_over(self, positions):
            pass

        def __call__(self, layer, experts, scores):
            seen.append((experts, scores))

    return Kept()


def test_it_is_taken_for_few_rows_alone():
    ops = NativeOps(2)
    taken = []
    real = ops.block

    def watched(x, *layer, **companions):
        done = real(x, *layer, **companions)
        taken.append((len(x), done is not None))
        return done

    ops.block = watched
    r = runner(ops, "experts")
    for length in (MOST_BLOCK_ROWS, MOST_BLOCK_ROWS + 1):
        lease = r.lease()
        r.run([Piece(lease, [1] * length)])
        r.drop(lease)
    assert set(taken) == {(MOST_BLOCK_ROWS, True), (MOST_BLOCK_ROWS + 1, False)}


def test_a_changed_array_is_seen():
    r = runner(NativeOps(2), "dense")

    def logits():
        lease = r.lease()
        out = r.run([Piece(lease, [3])])
        r.drop(lease)
        return out

    before = logits()
    w = r.weights.blocks[0].ffn.up
    kept, w.w = w.w, np.zeros_like(w.w)
    without = logits()
    w.w = kept
    assert not np.array_equal(before, without)
    assert np.array_equal(before, logits())


def test_a_weight_of_two_matrices_is_taken_apart():
    ops = NativeOps(2)
    block = placed(TINY_DENSE, ops).blocks[0]
    sizes = TINY_DENSE.head_size, 0, 0
    assert handles.block(block, *sizes) is not None
    down, up = np.zeros((2, TINY_DENSE.width), np.float32), np.zeros((TINY_DENSE.width, 2), np.float32)
    assert handles.block(replace(block, o=LoRA(block.o, down, up, 1.0)), *sizes) is None


def test_weights_that_do_not_fit_together_are_refused():
    block = placed(TINY_DENSE, NativeOps(2)).blocks[0]
    wrong = replace(block, o=block.ffn.up)
    with pytest.raises(ValueError, match="wo"):
        handles.block(wrong, TINY_DENSE.head_size, 0, 0)
    with pytest.raises(ValueError, match="head size"):
        handles.block(replace(block), TINY_DENSE.head_size + 1, 0, 0)
