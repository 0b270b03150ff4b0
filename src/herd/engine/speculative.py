"""Several tokens a pass without a second model: guess them from what was said before, and keep what is drawn anyway.

A `Proposer` says what may follow; the pass computes the next certain row and the proposed ones together, and the
sampler draws at each of them with the seed and step that it would have had. A proposal is kept while it equals the
draw (and penalties see what was drawn), so the tokens are those of plain decoding, bit for bit. Idea: prompt look-up
decoding (Saxena 2023), assisted generation; exactness by equality of draws, which needs no second distribution.

A pass over more rows takes longer, so each sequence proposes only while that pays: `DraftLength` compares, on line,

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
        """The sequence's number, unique in its core."""

    @property
    def ids(self) -> Sequence[int]:
        """Ids of prompt and output; between two calls the list only grows."""

    @property
    def wanted(self) -> int:
        """The most ids to propose; at least 1."""


class Proposer(Protocol):
    """Guesses the next ids of all sequences of a step. A wrong guess costs time, never a token; one that raises counts
    as none."""

    def propose(self, entries: Sequence[Guessable]) -> Sequence[Sequence[int]]:
        """Up to `wanted` ids that may follow, for each of these sequences in their order; none without a guess."""

    def drop(self, number: int) -> None:
        """Forget a sequence that has ended. One that it has never seen is no error."""

    def clear(self) -> None:
        """Forget what depended on the model's weights, which have been replaced. Sequences go on."""


class PromptLookup:
    """Guesses what followed the last occurrence of the last few ids in the sequence's own text."""

    def __init__(self, longest: int = NGRAM, shortest: int = SHORTEST) -> None:
        self._sizes = range(longest, shortest - 1, -1)
        self._known: dict[int, _Ngrams] = {}
        """Number of a sequence -> its n-grams."""

    def propose(self, entries: Sequence[Guessable]) -> Sequence[Sequence[int]]:
        """See Proposer."""
        return [self._of(entry.number).follow(entry.ids, entry.wanted) for entry in entries]

    def drop(self, number: int) -> None:
        """See Proposer."""
        self._known.pop(number, None)

    def clear(self) -> None:
        """See Proposer. The n-grams are read anew from each text."""
        self._known.clear()

    def _of(self, number: int) -> "_Ngrams":
        if number not in self._known:
            self._known[number] = _Ngrams(self._sizes)
        return self._known[number]


class _Ngrams:
    """The n-grams of one sequence: where each was last followed by something."""

    def __init__(self, sizes: range) -> None:
        self._sizes = sizes
        self._after: dict[int, dict[tuple[int, ...], int]] = {n: {} for n in sizes}
        """Size -> n-gram -> index of what followed it last."""
        self._seen: int | None = None

    def follow(self, ids: Sequence[int], most: int) -> Sequence[int]:
        """Up to `most` ids that followed the last occurrence of the final n-gram of these ids."""
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


class DraftLength:
    """Decides how many ids one sequence should propose. Times come from the caller; results never depend on them."""

    def __init__(self) -> None:
        self.kept = 1.0
        """Average share of proposed ids that are kept; begins hopeful."""
        self._pause = 0
        self._next_pause = 16

    def most(self, plain_s: float | None, row_s: float | None, sharing: int) -> int:
        """The number of ids to propose now. plain_s: seconds of a pass of decodes alone; row_s: seconds that one more
        row adds; None: not known yet. sharing: how many sequences wait for the pass."""
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
        """Count a pass that had so many proposed ids, of which `kept` were kept."""
        # the chance of one more id: kept of those that were reached
        reached = min(kept + 1, proposed)
        self.kept += 0.25 * (kept / reached - self.kept)
        if kept == proposed:
            self._next_pause = 16
