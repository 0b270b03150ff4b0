"""What `herd plan` says of cost: its options, its tables, its part of --json."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from herd.cli import console, counts
from herd.errors import UsageError, fail

if TYPE_CHECKING:
    from herd.planning.cost import Cost
    from herd.planning.owning import Terms
    from herd.planning.paces import Call
    from herd.planning.plan import Plan
    from herd.planning.prices import Prices

F = TypeVar("F", bound=Callable[..., Any])
CALLS, TOKENS_IN, TOKENS_OUT, QUESTIONS = 100_000, 1000, 300, 100
"""Calls of a month, tokens of a prompt and an answer, questions to a library, where nobody says others."""

NAMES = (
    "calls", "daily", "tokens_in", "tokens_out", "library", "questions", "at_once", "price", "hour", "watts", "tariff",
    "years", "utilisation", "prices", "svg_cost",
)  # fmt: skip
"""Parameters of these options."""


def cost_options(command: F) -> F:
    """Add the options about cost; with any of them a plan tells it."""
    size = counts.Size()
    for option in reversed(
        (
            click.option("--calls", type=size, help=f"Cost: calls a month. [{CALLS}]"),
            click.option("--daily", type=size, metavar="TOKENS", help="Instead: tokens a day, of prompts and answers."),
            click.option("--in", "tokens_in", type=size, help=f"Tokens of a call's prompt. [{TOKENS_IN}]"),
            click.option("--out", "tokens_out", type=size, help=f"Tokens of its answer. [{TOKENS_OUT}]"),
            click.option("--library", type=size, metavar="TOKENS", help="Cost of questions to a saved library."),
            click.option("--questions", type=size, help=f"How many. [{QUESTIONS}]"),
            click.option("--at-once", type=click.IntRange(1, 65536), help="Answers computed together. [the cheapest]"),
            click.option("--price", type=float, metavar="DOLLARS", help="Price of the whole machine."),
            click.option("--years", type=float, help="Years of its life. [3]"),
            click.option("--watts", type=float, help="What it takes at work."),
            click.option("--tariff", type=float, metavar="DOLLARS", help="Price of a kWh. [0.30]"),
            click.option("--hour", type=float, metavar="DOLLARS", help="An hour's rent, instead of these four."),
            click.option("--utilisation", type=float, help="The most of a month that it works. [1.0]"),
            click.option("--prices", type=click.Path(path_type=Path), metavar="FILE", help="Hosts' prices (TOML)."),
            click.option("--svg-cost", type=click.Path(path_type=Path), help="Write a picture of cost over calls."),
        )
    ):
        command = option(command)
    return command


@dataclass(frozen=True)
class CostRequest:
    """What the options ask for, checked as far as that goes without a plan."""

    call: "Call"
    terms: "Terms"
    prices: "Prices"
    library_tokens: int | None
    at_once: int | None

    @property
    def context(self) -> int:
        """Tokens that it takes, so that the model is planned with as many: a call, the library before it."""
        return (self.library_tokens or 0) + self.call.tokens


def asked_cost(values: Mapping[str, Any]) -> CostRequest | None:
    """What the options about cost ask for; None where there is none. Raises UsageError, BadFile, NotFound."""
    given = {name for name in NAMES if values[name] is not None}
    if not given:
        return None
    clashes = (
        ("calls", "daily"), ("library", "calls"), ("library", "daily"), ("library", "at_once"), ("library", "svg_cost"),
    )  # fmt: skip
    for one, other in clashes:
        if one in given and other in given:
            fail(UsageError, f"--{one}", got=f"--{other.replace('_', '-')}, too", expected="one of them")
    if "questions" in given and "library" not in given:
        fail(UsageError, "--questions are asked of a library", do="give --library TOKENS")
    from herd import planner
    from herd.planning.owning import UTILISATION, Terms

    terms = Terms(
        values["price"],
        values["watts"],
        values["tariff"],
        values["years"],
        values["hour"],
        UTILISATION if values["utilisation"] is None else values["utilisation"],
    )
    terms.check()
    return CostRequest(
        _call(values), terms, planner.host_prices(values["prices"]), values["library"], values["at_once"]
    )


def _call(values: Mapping[str, Any]) -> "Call":
    from herd.planning.owning import DAYS
    from herd.planning.paces import Call

    tokens_in, tokens_out = values["tokens_in"] or TOKENS_IN, values["tokens_out"] or TOKENS_OUT
    month = values["calls"] or CALLS
    if values["library"] is not None:
        month = values["questions"] or QUESTIONS
    elif values["daily"] is not None:
        month = values["daily"] * DAYS / (tokens_in + tokens_out)
    return Call(tokens_in, tokens_out, month)


def cost_of(plan: "Plan", asked: CostRequest) -> "Cost":
    """The cost of a plan. Raises UsageError."""
    from herd import planner

    return planner.cost(
        plan,
        asked.call,
        asked.terms,
        library_tokens=asked.library_tokens,
        at_once=asked.at_once,
        prices=asked.prices,
    )


def show_cost(cost: "Cost") -> None:
    """The tables of a cost, and what it comes to."""
    from herd.planning.cost_words import heading, host_heading, host_rows, own_rows, verdict

    print()
    if len(heading(cost)) > 1:
        console.table(heading(cost), list(own_rows(cost)))
        print()
    console.table(host_heading(cost), list(host_rows(cost)))
    print()
    for line in verdict(cost):
        console.line(line, 2)


def draw_cost(cost: "Cost", path: Path, overwrite: bool) -> None:
    """Write the picture of a cost."""
    from herd.disk.atomic import new_file
    from herd.planning.cost_picture import svg_cost

    with new_file(path, overwrite=overwrite) as temp:
        temp.write_text(svg_cost(cost), encoding="utf-8")
    console.note(f"written: {path}")


def cost_dict(cost: "Cost") -> dict[str, Any]:
    """A cost as plain values, for --json."""
    from herd.planning.cost_words import verdict

    owner, call = cost.owner, cost.call
    return {
        "tokens_in": call.tokens_in,
        "tokens_out": call.tokens_out,
        "library_tokens": cost.library.tokens if cost.library else None,
        "questions" if cost.library else "calls_month": call.month,
        "owner": {
            "price_dollars": owner.price_dollars,
            "watts": owner.watts,
            "tariff_dollars_kwh": owner.tariff,
            "years": owner.years,
            "idle": owner.idle,
            "hour_dollars": owner.hour_dollars,
            "utilisation": owner.utilisation,
            "missing": list(owner.missing),
        },
        "prices": {"file": str(cost.prices.path), "newest": str(cost.prices.newest), "old_days": cost.old_days},
        "own": _own_library(cost) if cost.library else _own(cost),
        "hosts": _hosts_library(cost) if cost.library else _hosts(cost),
        "verdict": list(verdict(cost)),
    }


def _own(cost: "Cost") -> list[dict[str, Any]]:
    from herd.planning.cost import Own

    found = []
    for timed in (Own(cost.owner, pace, cost.call) for pace in cost.paces):
        sums = {
            "month_dollars": timed.month_dollars,
            "million_dollars": timed.million_now,
            "full_million_in_dollars": timed.million_in,
            "full_million_out_dollars": timed.million_out,
        }
        found.append(
            {
                "pace": timed.pace.name,
                "at_once": timed.pace.at_once,
                "call_s": timed.call_s,
                "busy": timed.busy,
                "most_calls_month": timed.most_calls,
                "machines": timed.machines,
                **{name: None if cost.owner.missing else value for name, value in sums.items()},
            }
        )
    return found


def _hosts(cost: "Cost") -> list[dict[str, Any]]:
    return [
        {
            **_row(row.price, row.same, row.why_not),
            "month_dollars": row.month_dollars,
            "batch_month_dollars": row.batch_month_dollars,
            "own_cheaper_from_calls": _from(cost.own, row.cheaper_from),
        }
        for row in cost.hosted
    ]


def _own_library(cost: "Cost") -> list[dict[str, Any]]:
    from herd.planning.library_cost import OwnLibrary

    assert cost.library is not None
    found = []
    for timed in (OwnLibrary(cost.owner, pace, cost.call) for pace in cost.library.paces):
        pace = timed.pace
        found.append(
            {
                "pace": pace.name,
                "read_s": pace.read.seconds,
                "question_s": pace.question_s(cost.call),
                "all_s": pace.all_s(cost.call),
                "keys_bytes_token": pace.keys_bytes,
                "disk_bytes": pace.disk_bytes,
                "load_s": pace.load_s,
                "dollars": None if cost.owner.missing else timed.dollars,
            }
        )
    return found


def _hosts_library(cost: "Cost") -> list[dict[str, Any]]:
    assert cost.library is not None
    return [
        {
            **_row(row.price, row.same, row.why_not),
            "dollars": row.plain_dollars,
            "cached_dollars": row.cached_dollars,
            "own_cheaper_from_questions": _from(cost.library.own, row.cheaper_from),
            "own_cheaper_to_questions": _from(cost.library.own, row.cheaper_to),
        }
        for row in cost.library.hosted
    ]


def _row(price: Any, same: bool, why_not: str) -> dict[str, Any]:
    return {
        "host": price.host,
        "model": price.model,
        "same_model": same,
        "dollars_in": price.dollars_in,
        "dollars_out": price.dollars_out,
        "date": price.date,
        "source": price.source,
        "ends": str(price.ends) if price.ends else None,
        "left_out": why_not or None,
    }


def _from(own: Any, cheaper_from: tuple[float | None, ...]) -> dict[str, float | None]:
    """Numbers by pace; None: never."""
    return {one.pace.name: start for one, start in zip(own, cheaper_from, strict=True)}
