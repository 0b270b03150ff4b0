"""A plan step by step: every number with those that it was made of."""

from collections.abc import Iterator

from herd.planning.layers import layer_caches
from herd.planning.memory import gb
from herd.planning.parts import Parts
from herd.planning.placement import CARD_LEAST_BYTES, CARD_RESERVE, MEMORY_LEAST_BYTES, MEMORY_RESERVE
from herd.planning.plan import Plan, Speed, adapters_of
from herd.planning.sizes import WeightSizes
from herd.planning.speed import Term, touched
from herd.planning.today import MEASURED

KINDS = {
    "always": "read by every token",
    "routed": "routed experts",
    "table": "table of embeddings",
    "vision": "vision",
    "cache": "keys and values",
    "work": "work",
}
"""What each kind of Placed is called."""


def explain(plan: Plan) -> Iterator[tuple[str, str]]:
    """(subject, sentence) for each step, in the order in which they were taken."""
    yield from _parameters(plan.parts)
    yield from _weights(plan.model.sizes)
    yield from _cache(plan)
    yield from _machine(plan)
    yield from _places(plan)
    for speed in plan.speeds:
        yield from _speed(plan, speed)


def _parameters(parts: Parts) -> Iterator[tuple[str, str]]:
    known = [(kind, getattr(parts, kind)) for kind in Parts.__dataclass_fields__]
    listed = " + ".join(f"{kind} {count:,}" for kind, count in known if count)
    yield "parameters", f"{listed} = {parts.total:,}"


def _weights(sizes: WeightSizes) -> Iterator[tuple[str, str]]:
    kinds = ("always", "routed", "table", "vision")
    listed = [f"{KINDS[kind]} {gb(size)}" for kind in kinds if (size := getattr(sizes, kind))]
    yield "weights", f"as {sizes.type}: {' + '.join(listed)} = {gb(sizes.total)}"


def _cache(plan: Plan) -> Iterator[tuple[str, str]]:
    c, want = plan.model.config, plan.want
    caches = layer_caches(c, want.kv)
    for chunked, name in ((False, "layers that see everything"), (True, "chunked layers")):
        layers = [one for one in caches if one.chunked is chunked]
        if not layers:
            continue
        kept = min(want.context, c.chunk or want.context) if chunked else want.context
        each = layers[0].slot_bytes(c.head_size)
        size = len(layers) * kept * c.num_kv_heads * each
        yield (
            "cache",
            f"{len(layers)} {name} x {kept:,} tokens x {c.num_kv_heads} heads x {each:g} bytes ({layers[0].dtype}) = "
            f"{gb(round(size))}",
        )
    total = f"{want.users} x {gb(plan.cache_one)} = {gb(plan.cache_bytes)}" if want.users > 1 else gb(plan.cache_bytes)
    yield "cache", f"{users(want.users)} at {want.context:,} tokens: {total}"
    yield "work", f"one pass, its logits, an image {gb(plan.work_bytes)}; the program itself {gb(plan.program_bytes)}"
    if want.adapters:
        told = f"adapters: {want.adapters} of rank {want.rank} on the attention's four products"
        yield "work", f"{told}, {gb(adapters_of(c, want))}"


def _machine(plan: Plan) -> Iterator[tuple[str, str]]:
    machine, placement = plan.machine, plan.placement
    for card in dict.fromkeys(machine.cards):
        number = machine.cards.count(card)
        many = f"{number} x " if number > 1 else ""
        yield (
            "machine",
            f"{many}{card.name}: {gb(card.memory_bytes)}, reads {card.read_bytes_s / 1e9:,.0f} GB/s, computes "
            f"{card.ops_s / 1e12:,.0f} TFLOP/s, gets {card.link_bytes_s / 1e9:.3g} GB/s from memory",
        )
    if machine.cards:
        held = f"{CARD_RESERVE:.1%} of each, at least {gb(CARD_LEAST_BYTES)}, are kept for its driver"
        yield "machine", f"{gb(placement.card_bytes)} of it for a model: {held}"
    if machine.memory_bytes:
        yield (
            "machine",
            f"memory {gb(machine.memory_bytes)}, reads {machine.read_bytes_s / 1e9:.3g} GB/s, computes "
            f"{machine.ops_s / 1e12:.3g} TOP/s (int8); disk {machine.disk_read_bytes_s / 1e9:.3g} GB/s",
        )
        held = f"{MEMORY_RESERVE:.1%}, at least {gb(MEMORY_LEAST_BYTES)}, are kept for the system"
        yield "machine", f"{gb(placement.memory_bytes)} of it for a model: {held}"
    for text in machine.notes:
        yield "machine", text


