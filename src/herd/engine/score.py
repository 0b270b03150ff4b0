"""Measurements: what becomes of the rows of a request that wants numbers about given ids instead of tokens.

    Logprobs   how likely each id was after those before it         logits of a block of rows -> one number a row
    State      the mean over the positions of the last layer        rows -> one vector
    Rows       logits after each id                                 as they are

Everything is taken by position, in order, and a position once: whoever gives up its place is computed again, in other
pieces, beside others, and gets the same bits. Sums in float64. What it is not: a schedule, a pass.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from herd.engine.request import SamplingOptions, TokenScore, Want
from herd.engine.runner import Logits
from herd.engine.sampler import History, best_of, logprobs, sample
from herd.errors import UsageError, fail

BLOCK = 512
"""Positions whose states are added up before they go to the sum: it is the same however the text was cut."""
_GREEDY = SamplingOptions()
Found = tuple[tuple[TokenScore, ...], Logits | None]
"""Scores, and rows; of one kind of request there is only one of them."""


class Measure(ABC):
    """Takes the rows of one request in the order of positions. A row that was taken before is skipped."""

    states = False
    """Whether it takes what the last layer gave, of all rows; else logits of the rows from `next` on."""

    def __init__(self, first: int = 0) -> None:
        self.next = first
        """The first position whose row is still wanted."""

    def take(self, position: int, rows_RX: Logits) -> None:
        """Take rows of consecutive positions from this one on; none may be left out. Raises BadCheckpoint for logits
        that are not finite."""
        assert position <= self.next, (position, self.next)
        new_RX = rows_RX[self.next - position :]
        self._add(new_RX)
        self.next += len(new_RX)

    @abstractmethod
    def _add(self, new_RX: Logits) -> None:
        """Use these rows, which begin at position `next`."""

    @abstractmethod
    def forget(self) -> None:
        """After a change of weights: results that were given stay, one that is half done begins anew."""

    def further(self) -> tuple[int, Sequence[int]] | None:
        """Once all rows are taken: (place, ids that stand from there on instead) where rows of these are wanted, too;
        None: nothing more is wanted. Only `Want.others` wants more."""
        return None

    @abstractmethod
    def give(self, *, last: bool) -> Found:
        """The results since the last call. last: whether all positions have been taken."""


class Logprobs(Measure):
    """Log-probabilities of ids[want.start:], then of each of want.others after the same ids. barred_B: ids that no
    answer may hold, so that none of them counts as greedy.

    A continuation goes on where it parts from the one before it, so what follow each other in the order of their ids
    are a tree of which each node is computed once: its row says how likely each id is that comes next in any of them.
    """

    def __init__(self, ids: Sequence[int], want: Want, barred_B: npt.NDArray[np.int64]) -> None:
        super().__init__(want.start - 1)
        self._start, self._top, self._barred_B = want.start, want.top, barred_B
        self._continuations = [tuple(ids[want.start :]), *want.others]
        pairs = itertools.pairwise(self._continuations)
        self._alike = [0, *(min(_num_alike(old, new), len(old) - 1) for old, new in pairs)]
        """How many ids each has in common with the one before it, of those that have rows there: all but the last."""
        self._scored: list[list[TokenScore]] = [[] for _ in self._continuations]
        """The scores of each so far; those of one that is done are gone."""
        self._at = 0
        """The continuation whose rows come now."""
        self._found: list[TokenScore] = []

    def _add(self, new_RX: Logits) -> None:
        for place, logits_V in enumerate(new_RX, self.next + 1 - self._start):
            wanted = self._wanted(place)
            if not wanted:
                continue
            said = sample(logits_V, _GREEDY, History([]), 0, 0, None, self._barred_B)
            for i, found in zip(
                wanted, logprobs(logits_V, [self._continuations[i][place] for i in wanted], self._top), strict=True
            ):
                score = TokenScore(found.token_id, found.logprob, said == found.token_id, found.top)
                self._scored[i].append(score)
                if i == self._at:
                    self._found.append(score)

    def _wanted(self, place: int) -> list[int]:
        """The continuations whose id in this place is scored by the row before it: of the one whose rows come, if that
        is not done, and of those behind it that begin alike."""
        wanted = [self._at] if len(self._scored[self._at]) == place else []
        for i in range(self._at + 1, len(self._continuations)):
            if self._alike[i] < place:
                break
            if place < len(self._continuations[i]):
                wanted.append(i)
        return wanted

    def further(self) -> tuple[int, Sequence[int]] | None:
        """See Measure."""
        while self._at + 1 < len(self._continuations):
            self._scored[self._at] = []
            self._at += 1
            ids, alike = self._continuations[self._at], self._alike[self._at]
            self._found += self._scored[self._at]
            if len(self._scored[self._at]) < len(ids):
                self.next = self._start + alike
                return self.next, ids[alike:-1]  # nobody asks what follows the last
        return None

    def forget(self) -> None:
        """See Measure: the scores that were not given are the old weights', those of continuations to come."""
        if self._at + 1 < len(self._continuations):
            self._scored[self._at + 1 :] = [[] for _ in self._continuations[self._at + 1 :]]
            self.next = self._start - 1

    def give(self, *, last: bool) -> Found:
        """See Measure."""
        found, self._found = self._found, []
        return tuple(found), None


