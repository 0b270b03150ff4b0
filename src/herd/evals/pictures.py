"""Pictures of results (SVG that stands in a page of HTML, whose styles say how it looks in light and in dark).

    strip      a mean with its interval, on a line of all values
    forest     differences of two runs with their intervals, a line a task, beside what is allowed
    heat_map   how many items are right, by where in how long a text something stood

What it is not: a page (`herd.evals.page`), a number.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from herd.evals.comparing import Compared
from herd.evals.statistics import Interval

STRIP = 240, 26
"""Width and height of a strip, in units of the picture."""
FOREST_WIDTH, FOREST_ROW, LABEL, NUMBERS = 830, 30, 190, 240
"""A forest plot's width, the height of a row, the parts of its width for names and for numbers."""
CELL = 54, 34
MOST_CELLS = 24
"""Rows and columns of a heat map; more of them are taken together."""
MARGIN = 12
LOW, MIDDLE, HIGH = (201, 79, 24), (240, 226, 190), (24, 104, 128)
"""Colours of 0, a half and 1, which people see apart who cannot tell red from green."""


@dataclass(frozen=True)
class Placed:
    """One item of a heat map. value: 0 to 1."""

    length: float
    depth: float
    value: float


def strip(interval: Interval, low: float, high: float) -> str:
    """A mean and its interval between two ends of a scale."""
    width, height = STRIP
    room = width - 2 * MARGIN

    def x(value: float) -> float:
        share = (value - low) / (high - low) if high > low else 0.5
        return MARGIN + room * min(1.0, max(0.0, share))

    middle = height / 2
    left, right = x(interval.low), x(interval.high)
    return (
        f'<svg class="strip" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">'
        f"<title>{interval.mean:.4f}, between {interval.low:.4f} and {interval.high:.4f}</title>"
        f'<path class="axis" d="M{MARGIN} {middle}H{width - MARGIN}M{MARGIN} {middle - 4}v8M{width - MARGIN} '
        f'{middle - 4}v8"/><rect class="interval" x="{left:.1f}" y="{middle - 4}" width="{max(1.0, right - left):.1f}" '
        f'height="8" rx="3"/><circle class="mean" cx="{x(interval.mean):.1f}" cy="{middle}" r="4.5"/></svg>'
    )


def forest(rows: Sequence[Compared], allow: float) -> str:
    """A line a task: the mean difference of B over A with its interval, right of 0 where B is better. Each task has a
    scale of its own, as their metrics have."""
    height = FOREST_ROW * len(rows) + 34
    left, right = LABEL, FOREST_WIDTH - NUMBERS
    middle = (left + right) / 2
    body = [
        f'<path class="axis" d="M{middle:.1f} 22V{height - 8}"/>',
        f'<text class="quiet" x="{left}" y="14">A is better</text>',
        f'<text class="quiet" x="{right}" y="14" text-anchor="end">B is better</text>',
    ]
    for i, row in enumerate(rows):
        y = 22 + FOREST_ROW * i + FOREST_ROW / 2
        found = row.difference.interval
        reach = max(abs(found.low), abs(found.high), allow * 1.2, 1e-9) * 1.1
        scale = (right - left) / 2 / reach

        def x(value: float, scale: float = scale) -> float:
            return middle + value * scale

        name = row.task if len(row.task) <= 26 else row.task[:25] + "…"
        if allow:
            body.append(
                f'<rect class="allowed" x="{x(-allow):.1f}" y="{y - 11}" width="{2 * allow * scale:.1f}" height="22"/>'
            )
        kind = row.verdict.replace(" ", "-")
        body.append(
            f'<text x="0" y="{y + 4}">{escape(name)}</text><g class="{kind}">'
            f'<path class="whisker" d="M{x(found.low):.1f} {y}H{x(found.high):.1f}M{x(found.low):.1f} {y - 5}v10'
            f'M{x(found.high):.1f} {y - 5}v10"/><circle cx="{x(found.mean):.1f}" cy="{y}" r="5"/></g>'
            f'<text class="quiet" x="{right + 12}" y="{y + 4}">{found.mean:+.4f} ({found.low:+.4f} to '
            f"{found.high:+.4f})</text>"
        )
    return (
        f'<svg class="forest" viewBox="0 0 {FOREST_WIDTH} {height}" role="img"><title>Differences of two runs, with '
        f"95% intervals</title>{''.join(body)}</svg>"
    )


