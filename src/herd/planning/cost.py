"""What a model costs on a machine of one's own and at hosts, and from how many calls on which is cheaper.

    Own          what so many calls cost on one's own machine; the most that it can make
    Hosted       what they cost at a row of the price table, and from how many calls on one's own is cheaper
    make_cost    all of it for a plan; questions to a saved library in `library_cost`

Own costs are what stands still and what each second of work adds (`owning`); so one's own is cheaper from
`fixed / (host's price of a call - power of a call)` calls on, or never where that is more than the machine can make in
a month. What it is not: a price list (`prices`), words (`cost_words`).
"""

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from herd.config import GUARD, MAVERICK, SCOUT, Llama4Config
from herd.planning.library_cost import LibraryCost, library_cost
from herd.planning.owning import MONTH_S, Owner, Terms, owner_of
from herd.planning.paces import Call, Pace, paces
from herd.planning.parts import weights_by_kind
from herd.planning.plan import Plan, PlannedModel
from herd.planning.prices import Price, Prices

OLD_DAYS = 180
"""A table whose newest price is older is told to be old."""
SHAPES = {"scout": SCOUT, "maverick": MAVERICK, "guard": GUARD}


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
    library: LibraryCost | None
    asked_at_once: int | None = None
    """Answers at once as they were asked for; None: as many as cost least."""

    @property
    def old_days(self) -> int | None:
        """Days since the newest price of the table, where those are more than OLD_DAYS."""
        days = (self.today - self.prices.newest).days
        return days if days > OLD_DAYS else None

    @property
    def cheapest(self) -> Hosted | None:
        """The cheapest host of the same model; None: none has it."""
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
        library = library_cost(plan, call, owner, rows, today, library_tokens)
        return Cost(plan, call, owner, prices, today, (), (), (), library)
    found = paces(plan, call, at_once)
    own = tuple(Own(owner, pace, call) for pace in found if not owner.missing)
    hosted = (_hosted(row, same, call, own, today) for row, same in rows)
    ordered = tuple(sorted(hosted, key=lambda h: (not h.same, h.month_dollars)))
    return Cost(plan, call, owner, prices, today, found, own, ordered, None, at_once)


def _rows(model: PlannedModel, prices: Prices) -> Iterator[tuple[Price, bool]]:
    """Rows to compare with, and whether they are of the same model: those of it, and those of none of SHAPES."""
    names = names_of(model)
    for row in prices:
        if row.model.lower() in names:
            yield row, True
        elif row.model.lower() not in SHAPES:
            yield row, False


def names_of(model: PlannedModel) -> frozenset[str]:
    """What a price table may call a model that is planned for."""
    return names_by_shape(model.name, model.config)


def names_by_shape(name: str, config: Llama4Config) -> frozenset[str]:
    """What a price table may call a model: by its shape, whatever somebody calls it; else by its name."""
    parts = weights_by_kind(config)
    for shape, shaped in SHAPES.items():
        known = weights_by_kind(shaped)
        if (parts.attention, parts.routed, parts.shared) == (known.attention, known.routed, known.shared):
            return frozenset((shape,))
    return frozenset((name.lower(),)) - SHAPES.keys()


def _hosted(row: Price, same: bool, call: Call, own: tuple[Own, ...], today: datetime.date) -> Hosted:
    dollars = row.dollars(call.tokens_in, call.tokens_out)
    return Hosted(row, call, same, row.why_not(call.tokens, today), tuple(one.cheaper_from(dollars) for one in own))
