"""A cost in words: the cells of its tables, and what it comes to. Every step of it: `cost_explain`."""

from collections.abc import Iterator, Sequence
from decimal import Decimal

from herd.planning.cost import Cost, Hosted, Own
from herd.planning.explain import seconds
from herd.planning.library_cost import HostedLibrary, LibraryCost, OwnLibrary
from herd.planning.memory import gb
from herd.planning.owning import HOURS, Owner
from herd.planning.paces import AT_ONCE, LIMIT, LibraryPace, Pace
from herd.planning.prices import Price

HEADINGS = {"limit": "THE LIMIT", "today": "HERD TODAY"}
HOW = {"limit": "at its limit", "today": "with Herd today"}
NONE = "-"


def dollars(amount: float) -> str:
    """A sum for people: two digits below a cent, cents below 1,000 dollars, whole dollars above."""
    if 0 < amount < 0.01:
        return f"${Decimal(f'{amount:.2g}'):f}"  # never 1e-05, which no price list has
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
            yield _host(row.price, row.plain_dollars, row.cached_dollars, row)
        return
    for one in cost.hosted:
        yield _host(one.price, one.month_dollars, one.batch_month_dollars, one)


def _host(price: Price, plain: float, less: float | None, row: Hosted | HostedLibrary) -> tuple[str, ...]:
    ends = f"ends {price.ends}" if price.ends is not None and not row.why_not else ""
    remarks = [row.why_not or ends, "" if row.same else "another model"]
    return (
        price.host,
        price.model,
        f"{price.dollars_in:.2f} / {price.dollars_out:.2f}",
        price.date,
        dollars(plain),
        NONE if less is None else dollars(less),
        *(NONE if row.why_not else cell for cell in _turns(row)),
        "; ".join(r for r in remarks if r),
    )


def _turns(row: Hosted | HostedLibrary) -> Iterator[str]:
    """Cells: calls or questions from which on one's own is cheaper, for each pace."""
    ends = row.cheaper_to if isinstance(row, HostedLibrary) else (None,) * len(row.cheaper_from)
    for start, end in zip(row.cheaper_from, ends, strict=True):
        yield calls(start) if start is not None else "never" if end is None else f"up to {calls(end)}"


def verdict(cost: Cost) -> Iterator[str]:
    """What it comes to, what was assumed, and what is to be given where something is not known."""
    runs = cost.library.paces if cost.library else cost.paces
    if not runs:
        yield "own: such a call does not run on this machine: see what would fit"
    elif cost.owner.missing:
        yield f"own: {give(cost.owner)}"
    if cost.library is not None:
        yield from (_library_verdict(cost.library, own) for own in cost.library.own)
        if cost.library.own:
            yield "own seconds have their share of a month that is full of work"
        yield "a host with a cache is taken to have the library from the second question on; ask how long it keeps it"
    else:
        yield from (_verdict(cost, own) for own in cost.own)
        yield from _room(cost)
    yield from _assumed(cost)


def _room(cost: Cost) -> Iterator[str]:
    """What makes a call cheaper where few answers fit together."""
    few = [pace.at_once for pace in cost.paces if pace.name == LIMIT and pace.at_once < AT_ONCE]
    if few and few[0] != cost.asked_at_once:
        answers = "1 answer" if few[0] == 1 else f"{few[0]} answers"
        yield f"a call costs least with {answers} at once: a smaller --type or --kv makes room for more"


def give(owner: Owner) -> str:
    """What somebody has to say so that there is a sum."""
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
    asked = f"{host.price.host}'s {dollars(host.dollars)}"
    start, end = own.cheaper_from(host), own.cheaper_to(host)
    turn = "own never is" if end is None else f"up to {calls(end)} questions own is"
    if start is not None:
        turn = f"from {calls(start)} questions on own is"
    return f"{said} beside {asked}: {'own' if own.dollars <= host.dollars else 'a host'} is cheaper; {turn}"


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
