"""Tokens drawn on the device against the host's sampler: the same ids and log-probabilities for the same numbers."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from herd.engine.device_draws import DeviceLogits, DrawRequest, drawn_rows
from herd.engine.request import SamplingOptions
from herd.engine.sampler import History, logprob, sample
from herd.errors import BadCheckpoint

torch = pytest.importorskip("torch")
from devices import DEVICES  # noqa: E402

from herd.ops.torch import TorchOps  # noqa: E402

NONE = np.zeros(0, np.int64)


@pytest.fixture(params=DEVICES)
def ops(request: pytest.FixtureRequest) -> Any:
    return TorchOps(request.param, draws=True)


def drawn(
    ops: Any, logits_RV: np.ndarray, requests: Sequence[Sequence[DrawRequest]], barred_B: np.ndarray = NONE
) -> list[Any]:
    """Rows as the core takes them."""
    return drawn_rows(DeviceLogits(ops, ops.array(logits_RV)), requests, barred_B)


def hosts(logits_V: np.ndarray, request: DrawRequest, barred_B: np.ndarray = NONE) -> tuple[int, Any]:
    o = request.options
    token_id = sample(logits_V, o, History(), request.seed, request.step, None, barred_B)
    return token_id, None if o.logprobs is None else logprob(logits_V, token_id, o.logprobs)


def assert_same(found: Any, wanted: Any) -> None:
    assert found[0] == wanted[0]
    if wanted[1] is None:
        assert found[1] is None
        return
    assert math.isclose(found[1].logprob, wanted[1].logprob, abs_tol=1e-11)
    assert [i for i, _ in found[1].top] == [i for i, _ in wanted[1].top]
    assert np.allclose([x for _, x in found[1].top], [x for _, x in wanted[1].top], rtol=0, atol=1e-11)


filters = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 1e-6, 0.3, 1.0, 3.0]),
        "top_k": st.sampled_from([0, 0, 1, 2, 5, 1000]),
        "top_p": st.sampled_from([1.0, 1.0, 0.1, 0.5, 0.95]),
        "min_p": st.sampled_from([0.0, 0.0, 0.02, 0.5, 1.0]),
        "logprobs": st.sampled_from([None, 0, 3, 20]),
    }
)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(filters, min_size=1, max_size=6),
    seed=st.integers(0, 2**32),
    num_ids=st.sampled_from([1, 7, 40, 333]),
    coarse=st.booleans(),
    bars=st.booleans(),
)
def test_every_row_gives_the_hosts_token(
    rows: list[dict[str, Any]], seed: int, num_ids: int, coarse: bool, bars: bool
) -> None:
    """coarse: logits are whole numbers, so that ties are many."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (len(rows), num_ids)).astype(np.float32)
    logits = np.round(logits) if coarse else logits
    barred = np.unique(rng.integers(0, num_ids, num_ids // 3)) if bars else NONE
    requests = [[DrawRequest(SamplingOptions(**fields), seed, step)] for step, fields in enumerate(rows)]
    found = drawn(TorchOps(draws=True), logits, requests, barred)
    for step, (row, logits_V, (request,)) in enumerate(zip(found, logits, requests, strict=True)):
        assert_same(row(seed, step), hosts(logits_V, request, barred))


@pytest.mark.parametrize("fields", [{}, {"top_p": 0.9}, {"top_k": 40, "min_p": 0.01}])
def test_a_whole_vocabulary_gives_the_hosts_tokens(fields: dict[str, Any], ops: Any) -> None:
    """A part of the numbers a uniform draw may take lies within rounding of a border: 2e5 borders times 1e-13."""
    logits = np.random.default_rng(5).normal(0, 3, 202_048).astype(np.float32)
    requests = [DrawRequest(SamplingOptions(temperature=0.9, logprobs=5, **fields), seed, 3) for seed in range(8)]
    (row,) = drawn(ops, logits[None], [requests])
    for request in requests:
        assert_same(row(request.seed, 3), hosts(logits, request))


def test_draws_follow_the_probabilities(ops: Any) -> None:
    logits = np.array([2.0, 1.0, 0.5, -1.0, 3.0, 0.0])
    o, n = SamplingOptions(temperature=0.8), 20_000
    p = np.exp(logits / 0.8) / np.exp(logits / 0.8).sum()
    (row,) = drawn(ops, logits[None], [[DrawRequest(o, seed, step) for seed in range(100) for step in range(n // 100)]])
    counts = Counter(row(seed, step)[0] for seed in range(100) for step in range(n // 100))
    chi2 = sum((counts[i] - n * q) ** 2 / (n * q) for i, q in enumerate(p))
    assert chi2 < 35, (chi2, counts)  # 5 degrees of freedom: P(chi2 > 35) = 2e-6; the seeds are fixed


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_row_that_holds_no_numbers_fails_alone(bad: float, temperature: float, ops: Any) -> None:
    logits = np.array([[0.0, 1.0, 2.0], [0.0, bad, 1.0], [-math.inf] * 3, [5.0, 1.0, -math.inf]])
    o = SamplingOptions(temperature=temperature, top_k=0 if temperature == 0 else 2)
    rows = drawn(ops, logits, [[DrawRequest(o, 0, 0)]] * 4, np.array([1]))
    for n in (1, 2):
        with pytest.raises(BadCheckpoint, match=r"logits: got (nan|inf|-inf), expected finite numbers"):
            rows[n](0, 0)
        with pytest.raises(BadCheckpoint, match="logits: got"):
            hosts(logits[n], DrawRequest(o, 0, 0), np.array([1]))
    for n in (0, 3):
        assert rows[n](0, 0)[0] == hosts(logits[n], DrawRequest(o, 0, 0), np.array([1]))[0]


@pytest.mark.parametrize(
    "fields",
    [
        {"repetition_penalty": 1.1},
        {"presence_penalty": 0.5},
        {"frequency_penalty": -0.5},
        {"logit_bias": {1: 2.0}},
    ],
)
def test_what_needs_the_host_gets_its_row_whole(fields: dict[str, Any], ops: Any) -> None:
    logits = np.random.default_rng(1).normal(size=(3, 9)).astype(np.float32)
    plain, other = DrawRequest(SamplingOptions(), 0, 0), DrawRequest(SamplingOptions(**fields), 0, 0)
    first, second, third = drawn(ops, logits, [[plain], [other], [plain]])
    np.testing.assert_array_equal(second, logits[1])
    assert [first(0, 0)[0], third(0, 0)[0]] == logits[[0, 2]].argmax(1).tolist()


def test_finite_says_whether_all_are(ops: Any) -> None:
    for value, is_finite in ((1.0, True), (math.nan, False), (-math.inf, False)):
        assert ops.finite(ops.array(np.array([[0.0, value], [1.0, 2.0]]))) is is_finite


def test_no_more_than_a_few_numbers_a_row_cross_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, cpu = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda x: sizes.append(x.numel()) or cpu(x))
    logits = np.random.default_rng(1).normal(size=(4, 5000)).astype(np.float32)
    options = [
        SamplingOptions(),
        SamplingOptions(temperature=1.0, logprobs=20),
        SamplingOptions(temperature=1.0, top_p=0.5),
    ]
    drawn(TorchOps(draws=True), logits, [[DrawRequest(o, 0, 0)] for o in [*options, options[0]]])
    assert sizes == [4 * (3 + 2 * 20)]
