"""Our logits are transformers' logits, in float32, for every kind of model, through every op set."""

from dataclasses import replace

import numpy as np
import pytest
from parity_cases import (
    CASES,
    EPS32,
    OP_SETS,
    TEXT,
    Case,
    OpSet,
    ours,
    random_case,
    run_transformers,
    theirs,
    tolerance,
)

from herd.batch import packed
from herd.config import RopeScaling


@pytest.mark.parametrize("op_set", OP_SETS, ids=lambda o: o.name)
@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers(name: str, op_set: OpSet) -> None:
    case, expected = CASES[name], theirs(name)
    got = ours(op_set.make(), case)
    assert got.shape == expected.shape == (len(case.ids), case.config.vocab_size)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance(case, expected))


@pytest.mark.parametrize("seed", range(20))
def test_random_models_of_the_family_agree(seed: int) -> None:
    case = random_case(seed)
    expected = run_transformers(case)
    for op_set in OP_SETS:
        got = ours(op_set.make(), case)
        np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance(case, expected), err_msg=op_set.name)


@pytest.mark.slow
@pytest.mark.parametrize("op_set", OP_SETS, ids=lambda o: o.name)
def test_the_first_tokens_past_the_released_chunk_and_temperature_step(op_set: OpSet) -> None:
    """Scout's own numbers: chunk and floor 8192, theta 500000, scaling 16; heads of 128."""
    config = replace(
        TEXT,
        num_layers=2,
        rope_pattern=(True, False),
        num_heads=2,
        num_kv_heads=1,
        head_size=128,
        chunk=8192,
        floor_scale=8192,
        rope_theta=500000.0,
        rope_scaling=RopeScaling(16.0, 1.0, 1.0, 8192),
    )
    case = Case(config, length=8192 + 5)
    expected = run_transformers(case)
    got = ours(op_set.make(), case)
    # transformers forms t * f in float32: angles are off by t * eps, and as much of a score of size sqrt(H)
    angle = len(case.ids) * EPS32 * np.sqrt(config.head_size)
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance(case, expected) + angle)
    border = slice(8190, None)
    for wrong in (replace(config, chunk=None), replace(config, temperature_tuning=False)):
        other = ours(op_set.make(), case, config=wrong, context=packed([len(case.ids)], wrong.chunk))
        assert np.abs(other - expected)[border].max() > 5 * (tolerance(case, expected) + angle)


@pytest.mark.parametrize("name", CASES)
def test_the_tolerance_is_about_the_size_of_rounding(name: str) -> None:
    """Float64 says how far float32 is off: less than the tolerance, and not so much less that it would hide things."""
    torch = pytest.importorskip("torch")
    from herd.ops.torch import TorchOps

    case = CASES[name]
    exact = ours(TorchOps(dtype=torch.float64), case)
    error = np.abs(ours(TorchOps(), case) - exact).max()
    assert tolerance(case, exact) / 100 < error < tolerance(case, exact)


@pytest.mark.parametrize("op_set", OP_SETS, ids=lambda o: o.name)
def test_documents_in_one_batch_do_not_see_each_other(op_set: OpSet) -> None:
    ops, case = op_set.make(), CASES["experts interleaved with dense layers"]
    cut = 37
    together = ours(ops, case, context=packed([cut, len(case.ids) - cut], case.config.chunk))
    apart = [_piece(ops, case.ids[:cut], case), _piece(ops, case.ids[cut:], case)]
    np.testing.assert_allclose(together, np.concatenate(apart), rtol=0, atol=tolerance(case, together))


@pytest.mark.parametrize("op_set", OP_SETS, ids=lambda o: o.name)
def test_only_the_wanted_rows_reach_the_head(op_set: OpSet) -> None:
    case = CASES["tied embeddings"]
    every = ours(op_set.make(), case)
    rows = [70, 0, 33]
    some = ours(op_set.make(), case, context=replace(case.context, rows=np.asarray(rows)))
    assert some.shape == (3, case.config.vocab_size)
    np.testing.assert_allclose(some, every[rows], rtol=0, atol=tolerance(case, every))


def _piece(ops, ids, case):
    from herd.model import forward, place_weights

    context = ops.place(packed([len(ids)], case.config.chunk))
    return ops.numpy(forward(ops, case.config, place_weights(ops, case.weights), ids, context))
