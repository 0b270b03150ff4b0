"""Questions that people ask before they buy, and what every plan keeps to. What calls of a
month cost, and a library, is asked in test_cost.py."""

from dataclasses import replace

import pytest

from herd.config import GUARD, MAVERICK, SCOUT, TINY, Llama4Config
from herd.errors import UsageError
from herd.formats import get
from herd.planner import shapes
from herd.planning.advice import advice, run_command
from herd.planning.explain import explain, seconds
from herd.planning.machines import Machine, machine_of
from herd.planning.memory import cache_bytes
from herd.planning.parts import weights_by_kind
from herd.planning.picture import svg
from herd.planning.placement import card_room
from herd.planning.plan import Plan, PlannedModel, Workload, answers_together, best_type, make_plan, type_fit
from herd.planning.sizes import BITS, LADDER, file_sizes, part_sizes, type_sizes
from herd.quantize.format_choice import TYPES, plan_type

M = 1 << 20


def planned(config: Llama4Config, type: str, machine: str, **want: int | str) -> Plan:
    return make_plan(PlannedModel("scout", config, type_sizes(config, type)), machine_of(machine), Workload(**want))  # type: ignore[arg-type]


def best(config: Llama4Config, machine: str, **want: int) -> str | None:
    found = best_type("x", config, machine_of(machine), Workload(**want))
    return found.sizes.type if found else None


def test_scout_on_24_gb() -> None:
    """Its smallest type has 38 GB: not on one such card. With 64 GB beside it, yes."""
    assert best(SCOUT, "rtx4090") is None
    assert "nothing of this model fits" in " ".join(advice(planned(SCOUT, "q2_k", "rtx4090")))
    assert best(SCOUT, "rtx4090+64GB") in ("q4_k", "q5_k")


def test_scout_on_48_gb() -> None:
    """31.8 GB of routed experts at 2.63 bits and 5.7 GB of the rest fit one card whole."""
    assert best(SCOUT, "a6000") == "q2_k"
    plan = planned(SCOUT, "q2_k", "a6000")
    assert plan.placement.in_memory == plan.placement.on_disk == 0


def test_scout_on_64_gb_of_memory() -> None:
    assert best(SCOUT, "ddr5-2ch+64GB") == "q3_k"
    plan = planned(SCOUT, "q4_k", "ddr5-2ch+64GB")
    assert not plan.fits
    assert plan.placement.runs
    assert any("q3_k" in line for line in advice(plan))


def test_scout_on_a_laptop() -> None:
    assert best(SCOUT, "laptop-lpddr5x+32GB") is None
    assert best(SCOUT, "laptop-lpddr5x+64GB") == "q3_k"
    plan = planned(SCOUT, "q3_k", "laptop-lpddr5x+64GB")
    one = next(s for s in plan.speeds if s.what == "decode")
    assert 5 < one.limit.tokens_s < 40
    assert one.today.estimate is not None
    assert one.today.estimate.tokens_s < one.limit.tokens_s
    assert run_command(plan).startswith("herd serve scout --ctx 8192")


def test_maverick_on_several_cards() -> None:
    assert best(MAVERICK, "h100x8") == "q8_0"
    assert best(MAVERICK, "h100x4") == "q5_k"  # 277 GB of 305
    plan = planned(MAVERICK, "q4_k", "h100x4")
    assert "several cards" in plan.speeds[0].today.why
    assert run_command(plan) == ""


def test_maverick_on_one_card_with_memory() -> None:
    assert best(MAVERICK, "rtx4090+64GB") is None
    assert best(MAVERICK, "rtx4090+256GB") in ("q4_k", "q5_k")
    plan = planned(MAVERICK, "q4_k", "rtx4090+256GB")
    assert plan.placement.row("always").memory == 0
    assert plan.placement.row("routed").memory > plan.placement.row("routed").card > 0


def test_ten_million_tokens() -> None:
    """516.6 GB of keys and values in bf16, beside 63 GB of weights: more than four of the largest cards have."""
    plan = planned(SCOUT, "q4_k", "h100x8", context=10 * M)
    assert plan.cache_bytes / 1e9 == pytest.approx(516.6, abs=0.1)
    assert plan.fits
    assert not planned(SCOUT, "q4_k", "h100x4", context=10 * M).placement.runs
    assert planned(SCOUT, "q4_k", "h100x4", context=10 * M, kv="int4").fits


def test_fifty_users_at_8k() -> None:
    plan = planned(SCOUT, "q4_k", "h200", context=8192, users=50)
    assert plan.cache_bytes == 50 * cache_bytes(SCOUT, 8192)
    assert not plan.fits
    assert 40 < plan.most_users < 50
    assert planned(SCOUT, "q4_k", "h200", context=8192, users=50, kv="int8").fits
    together = plan.most_users
    many = planned(SCOUT, "q4_k", "h200", context=8192, users=together).speeds
    assert max(s.limit.tokens_s for s in many if s.users == together) > 5 * many[1].limit.tokens_s


