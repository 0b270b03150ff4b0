"""What calibration collects, against plain sums; experts that no token reached."""

import numpy as np
import pytest

from helpers import TINY_TEXT, op_set, placed
from herd.errors import UsageError
from herd.ops.contract import Extras
from herd.passes.encode import LEAST, importance_of
from herd.passes.importance import PRIOR_ROWS, Importances
from herd.passes.likelihood import log_softmax, logits, windows


def test_importance_is_the_mean_square_of_each_column() -> None:
    x = np.random.default_rng(0).standard_normal((1000, 64)).astype(np.float32)
    x[:, 3] *= 10
    seen = Importances()
    for part in np.array_split(x, 7):
        seen.seen("w", part)
    expected = np.square(x.astype(np.float64)).mean(axis=0)
    found = seen.of("w")
    assert found is not None
    np.testing.assert_allclose(found, expected / expected.mean(), rtol=1e-5)
    assert seen.of("other") is None


def test_no_column_is_worth_nothing() -> None:
    assert importance_of([0.0, 1.0]).min() == np.float32(LEAST)
    assert (importance_of([0.0, 0.0]) == 1).all()
    with pytest.raises(UsageError, match="importances"):
        importance_of([1.0, np.nan])


def test_an_expert_is_drawn_to_the_mean_of_all_and_an_unreached_one_gets_the_shared_experts() -> None:
    stack, shared = "l.feed_forward.experts.gate_up_proj", "l.feed_forward.shared_expert.gate_proj"
    rng = np.random.default_rng(1)
    a, b, s = (rng.standard_normal((n, 8)).astype(np.float32) * rng.uniform(0.1, 3, 8) for n in (16, 400, 416))
    seen = Importances()
    seen.seen(stack, a.astype(np.float32), 0)
    seen.seen(stack, b.astype(np.float32), 1)
    seen.seen(shared, s.astype(np.float32))

    def unit(x2: np.ndarray) -> np.ndarray:
        return x2 / x2.mean()

    own, every = unit(np.square(a).mean(0)), unit(np.square(a).sum(0) + np.square(b).sum(0))
    found = seen.of(stack, 0)
    assert found is not None
    np.testing.assert_allclose(found, (16 * own + PRIOR_ROWS * every) / (16 + PRIOR_ROWS), rtol=1e-4)
    np.testing.assert_allclose(seen.of(stack, 7), unit(np.square(s).mean(0)), rtol=1e-4)


def test_a_run_of_the_model_fills_every_matrix_and_names_the_experts_it_missed() -> None:
    c = TINY_TEXT
    ops = op_set("native")
    model = placed(c, ops)
    seen = Importances()
    for _ in logits(ops, c, model, [[1, 2]], Extras(observe=seen)):
        pass
    reached = {(i, e) for (name, e) in seen.experts if "down_proj" in name for i in [int(name.split(".")[2])]}
    moe = {(i, e) for i, layer in enumerate(c.layers) if layer.moe for e in range(c.num_experts)}
    assert set(seen.unreached(c)) == moe - reached
    assert reached
    for i, layer in enumerate(c.layers):
        assert seen.of(f"model.layers.{i}.self_attn.q_proj") is not None
        if layer.moe:
            stack = f"model.layers.{i}.feed_forward.experts.down_proj"
            assert all(seen.of(stack, e) is not None for e in range(c.num_experts))


def test_windows_cover_a_text_once_each_with_its_first_token() -> None:
    assert windows(range(10), 5, 99) == [[99, 0, 1, 2, 3], [99, 4, 5, 6, 7], [99, 8, 9]]
    assert windows(range(7), 3, None) == [[0, 1, 2], [3, 4, 5]]


def test_log_softmax_adds_up_to_one_far_from_zero() -> None:
    l_TV = np.array([[1e4, 1e4, -1e4], [0, 1, 2]], np.float32)
    np.testing.assert_allclose(np.exp(log_softmax(l_TV)).sum(axis=1), 1, rtol=1e-12)
