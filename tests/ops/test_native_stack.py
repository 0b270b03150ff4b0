"""All layers in one call: the bits of the operations, for as long as the weights are the ones it was made of."""

from dataclasses import replace

import numpy as np
import pytest

from helpers import TINY_DENSE, TINY_TEXT, placed, with_block
from herd.engine.runner import Chunk, Runner
from herd.ops import native_stack as stacks
from herd.ops.native import MOST_STACK_ROWS, NativeOps
from herd.weights import LoRA

CONFIGS = {"experts": TINY_TEXT, "dense": TINY_DENSE}


class Apart(NativeOps):
    """The four operations of a layer, always."""

    def layers(self, *arguments):
        return None


def runner(ops, name, kv="bf16"):
    return Runner(CONFIGS[name], placed(CONFIGS[name], ops), ops, context=192, kv_dtype=kv, piece=128)


@pytest.mark.parametrize("kv", ["f32", "bf16", "int8"])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_bits_of_the_four_operations(isa, name, kv):
    runners = [runner(ops, name, kv) for ops in (NativeOps(2), Apart(2))]
    leases = [r.lease() for r in runners]
    rng = np.random.default_rng(5)
    for length in (MOST_STACK_ROWS + 3, 1, 7, 1, MOST_STACK_ROWS):
        ids = rng.integers(0, 256, length).tolist()
        choices = ([], [])
        found = [
            r.run([Chunk(lease, ids, rows=range(length))], routing=_kept(seen))
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
    real = ops.layers

    def watched(x, *arguments):
        done = real(x, *arguments)
        taken.append((len(x), done is not None))
        return done

    ops.layers = watched
    r = runner(ops, "experts")
    for length in (MOST_STACK_ROWS, MOST_STACK_ROWS + 1):
        lease = r.lease()
        r.run([Chunk(lease, [1] * length)])
        r.drop(lease)
    assert set(taken) == {(MOST_STACK_ROWS, True), (MOST_STACK_ROWS + 1, False)}


def test_it_is_made_once_and_again_for_another_config():
    model = placed(TINY_DENSE, NativeOps(2))
    before = stacks.of(model, TINY_DENSE)
    assert stacks.of(model, TINY_DENSE) is before
    assert stacks.of(replace(model), TINY_DENSE) is not before
    assert stacks.of(model, replace(TINY_DENSE)) is not before


def test_new_values_in_an_array_are_computed_with():
    r = runner(NativeOps(2), "dense")

    def logits():
        lease = r.lease()
        out = r.run([Chunk(lease, [3])])
        r.drop(lease)
        return out

    before = logits()
    w = r.weights.blocks[0].ffn.up.w
    kept = w.copy()
    try:
        w[:] = 0
        assert not np.array_equal(before, logits())
    finally:
        w[:] = kept  # other tests have the same array
    assert np.array_equal(before, logits())


def test_a_weight_of_two_matrices_is_taken_apart():
    model = placed(TINY_DENSE, NativeOps(2))
    down, up = np.zeros((2, TINY_DENSE.width), np.float32), np.zeros((TINY_DENSE.width, 2), np.float32)
    assert stacks.of(with_block(model, 1, o=LoRA(model.blocks[1].o, down, up, 1.0)), TINY_DENSE) is None
    assert stacks.of(model, TINY_DENSE) is not None


def test_weights_that_do_not_fit_together_are_refused():
    model = placed(TINY_DENSE, NativeOps(2))
    with pytest.raises(ValueError, match="wq, wk outputs"):
        stacks.of(model, replace(TINY_DENSE, head_size=TINY_DENSE.head_size + 2))
    with pytest.raises(ValueError, match="wo"):
        stacks.of(with_block(model, 0, o=model.blocks[0].ffn.up), TINY_DENSE)