def _num_alike(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids both begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


class State(Measure):
    """One vector [1, D] of unit length: the mean over the positions of the last layer's output, each row divided by its
    own root mean square first, so that no position outweighs the others."""

    states = True

    def __init__(self) -> None:
        super().__init__()
        self._done_D: npt.NDArray[np.float64] | None = None
        """The sum of whole blocks."""
        self._block_D: npt.NDArray[np.float64] | None = None

    def _add(self, new_RX: Logits) -> None:
        x_RD = new_RX.astype(np.float64)
        x_RD /= np.sqrt((x_RD**2).mean(axis=1, keepdims=True)) + 1e-12
        for position, x_D in enumerate(x_RD, self.next):
            self._block_D = x_D if self._block_D is None else self._block_D + x_D
            if (position + 1) % BLOCK == 0:
                self._close_block()

    def forget(self) -> None:
        """See Measure."""
        self.next, self._done_D, self._block_D = 0, None, None

    def _close_block(self) -> None:
        if self._block_D is not None:
            self._done_D = self._block_D if self._done_D is None else self._done_D + self._block_D
            self._block_D = None

    def give(self, *, last: bool) -> Found:
        """See Measure: there is one vector, at the end."""
        if not last:
            return (), None
        self._close_block()
        assert self._done_D is not None, "no position was taken"
        mean_D = self._done_D / max(float(np.linalg.norm(self._done_D)), 1e-12)
        return (), mean_D.astype(np.float32)[None]


class ScoredRows(Measure):
    """The logits after each id."""

    def __init__(self) -> None:
        super().__init__()
        self._found: list[Logits] = []

    def _add(self, new_RX: Logits) -> None:
        for logits_V in new_RX:
            best_of(logits_V)  # it is a number
        self._found.append(new_RX)

    def forget(self) -> None:
        """See Measure: no result is half done between two steps."""

    def give(self, *, last: bool) -> Found:
        """See Measure."""
        found, self._found = self._found, []
        return (), np.concatenate(found) if found else None


def measure_of(ids: Sequence[int], want: Want, barred_B: npt.NDArray[np.int64]) -> Measure | None:
    """The measurement that a request with these ids wants; None when it wants tokens."""
    match want.what:
        case "tokens":
            return None
        case "logprobs":
            return Logprobs(ids, want, barred_B)
        case "state":
            return State()
        case "logits":
            return ScoredRows()


# -- texts of any length -----------------------------------------------------------------------------------------------


def windows(
    ids: Sequence[int], *, context: int, stride: int | None, loaded: int, bos_id: int | None = None
) -> Iterator[tuple[list[int], int]]:
    """(ids, place of the first one to score) of windows of `context` tokens every `stride` (None: one after another);
    loaded: the most that the model's context holds.

    Each window begins with `bos_id` when given (counted in `context`). It scores the tokens that no window before it
    scored; a token without anything before it in its window is not scored. Raises UsageError, when it is called.
    """
    if type(context) is not int or not 2 <= context <= loaded:
        fail(UsageError, "context", got=context, expected=f"2 to the model's loaded context, {loaded}")
    head = [] if bos_id is None else [bos_id]
    width = context - len(head)
    stride = width if stride is None else stride
    if type(stride) is not int or not 1 <= stride <= width:
        fail(UsageError, "stride", got=stride, expected=f"1 to {width}")
    if len(head) + len(ids) < 2:
        fail(UsageError, "text", got=f"{len(ids)} tokens", expected="at least 2, so that one can be scored")
    return _windows(ids, head, width, stride)


def _windows(ids: Sequence[int], head: list[int], width: int, stride: int) -> Iterator[tuple[list[int], int]]:
    done = 0
    for begin in range(0, len(ids), stride):
        window = [*head, *ids[begin : begin + width]]
        first = max(len(head) + done - begin, 1)
        if first < len(window):
            yield window, first
        done = begin + len(window) - len(head)
        if done >= len(ids):
            return


def nll_of(scores: Sequence[TokenScore]) -> float:
    """Negative log-likelihood of one window's ids, one after the other."""
    total = 0.0
    for score in scores:
        total -= score.logprob
    return total
