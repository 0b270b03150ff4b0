"""Sampling: logits [V] -> one token id by penalties, filters and a draw. numpy, float64 where probabilities are formed.

The order, fixed and documented, because each filter sees what the one before left:

    1. repetition penalty   seen ids of the last `repetition_window` tokens, prompt included: l / p if l > 0, else l * p
                            (CTRL, arXiv:1909.05858, section 4.1)
       presence, frequency  output ids: l - presence - frequency * count
    2. logit_bias           l + bias
    3. barred, grammar      ids that no answer may hold are left out, whatever was added (`engine.request_checks`);
                            from here on only the ids that the grammar allows take part (`herd.grammar.masks`)
    4. greedy               the largest l, at a tie the lowest id; or
    5. temperature          p = softmax(l / temperature)
    6. top_k                the k largest; ids tied with the k-th: the lowest ids stay
    7. top_p                the shortest prefix of the sorted, renormalised p whose sum reaches top_p
                            (nucleus, arXiv:1904.09751); the likeliest always stays
    8. min_p                p of at least min_p * the largest p (arXiv:2407.01082)
    9. draw                 one uniform number of (seed, step), by inverse cumulative sum in descending order

Logprobs are of the raw distribution, before 1. What it is not: a cause of different output on another machine: given
equal logits, the same seed and step give the same id (SplitMix64 in integers; no library generator).
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from herd.engine.request import SamplingOptions, TokenLogprob
from herd.errors import BadCheckpoint, GrammarStuck, fail

Logits = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15
HEAD, GROWTH = 1024, 16
"""So many of the likeliest tokens are sorted first, and so many times more when they do not hold top_p."""


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def uniform(seed: int, step: int) -> float:
    """A number in [0, 1) of 53 bits for this seed and step: SplitMix64 (Steele, Lea, Flood 2014), its state started at
    the mixed seed so that neighbouring seeds are far apart."""
    state = (_mix((seed + _GAMMA) & _MASK) + (step + 1) * _GAMMA) & _MASK
    return (_mix(state) >> 11) * 2.0**-53


@dataclass
class History:
    """The tokens of a request that penalties look at."""

    ids: list[int] = field(default_factory=list)
    """Prompt and output."""
    counts: dict[int, int] = field(default_factory=dict)
    """Id -> how often it is among the output ids."""
    _window: int = -1
    """The window whose ids `_seen` counts, `ids[_first : _read]`; -1: none yet."""
    _first: int = 0
    _read: int = 0
    _seen: dict[int, int] = field(default_factory=dict)

    def add(self, token_id: int) -> None:
        """Add an output token."""
        self.ids.append(token_id)
        self.counts[token_id] = self.counts.get(token_id, 0) + 1

    def recent(self, window: int) -> Collection[int]:
        """Ids among the last `window` tokens; 0: among all. A further call reads only the tokens that are new since the
        last."""
        if window != self._window:
            self._window, self._seen = window, {}
            self._first = self._read = max(0, len(self.ids) - window) if window else 0
        for token_id in self.ids[self._read :]:
            self._seen[token_id] = self._seen.get(token_id, 0) + 1
        self._read = len(self.ids)
        while window and self._read - self._first > window:
            self._forget(self.ids[self._first])
            self._first += 1
        return self._seen.keys()

    def _forget(self, token_id: int) -> None:
        """Count a token less that has left the window."""
        self._seen[token_id] -= 1
        if not self._seen[token_id]:
            del self._seen[token_id]


def adjusted(logits_V: Logits, options: SamplingOptions, history: History) -> Doubles:
    """Steps 1 and 2: logits with penalties and bias, as a float64 copy."""
    l_V = np.asarray(logits_V, np.float64).copy()
    if options.repetition_penalty != 1.0 and history.ids:
        seen = np.fromiter(history.recent(options.repetition_window), np.int64)
        l_R, p = l_V[seen], options.repetition_penalty
        l_V[seen] = np.where(l_R > 0, l_R / p, l_R * p)
    if (options.presence_penalty or options.frequency_penalty) and history.counts:
        ids = np.fromiter(history.counts, np.int64)
        times = np.fromiter(history.counts.values(), np.float64)
        l_V[ids] -= options.presence_penalty + options.frequency_penalty * times
    _add_bias(l_V, options.logit_bias)
    return l_V


def _add_bias(l_V: Doubles, bias: Mapping[int, float]) -> None:
    for i, b in bias.items():
        l_V[i] += b


class Candidates(NamedTuple):
    """What steps 5 to 8 leave, likeliest first and ties by id; all ids in ascending order when nothing filters."""

    p: Doubles
    """Probabilities by place, with sum 1."""
    id_at: Callable[[int], int]
    """The id at a place."""


def candidates(l_V: Doubles, options: SamplingOptions) -> Candidates:
    """Apply steps 5 to 8. Weights are sorted without their ids, and only as many as top_p needs; the draw finds its id
    later."""
    top = float(l_V.max())
    ids = _largest(l_V, options.top_k) if options.top_k else None
    weight = np.exp(((l_V if ids is None else l_V[ids]) - top) / options.temperature)  # the largest is 1
    is_filtered = options.top_p < 1.0 or options.min_p > 0.0
    kept = weight
    if is_filtered:
        mass = options.top_p * float(weight.sum()) * (1.0 - 1e-12) if options.top_p < 1.0 else math.inf
        kept = _prefix(weight[weight >= options.min_p] if options.min_p > 0.0 else weight, mass)
    p = kept / kept.sum()
    if ids is not None:
        return Candidates(p, lambda place: int(ids[place]))
    if not is_filtered:
        return Candidates(p, lambda place: place)
    return Candidates(p, lambda place: _id_of(weight, float(kept[place]), place))


def _largest(l_V: Doubles, k: int) -> npt.NDArray[np.int64]:
    """Ids of the k largest, largest first, ties by id."""
    ids = np.arange(len(l_V)) if k >= len(l_V) else np.flatnonzero(l_V >= np.partition(l_V, -k)[-k])
    return ids[np.argsort(-l_V[ids], kind="stable")][:k]


def _prefix(weight: Doubles, mass: float) -> Doubles:
    """The shortest prefix of the weights, largest first, whose sum reaches `mass`; all when no sum does.

    weight: each at most 1, so that no slice of fewer than `mass` of them needs to be tried.
    """
    k = HEAD
    while k <= min(mass, len(weight)):
        k *= GROWTH
    while True:
        part = weight if k >= len(weight) else np.partition(weight, -k)[-k:]
        largest = -np.sort(-part)
        keep = int(np.searchsorted(np.cumsum(largest), mass)) + 1
        if keep <= len(largest) or len(part) == len(weight):
            return largest[:keep]
        k *= GROWTH


def _id_of(weight_V: Doubles, value: float, place: int) -> int:
    """The id at a place of the sorted weights, where `value` stands; ids of equal weights follow each other."""
    before = int(np.count_nonzero(weight_V > value))
    return int(np.flatnonzero(weight_V == value)[place - before])


def sample(
    logits_V: Logits,
    options: SamplingOptions,
    history: History,
    seed: int,
    step: int,
    allowed_A: npt.NDArray[np.int64] | None = None,
    barred_B: npt.NDArray[np.int64] | None = None,
) -> int:
    """The next token id. `step` counts the output tokens of this request, from 0. allowed_A: the ids that a grammar
    allows, ascending; None: all. barred_B: ids that are never drawn.

    Raises BadCheckpoint where the largest logit is no number, GrammarStuck where all that is allowed is barred.
    """
    greedily = options.greedy and is_plain(options)
    l_V: npt.NDArray[Any] = logits_V if greedily else adjusted(logits_V, options, history)
    best = best_of(l_V)
    if barred_B is not None and len(barred_B) and not (greedily and allowed_A is None and best not in barred_B):
        l_V = l_V.copy() if greedily else l_V
        l_V[barred_B] = -np.inf
        if allowed_A is not None and len(allowed_A) <= len(barred_B) and np.isin(allowed_A, barred_B).all():
            raise GrammarStuck("grammar: it allows only what no answer holds, such as a patch of an image")
        best = best_of(l_V)
    if allowed_A is not None:
        l_V = l_V[allowed_A]
        best = best_of(l_V)
    if not options.greedy:
        p, id_at = candidates(l_V, options)
        at = int(np.searchsorted(np.cumsum(p), uniform(seed, step), side="right"))
        best = id_at(at if at < len(p) else int(np.flatnonzero(p)[-1]))  # the sum may round to just below 1
    return best if allowed_A is None else int(allowed_A[best])


def is_plain(options: SamplingOptions) -> bool:
    """Whether steps 1 and 2 leave the logits as they are."""
    is_biased = options.logit_bias or options.repetition_penalty != 1.0
    return not (is_biased or options.presence_penalty or options.frequency_penalty)


def best_of(l_V: Logits) -> int:
    """The id of the largest logit, at a tie the lowest id. Raises BadCheckpoint when the largest is not finite (argmax
    finds any NaN)."""
    best = int(np.argmax(l_V))
    check_largest(l_V[best])
    return best


def check_largest(logit: float) -> None:
    """Raise BadCheckpoint unless the largest logit is a finite number."""
    if not np.isfinite(logit):
        fail(BadCheckpoint, "logits", got=float(logit), expected="finite numbers", do="verify the model's files")


def logprob(logits_V: Logits, token_id: int, top: int) -> TokenLogprob:
    """Log-probabilities of the chosen token and the `top` likeliest ones in the raw distribution; log-softmax in
    float64."""
    return logprobs(logits_V, (token_id,), top)[0]


def logprobs(logits_V: Logits, ids: Iterable[int], top: int) -> list[TokenLogprob]:
    """`logprob` of each of these ids after the same ones."""
    l_V = np.asarray(logits_V, np.float64)
    peak = float(l_V.max())
    norm = peak + float(np.log(np.exp(l_V - peak).sum()))
    best: tuple[tuple[int, float], ...] = ()
    if top:
        best = tuple((int(i), float(l_V[i]) - norm) for i in _largest(l_V, top))
    return [TokenLogprob(i, float(l_V[i]) - norm, best) for i in ids]
