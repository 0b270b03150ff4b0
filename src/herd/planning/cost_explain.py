"""A cost step by step: every sum with the numbers that it was made of."""

from collections.abc import Iterator
from itertools import starmap

from herd.planning.cost import Cost, Hosted, Own
from herd.planning.cost_words import HOW, calls, dollars, give
from herd.planning.explain import seconds, term_words
from herd.planning.library_cost import OwnLibrary
from herd.planning.memory import gb
from herd.planning.owning import HOURS, Owner
from herd.planning.paces import LIMIT, LibraryPace, Pace
from herd.planning.speed import Estimate


def explain_cost(cost: Cost) -> Iterator[tuple[str, str]]:
    """(subject, sentence) for each step."""
    yield from _explain_owner(cost.owner)
    for pace in cost.paces:
        yield from _explain_pace(cost, pace)
    yield from (("cost, hosts", text) for text in starmap(_explain_host, ((cost, row) for row in cost.hosted)))
    if cost.library is not None:
        for one in cost.library.paces:
            yield from _explain_library(cost, one)
        for row in cost.library.hosted:
            first, later = row.question_dollars
            yield (
                "cost, hosts",
                (
                    f"{row.price.host}, {row.price.model}: the first question {dollars(first)}, "
                    f"each later one {dollars(later)}; source: {row.price.source}, {row.price.date}"
                ),
            )


def _explain_owner(owner: Owner) -> Iterator[tuple[str, str]]:
    subject = "cost, own"
    if owner.missing:
        yield subject, give(owner)
        return
    if owner.hour_dollars is not None:
        yield subject, f"{dollars(owner.hour_dollars)} x {HOURS:g} hours = {dollars(owner.price_month)} a month"
    else:
        price, watts = owner.price_dollars or 0.0, owner.watts or 0.0
        yield subject, f"{dollars(price)} / (12 x {owner.years:g}) = {dollars(owner.price_month)} a month"
        yield (
            subject,
            (
                f"idle: {owner.idle:.0%} of {watts:,.0f} W x {HOURS:g} hours x {dollars(owner.tariff)} a kWh = "
                f"{dollars(owner.idle_month)} a month"
            ),
        )
        yield subject, f"work adds {1 - owner.idle:.0%} of {watts:,.0f} W: {dollars(3600 * owner.work_s)} an hour"
    yield (
        subject,
        (
            f"an hour of work at full load, {owner.utilisation:.0%} of the month: {dollars(owner.fixed_month)} / "
            f"({owner.utilisation:g} x {HOURS:g}) + {dollars(3600 * owner.work_s)} = {dollars(3600 * owner.full_s)}"
        ),
    )


def _explain_pace(cost: Cost, pace: Pace) -> Iterator[tuple[str, str]]:
    call, own = cost.call, Own(cost.owner, pace, cost.call)
    subject = f"cost, {HOW[pace.name]}"
    yield subject, f"read {pace.prompts} x {call.tokens_in:,} tokens: {_estimate(pace.read)}"
    yield subject, f"a step of {pace.at_once} answers in their middle: {_estimate(pace.step)}"
    yield (
        subject,
        (
            f"a call: {seconds(pace.read.seconds)} / {pace.prompts} + {call.tokens_out:,} x "
            f"{seconds(pace.step.seconds)} / {pace.at_once} = {seconds(own.call_s)} of the machine"
        ),
    )
    yield (
        subject,
        (
            f"{calls(call.month)} calls x {seconds(own.call_s)} / {HOURS:g} hours = {own.busy:.3%} of a month; at most "
            f"{calls(own.most_calls)} calls"
        ),
    )
    if not cost.owner.missing:
        many = f"{own.machines} x " if own.machines > 1 else ""
        yield (
            subject,
            (
                f"a month: {many}{dollars(cost.owner.fixed_month)} + {seconds(call.month * own.call_s)} of work x "
                f"{dollars(3600 * cost.owner.work_s)} an hour = {dollars(own.month_dollars)}"
            ),
        )


def _explain_host(cost: Cost, row: Hosted) -> str:
    price, call = row.price, cost.call
    return (
        f"{price.host}, {price.model}: {calls(call.month)} x ({call.tokens_in:,} x {price.dollars_in:g} + "
        f"{call.tokens_out:,} x {price.dollars_out:g}) / 1,000,000 = {dollars(row.month_dollars)} a month"
        f"{f'; {row.why_not}' if row.why_not else ''}; source: {price.source}, {price.date}"
    )


def _explain_library(cost: Cost, pace: LibraryPace) -> Iterator[tuple[str, str]]:
    call = cost.call
    subject = f"cost, library {HOW[pace.name]}"
    yield subject, f"read {pace.library_tokens:,} tokens once: {_estimate(pace.read)}"
    yield subject, f"read a question behind it: {_estimate(pace.ask)}"
    yield subject, f"a token of an answer, {gb(round(pace.keys_bytes))} of it the library's: {_estimate(pace.step)}"
    yield (
        subject,
        (
            f"a question: {seconds(pace.ask.seconds)} + {call.tokens_out:,} x {seconds(pace.step.seconds)} = "
            f"{seconds(pace.question_s(call))}; {calls(call.month)} of them and the library {seconds(pace.all_s(call))}"
        ),
    )
    if not cost.owner.missing:
        own = OwnLibrary(cost.owner, pace, call)
        yield (
            subject,
            (
                f"{dollars(own.read_dollars)} + {calls(call.month)} x {dollars(own.question_dollars)} = "
                f"{dollars(own.dollars)}"
            ),
        )
    if pace.name == LIMIT:
        yield subject, f"saved: {gb(pace.disk_bytes)}, back from the disk in {seconds(pace.load_s)}"


def _estimate(estimate: Estimate) -> str:
    times = f"{estimate.times} passes of " if estimate.times > 1 else ""
    return f"{times}{' + '.join(term_words(t) for t in estimate.terms)}: {seconds(estimate.seconds)}"