def test_guard_beside_scout() -> None:
    """What Scout leaves of a card of 80 GB takes Llama Guard 4 as q8_0, 13 GB."""
    scout = planned(SCOUT, "q4_k", "h100")
    left = scout.placement.card_bytes - scout.placement.on_card
    guard = planned(GUARD, "q8_0", "h100", context=4096)
    assert guard.placement.on_card < left + (1 << 30)


def test_the_largest_context_on_141_gb() -> None:
    plan = planned(SCOUT, "q4_k", "h200")
    assert plan.largest_context == pytest.approx(1.56e6, rel=0.02)
    at_most = planned(SCOUT, "q4_k", "h200", context=plan.largest_context)
    assert at_most.fits
    assert not planned(SCOUT, "q4_k", "h200", context=plan.largest_context + 256).fits
    assert at_most.placement.on_card <= card_room(at_most.machine)


@pytest.mark.parametrize(
    "machine", ["rtx4090+64GB", "h100x8", "epyc-12ch+768GB", "m3ultra+512GB", "ddr5-2ch+16GB", "rtx3060"]
)
@pytest.mark.parametrize("config", [SCOUT, MAVERICK, GUARD, TINY])
def test_nothing_is_lost_or_laid_where_there_is_no_room(config: Llama4Config, machine: str) -> None:
    for type in ("bf16", "q2_k"):
        plan = planned(config, type, machine, context=2048, users=3)
        p = plan.placement
        assert p.on_card <= p.card_bytes
        assert p.in_memory <= p.memory_bytes
        weights = sum(p.row(kind).total for kind in ("always", "routed", "table", "vision"))
        assert weights == plan.model.sizes.total or p.missing
        assert p.fits == (not p.missing and not p.on_disk)
        assert all(s.limit.tokens_s > 0 for s in plan.speeds)
        assert bool(plan.speeds) == p.runs
        for s in plan.speeds:
            if s.today.estimate is not None and not plan.machine.cards:
                assert s.today.estimate.tokens_s <= s.limit.tokens_s
        told = [sentence for _, sentence in explain(plan)] + list(advice(plan))
        assert all(sentence.isprintable() for sentence in told)
        assert svg(plan).startswith("<svg")


def test_a_picture_has_the_text_of_a_strangers_name_escaped() -> None:
    plan = make_plan(
        PlannedModel("<b>&", TINY, type_sizes(TINY, "q8_0")), machine_of("rtx4090"), Workload(context=4096)
    )
    assert "<b>" not in svg(plan)


def test_sizes_are_those_that_quantize_writes() -> None:
    for type in set(LADDER) & set(TYPES):
        for config in (SCOUT, MAVERICK):
            assert type_sizes(config, type).total == pytest.approx(plan_type(config, type).num_bytes, rel=0.002), type
    assert all(BITS[name] == get(name).bits for name in BITS if name != "bf16")


def test_a_file_of_equal_types_has_equal_parts() -> None:
    parts = weights_by_kind(SCOUT)
    size = parts.total * 2
    whole = file_sizes(SCOUT, "x", size)
    assert whole.total == pytest.approx(size, abs=16)
    kinds = {kind: 2 * getattr(parts, kind) for kind in ("embedding", "attention", "norms", "router", "shared")}
    kinds |= {kind: 2 * getattr(parts, kind) for kind in ("routed", "dense", "head", "vision")}
    assert part_sizes("x", parts, kinds).total == size


