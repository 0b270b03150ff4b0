"""A cost in words: the cells of its tables, what it comes to, and every step with its numbers."""

from collections.abc import Iterator, Sequence
from itertools import starmap

from herd.planning.cost import (
    HOURS,
    Cost,
    Hosted,
    HostedLibrary,
    LibraryCost,
    Own,
    Owner,
    OwnLibrary,
)
from herd.planning.explain import seconds, term_words
from herd.planning.memory import gb
from herd.planning.paces import AT_ONCE, LIMIT, LibraryPace, Pace
from herd.planning.prices import Price
from herd.planning.speed import Estimate

HEADINGS = {"limit": "THE LIMIT", "today": "HERD TODAY"}
HOW = {"limit": "at its limit", "today": "with Herd today"}
NONE = "-"


def dollars(amount: float) -> str:
    """A sum for people: three digits below a cent, cents below 1,000 dollars, whole dollars above."""
    if 0 < amount < 0.01:
        return f"${amount:.2g}"
    return f"${amount:,.2f}" if amount < 1000 else f"${amount:,.0f}"


def calls(number: float) -> str:
    """A number of calls or questions."""
    return f"{number:,.0f}" if number >= 1 else f"{number:.2g}"


def heading(cost: Cost) -> tuple[str, ...]:
    """The first row of the table of one's own cost."""
    found: Sequence[Pace | LibraryPace] = cost.library.paces if cost.library else cost.paces
    return ("COST", *(HEADINGS[pace.name] for pace in found))


def own_rows(cost: Cost) -> Iterator[tuple[str, ...]]:
    """The rows of that table: one column for each pace."""
    if cost.library is not None:
        yield from _library_rows(cost.library, cost)
        return
    call = cost.call
    rows = [("answers at once", [f"{pace.at_once}" for pace in cost.paces])]
    rows.append(
        (
            f"a call of {call.tokens_in:,} + {call.tokens_out:,} tokens",
            [f"{seconds(p.read_s)} + {seconds(call.tokens_out * p.token_s)}" for p in cost.paces],
        )
    )
    timed = [Own(cost.owner, pace, call) for pace in cost.paces]
    rows.append((f"{calls(call.month)} calls a month take", [f"{own.busy:.3g} months" if own.busy >= 10 else
                 f"{own.busy:.3%} of a month" for own in timed]))  # fmt: skip
    rows.append(("it makes at most", [f"{calls(own.most_calls)} calls a month" for own in timed]))
    if cost.own:
        many = (f" with {own.machines} of them" if own.machines > 1 else "" for own in cost.own)
        sums = [f"{dollars(own.month_dollars)}{with_}" for own, with_ in zip(cost.own, many, strict=True)]
        rows.append(("a month", sums))
        rows.append(("a million tokens then", [dollars(own.million_now) for own in cost.own]))
        full = [f"{dollars(own.million_in)} in, {dollars(own.million_out)} out" for own in cost.own]
        rows.append(("a million at full load", full))
    yield from ((name, *cells) for name, cells in rows)


def _library_rows(library: LibraryCost, cost: Cost) -> Iterator[tuple[str, ...]]:
    call, found = cost.call, library.paces
    yield (f"read {library.tokens:,} tokens once", *(seconds(p.read.seconds) for p in found))
    question = f"a question of {call.tokens_in:,} + {call.tokens_out:,} tokens"
    yield (question, *(seconds(p.question_s(call)) for p in found))
    yield ("of the library a token reads", *(gb(round(p.keys_bytes)) for p in found))
    yield ("saved on the disk", *(f"{gb(p.disk_bytes)}, back in {seconds(p.load_s)}" for p in found))
    yield (f"with {calls(call.month)} questions", *(seconds(p.all_s(call)) for p in found))
    if library.own:
        yield ("reading it costs", *(dollars(own.read_dollars) for own in library.own))
        yield ("a question costs", *(dollars(own.question_dollars) for own in library.own))
        yield ("in all", *(dollars(own.dollars) for own in library.own))


def host_heading(cost: Cost) -> tuple[str, ...]:
    """The first row of the table of hosts."""
    what = ("ALL QUESTIONS", "WITH CACHE") if cost.library else ("A MONTH", "IN BATCHES")
    own: Sequence[Own | OwnLibrary] = cost.library.own if cost.library else cost.own
    unit = "QUESTIONS" if cost.library else "CALLS"
    return ("HOST", "MODEL", "IN / OUT", "LISTED", *what, *(f"OWN IS CHEAPER FROM ({HEADINGS[o.pace.name]})"
            if len(own) > 1 else f"OWN IS CHEAPER FROM, {unit}" for o in own), "")  # fmt: skip


def host_rows(cost: Cost) -> Iterator[tuple[str, ...]]:
    """A row for each host: the same model first, then others, each with when its price was listed."""
    if cost.library is not None:
        for row in cost.library.hosted:
            yield _host(row.price, row.plain_dollars, row.cached_dollars, row, cost)
        return
    for one in cost.hosted:
        yield _host(one.price, one.month_dollars, one.batch_month_dollars, one, cost)


