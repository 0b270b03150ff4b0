"""A plan as a picture (SVG): memory by kind over the length of the context, and what the machine has for it."""

import math
from collections.abc import Sequence
from html import escape

from herd.planning.explain import KINDS
from herd.planning.memory import cache_bytes, gb
from herd.planning.plan import Plan

WIDTH, HEIGHT = 860, 500
LEFT, RIGHT, TOP, BOTTOM = 70, 190, 48, 80
"""Margins in units of the picture."""
COLOURS = {
    "routed": "#4c78a8",
    "always": "#72b7b2",
    "table": "#b0d8d4",
    "vision": "#c7b3d6",
    "work": "#9d9d9d",
    "cache": "#f58518",
}
"""Colours of kinds of memory, from the bottom up."""
POINTS = 40
LEAST = 1024
"""Tokens at the left end."""


def svg(plan: Plan) -> str:
    """The picture of a plan: one stacked area for each kind of memory, a line for what cards and memory have."""
    most = plan.model.config.max_context
    least = min(LEAST, most)
    contexts = _between(least, most)
    stacks = [_bytes(plan, context) for context in contexts]
    rooms = _rooms(plan)
    top = max([sum(stack) for stack in stacks] + [size for _, size in rooms if size < 8 * sum(stacks[0])])
    top = min(top, 4 * max([sum(stacks[0]), *(size for _, size in rooms)]))
    x = [_x(context, least, most) for context in contexts]
    body = [
        *_areas(x, stacks, top),
        *_axes(least, most, top),
        *_lines(rooms, top),
        *_now(plan, least, most),
        *_legend(),
    ]
    title = f"{plan.model.name}, {plan.model.sizes.type}, {plan.want.users} at once, on {plan.machine.name}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-family="sans-serif" '
        f'font-size="12"><title>{escape(title)}: memory over context</title>'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
        f'<text x="{LEFT}" y="26" font-size="15">{escape(title)}</text>{"".join(body)}</svg>\n'
    )


def _between(least: int, most: int) -> list[int]:
    """Contexts from least to most, evenly apart by their logarithm."""
    if least == most:
        return [most, most]
    step = math.log(most / least) / (POINTS - 1)
    return [min(most, round(least * math.exp(i * step))) for i in range(POINTS)]


def _bytes(plan: Plan, context: int) -> list[int]:
    """Bytes of each of the kinds of COLOURS with such a context."""
    sizes = plan.model.sizes
    found = {kind: getattr(sizes, kind) for kind in ("routed", "always", "table", "vision")}
    found["work"] = plan.placement.row("work").total
    found["cache"] = plan.want.users * cache_bytes(plan.model.config, context, plan.want.kv)
    return [found[kind] for kind in COLOURS]


def _rooms(plan: Plan) -> list[tuple[str, int]]:
    cards, memory = plan.placement.card_bytes, plan.placement.memory_bytes
    rooms = [("cards", cards)] if cards else []
    if memory:
        rooms.append(("cards and memory" if cards else "memory", cards + memory))
    return rooms


def _x(context: int, least: int, most: int) -> float:
    share = math.log(context / least) / math.log(most / least) if most > least else 1.0
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _y(size: float, top: float) -> float:
    return HEIGHT - BOTTOM - min(1.0, size / top) * (HEIGHT - TOP - BOTTOM)


def _areas(x: Sequence[float], stacks: Sequence[Sequence[int]], top: float) -> list[str]:
    found = []
    for i, colour in enumerate(COLOURS.values()):
        upper = [f"{a:.1f},{_y(sum(stack[: i + 1]), top):.1f}" for a, stack in zip(x, stacks, strict=True)]
        lower = [f"{a:.1f},{_y(sum(stack[:i]), top):.1f}" for a, stack in zip(x, stacks, strict=True)]
        if any(stack[i] for stack in stacks):
            found.append(f'<polygon fill="{colour}" points="{" ".join([*upper, *reversed(lower)])}"/>')
    return found


def _axes(least: int, most: int, top: float) -> list[str]:
    bottom = HEIGHT - BOTTOM
    found = [f'<path d="M{LEFT} {TOP}V{bottom}H{WIDTH - RIGHT}" fill="none" stroke="#333"/>']
    context = least
    while context <= most:
        x = _x(context, least, most)
        found.append(f'<path d="M{x:.1f} {bottom}v5" stroke="#333"/>')
        found.append(f'<text x="{x:.1f}" y="{bottom + 20}" text-anchor="middle">{short(context)}</text>')
        context *= 4
    if (x := _x(most, least, most)) - _x(context // 4, least, most) > 40:
        found.append(f'<text x="{x:.1f}" y="{bottom + 20}" text-anchor="middle">{short(most)}</text>')
    step = 10 ** math.floor(math.log10(top))
    step = step / 2 if top / step < 3 else step
    for i in range(int(top / step) + 1):
        y = _y(i * step, top)
        found.append(f'<path d="M{LEFT} {y:.1f}h-5" stroke="#333"/>')
        found.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{i * step / 1e9:,.4g}</text>')
    found.append(f'<text x="{LEFT - 8}" y="{TOP - 10}" text-anchor="end">GB</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    found.append(f'<text x="{middle}" y="{HEIGHT - 40}" text-anchor="middle">tokens of context of each user</text>')
    return found


def _lines(rooms: Sequence[tuple[str, int]], top: float) -> list[str]:
    found = []
    for name, size in rooms:
        if size <= top:
            y = _y(size, top)
            found.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#b00" stroke-dasharray="6 4"/>')
            found.append(f'<text x="{WIDTH - RIGHT + 6}" y="{y + 4:.1f}" fill="#b00">{name}: {gb(size)}</text>')
    return found


def _now(plan: Plan, least: int, most: int) -> list[str]:
    """The context that the plan is for."""
    if plan.want.context < least:
        return []
    x = _x(plan.want.context, least, most)
    return [f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#333" stroke-dasharray="2 3"/>']


LETTER = 6.8
"""Width of a letter of the legend, about."""


def _legend() -> list[str]:
    found, x, y = [], float(LEFT), HEIGHT - 24
    for kind, colour in COLOURS.items():
        name = KINDS[kind]
        found.append(f'<rect x="{x:.0f}" y="{y}" width="12" height="12" fill="{colour}"/>')
        found.append(f'<text x="{x + 16:.0f}" y="{y + 11}">{name}</text>')
        x += 16 + LETTER * len(name) + 16
    assert x < WIDTH, f"the legend ends at {x:.0f} of {WIDTH}"
    return found


def short(tokens: int) -> str:
    """A count of tokens: 8192 is 8K, 10485760 is 10M."""
    for unit, name in ((2**20, "M"), (2**10, "K")):
        if tokens >= unit:
            return f"{tokens / unit:.4g}{name}"
    return str(tokens)
