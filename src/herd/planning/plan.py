"""A plan: what of a model lies where on a machine, how fast it can be, and what fits. Arithmetic alone.

    make_plan(model, machine, want)          one model as one type
    best_type(name, config, machine, want)   the largest type of a model that fits

It reads no file, measures nothing, and takes milliseconds. `herd.planner` has names and files for it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

from herd.config import Llama4Config
from herd.errors import UsageError, fail
from herd.planning.adapters import adapter_bytes
from herd.planning.context import USUAL
from herd.planning.layers import KV_DTYPES
from herd.planning.machines import Machine
from herd.planning.memory import AIR, cache_bytes, guesses_bytes, images_bytes, work_bytes
from herd.planning.parts import Parts, weights_by_kind
from herd.planning.placement import Placement, place
from herd.planning.pools import pools_for
from herd.planning.runtime import runtime_bytes
from herd.planning.sizes import LADDER, WeightSizes, type_sizes
from herd.planning.speed import SHORT, Estimate, decode, prefill
from herd.planning.today import PIECE, Today, decode_today, not_built, prefill_today

MOST_USERS = 1 << 16
MOST_ADAPTERS = 4096
MOST_RANK = 4096
STEP = 256
"""Contexts are told as multiples of it."""


@dataclass(frozen=True)
class PlannedModel:
    """What is planned for."""

    name: str
    config: Llama4Config
    sizes: WeightSizes
    asked: str = ""
    """What a command calls it, where that is not its name: a path."""
    pull: str = ""
    """What `herd pull` calls it; empty where it is here, or cannot be fetched."""


@dataclass(frozen=True)
class Workload:
    """What it is to do."""

    context: int = USUAL
    """Tokens of prompt and answer of each user."""
    users: int = 1
    """Answers at once, each with a context of its own."""
    kv: str = "bf16"
    adapters: int = 0
    """LoRA adapters that are loaded beside the weights, each on the attention's four products."""
    rank: int = 16
    """Rank of each."""

    def check(self, model: PlannedModel) -> None:
        """Raise UsageError for what no plan can be made for."""
        if self.kv not in KV_DTYPES:
            fail(UsageError, "cache", got=self.kv, expected=", ".join(KV_DTYPES))
        if not 1 <= self.users <= MOST_USERS:
            fail(UsageError, "users", got=self.users, expected=f"1 to {MOST_USERS}")
        for name, value, least, most in (
            ("adapters", self.adapters, 0, MOST_ADAPTERS),
            ("rank", self.rank, 1, MOST_RANK),
        ):
            if not least <= value <= most:
                fail(UsageError, name, got=value, expected=f"{least} to {most}")
        most = model.config.max_context
        if not 1 <= self.context <= most:
            fail(UsageError, f"context of {model.name}", got=self.context, expected=f"1 to {most} tokens")


@dataclass(frozen=True)
class Speed:
    """One line of speeds: at the machine's limit, and as Herd is today."""

    what: str
    """prefill, first (token after a prompt that fills the context), decode."""
    users: int
    tokens: int
    """Tokens that are read; for decode: that stand before."""
    limit: Estimate
    today: Today


@dataclass(frozen=True)
class TypeFit:
    """A type of a model, and whether it fits."""

    sizes: WeightSizes
    fits: bool
    largest_context: int
    """Tokens for each of the users; 0: none fits."""
    decode: Estimate | None
    """One user's step after SHORT tokens at the machine's limit; None where it does not fit."""


@dataclass(frozen=True)
class Plan:
    """All of it, as numbers; `planning.explain` tells it step by step."""

    model: PlannedModel
    machine: Machine
    want: Workload
    parts: Parts
    cache_bytes: int
    """Keys and values of all users at their full context."""
    cache_one: int
    """Keys and values of one user at the full context."""
    work_bytes: int
    program_bytes: int
    """What the processes hold beside that."""
    placement: Placement
    speeds: tuple[Speed, ...]
    """Empty where it does not run."""
    largest_context: int
    """The most tokens for each of so many users that fit; 0: none."""
    most_users: int
    """The most users with such a context that fit; 0: none."""
    types: tuple[TypeFit, ...]
    """Types of this model, largest first."""

    @property
    def fits(self) -> bool:
        """Whether all of it has a place in memory or on cards."""
        return self.placement.fits


def make_plan(model: PlannedModel, machine: Machine, want: Workload, *, types: bool = True) -> Plan:
    """Plan for a model on a machine. types: look at its other types, too. Raises UsageError."""
    want.check(model)
    placement = placed(model, machine, want)
    return Plan(
        model,
        machine,
        want,
        weights_by_kind(model.config),
        want.users * cache_bytes(model.config, want.context, want.kv),
        cache_bytes(model.config, want.context, want.kv),
        work_of(model.config, want),
        program_of(model.config),
        placement,
        tuple(_speeds(model, machine, want, placement)) if placement.runs else (),
        largest_context(model, machine, want),
        most_users(model, machine, want),
        tuple(type_fit(model, type, machine, want) for type in LADDER) if types else (),
    )


def placed(model: PlannedModel, machine: Machine, want: Workload) -> Placement:
    """Where the model lies with the caches of all users full."""
    cache = want.users * cache_bytes(model.config, want.context, want.kv)
    work = work_of(model.config, want) + adapters_of(model.config, want)
    return place(model.sizes, cache, work, machine, program_of(model.config))


