"""What having a machine costs: its price over its life and its power, or rent.

    Terms     what somebody says of it
    Owner     with what is known of the machine: dollars a month that stand still, dollars that a second of work adds

A month is 730 hours. What it is not: what it makes of that (`cost`).
"""

from dataclasses import dataclass
from math import isfinite

from herd.errors import UsageError, fail
from herd.planning.machines import Machine

HOURS = 730.0
"""Hours of a month."""
MONTH_S = HOURS * 3600
DAYS = HOURS / 24
"""Days of a month."""
YEARS, TARIFF, IDLE, UTILISATION = 3.0, 0.30, 0.3, 1.0
"""Years of a machine's life, dollars a kWh, the share of its watts that it takes when idle, the most of a month that it
works: where nobody says others."""
MOST_DOLLARS, MOST_WATTS, MOST_YEARS = 1e9, 1e6, 100.0


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
