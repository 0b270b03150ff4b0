"""Several tokens a pass without a second model: guess them from what was said before, and keep what is drawn anyway.

A `Proposer` says what may follow; the pass computes the next certain row and the proposed ones together, and the
sampler draws at each of them with the seed and step that it would have had. A proposal is kept while it equals the
draw (and penalties see what was drawn), so the tokens are those of plain decoding, bit for bit. Idea: prompt look-up
decoding (Saxena 2023), assisted generation; exactness by equality of draws, which needs no second distribution.

A pass over more rows takes longer, so each sequence proposes only while that pays: `Worth` compares, on line,

    kept tokens a proposed pass        *  seconds that a plain pass takes for one token
    against the seconds that the proposed rows added                                     for all who share the pass

and tries again, cheaply and ever more rarely, while it does not. What it is not: a draft model; that would be another
Proposer.
"""

from collections.abc import Sequence
from typing import Protocol

LONGEST = 8
"""Proposed ids a pass at most: with more, the chance that all are kept falls faster than the pass grows cheaper."""
NGRAM = 3
SHORTEST = 2
"""Ids that must recur before what followed them is proposed: NGRAM of them, or failing that SHORTEST."""
SPAN = 1 << 16
"""Only so many last ids are looked through."""


class Guessable(Protocol):
    """A sequence as a proposer sees it."""

    @property
    def number(self) -> int:
        """Its own among all that a core has."""

    @property
    def ids(self) -> Sequence[int]:
        """Prompt and output; between two calls it only grows."""

    @property
    def wanted(self) -> int:
        """How many ids to propose at most; at least 1."""


class Proposer(Protocol):
    """Guesses for all sequences of a step. A guess that is wrong costs time, never a token; one that raises is none."""

    def propose(self, entries: Sequence[Guessable]) -> Sequence[Sequence[int]]:
        """For each of these, in their order, up to `wanted` ids that may follow all of its ids; none where it knows
        of none."""

    def drop(self, number: int) -> None:
        """This sequence is over. One that was never seen is no error."""

    def clear(self) -> None:
        """Forget what the model's weights had to do with: they are others now. Sequences go on."""


class PromptLookup:
    """What followed the last occurrence of the last few ids, in each sequence's own text."""

    def __init__(self, longest: int = NGRAM, shortest: int = SHORTEST) -> None:
        self._sizes = range(longest, shortest - 1, -1)
        self._known: dict[int, _Ngrams] = {}
        """By number of a sequence."""

    def propose(self, entries: Sequence[Guessable]) -> Sequence[Sequence[int]]:
        """See Proposer."""
        return [self._of(entry.number).follow(entry.ids, entry.wanted) for entry in entries]

    def drop(self, number: int) -> None:
        """See Proposer."""
        self._known.pop(number, None)

    def clear(self) -> None:
        """See Proposer. It is read anew from each text."""
        self._known.clear()

    def _of(self, number: int) -> "_Ngrams":
        if number not in self._known:
            self._known[number] = _Ngrams(self._sizes)
        return self._known[number]


class _Ngrams:
    """The n-grams of one sequence."""

    def __init__(self, sizes: range) -> None:
        self._sizes = sizes
        self._after: dict[int, dict[tuple[int, ...], int]] = {n: {} for n in sizes}
        """By size: n-gram -> where what followed it begins."""
        self._seen: int | None = None

    def follow(self, ids: Sequence[int], most: int) -> Sequence[int]:
        """Up to `most` ids that followed the last few of these."""
        self._read(ids)
        for n in self._sizes:
            at = self._after[n].get(tuple(ids[len(ids) - n :]))
            if at is not None:
                return ids[at : at + most]
        return ()

    def _read(self, ids: Sequence[int]) -> None:
        """Learn the n-grams that have something after them."""
        first = max(0, len(ids) - SPAN) if self._seen is None else self._seen
        for n in self._sizes:
            after = self._after[n]
            for end in range(max(first, n), len(ids)):
                after[tuple(ids[end - n : end])] = end
        self._seen = len(ids)


class Worth:
    """How many ids one sequence should propose. Times come from the caller; results never depend on them."""

    def __init__(self) -> None:
        self.kept = 1.0
        """Average share of proposed ids that are kept; begins hopeful."""
        self._pause = 0
        self._next_pause = 16

    def most(self, plain_s: float | None, row_s: float | None, sharing: int) -> int:
        """Ids to propose now. plain_s: a pass of decodes alone; row_s: what one more row adds; None: not known yet.
        sharing: how many sequences wait for the pass."""
        if self._pause > 0:
            self._pause -= 1
            return 0
        if plain_s is None or row_s is None:
            return SHORTEST
        best, best_gain = 0, 0.0
        expected, chance = 0.0, 1.0
        for k in range(1, LONGEST + 1):
            chance *= self.kept
            expected += chance
            # tokens a second of all who share the pass, against those without the k rows
            gain = (sharing + expected) / (plain_s + k * row_s) - sharing / plain_s
            if gain > best_gain:
                best, best_gain = k, gain
        if not best:
            self._pause = self._next_pause
            self._next_pause = min(2 * self._next_pause, 1024)
            self.kept = max(self.kept, 0.5)  # the next trial is short, and an honest one
        return best

    def seen(self, proposed: int, kept: int) -> None:
        """A pass with so many proposed ids is over."""
        # the chance of one more id: kept of those that were reached
        reached = min(kept + 1, proposed)
        self.kept += 0.25 * (kept / reached - self.kept)
        if kept == proposed:
            self._next_pause = 16
