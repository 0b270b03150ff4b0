"""What questions to a library cost: saved on one's own machine, or sent to a host with each question.

What it is not: how long they take (`paces`).
"""

import datetime
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import ceil, floor

from herd.planning.owning import Owner
from herd.planning.paces import Call, LibraryPace, library_paces
from herd.planning.plan import Plan
from herd.planning.prices import Price

MOST_QUESTIONS = 1e15
"""Where more questions than that would have to be asked before one's own is cheaper, it never is."""


@dataclass(frozen=True)
class OwnLibrary:
    """Questions to a saved library on one's own machine, at one pace; the machine's other time is others'."""

    owner: Owner
    pace: LibraryPace
    call: Call

    @property
    def read_dollars(self) -> float:
        """Dollars of reading the library once."""
        return self.pace.read.seconds * self.owner.full_s

    @property
    def question_dollars(self) -> float:
        """Dollars of one question."""
        return self.pace.question_s(self.call) * self.owner.full_s

    @property
    def dollars(self) -> float:
        """Dollars of reading once and of all questions."""
        return self.read_dollars + self.call.month * self.question_dollars

    def cheaper_from(self, hosted: "HostedLibrary") -> float | None:
        """Questions from which on this is cheaper than a host, which reads the library for each; None: never."""
        first, later = hosted.question_dollars
        saved = later - self.question_dollars
        needed = self.read_dollars - (first - later)
        if needed <= 0 and saved >= 0:
            return 1
        if saved <= 0:
            return None
        questions = max(1, ceil(needed / saved * (1 - 1e-12)))
        return questions if questions <= MOST_QUESTIONS else None

    def cheaper_to(self, hosted: "HostedLibrary") -> float | None:
        """Questions up to which alone this is cheaper, where the host's cache makes each later one cheaper there than
        here; None: there is no such number."""
        first, later = hosted.question_dollars
        saved = later - self.question_dollars
        ahead = first - later - self.read_dollars
        return floor(ahead / -saved) or None if saved < 0 < ahead else None


@dataclass(frozen=True)
class HostedLibrary:
    """Questions to a library at a host: its tokens are sent with each."""

    price: Price
    call: Call
    library_tokens: int
    same: bool
    why_not: str
    cheaper_from: tuple[float | None, ...] = ()
    """Questions, for each pace, from which on one's own is cheaper; None: never, or up to `cheaper_to` alone."""
    cheaper_to: tuple[float | None, ...] = ()
    """Questions, for each pace, up to which alone one's own is cheaper."""

    @property
    def question_dollars(self) -> tuple[float, float]:
        """Dollars of the first question, and of a later one: the host has read the library before."""
        whole, out = self.library_tokens + self.call.tokens_in, self.call.tokens_out
        return self.price.dollars(whole, out), self.price.dollars(whole, out, self.library_tokens)

    @property
    def plain_dollars(self) -> float:
        """Dollars of all questions, each with the whole library anew."""
        return self.call.month * self.question_dollars[0]

    @property
    def cached_dollars(self) -> float | None:
        """Dollars of all questions where the host has the library from the second on; None: no such price is listed."""
        first, later = self.question_dollars
        return None if self.price.dollars_cached is None else first + (self.call.month - 1) * later

    @property
    def dollars(self) -> float:
        """Dollars of all questions, with the host's cache where it has a price for that."""
        return self.plain_dollars if self.cached_dollars is None else self.cached_dollars


@dataclass(frozen=True)
class LibraryCost:
    """Questions to a saved library."""

    tokens: int
    paces: tuple[LibraryPace, ...]
    own: tuple[OwnLibrary, ...]
    hosted: tuple[HostedLibrary, ...]

    @property
    def cheapest(self) -> HostedLibrary | None:
        """The cheapest host of the same model that takes so long a prompt; None: none does."""
        return next((row for row in self.hosted if row.same and not row.why_not), None)


def library_cost(
    plan: Plan,
    call: Call,
    owner: Owner,
    rows: Iterable[tuple[Price, bool]],
    today: datetime.date,
    tokens: int,
) -> LibraryCost:
    """Own cost and that of rows, each with whether it is of the same model. Raises UsageError."""
    found = library_paces(plan, call, tokens)
    own = tuple(OwnLibrary(owner, pace, call) for pace in found if not owner.missing)
    hosted = []
    for row, same in rows:
        one = HostedLibrary(row, call, tokens, same, row.why_not(tokens + call.tokens, today))
        turns = tuple(o.cheaper_from(one) for o in own), tuple(o.cheaper_to(one) for o in own)
        hosted.append(replace(one, cheaper_from=turns[0], cheaper_to=turns[1]))
    return LibraryCost(tokens, found, own, tuple(sorted(hosted, key=lambda h: (not h.same, h.dollars))))
