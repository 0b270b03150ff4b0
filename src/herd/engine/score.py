"""Logits and likelihood of given text: the model as a measure, not as a writer. Sums in float64."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from herd.engine.runner import Logits, Piece, Scorer
from herd.errors import ContextTooLong, UsageError, fail


def _check(runner: Scorer, ids: Sequence[int]) -> None:
    if not len(ids):
        fail(UsageError, "ids", got="none", expected="at least one")
    if len(ids) > runner.context:
        fail(ContextTooLong, f"{len(ids)} tokens, the context holds {runner.context}", do="load with a larger context")
    for i in ids:
        if not 0 <= i < runner.vocab_size:
            fail(UsageError, "ids", got=i, expected=f"ids from 0 to {runner.vocab_size - 1}")
        if i == runner.patch_id:
            fail(UsageError, "ids", got=f"{i}, a patch of an image", expected="ids of text")


@dataclass(frozen=True)
class Score:
    """Negative log-likelihood, natural logarithm, over the scored tokens."""

    nll_sum: float
    scored_tokens: int
    windows: int


def passes(runner: Scorer, ids: Sequence[int], piece: int = 512, first: int = 0) -> Iterator[tuple[int, Logits]]:
    """(position of the first row, logits of the rows) of the pieces of one sequence, from position `first` on.

    Raises ContextTooLong, UsageError.
    """
    _check(runner, ids)
    lease = runner.lease()
    try:
        for start in range(0, len(ids), piece):
            part = ids[start : start + piece]
            skip = min(max(first - start, 0), len(part))
            logits_RV = runner.run([Piece(lease, part, rows=range(skip, len(part)))])
            if len(logits_RV):
                yield start + skip, logits_RV
    finally:
        runner.drop(lease)


def mean_state(runner: Scorer, ids: Sequence[int], piece: int = 512) -> npt.NDArray[np.float32]:
    """[D], of unit length: the mean over the positions of the last layer's output, each row by its own root mean square
    first, so that no position outweighs the others. Raises ContextTooLong, UsageError."""
    _check(runner, ids)
    total: npt.NDArray[np.float64] | None = None
    lease = runner.lease()
    try:
        for start in range(0, len(ids), piece):
            x_TD = runner.states([Piece(lease, ids[start : start + piece], rows=())]).astype(np.float64)
            x_TD /= np.sqrt((x_TD**2).mean(axis=1, keepdims=True)) + 1e-12
            total = x_TD.sum(axis=0) if total is None else total + x_TD.sum(axis=0)
    finally:
        runner.drop(lease)
    assert total is not None
    return (total / max(float(np.linalg.norm(total)), 1e-12)).astype(np.float32)


def groups(texts: Sequence[list[int]], most: int) -> Iterator[list[list[int]]]:
    """Texts in their order, in groups of at most `most` ids together; a longer one stands alone."""
    group: list[list[int]] = []
    for ids in texts:
        if group and sum(map(len, group)) + len(ids) > most:
            yield group
            group = []
        group.append(ids)
    if group:
        yield group


def all_logits(runner: Scorer, ids: Sequence[int], piece: int = 512) -> Logits:
    """[T, V] in float32: row t holds the logits of what follows ids[: t + 1]."""
    return np.concatenate([part for _, part in passes(runner, ids, piece)])


def score(
    runner: Scorer, ids: Sequence[int], *, context: int, stride: int, bos_id: int | None = None, piece: int = 512
) -> Score:
    """Likelihood of a text of any length, in windows of `context` tokens every `stride`.

    Each window begins with `bos_id` when given (counted in `context`). It scores the tokens that no window before it
    scored; a token without anything before it in its window is not scored.
    """
    if type(context) is not int or not 2 <= context <= runner.context:
        fail(UsageError, "context", got=context, expected=f"2 to the model's loaded context, {runner.context}")
    head = [] if bos_id is None else [bos_id]
    width = context - len(head)
    if type(stride) is not int or not 1 <= stride <= width:
        fail(UsageError, "stride", got=stride, expected=f"1 to {width}")
    total, scored, windows, done = 0.0, 0, 0, 0
    for begin in range(0, len(ids), stride):
        window = [*head, *ids[begin : begin + width]]
        first = max(len(head) + done - begin, 1)
        if first < len(window):
            total += _nll(runner, window, first, piece)
            scored += len(window) - first
            windows += 1
        done = begin + len(window) - len(head)
        if done >= len(ids):
            break
    if not scored:
        fail(UsageError, "text", got=f"{len(ids)} tokens", expected="at least 2, so that one can be scored")
    return Score(total, scored, windows)


def _nll(runner: Scorer, window: list[int], first: int, piece: int) -> float:
    """Of window[first:], each given what stands before it. The last token's own logits are not needed."""
    total = 0.0
    for start, logits_RV in passes(runner, window[:-1], piece, first - 1):
        for row, logits_V in enumerate(logits_RV):
            l_V = logits_V.astype(np.float64)
            peak = l_V.max()
            total += float(peak + np.log(np.exp(l_V - peak).sum()) - l_V[window[start + row + 1]])
    return total
