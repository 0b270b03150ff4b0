"""Our logits are transformers' logits, in float32, for every kind of model, through every op set."""

from dataclasses import replace

import numpy as np
import pytest
from parity_cases import CASES, OP_SETS, OpSet, ours, theirs, tolerance

from herd.batch import packed


@pytest.mark.parametrize("op_set", OP_SETS, ids=lambda o: o.name)
@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers(name: str, op_set: OpSet) -> None:
    case, expected = CASES[name], theirs(name)
    got = ours(op_set.make(), case)
    assert got.shape == expected.shape == (len(case.ids), case.config.vocab_size)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance(case, expected))


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
