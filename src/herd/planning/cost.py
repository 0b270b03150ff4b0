"""What a model costs on a machine of one's own and at hosts, and from how many calls on which is cheaper.

    Owner            what having the machine costs: its price over its life and its power, or rent
    Own              what so many calls cost there; the most that it can make
    Hosted           what they cost at a row of the price table, and from how many calls on one's own is cheaper
    OwnLibrary, HostedLibrary    the same for questions to a saved library
    make_cost        all of it for a plan

A month is 730 hours. Own costs are what stands still (price, rent, power of an idle machine) and what each second of
work adds; so one's own is cheaper from `fixed / (host's price of a call - power of a call)` calls on, or never where
that is more than the machine can make in a month. What it is not: a price list (`prices`), words (`cost_words`).
"""

import datetime
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil, isfinite

from herd.config import GUARD, MAVERICK, SCOUT
from herd.errors import UsageError, fail
from herd.planning.machines import Machine
from herd.planning.paces import Call, LibraryPace, Pace, library_paces, paces
from herd.planning.parts import weights_by_kind
from herd.planning.plan import Model, Plan
from herd.planning.prices import Price, Prices

HOURS = 730.0
"""Hours of a month."""
MONTH_S = HOURS * 3600
DAYS = HOURS / 24
"""Days of a month."""
YEARS, TARIFF, IDLE, UTILISATION = 3.0, 0.30, 0.3, 1.0
"""Years of a machine's life, dollars a kWh, the share of its watts that it takes when idle, the most of a month that it
works: where nobody says others."""
OLD_DAYS = 180
"""A table whose newest price is older is told to be old."""
MOST_DOLLARS, MOST_WATTS, MOST_YEARS = 1e9, 1e6, 100.0
MOST_CALLS_ONE = 1e15
"""Calls from which on no number of them is told."""
SHAPES = {"scout": SCOUT, "maverick": MAVERICK, "guard": GUARD}


@dataclass(frozen=True)
class Terms:
    """What somebody says of the machine's cost; None: what is known of it, or what is usual."""

    price_dollars: float | None = None
    watts: float | None = None
    tariff: float | None = None
    """Dollars for a kWh."""
    years: float | None = None
    hour_dollars: float | None = None
    """What an hour of it costs rented, power in it: instead of all of the above."""
    utilisation: float = UTILISATION
    """The most of a month that it can be at work."""

    def check(self) -> None:
        """Raise UsageError for what cannot be, or does not go together."""
        bounds = (
            ("price, dollars", self.price_dollars, MOST_DOLLARS),
            ("an hour, dollars", self.hour_dollars, MOST_DOLLARS),
            ("watts", self.watts, MOST_WATTS),
            ("tariff, dollars a kWh", self.tariff, MOST_DOLLARS),
            ("years", self.years, MOST_YEARS),
            ("utilisation", self.utilisation, 1.0),
        )
        for what, value, most in bounds:
            least = 0.01 if what in ("years", "utilisation") else 0.0
            if value is not None and not (isfinite(value) and least <= value <= most):
                fail(UsageError, what, got=value, expected=f"{least:g} to {most:g}")
        beside = (self.price_dollars, self.watts, self.tariff, self.years)
        if self.hour_dollars is not None and any(value is not None for value in beside):
            fail(UsageError, "an hour's rent has price and power in it", do="leave out price, watts, tariff and years")


@dataclass(frozen=True)
class Owner:
    """What having a machine costs."""

    price_dollars: float | None
    watts: float | None
    tariff: float = TARIFF
    years: float = YEARS
    idle: float = IDLE
    hour_dollars: float | None = None
    utilisation: float = UTILISATION
    parts: str = ""
    """What is not in price and watts, where they are the table's; empty: nothing is known to be missing."""

    @property
    def missing(self) -> tuple[str, ...]:
        """What is not known, so that there is no sum: price, watts."""
        if self.hour_dollars is not None:
            return ()
        known = (("price", self.price_dollars), ("watts", self.watts))
        return tuple(name for name, value in known if value is None)

    @property
    def price_month(self) -> float:
        """Dollars a month of its price, or of its rent."""
        if self.hour_dollars is not None:
            return self.hour_dollars * HOURS
        return (self.price_dollars or 0.0) / (12 * self.years)

    @property
    def idle_month(self) -> float:
        """Dollars a month of what it takes when it does nothing."""
        return 0.0 if self.hour_dollars is not None else self.idle * self.work_power_s * MONTH_S

    @property
    def work_power_s(self) -> float:
        """Dollars of the power of a second of work, in all."""
        return 0.0 if self.hour_dollars is not None else (self.watts or 0.0) * self.tariff / 3.6e6

    @property
    def fixed_month(self) -> float:
        """Dollars a month without any work."""
        return self.price_month + self.idle_month

    @property
    def work_s(self) -> float:
        """Dollars that a second of work adds."""
        return (1 - self.idle) * self.work_power_s

    @property
    def full_s(self) -> float:
        """Dollars of a second of work in a month that is as full of them as it can be."""
        return self.fixed_month / (self.utilisation * MONTH_S) + self.work_s