@pytest.mark.parametrize(
    ("want", "words"),
    [
        (Workload(context=0), "1 to"),
        (Workload(context=11 * M), "10485760"),
        (Workload(users=0), "65536"),
        (Workload(kv="q4"), "int4"),
    ],
)
def test_what_no_plan_can_be_made_for(want: Workload, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make_plan(PlannedModel("scout", SCOUT, type_sizes(SCOUT, "q4_k")), machine_of("h100"), want)


def test_a_choice_that_does_not_fit_has_no_speed() -> None:
    model = PlannedModel("scout", SCOUT, type_sizes(SCOUT, "q4_k"))
    found = type_fit(model, "bf16", machine_of("h100"), Workload())
    assert (found.fits, found.decode, found.largest_context) == (False, None, 0)


def test_cards_that_are_of_no_use_today_leave_the_processor() -> None:
    plan = planned(SCOUT, "q3_k", "rtx4090+128GB", context=131072)
    today = plan.speeds[-1].today.estimate
    assert today is not None
    bare = make_plan(plan.model, replace(plan.machine, cards=()), plan.want).speeds[-1].today.estimate
    assert bare is not None
    assert today.tokens_s == bare.tokens_s
    assert "processor alone" in " ".join(advice(plan))


@pytest.mark.parametrize(
    ("time_s", "text"), [(2e-5, "20 us"), (0.0123, "12.3 ms"), (59, "59 s"), (600, "10 min"), (1e6, "11.6 days")]
)
def test_times_for_people(time_s: float, text: str) -> None:
    assert seconds(time_s) == text


def test_a_machine_of_nothing_runs_nothing() -> None:
    plan = make_plan(PlannedModel("tiny", TINY, type_sizes(TINY, "q8_0")), Machine("none"), Workload(context=256))
    assert not plan.placement.runs
    assert plan.largest_context == plan.most_users == 0


def test_answers_that_share_one_chunk_are_told_of() -> None:
    """A load has one chunk of the chunked layers, and a page for each further answer (`planning.pools`)."""
    plan = planned(SCOUT, "q3_k", "epyc-12ch+256GB", context=32768, users=4)
    assert "one user at a time" in " ".join(advice(plan))
    short = planned(SCOUT, "q3_k", "epyc-12ch+256GB", context=2048, users=4)
    assert "at a time" not in " ".join(advice(short))
    assert "at a time" not in " ".join(advice(planned(GUARD, "q4_k", "epyc-12ch+256GB", context=32768, users=4)))


def test_adapters_take_their_bytes() -> None:
    """Rank 16 on q, k, v and o of 48 layers: 16 x 4 bytes x (inputs + outputs)."""
    sides = 48 * (4 * 5120 + 2 * 5120 + 2 * 1024)
    bare, four = (planned(SCOUT, "q3_k", "epyc-12ch+256GB", adapters=n) for n in (0, 4))
    assert four.placement.in_memory - bare.placement.in_memory == 4 * 16 * 4 * sides
    assert any("adapters: 4 of rank 16" in sentence for _, sentence in explain(four))


def test_memory_that_was_not_said_is_told_of_where_something_does_not_fit() -> None:
    def says(machine: str, **want: int) -> bool:
        return any("+64GB says it" in line for line in advice(planned(SCOUT, "q8_0", machine, **want)))

    assert says("h200", context=131_072, users=4)
    assert not says("h200+64GB", context=131_072, users=4)
    assert not says("h200") and not says("strix-halo+64GB")


@pytest.mark.parametrize(("type", "published"), [("q6_k", 15.2), ("q8_0", 12.2)])
def test_shared_memory_holds_what_graphics_may_not_take_of_it(type: str, published: float) -> None:
    """Half of this machine's memory is graphics' as it comes; somebody has all of Scout in it at that speed."""
    plan = planned(SCOUT, type, "strix-halo+128GB", context=512)
    assert plan.fits
    assert plan.speeds[1].limit.tokens_s >= published
    assert run_command(plan)


NEVER_SLOWER = [
    ("rtx4090+64GB", "rtx4090+128GB"), ("rtx4090+64GB", "rtx4090x2+64GB"), ("h100", "h100x8"), ("l4", "l4x4"),
    ("xeon-12ch+128GB", "l4+xeon-12ch+128GB"), ("epyc-12ch+256GB", "t4x4+epyc-12ch+256GB"),
]  # fmt: skip
"""Machines, the second of which has all that the first one has, and more."""


@pytest.mark.parametrize("name", ["smollm2:135m", "llama3.1:8b", "scout", "maverick"])
@pytest.mark.parametrize(("less", "more"), NEVER_SLOWER)
def test_a_machine_is_never_slower_than_a_part_of_it(less: str, more: str, name: str) -> None:
    config = shapes()[name]
    for type in ("bf16", "q4_k"):
        model = PlannedModel(name, config, type_sizes(config, type))
        small, large = (make_plan(model, machine_of(it), Workload(512, 2)) for it in (less, more))
        assert large.largest_context >= small.largest_context and large.most_users >= small.most_users
        for one, other in zip(small.speeds, large.speeds, strict=bool(small.speeds)):
            assert other.limit.seconds <= one.limit.seconds * 1.0001


@pytest.mark.parametrize("context", [1, 16, 100, 600, 5000, 100_000])
@pytest.mark.parametrize("name", ["scout", "maverick", "behemoth", "llama3.1:8b"])
def test_herd_today_is_never_faster_than_the_limit(name: str, context: int) -> None:
    """Short prompts above all: their experts are read for a few rows each."""
    config = shapes()[name]
    for type in ("bf16", "q4_k", "q2_k"):
        model = PlannedModel(name, config, type_sizes(config, type))
        for machine in (
            "ddr5-2ch+128GB",
            "epyc-12ch+768GB",
            "threadripper-4ch+1TB",
            "l4+xeon-12ch+512GB",
            "t4x4+ddr4-2ch+1TB",
        ):
            for speed in make_plan(model, machine_of(machine), Workload(context, 3)).speeds:
                if speed.today.estimate is not None:
                    assert speed.today.estimate.tokens_s <= speed.limit.tokens_s * 1.0001


def test_herd_today_counts_the_answers_that_its_cache_holds() -> None:
    plan = planned(SCOUT, "q4_k", "epyc-12ch+256GB", context=32768, users=8)
    late = plan.speeds[-1]
    assert late.users == 8
    assert late.today.estimate is not None
    assert late.today.estimate.tokens == answers_together(SCOUT, plan.want, 32768) == 1
    assert answers_together(GUARD, plan.want, 32768) == 8