def program_of(config: Llama4Config) -> int:
    """Bytes of the processes of `herd serve` with such a vocabulary, and AIR."""
    return runtime_bytes(config.vocab_size, engine="child", service=True) + AIR


def adapters_of(config: Llama4Config, want: Workload) -> int:
    """Bytes of the adapters that are wanted."""
    return want.adapters * adapter_bytes(config, want.rank) if want.adapters else 0


def work_of(config: Llama4Config, want: Workload) -> int:
    """Bytes of one pass with its logits, of further logits while ids are guessed, and of an image."""
    guessed = guesses_bytes(config, PIECE, want.users)
    return work_bytes(config, PIECE, want.users) + guessed + images_bytes(config)


def alone(model: PlannedModel, machine: Machine, want: Workload) -> tuple[Machine, Placement] | None:
    """The machine as Herd uses it today, where its cards are of no use: its processor alone, and what lies where then;
    None where the cards are used, or where it cannot run without them."""
    if (
        not machine.cards
        or not machine.memory_bytes
        or machine.shared
        or not not_built(placed(model, machine, want), machine)
    ):
        return None
    bare = replace(machine, cards=())
    placement = placed(model, bare, want)
    return (bare, placement) if placement.fits else None


def ways(
    model: PlannedModel, machine: Machine, want: Workload, placement: Placement
) -> list[tuple[Machine, Placement]]:
    """A machine as it is, and each part of it on which the model runs by itself: one of its cards, its processor
    alone. Small models are faster on less: nothing is exchanged."""
    parts = [replace(machine, cards=(card,)) for card in dict.fromkeys(machine.cards) if len(machine.cards) > 1]
    if machine.cards and machine.memory_bytes and not machine.shared:
        parts.append(replace(machine, cards=()))
    found = ((part, placed(model, part, want)) for part in parts)
    return [(machine, placement), *((part, there) for part, there in found if there.runs)]


def fastest(
    among: list[tuple[Machine, Placement]],
    estimate: Callable[[Llama4Config, Placement, Machine], Estimate],
    model: PlannedModel,
) -> Estimate:
    """The least of the times that a model takes in each of some ways."""
    return min((estimate(model.config, there, part) for part, there in among), key=lambda found: found.seconds)


def answers_together(config: Llama4Config, want: Workload, tokens: int) -> int:
    """How many of the users' answers the cache of a load holds at a time today, when each has so many tokens: the
    chunked layers have one chunk for all, and a page for each further answer (`planning.pools`)."""
    pools = pools_for(config, want.context * want.users, want.kv, PIECE, want.users)
    if not pools.chunk or not config.chunk:
        return want.users
    each = -(-min(tokens, config.chunk) // pools.page_size)
    return max(1, min(want.users, pools.chunk // each))


def _speeds(model: PlannedModel, machine: Machine, want: Workload, placement: Placement) -> Iterable[Speed]:
    c, kv = model.config, want.kv
    last = want.context - 1
    now, there = alone(model, machine, want) or (machine, placement)
    parts = ways(model, machine, want, placement)
    yield Speed(
        "prefill",
        1,
        want.context,
        fastest(parts, partial(prefill, tokens=want.context), model),
        prefill_today(c, there, now, want.context),
    )
    for users in dict.fromkeys((1, want.users)):
        for depth in dict.fromkeys((min(SHORT, last), last)):
            yield Speed(
                "decode",
                users,
                depth,
                fastest(parts, partial(decode, users=users, depth=depth, kv_dtype=kv), model),
                decode_today(c, there, now, min(users, answers_together(c, want, depth + 1)), depth, kv),
            )


def largest_context(model: PlannedModel, machine: Machine, want: Workload) -> int:
    """The most tokens for each of so many users that fit: the model's whole context, or a multiple of STEP."""
    whole = model.config.max_context

    def fits(context: int) -> bool:
        return placed(model, machine, replace(want, context=context)).fits

    return whole if fits(whole) else STEP * largest(lambda n: fits(n * STEP), whole // STEP)


def most_users(model: PlannedModel, machine: Machine, want: Workload) -> int:
    """The most users with such a context that fit."""
    return largest(lambda n: placed(model, machine, replace(want, users=n)).fits, MOST_USERS)


def largest(fits: Callable[[int], bool], high: int) -> int:
    """The largest number up to `high` that fits, when all smaller ones do; 0 for none."""
    low = 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def type_fit(model: PlannedModel, type: str, machine: Machine, want: Workload) -> TypeFit:
    """Whether the model fits as another type, and what it does then."""
    other = replace(model, sizes=type_sizes(model.config, type))
    placement = placed(other, machine, want)
    step = None
    if placement.fits:
        among = ways(other, machine, want, placement)
        step = fastest(among, partial(decode, users=1, depth=SHORT, kv_dtype=want.kv), other)
    return TypeFit(other.sizes, placement.fits, largest_context(other, machine, want), step)


def best_type(name: str, config: Llama4Config, machine: Machine, want: Workload) -> TypeFit | None:
    """The largest type of a model that fits with such a context; None: none does."""
    found = (type_fit(PlannedModel(name, config, type_sizes(config, type)), type, machine, want) for type in LADDER)
    return next((one for one in found if one.fits), None)