def owner_of(machine: Machine, terms: Terms) -> Owner:
    """What having this machine costs on these terms. Raises UsageError."""
    terms.check()
    price = machine.price if terms.price_dollars is None else terms.price_dollars
    watts = machine.all_watts if terms.watts is None else terms.watts
    guessed = [name for name, said in (("price", terms.price_dollars), ("watts", terms.watts)) if said is None]
    bare_price = machine.price_dollars is None and price is not None
    bare_watts = not machine.memory_bytes and watts is not None
    parts = [n for n, bare in (("price", bare_price), ("watts", bare_watts)) if n in guessed and bare]
    return Owner(
        price,
        watts,
        TARIFF if terms.tariff is None else terms.tariff,
        YEARS if terms.years is None else terms.years,
        hour_dollars=terms.hour_dollars,
        utilisation=terms.utilisation,
        parts=" and ".join(parts) if machine.cards and not machine.shared and terms.hour_dollars is None else "",
    )


@dataclass(frozen=True)
class Own:
    """Calls on one's own machine, at one pace."""

    owner: Owner
    pace: Pace
    call: Call

    @property
    def call_s(self) -> float:
        """Seconds of the machine for a call."""
        return self.pace.call_s(self.call)

    @property
    def busy(self) -> float:
        """The share of a month that the calls take; above the owner's utilisation: it cannot make them."""
        return self.call.month * self.call_s / MONTH_S

    @property
    def most_calls(self) -> float:
        """Calls that it can make in a month at most."""
        return self.owner.utilisation * MONTH_S / self.call_s

    @property
    def machines(self) -> int:
        """So many of them make all calls."""
        return max(1, ceil(self.call.month / self.most_calls * (1 - 1e-12)))

    @property
    def month_dollars(self) -> float:
        """Dollars a month of so many machines for all calls."""
        return self.machines * self.owner.fixed_month + self.call.month * self.call_s * self.owner.work_s

    @property
    def million_in(self) -> float:
        """Dollars for a million tokens of prompts when it works all the time that it can."""
        return 1e6 * self.pace.read_s / self.call.tokens_in * self.owner.full_s

    @property
    def million_out(self) -> float:
        """Dollars for a million tokens of answers then."""
        return 1e6 * self.pace.token_s * self.owner.full_s

    @property
    def million_now(self) -> float:
        """Dollars for a million tokens of all kinds with so many calls."""
        return 1e6 * self.month_dollars / (self.call.month * self.call.tokens)

    def cheaper_from(self, host_call_dollars: float) -> float | None:
        """Calls a month from which on this machine is cheaper than a host that takes so much for one; None: never."""
        saved = host_call_dollars - self.call_s * self.owner.work_s
        if saved <= 0:
            return None
        calls = max(1, ceil(self.owner.fixed_month / saved * (1 - 1e-12)))
        return calls if calls <= self.most_calls else None


@dataclass(frozen=True)
class Hosted:
    """Calls at one host."""

    price: Price
    call: Call
    same: bool
    """Whether it is the model of the plan."""
    why_not: str
    """Why it is not compared: ended, or its context is too short; empty: it is."""
    cheaper_from: tuple[float | None, ...] = ()
    """Calls a month, for each pace, from which on one's own is cheaper; None: never on this machine."""

    @property
    def call_dollars(self) -> float:
        """Dollars of one call."""
        return self.price.dollars(self.call.tokens_in, self.call.tokens_out)

    @property
    def month_dollars(self) -> float:
        """Dollars a month."""
        return self.call.month * self.call_dollars

    @property
    def batch_month_dollars(self) -> float | None:
        """Dollars a month in batches; None: the host has none, or does not say."""
        return None if self.price.batch is None else self.price.batch * self.month_dollars


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
        return questions if questions <= MOST_CALLS_ONE else None