def _host(price: Price, plain: float, less: float | None, row: Hosted | HostedLibrary, cost: Cost) -> tuple[str, ...]:
    ends = f"ends {price.ends}" if price.ends is not None and not row.why_not else ""
    remarks = [row.why_not or ends, "" if row.same else "another model"]
    return (
        price.host,
        price.model,
        f"{price.dollars_in:.2f} / {price.dollars_out:.2f}",
        price.date,
        dollars(plain),
        NONE if less is None else dollars(less),
        *(NONE if row.why_not else "never" if n is None else calls(n) for n in row.cheaper_from),
        "; ".join(r for r in remarks if r),
    )


def verdict(cost: Cost) -> Iterator[str]:
    """What it comes to, what was assumed, and what is to be given where something is not known."""
    runs = cost.library.paces if cost.library else cost.paces
    if not runs:
        yield "own: such a call does not run on this machine: see what would fit"
    elif cost.owner.missing:
        yield f"own: {_give(cost.owner)}"
    if cost.library is not None:
        yield from (_library_verdict(cost.library, own) for own in cost.library.own)
        yield "a host with a cache is taken to have the library from the second question on; ask how long it keeps it"
    else:
        yield from (_verdict(cost, own) for own in cost.own)
        yield from _room(cost)
    yield from _assumed(cost)


def _room(cost: Cost) -> Iterator[str]:
    """What makes a call cheaper where few answers fit together."""
    few = [pace.at_once for pace in cost.paces if pace.name == LIMIT and pace.at_once < AT_ONCE]
    if few and few[0] != cost.asked_at_once:
        yield f"{few[0]} answers at once are as many as fit: a smaller --type or --kv makes room for more"


def _give(owner: Owner) -> str:
    flags = " and ".join({"price": "--price DOLLARS", "watts": "--watts W"}[name] for name in owner.missing)
    return (
        f"its {' and '.join(owner.missing)} {'is' if owner.missing == ('price',) else 'are'} not known: "
        f"give {flags}, or --hour DOLLARS for a rented one"
    )


def _verdict(cost: Cost, own: Own) -> str:
    how, host = HOW[own.pace.name], cost.cheapest
    if own.machines > 1:
        return (
            f"never on this machine {how}: {calls(cost.call.month)} calls a month are more than the "
            f"{calls(own.most_calls)} that it makes at most; {own.machines} of them do"
        )
    if host is None:
        return f"{dollars(own.month_dollars)} a month {how}; no host of the table has this model"
    there = f"{host.price.host}'s {dollars(host.month_dollars)}"
    index = cost.own.index(own)
    start = host.cheaper_from[index]
    if start is None:
        return (
            f"never on this machine {how}: not even with all {calls(own.most_calls)} calls that it can make in a month "
            f"is it as cheap as {host.price.host}; now {dollars(own.month_dollars)} a month beside {there}"
        )
    cheaper = "own is cheaper" if own.month_dollars <= host.month_dollars else "a host is cheaper"
    return (
        f"{cheaper} {how}: {dollars(own.month_dollars)} a month beside {there}; "
        f"from {calls(start)} calls a month on own is"
    )


def _library_verdict(library: LibraryCost, own: OwnLibrary) -> str:
    how, host = HOW[own.pace.name], library.cheapest
    said = f"{calls(own.call.month)} questions {how}: {dollars(own.dollars)}"
    if host is None:
        return f"{said}; no host of the table takes such a prompt with this model"
    asked = f"{host.price.host}'s {dollars(host.plain_dollars)}"
    start = host.cheaper_from[library.own.index(own)]
    turn = "own never is" if start is None else f"from {calls(start)} questions on own is"
    return f"{said} beside {asked}: {'own' if own.dollars <= host.plain_dollars else 'a host'} is cheaper; {turn}"


def _assumed(cost: Cost) -> Iterator[str]:
    owner = cost.owner
    if owner.hour_dollars is not None:
        rent = f"{dollars(owner.hour_dollars)} x {HOURS:g} hours = {dollars(owner.price_month)} a month"
        yield f"rented all the time: {rent}"
        if cost.own:
            hours = [f"{dollars(o.busy * HOURS * owner.hour_dollars)} {HOW[o.pace.name]}" for o in cost.own]
            yield f"rented for the hours of these calls alone: {', '.join(hours)}"
    elif not owner.missing:
        yield (
            f"reckoned with: {dollars(owner.price_dollars or 0)} over {owner.years:g} years, {owner.watts:,.0f} W at "
            f"work and {owner.idle:.0%} of it when idle, {dollars(owner.tariff)} a kWh, a month of {HOURS:g} hours "
            f"of which it works {owner.utilisation:.0%} at most"
        )
    if owner.parts:
        yield f"{owner.parts} of the cards alone, as a table has them: say the whole machine's (--price, --watts)"
    days = cost.old_days
    old = f"; it is old: {days} days, ask the hosts" if days is not None else ""
    yield f"hosts: {cost.prices.path.name}, newest price of {cost.prices.newest}{old}; listed is not alive"


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
        yield subject, _give(owner)
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