def heat_map(items: Sequence[Placed]) -> str:
    """Means of items by length, to the right, and depth, downwards; "" where there are no two of either."""
    lengths, depths = _bins([one.length for one in items]), _bins([one.depth for one in items])
    if len(lengths) < 2 and len(depths) < 2:
        return ""
    found: dict[tuple[int, int], list[float]] = defaultdict(list)
    for one in items:
        found[_place(lengths, one.length), _place(depths, one.depth)].append(one.value)
    left, top = 70, 30
    width, height = left + CELL[0] * len(lengths) + MARGIN, top + CELL[1] * len(depths) + 44
    share = max(one.depth for one in items) <= 1
    body = [f'<text class="quiet" x="{left - 10}" y="{top - 12}" text-anchor="end">depth</text>']
    for j, depth in enumerate(depths):
        y = top + CELL[1] * (j + 0.5) + 4
        body.append(f'<text x="{left - 10}" y="{y}" text-anchor="end">{_depth(depth, share)}</text>')
    for i, length in enumerate(lengths):
        x = left + CELL[0] * (i + 0.5)
        body.append(f'<text x="{x}" y="{height - 26}" text-anchor="middle">{_short(length)}</text>')
    body.append(f'<text class="quiet" x="{(left + width) / 2}" y="{height - 6}" text-anchor="middle">length</text>')
    body += [_cell(left + CELL[0] * i, top + CELL[1] * j, values) for (i, j), values in sorted(found.items())]
    return (
        f'<svg class="heat" viewBox="0 0 {width} {height}" width="{width}" role="img"><title>Right answers by length '
        f"and depth</title>{''.join(body)}</svg>"
    )


def placed(item: Mapping[str, object], value: float) -> Placed | None:
    """An item that says a length and a depth, with what came of it; None: it says none."""
    length, depth = item.get("length"), item.get("depth")
    for one in (length, depth):
        if isinstance(one, bool) or not isinstance(one, int | float) or not math.isfinite(one):
            return None
    assert isinstance(length, int | float) and isinstance(depth, int | float)
    return Placed(float(length), float(depth), value)


def _bins(values: Sequence[float]) -> list[float]:
    """Distinct values in order; of too many as many as are shown, evenly apart among them."""
    distinct = sorted(set(values))
    if len(distinct) <= MOST_CELLS:
        return distinct
    step = (len(distinct) - 1) / (MOST_CELLS - 1)
    return [distinct[round(i * step)] for i in range(MOST_CELLS)]


def _place(bins: Sequence[float], value: float) -> int:
    return min(range(len(bins)), key=lambda i: abs(bins[i] - value))


def _cell(x: float, y: float, values: Sequence[float]) -> str:
    mean = sum(values) / len(values)
    colour = _colour(mean)
    dark = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] < 140
    written = "#fff" if dark else "#1c1c1c"
    return (
        f'<g fill="{written}"><title>{sum(values):g} of {len(values)}</title><rect x="{x + 1:.0f}" y="{y + 1:.0f}" '
        f'width="{CELL[0] - 2}" height="{CELL[1] - 2}" rx="3" fill="#{bytes(colour).hex()}"/>'
        f'<text x="{x + CELL[0] / 2:.0f}" y="{y + CELL[1] / 2 + 4:.0f}" text-anchor="middle">'
        f"{mean:.0%}</text></g>"
    )


def _colour(share: float) -> tuple[int, int, int]:
    share = min(1.0, max(0.0, share))
    first, second, at = (LOW, MIDDLE, 2 * share) if share < 0.5 else (MIDDLE, HIGH, 2 * share - 1)
    red, green, blue = (round(a + (b - a) * at) for a, b in zip(first, second, strict=True))
    return red, green, blue


def _depth(value: float, share: bool) -> str:
    return f"{value:.0%}" if share else f"{value:g}%"


def _short(value: float) -> str:
    """A length: 8192 is 8K."""
    for unit, name in ((2**20, "M"), (2**10, "K")):
        if value >= unit and value % unit == 0:
            return f"{value / unit:g}{name}"
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:.3g}k" if value >= 1e4 else f"{value:g}"