def _places(plan: Plan) -> Iterator[tuple[str, str]]:
    for row in plan.placement.rows:
        where = ((row.card, "on cards"), (row.memory, "in memory"), (row.disk, "on the disk"))
        places = [f"{gb(size)} {place}" for size, place in where if size]
        if places:
            yield "place", f"{KINDS[row.kind]}: {', '.join(places)}"
    if plan.placement.missing:
        yield "place", f"there is no place for {gb(plan.placement.missing)}: it does not run"


def _speed(plan: Plan, speed: Speed) -> Iterator[tuple[str, str]]:
    subject = title(speed)
    if speed.what == "decode" and plan.parts.routed:
        c = plan.model.config
        share = touched(c, speed.users)
        chance = f"1 - (1 - {c.experts_per_token}/{c.num_experts})^{speed.users} = {share:.3g}"
        yield subject, f"{chance} of the routed experts are read"
    times = f"{speed.limit.times} passes of " if speed.limit.times > 1 else ""
    for term in speed.limit.terms:
        yield subject, times + term_words(term)
    yield subject, f"limit: {seconds(speed.limit.seconds)}, {speed.limit.tokens_s:,.1f} tokens/s"
    if speed.today.estimate is None:
        yield subject, f"Herd today: {speed.today.why}"
        return
    today = speed.today.estimate
    times = f"{today.times} passes of " if today.times > 1 else ""
    terms = " + ".join(term_words(t) for t in today.terms)
    yield subject, f"Herd today ({MEASURED.date}): {times}{terms}: {today.tokens_s:,.1f} tokens/s"


def users(number: int) -> str:
    """A number of users, for people."""
    return "one user" if number == 1 else f"{number:,} users"


def term_words(term: Term) -> str:
    """A part of a time, with its numbers."""
    meanwhile = "" if term.counted else " (meanwhile)"
    if term.unit == "":
        return f"{term.what}: {term.amount:,.0f} x {seconds(1 / term.rate)} = {seconds(term.seconds)}{meanwhile}"
    if term.unit == "B":
        amount, rate = f"{term.amount / 1e9:,.4g} GB", f"{term.rate / 1e9:,.4g} GB/s"
    else:
        amount, rate = f"{term.amount / 1e12:,.4g} TOP", f"{term.rate / 1e12:,.4g} TOP/s"
    return f"{term.what}: {amount} / {rate} = {seconds(term.seconds)}{meanwhile}"


def title(speed: Speed) -> str:
    """What a line of speeds is about."""
    if speed.what == "prefill":
        return f"read {speed.tokens:,} tokens"
    return f"{users(speed.users)}, {speed.tokens + 1:,} tokens in"


_UNITS = (
    (1e-3, 1e-6, "us"),
    (1.0, 1e-3, "ms"),
    (120.0, 1.0, "s"),
    (7200.0, 60.0, "min"),
    (172800.0, 3600.0, "h"),
)
"""Below so many seconds, a unit of so many seconds, called so."""


def seconds(time_s: float) -> str:
    """A time for people: microseconds to days."""
    for limit, unit, name in _UNITS:
        if time_s < limit:
            return f"{time_s / unit:.3g} {name}"
    return f"{time_s / 86400:,.3g} days"
