"""A cost as a picture (SVG): dollars a month over calls a month, of one's own machine and of hosts, by logarithms."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from html import escape

from herd.planning.cost import Cost, Own
from herd.planning.cost_words import HOW

WIDTH, HEIGHT = 860, 500
LEFT, RIGHT, TOP, BOTTOM = 80, 210, 48, 60
"""Margins in units of the picture."""
POINTS = 60
MOST_HOSTS, MOST_OTHERS = 6, 3
"""Lines of hosts with the same model and with others, the cheapest first."""
COLOURS = ("#4c78a8", "#72b7b2", "#54a24b", "#b279a2", "#9d755d", "#ff9da6", "#888", "#aaa", "#bbb")
OWN = {"limit": "#e45756", "today": "#f58518"}
SPAN = 1000
"""The volume that was asked for, times and divided by it, is what the picture shows at least."""
LINE = 14
"""Units from one name at the right to the next, at least."""


@dataclass(frozen=True)
class _Line:
    name: str
    colour: str
    dashed: bool
    most: float
    """Calls at which it ends: this machine makes no more."""
    dollars: Callable[[float], float]


def svg_cost(cost: Cost) -> str:
    """The picture of what calls cost. Without a line where neither the machine's cost nor a host's is known."""
    least, most = _bounds(cost)
    lines = list(_lines(cost, most))
    frame = _Frame(least, most, *_sums(lines, least))
    title = f"{cost.plan.model.name} on {cost.plan.machine.name}: calls of {cost.call.tokens_in:,} + "
    title += f"{cost.call.tokens_out:,} tokens"
    body = [*_axes(frame), *_drawn(lines, frame), *_names(lines, frame), *_asked(cost, frame)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-family="sans-serif" '
        f'font-size="12"><title>{escape(title)}: cost over volume</title>'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
        f'<text x="{LEFT}" y="26" font-size="15">{escape(title)}</text>{"".join(body)}</svg>\n'
    )


@dataclass(frozen=True)
class _Frame:
    """What the picture shows: calls from left to right, dollars from the bottom up."""

    least: float
    most: float
    low: float
    high: float

    def x(self, calls: float) -> float:
        return LEFT + math.log(calls / self.least) / math.log(self.most / self.least) * (WIDTH - LEFT - RIGHT)

    def y(self, dollars: float) -> float:
        share = math.log(max(dollars, self.low) / self.low) / math.log(self.high / self.low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _bounds(cost: Cost) -> tuple[float, float]:
    """Whole powers of ten around what was asked for, and what the machine makes."""
    asked = cost.call.month
    made = [own.most_calls for own in cost.own if math.isfinite(own.most_calls)]
    low, high = min([asked / SPAN**0.5, *made]), max([asked * SPAN, *(2 * m for m in made)])
    return 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high))


def _lines(cost: Cost, most: float) -> Iterator[_Line]:
    for own in cost.own:
        yield _Line(f"own, {HOW[own.pace.name]}", OWN[own.pace.name], False, min(most, own.most_calls), _own(own))
    there = [row for row in cost.hosted if not row.why_not]
    rows = [*[r for r in there if r.same][:MOST_HOSTS], *[r for r in there if not r.same][:MOST_OTHERS]]
    for row, colour in zip(rows, COLOURS, strict=False):
        name = row.price.host if row.same else row.price.model
        yield _Line(name, colour, not row.same, most, _host(row.call_dollars))


def _own(own: Own) -> Callable[[float], float]:
    return lambda calls: replace(own, call=replace(own.call, month=calls)).month_dollars


def _host(call_dollars: float) -> Callable[[float], float]:
    return lambda calls: calls * call_dollars


def _sums(lines: list[_Line], least: float) -> tuple[float, float]:
    """Whole powers of ten around all sums."""
    sums = [s for line in lines for s in (line.dollars(least), line.dollars(line.most)) if s > 0] or [1.0]
    low, high = math.floor(math.log10(min(sums))), math.ceil(math.log10(max(sums)))
    return 10.0**low, 10.0 ** max(high, low + 1)


def _axes(frame: _Frame) -> Iterator[str]:
    bottom = HEIGHT - BOTTOM
    yield f'<path d="M{LEFT} {TOP}V{bottom}H{WIDTH - RIGHT}" fill="none" stroke="#333"/>'
    for power in _powers(frame.least, frame.most):
        x = frame.x(10.0**power)
        yield f'<path d="M{x:.1f} {bottom}v5" stroke="#333"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 20}" text-anchor="middle">{_short(power)}</text>'
    for power in _powers(frame.low, frame.high):
        y = frame.y(10.0**power)
        yield f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">${_short(power)}</text>'
    yield f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 14}" text-anchor="middle">'
    yield "calls a month; a dot: all that the machine makes</text>"
    yield f'<text x="{LEFT}" y="{TOP - 8}" text-anchor="middle">a month</text>'


def _powers(low: float, high: float) -> range:
    """Powers of ten from low to high, every second or third of many."""
    first, last = round(math.log10(low)), round(math.log10(high))
    return range(first, last + 1, max(1, (last - first) // 8))


def _short(power: int) -> str:
    """A power of ten: 1K, 10M, 0.01."""
    if power < 0:
        return f"{10.0**power:.{-power}f}"
    return f"{10 ** (power % 3)}{('', 'K', 'M', 'G', 'T', 'P', 'E')[power // 3]}" if power < 21 else f"1e{power}"


def _drawn(lines: list[_Line], frame: _Frame) -> Iterator[str]:
    for line in reversed(lines):  # one's own over all others
        if line.most < frame.least:
            continue
        steps = [frame.least * (line.most / frame.least) ** (i / (POINTS - 1)) for i in range(POINTS)]
        points = " ".join(f"{frame.x(calls):.1f},{frame.y(line.dollars(calls)):.1f}" for calls in steps)
        dash = ' stroke-dasharray="6 4"' if line.dashed else ""
        yield f'<polyline points="{points}" fill="none" stroke="{line.colour}" stroke-width="2"{dash}/>'
        if line.most < frame.most:
            x, y = frame.x(line.most), frame.y(line.dollars(line.most))
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{line.colour}"/>'


def _names(lines: list[_Line], frame: _Frame) -> Iterator[str]:
    """The lines' names beside their ends, none over another."""
    above = TOP - LINE
    for line in sorted(lines, key=lambda one: frame.y(one.dollars(one.most))):
        above = max(above + LINE, round(frame.y(line.dollars(line.most))))
        yield f'<text x="{WIDTH - RIGHT + 8}" y="{above + 4}" fill="{line.colour}">{escape(line.name)}</text>'


def _asked(cost: Cost, frame: _Frame) -> Iterator[str]:
    """The volume that was asked for."""
    x = frame.x(cost.call.month)
    yield f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#333" stroke-dasharray="2 3"/>'