@dataclass(frozen=True)
class HostedLibrary:
    """Questions to a library at a host: its tokens are sent with each."""

    price: Price
    call: Call
    library_tokens: int
    same: bool
    why_not: str
    cheaper_from: tuple[float | None, ...] = ()
    """Questions, for each pace, from which on one's own is cheaper; None: never."""

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


@dataclass(frozen=True)
class Cost:
    """What a plan costs, here and at hosts."""

    plan: Plan
    call: Call
    owner: Owner
    prices: Prices
    today: datetime.date
    paces: tuple[Pace, ...]
    """Empty where such calls do not run on the machine."""
    own: tuple[Own, ...]
    """One for each pace; empty where price or watts are not known."""
    hosted: tuple[Hosted, ...]
    """Hosts of the same model first, the cheapest first."""
    library: "LibraryCost | None"
    asked_at_once: int | None = None
    """Answers at once as they were asked for; None: as many as fit."""

    @property
    def old_days(self) -> int | None:
        """Days since the newest price of the table, where those are more than OLD_DAYS."""
        days = (self.today - self.prices.newest).days
        return days if days > OLD_DAYS else None

    @property
    def cheapest(self) -> Hosted | None:
        """The cheapest host of the same model; None: none has it."""
        return next((row for row in self.hosted if row.same and not row.why_not), None)


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


def make_cost(
    plan: Plan,
    call: Call,
    terms: Terms,
    prices: Prices,
    today: datetime.date,
    *,
    library_tokens: int | None = None,
    at_once: int | None = None,
) -> Cost:
    """What a plan costs. call: what is asked, calls of a month, or questions to the library. Raises UsageError."""
    owner = owner_of(plan.machine, terms)
    rows = tuple(_rows(plan.model, prices))
    if library_tokens is not None:
        library = _library(plan, call, owner, rows, today, library_tokens)
        return Cost(plan, call, owner, prices, today, (), (), (), library)
    found = paces(plan, call, at_once)
    own = tuple(Own(owner, pace, call) for pace in found if not owner.missing)
    hosted = (_hosted(row, same, call, own, today) for row, same in rows)
    ordered = tuple(sorted(hosted, key=lambda h: (not h.same, h.month_dollars)))
    return Cost(plan, call, owner, prices, today, found, own, ordered, None, at_once)


def _library(
    plan: Plan,
    call: Call,
    owner: Owner,
    rows: Iterable[tuple[Price, bool]],
    today: datetime.date,
    tokens: int,
) -> LibraryCost:
    found = library_paces(plan, call, tokens)
    own = tuple(OwnLibrary(owner, pace, call) for pace in found if not owner.missing)
    hosted = []
    for row, same in rows:
        one = HostedLibrary(row, call, tokens, same, why_not(row, tokens + call.tokens, today))
        hosted.append(HostedLibrary(row, call, tokens, same, one.why_not, tuple(o.cheaper_from(one) for o in own)))
    return LibraryCost(tokens, found, own, tuple(sorted(hosted, key=lambda h: (not h.same, h.plain_dollars))))


def _rows(model: Model, prices: Prices) -> Iterator[tuple[Price, bool]]:
    """Rows to compare with, and whether they are of the same model: those of it, and those of none of SHAPES."""
    names = names_of(model)
    for row in prices:
        if row.model.lower() in names:
            yield row, True
        elif row.model.lower() not in SHAPES:
            yield row, False


def names_of(model: Model) -> frozenset[str]:
    """What a price table may call a model: by its shape, whatever somebody calls it; else by its name."""
    parts = weights_by_kind(model.config)
    for name, config in SHAPES.items():
        known = weights_by_kind(config)
        if (parts.attention, parts.routed, parts.shared) == (known.attention, known.routed, known.shared):
            return frozenset((name,))
    return frozenset((model.name.lower(),)) - SHAPES.keys()


def _hosted(row: Price, same: bool, call: Call, own: tuple[Own, ...], today: datetime.date) -> Hosted:
    dollars = row.dollars(call.tokens_in, call.tokens_out)
    return Hosted(row, call, same, why_not(row, call.tokens, today), tuple(one.cheaper_from(dollars) for one in own))


def why_not(row: Price, tokens: int, today: datetime.date) -> str:
    """Why a host is left out of a comparison; empty: it is not."""
    if row.has_ended(today):
        return f"ended {row.ends}"
    if row.context is not None and row.context < tokens:
        return f"takes {row.context:,} tokens at most"
    return ""
