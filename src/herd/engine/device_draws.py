"""Sampling where the logits are: for op sets whose logits do not lie in host memory (`Ops.draws`).

    requests of a pass -> Draws -> DeviceLogits.draw -> ids, log-probabilities

What needs the text so far (penalties) or is given by request (logit_bias, grammars) stays the host's: those rows alone
cross to it whole, and `sampler.sample` draws from them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from herd.engine.request import SamplingOptions, TokenLogprob
from herd.engine.sampler import check_largest, is_plain, uniform
from herd.ops.contract import Drawn, Draws, Ops

Ints = npt.NDArray[np.int64]
Chosen = tuple[int, TokenLogprob | None]
Row = npt.NDArray[np.float32] | Callable[[int, int], Chosen]
"""Logits [V] on the host, or what was drawn elsewhere: (seed, step) -> the token."""


class DeviceLogits:
    """Logits [R, V] of a pass, in the memory of the op set."""

    def __init__(self, ops: Ops, logits_RV: Any) -> None:
        self._ops, self._logits_RV = ops, logits_RV

    def __len__(self) -> int:
        return len(self._logits_RV)

    def draw(self, draws: Draws) -> Drawn:
        """See contract.Ops.draw."""
        return self._ops.draw(self._logits_RV, draws)

    def host(self, rows: Sequence[int] | slice = slice(None)) -> npt.NDArray[np.float32]:
        """These rows as numpy float32."""
        return np.asarray(self._ops.numpy(self._logits_RV[rows]), np.float32)


class DrawRequest(NamedTuple):
    """A token to be drawn from a row of logits. step: see sampler.sample."""

    options: SamplingOptions
    seed: int
    step: int


def can_draw(options: SamplingOptions) -> bool:
    """Whether a token can be drawn from its row of logits alone, without the text so far."""
    return is_plain(options) and options.grammar is None


def drawn_rows(logits: DeviceLogits, requests_R: Sequence[Sequence[DrawRequest]], barred_B: Ints) -> list[Row]:
    """A `Row` for each row of logits: it holds the drawn tokens, or is the row itself on the host where the host has to
    draw.

    requests_R: the tokens to draw of each row; several for a prompt with several samples, which have the same options.
    barred_B: ids that are never drawn.
    """
    is_here_R = [not all(can_draw(request.options) for request in requests) for requests in requests_R]
    here = [row for row, is_here in enumerate(is_here_R) if is_here]
    there = [(row, request) for row, requests in enumerate(requests_R) if not is_here_R[row] for request in requests]
    on_host = iter(logits.host(here)) if here else iter(())
    tokens = _Tokens(there, logits.draw(_draws(there, barred_B))) if there else None
    return [
        next(on_host) if is_here or tokens is None else partial(tokens.token, r) for r, is_here in enumerate(is_here_R)
    ]


def _draws(requests: Sequence[tuple[int, DrawRequest]], barred_B: Ints) -> Draws:
    options = [request.options for _, request in requests]
    return Draws(
        np.array([row for row, _ in requests], np.int64),
        np.array([0.0 if o.greedy else o.temperature for o in options]),
        np.array([o.top_k for o in options], np.int64),
        np.array([o.top_p for o in options]),
        np.array([o.min_p for o in options]),
        np.array([0.0 if request.options.greedy else uniform(request.seed, request.step) for _, request in requests]),
        np.array([-1 if o.logprobs is None else o.logprobs for o in options], np.int64),
        barred_B,
    )


class _Tokens:
    """Drawn tokens, by row, seed and step."""

    def __init__(self, requests: Sequence[tuple[int, DrawRequest]], drawn: Drawn) -> None:
        self._at = {(row, request.seed, request.step): n for n, (row, request) in enumerate(requests)}
        self._tops = [request.options.logprobs for _, request in requests]
        self._drawn = drawn

    def token(self, row: int, seed: int, step: int) -> Chosen:
        """The token that was drawn for these. Raises BadCheckpoint, as `sampler.sample`."""
        n, drawn = self._at[row, seed, step], self._drawn
        check_largest(float(drawn.largest_n[n]))
        token_id, top = int(drawn.ids_n[n]), self._tops[n]
        if top is None:
            return token_id, None
        ids, logprobs = drawn.top_ids_nK[n, :top].tolist(), drawn.top_logprobs_nK[n, :top].tolist()
        return token_id, TokenLogprob(token_id, float(drawn.logprobs_n[n]), tuple(zip(ids, logprobs, strict=True)))
