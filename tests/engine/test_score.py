"""Likelihood against a table of bigrams: a FakeModel whose next token depends on the last one alone."""

import itertools
import math

import numpy as np
import pytest

from herd.engine.fake import FakeModel
from herd.engine.score import all_logits, score
from herd.errors import ContextTooLong, UsageError

V = 12
TABLE = np.random.default_rng(3).normal(size=(V, V)).astype(np.float32)
LOGP = TABLE - np.log(np.exp(TABLE.astype(np.float64)).sum(1, keepdims=True))
IDS = np.random.default_rng(4).integers(0, V, 57).tolist()


def model(context: int = 64) -> FakeModel:
    return FakeModel(lambda ids: TABLE[ids[-1]].tolist(), vocab_size=V, context=context)


def nll(pairs: list[tuple[int, int]]) -> float:
    return -math.fsum(LOGP[a, b] for a, b in pairs)


@pytest.mark.parametrize("piece", [1, 5, 512])
def test_one_window(piece: int) -> None:
    found = score(model(), IDS, context=64, stride=64, piece=piece)
    assert (found.scored_tokens, found.windows) == (56, 1)
    assert found.nll_sum == pytest.approx(nll(list(itertools.pairwise(IDS))), rel=1e-6)


def test_windows_apart_leave_out_the_first_token_of_each() -> None:
    found = score(model(), IDS, context=10, stride=10)
    pairs = [(IDS[i - 1], IDS[i]) for i in range(57) if i % 10]
    assert (found.scored_tokens, found.windows) == (len(pairs), 6)
    assert found.nll_sum == pytest.approx(nll(pairs), rel=1e-6)


@pytest.mark.parametrize(("context", "stride"), [(10, 5), (10, 9), (10, 1), (57, 3)])
def test_overlapping_windows_score_every_token_once(context: int, stride: int) -> None:
    found = score(model(), IDS, context=context, stride=stride)
    assert found.scored_tokens == 56
    assert found.nll_sum == pytest.approx(nll(list(itertools.pairwise(IDS))), rel=1e-6)


def test_with_a_first_token_every_token_is_scored() -> None:
    found = score(model(), IDS, context=10, stride=9, bos_id=7)
    pairs = [(IDS[i - 1] if i % 9 else 7, IDS[i]) for i in range(57)]
    assert found.scored_tokens == 57
    assert found.nll_sum == pytest.approx(nll(pairs), rel=1e-6)


def test_all_logits_are_every_rows() -> None:
    np.testing.assert_array_equal(all_logits(model(), IDS, piece=10), TABLE[IDS])


def test_pages_come_back() -> None:
    m = model()
    score(m, IDS, context=10, stride=5)
    m.room.check()
    assert m.room.free() == m.room.total()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"context": 65, "stride": 1}, "context: got 65, expected 2 to the model's loaded context, 64"),
        ({"context": 10, "stride": 11}, "stride: got 11, expected 1 to 10"),
        ({"context": 10, "stride": 10, "bos_id": 1}, "stride: got 10, expected 1 to 9"),
    ],
)
def test_bad_windows_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        score(model(), IDS, **arguments)


def test_bad_ids_are_refused() -> None:
    with pytest.raises(UsageError, match="text: got 1 tokens"):
        score(model(), [1], context=8, stride=8)
    with pytest.raises(UsageError, match="ids: got 12, expected ids from 0 to 11"):
        all_logits(model(), [1, 12])
    with pytest.raises(ContextTooLong, match="65 tokens, the context holds 64"):
        all_logits(model(), [1] * 65)
