"""What a machine of one's own costs beside hosts: sums by hand, answers to real questions, and that it is never."""

import datetime
import json
from dataclasses import replace
from math import floor, inf, nan
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from herd.cli import main
from herd.config import GUARD, MAVERICK, SCOUT, TINY, Llama4Config
from herd.errors import UsageError
from herd.planning.cost import Cost, Own, make_cost, names_of
from herd.planning.cost_explain import explain_cost
from herd.planning.cost_picture import svg_cost
from herd.planning.cost_words import dollars, host_rows, own_rows, verdict
from herd.planning.library_cost import HostedLibrary, LibraryCost, OwnLibrary
from herd.planning.machines import machine_of
from herd.planning.owning import MONTH_S, Owner, Terms, owner_of
from herd.planning.paces import LIMIT, TODAY, Call, LibraryPace, Pace, library_paces, paces
from herd.planning.plan import Plan, PlannedModel, Workload, make_plan, most_users
from herd.planning.prices import Price, Prices, listed
from herd.planning.sizes import type_sizes
from herd.planning.speed import Estimate, Term, attention_ops, row_ops

M = 1_000_000
DAY = datetime.date(2026, 11, 30)
USUAL = Call(1000, 300, 100_000)


def planned(config: Llama4Config, type: str, machine: str, *, context: int = 8192, kv: str = "bf16") -> Plan:
    model = PlannedModel("a model", config, type_sizes(config, type))
    return make_plan(model, machine_of(machine), Workload(context, kv=kv), types=False)


def cost(plan: Plan, call: Call = USUAL, library: int | None = None, **terms: float) -> Cost:
    return make_cost(plan, call, Terms(**terms), listed(), DAY, library_tokens=library)


def asked(questions: int, **terms: float) -> LibraryCost:
    """So many questions of 1,000 + 300 tokens to a library of a million tokens, on an H200."""
    found = cost(planned(SCOUT, "q4_k", "h200"), Call(1000, 300, questions), M, **terms).library
    assert found is not None
    return found


def price(dollars_in: float, dollars_out: float, cached: float | None = None, model: str = "scout") -> Price:
    return Price(host="h", model=model, dollars_in=dollars_in, dollars_out=dollars_out, dollars_cached=cached,
                 source="s", date="2026-11")  # fmt: skip


def takes(seconds: float) -> Estimate:
    return Estimate(1, (Term("x", seconds, "", 1.0),))


def pace(read_s: float, token_s: float) -> Pace:
    return Pace(LIMIT, 1, 1, takes(read_s), takes(token_s))


def library_pace(read_s: float, ask_s: float, token_s: float, tokens: int = M) -> LibraryPace:
    return LibraryPace(LIMIT, tokens, takes(read_s), takes(ask_s), takes(token_s), 0.0, 0, 0.0)


# -- sums by hand ------------------------------------------------------------------------------------------------------


def test_a_library_asked_100_times_costs_8_to_18_dollars_at_hosts_of_scout() -> None:
    """100 x 1M tokens at 0.08 to 0.18 dollars a million, and a little for questions and answers."""
    found = {row.price.host: row for row in asked(100).hosted if row.same}
    assert found["gmi"].plain_dollars == pytest.approx(8 + 100 * (1000 * 0.08 + 300 * 0.50) / M)
    assert found["novita"].plain_dollars == pytest.approx(18 + 100 * (1000 * 0.18 + 300 * 0.59) / M)
    assert found["novita"].why_not == "takes 131,000 tokens at most"
    assert found["bedrock"].why_not == ""


def test_a_library_at_a_proprietary_host_with_and_without_its_cache() -> None:
    """2.50 dollars a million: 250 dollars; at a tenth of that for what was read before, about 25."""
    gpt = next(row for row in asked(100).hosted if row.price.model == "gpt-5.4")
    assert gpt.plain_dollars == pytest.approx(250, rel=0.01)
    assert (gpt.cached_dollars, gpt.same) == (None, False)  # the table has no such price
    cached = HostedLibrary(price(2.5, 15, 0.25), Call(1, 1, 100), M, False, "")
    assert cached.cached_dollars == pytest.approx(2.5 + 99 * 0.25, rel=1e-3)
    assert cached.plain_dollars == pytest.approx(250, rel=1e-3)


def test_a_rented_card_for_a_library() -> None:
    """2.50 dollars an hour: 432 s of reading are 0.30, 100 questions of 10 s are 0.69: a dollar together."""
    own = OwnLibrary(Owner(None, None, hour_dollars=2.5), library_pace(432, 1, 0.03), Call(1000, 300, 100))
    assert own.read_dollars == pytest.approx(0.30)
    assert own.dollars == pytest.approx(0.30 + 100 * 10 / 3600 * 2.5)
    host = HostedLibrary(price(0.10, 0.30), own.call, M, True, "")
    assert own.cheaper_from(host) == 4  # 0.30 + 4 x 0.0069 < 4 x 0.1002; with 3 it is 0.32 beside 0.30
    assert own.cheaper_from(HostedLibrary(price(0.001, 0.001), own.call, M, True, "")) is None


def test_a_machine_that_is_bought_costs_price_and_power() -> None:
    """3,650 dollars over 5 years are 60.83 a month; 100 W idle of 1,000 W at 0.10 dollars: 730 h x 0.01."""
    owner = Owner(3650, 1000, tariff=0.10, years=5, idle=0.1)
    assert owner.price_month == pytest.approx(60.8333, rel=1e-4)
    assert owner.idle_month == pytest.approx(7.30)
    own = Own(owner, pace(0.5, 0.01), Call(1000, 50, 2628))  # 1 s a call, so 2,628 s, a thousandth of a month
    assert own.busy == pytest.approx(0.001)
    assert own.month_dollars == pytest.approx(60.8333 + 7.30 + 0.73 * 0.10 * 0.9, rel=1e-5)
    assert own.most_calls == pytest.approx(MONTH_S)
    assert own.million_in == pytest.approx(500 * owner.full_s)
    assert own.million_out == pytest.approx(10_000 * owner.full_s)


def test_break_even_by_hand() -> None:
    """1,825 dollars of rent a month against 0.00019 a call: 9,605,264 calls, if the machine makes as many."""
    owner, row = Owner(None, None, hour_dollars=2.5), price(0.10, 0.30)
    fast = Own(owner, pace(0.1, 0.0001), USUAL)  # 0.13 s a call: 20.2 million calls a month
    assert fast.cheaper_from(row.dollars(1000, 300)) == 9_605_264
    slow = Own(owner, pace(0.3, 0.0001), USUAL)  # 0.33 s a call: 8.0 million
    assert slow.cheaper_from(row.dollars(1000, 300)) is None


# -- questions that people ask -----------------------------------------------------------------------------------------


def test_100_000_calls_of_a_month_are_cheaper_at_a_host() -> None:
    """1,000 + 300 tokens: 17.70 dollars at a host; a rented H100 stands idle at 1,825, and pays from millions on."""
    found = cost(planned(SCOUT, "q4_k", "h100"), hour_dollars=2.5)
    own, host = found.own[0], found.cheapest
    assert host is not None
    assert (host.price.host, round(host.month_dollars, 2)) == ("nscale", 17.70)
    assert own.month_dollars == pytest.approx(1825)
    assert own.busy < 0.05
    start = host.cheaper_from[0]
    assert start is not None
    assert 9e6 < start < own.most_calls
    said = " ".join(verdict(found))
    assert "a host is cheaper at its limit: $1,825 a month beside nscale's $17.70" in said
    assert f"from {start:,} calls a month on own is" in said


def test_a_library_asked_100_times_is_cheaper_at_home() -> None:
    """A million tokens are read once, then each answer's token reads their keys again: 48 KiB a token of library."""
    found = asked(100, hour_dollars=3.5)
    own, host = found.own[0], found.cheapest
    assert host is not None
    assert own.dollars < 2 < 10 < host.plain_dollars
    start = host.cheaper_from[0]
    assert start is not None
    assert 1 <= start < 20
    half_a_chunk = 36 * 4096 * 8193 / 2  # what it reads in chunked layers
    assert own.pace.keys_bytes == 48 * 1024 * (M + 1) + half_a_chunk
    assert own.pace.disk_bytes / 1e9 == pytest.approx(50.4, abs=0.1)
    assert own.pace.step.seconds > own.pace.keys_bytes / 5e12
    assert any("is cheaper; from" in line for line in verdict(cost_of_library(100)))


def cost_of_library(questions: int) -> Cost:
    return cost(planned(SCOUT, "q4_k", "h200"), Call(1000, 300, questions), M, hour_dollars=3.5)


@pytest.mark.parametrize(("type", "how", "which"), [("q4_k", "at its limit", 0), ("q3_k", "with Herd today", 1)])
def test_one_card_with_memory_is_never_cheaper_for_short_calls(type: str, how: str, which: int) -> None:
    found = cost(planned(SCOUT, type, "rtx4090+64GB"), price_dollars=3000)
    host = found.cheapest
    assert host is not None
    assert host.cheaper_from[which] is None
    assert any(line.startswith(f"never on this machine {how}") for line in verdict(found))


def test_where_herd_has_no_figure_a_cost_has_none_either() -> None:
    """Four bits do not fit into the memory alone with the context that is planned for."""
    plan = planned(SCOUT, "q4_k", "rtx4090+64GB")
    assert not any(speed.today.estimate for speed in plan.speeds)
    assert [own.pace.name for own in cost(plan, price_dollars=3000).own] == [LIMIT]


def test_more_than_a_machine_can_make_is_never_made_on_it() -> None:
    found = cost(planned(SCOUT, "q4_k", "ddr5-2ch+64GB"), Call(1000, 300, 10_000_000), price_dollars=1500)
    assert [own.pace.name for own in found.own] == [LIMIT, TODAY]
    assert all(own.machines > 1 and own.busy > 1 for own in found.own)
    said = list(verdict(found))
    assert sum("are more than the" in line and line.startswith("never on this machine") for line in said) == 2


@pytest.mark.parametrize("type", ["q3_k", "q4_k"])
@pytest.mark.parametrize(
    "machine", ["rtx4090x4+256GB", "rtx4090x2+64GB", "rtx3090+128GB", "h100", "epyc-12ch+256GB", "m3ultra+512GB"]
)
def test_no_number_of_answers_at_once_is_much_cheaper_than_that_of_a_plan(machine: str, type: str) -> None:
    """Beside cards more answers can be dearer: their caches leave experts no room there."""
    plan = planned(SCOUT, type, machine)
    best = paces(plan, USUAL)[0].call_s(USUAL)
    fitting = most_users(plan.model, plan.machine, replace(plan.want, context=USUAL.tokens))
    for number in (n for n in (1, 3, 5, 9, 23, 50, 70, 100, 130, 170, 190, 220, 256) if n <= fitting):
        assert best <= paces(plan, USUAL, number)[0].call_s(USUAL) * 1.05


def test_prompts_that_are_read_together_do_not_see_each_other() -> None:
    pace = next(iter(paces(planned(SCOUT, "bf16", "h100x8"), USUAL)))
    assert pace.prompts == 8
    (ops,) = (term.amount for term in pace.read.terms if term.unit == "op")
    assert ops == pytest.approx(8 * (sum(row_ops(SCOUT, heads=False)) * 1000 + attention_ops(SCOUT, 1000, 0)))


def test_a_host_whose_cache_is_cheaper_is_dearer_for_a_few_questions_alone() -> None:
    own = OwnLibrary(Owner(None, None, hour_dollars=100), library_pace(10, 1, 0.01), Call(1000, 300, 2))
    host = HostedLibrary(price(5, 0.1, 0.001), own.call, M, True, "")
    end = own.cheaper_to(host)
    assert own.cheaper_from(host) is None
    assert end is not None and end > 2
    found = cost_of_library(2)
    assert found.library is not None
    hosted = replace(host, cheaper_from=(None,), cheaper_to=(end,))
    told = replace(found, library=replace(found.library, own=(own,), hosted=(hosted,)))
    assert any(line.endswith(f"own is cheaper; up to {end} questions own is") for line in verdict(told))
    assert [row[-2] for row in host_rows(told)] == [f"up to {end}"]


def test_herd_today_is_never_cheaper_than_the_limit() -> None:
    for call in (USUAL, Call(100, 1000, 10)):
        limit, today = paces(planned(SCOUT, "q3_k", "epyc-12ch+256GB"), call)
        assert today.call_s(call) > limit.call_s(call)
    limit_, today_ = library_paces(planned(SCOUT, "q3_k", "epyc-12ch+256GB"), USUAL, M)
    assert (limit_.name, today_.name) == (LIMIT, TODAY)
    assert today_.read.seconds > limit_.read.seconds
    assert today_.question_s(USUAL) > limit_.question_s(USUAL)


# -- hosts -------------------------------------------------------------------------------------------------------------


def test_hosts_that_ended_a_model_are_shown_and_left_out() -> None:
    rows = {(h.price.host, h.price.model): h for h in cost(planned(MAVERICK, "q4_k", "h100x4"), hour_dollars=10).hosted}
    ended = rows["azure", "maverick"]
    assert ended.why_not == "ended 2026-11-19"
    assert rows["bedrock", "maverick"].why_not == ""
    shown = {row[0]: row for row in host_rows(cost(planned(MAVERICK, "q4_k", "h100x4"), hour_dollars=10))}
    assert shown["azure"][-2:] == ("-", "ended 2026-11-19")
    assert shown["bedrock"][-1] == "ends 2027-03-30"
    assert shown["bedrock"][5] == dollars(rows["bedrock", "maverick"].month_dollars / 2)
    assert ended.price.why_not(1300, datetime.date(2026, 11, 18)) == ""


def test_the_same_model_is_known_by_its_shape() -> None:
    for name, config in (("scout", SCOUT), ("maverick", MAVERICK), ("guard", GUARD)):
        assert names_of(PlannedModel("mine", config, type_sizes(config, "q8_0"))) == {name}
    assert names_of(PlannedModel("scout", TINY, type_sizes(TINY, "q8_0"))) == set()
    assert names_of(PlannedModel("Llama3.1:8b", TINY, type_sizes(TINY, "q8_0"))) == {"llama3.1:8b"}


def test_no_host_of_a_model_is_told() -> None:
    found = cost(planned(TINY, "q8_0", "rtx4090", context=1300), hour_dollars=1, library=None)
    assert found.cheapest is None
    assert found.hosted
    assert not any(row.same for row in found.hosted)
    assert any("no host of the table has this model" in line for line in verdict(found))


def test_an_old_table_is_told() -> None:
    plan = planned(SCOUT, "q4_k", "h100")
    for day, told in ((DAY, False), (datetime.date(2027, 4, 30), False), (datetime.date(2027, 5, 1), True)):
        found = make_cost(plan, USUAL, Terms(hour_dollars=1), listed(), day)
        assert any("it is old" in line for line in verdict(found)) is told, day


# -- what is not known, and what is wrong ------------------------------------------------------------------------------


def test_without_a_price_or_watts_it_is_said_what_to_give() -> None:
    found = cost(planned(SCOUT, "q4_k", "h100"))
    assert (found.own, found.owner.missing) == ((), ("price",))
    assert any("--price DOLLARS, or --hour DOLLARS" in line for line in verdict(found))
    assert found.hosted[0].cheaper_from == ()
    here = replace(machine_of("ddr5-2ch+64GB"), watts=None)
    assert owner_of(here, Terms()).missing == ("price", "watts")
    assert owner_of(here, Terms(price_dollars=1, watts=1)).missing == ()
    assert owner_of(machine_of("rtx3090"), Terms()).parts == "price and watts"
    assert owner_of(machine_of("rtx3090"), Terms(price_dollars=2000, watts=500)).parts == ""


def test_where_it_does_not_run_nothing_of_ones_own_is_told() -> None:
    found = cost(planned(SCOUT, "bf16", "rtx3060"), hour_dollars=1)
    assert found.paces == found.own == ()
    assert any("does not run" in line for line in verdict(found))
    library = cost(planned(SCOUT, "q4_k", "h100"), library=M, hour_dollars=1).library
    assert library is not None
    assert library.paces == ()


@pytest.mark.parametrize(
    "terms",
    [
        {"price_dollars": -1.0}, {"price_dollars": nan}, {"price_dollars": inf}, {"watts": 1e9}, {"tariff": -0.1},
        {"years": 0.0}, {"years": 1000.0}, {"hour_dollars": -1.0}, {"utilisation": 0.0}, {"utilisation": 1.1},
        {"hour_dollars": 1.0, "price_dollars": 1.0}, {"hour_dollars": 1.0, "years": 2.0},
    ],
)  # fmt: skip
def test_terms_that_cannot_be(terms: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        owner_of(machine_of("h100"), Terms(**terms))


@pytest.mark.parametrize("call", [Call(0, 1, 1), Call(1, 0, 1), Call(10_485_760, 1, 1), Call(1, 1, 0), Call(1, 1, nan)])
def test_calls_that_cannot_be(call: Call) -> None:
    with pytest.raises(UsageError):
        paces(planned(SCOUT, "q4_k", "h100"), call)


def test_more_at_once_or_a_longer_library_than_fits_is_refused() -> None:
    plan = planned(SCOUT, "q4_k", "h100")
    with pytest.raises(UsageError, match="so many fit"):
        paces(plan, USUAL, 5000)
    for tokens in (0, 10_485_760):
        with pytest.raises(UsageError, match="library"):
            library_paces(plan, USUAL, tokens)


# -- what always holds -------------------------------------------------------------------------------------------------

money = st.floats(0.001, 1e5)
times = st.floats(1e-5, 100)


@settings(max_examples=100, deadline=None)
@given(money, st.floats(0, 2000), times, times, st.floats(0.01, 100), st.floats(0.01, 1))
def test_own_is_cheaper_from_break_even_on_and_not_before(
    price_: float, watts: float, read_s: float, token_s: float, in_: float, part: float
) -> None:
    row = price(in_, 3 * in_)
    own = Own(Owner(price_, watts, utilisation=part), pace(read_s, token_s), USUAL)

    def with_calls(calls: float) -> Own:
        return replace(own, call=replace(USUAL, month=calls))

    start = own.cheaper_from(row.dollars(1000, 300))
    assert with_calls(own.most_calls).machines == 1
    most = floor(own.most_calls)
    if start is None:
        assert most < 1 or with_calls(most).month_dollars >= most * row.dollars(1000, 300) * (1 - 1e-9)
        return
    assert start <= own.most_calls
    assert with_calls(start).month_dollars <= start * row.dollars(1000, 300) * (1 + 1e-9)
    if start > 1:
        before = start - 1
        assert with_calls(before).month_dollars >= before * row.dollars(1000, 300) * (1 - 1e-9)


@settings(max_examples=100, deadline=None)
@given(money, st.floats(0, 2000), times, times, st.floats(1, 1e9), st.floats(1.0, 10))
def test_more_costs_no_less(
    price_: float, watts: float, read_s: float, token_s: float, calls: float, more: float
) -> None:
    own = Own(Owner(price_, watts), pace(read_s, token_s), Call(1000, 300, calls))
    for other in (
        replace(own, call=replace(own.call, month=calls * more)),
        replace(own, owner=replace(own.owner, price_dollars=price_ * more)),
        replace(own, owner=replace(own.owner, watts=watts * more)),
        replace(own, pace=pace(read_s * more, token_s)),
        replace(own, owner=replace(own.owner, utilisation=1 / more)),
    ):
        assert other.month_dollars >= own.month_dollars * (1 - 1e-9)
        assert other.machines >= own.machines
    dearer = own.cheaper_from(1e-4 * more)
    cheaper = own.cheaper_from(1e-4)
    assert cheaper is None or (dearer is not None and dearer <= cheaper)


@settings(max_examples=100, deadline=None)
@given(times, times, st.floats(1e-5, 1), st.floats(0.001, 10), st.floats(0, 1), money)
def test_a_library_is_cheaper_at_home_from_break_even_on(
    read_s: float, ask_s: float, token_s: float, in_: float, cached: float, hour: float
) -> None:
    own = OwnLibrary(Owner(None, None, hour_dollars=hour), library_pace(read_s, ask_s, token_s), USUAL)

    def sums(questions: float) -> tuple[float, float]:
        call = replace(USUAL, month=questions)
        there = HostedLibrary(price(in_, in_, cached * in_), call, M, True, "").cached_dollars
        assert there is not None
        return replace(own, call=call).dollars, there

    host = HostedLibrary(price(in_, in_, cached * in_), USUAL, M, True, "")
    start, end = own.cheaper_from(host), own.cheaper_to(host)
    if end is not None:
        assert start is None
        for questions, less in ((end, True), (end + 1, False)):
            here, there = sums(questions)
            assert here <= there * (1 + 1e-9) if less else here >= there * (1 - 1e-9)
    if start is None and end is None:
        here, there = sums(1)
        assert here >= there * (1 - 1e-9)
    for questions in (1e12,) if start is None else (start, 2 * start, 1e3 * start):
        here, there = sums(questions)
        assert here >= there * (1 - 1e-9) if start is None else here <= there * (1 + 1e-9)
    if start is not None and start > 1:
        here, there = sums(start - 1)
        assert here >= there * (1 - 1e-9)


@pytest.mark.parametrize(
    ("amount", "told"),
    [(0, "$0.00"), (1.435e-5, "$0.000014"), (0.00099, "$0.00099"), (0.00997, "$0.01"), (0.5, "$0.50"), (1e3, "$1,000")],
)
def test_sums_are_written_as_people_write_them(amount: float, told: str) -> None:
    assert dollars(amount) == told


# -- shown -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", ["h100", "rtx4090+64GB", "epyc-12ch+256GB", "m3ultra+512GB"])
@pytest.mark.parametrize("library", [None, 100_000])
def test_every_form_is_printable_and_has_the_numbers(machine: str, library: int | None) -> None:
    found = cost(planned(SCOUT, "q4_k", machine), library=library, price_dollars=5000)
    told = [text for _, text in explain_cost(found)] + list(verdict(found))
    cells = [cell for row in (*own_rows(found), *host_rows(found)) for cell in row]
    assert all(text.isprintable() for text in [*told, *cells])
    for own in found.own:
        assert any(dollars(own.month_dollars) in text for text in told)
        assert dollars(own.million_now) in cells


@pytest.mark.parametrize("month", [1, 100_000, 1e12])
@pytest.mark.parametrize("machine", ["h100", "epyc-12ch+256GB", "rtx3060"])
def test_a_picture_of_cost_over_volume(machine: str, month: float) -> None:
    plan = planned(SCOUT, "q4_k", machine)
    named = replace(plan, model=replace(plan.model, name="<b>&"))
    free = Prices((price(0, 0), *listed().rows), Path("x"))
    text = svg_cost(make_cost(named, Call(1000, 300, month), Terms(price_dollars=0.0, watts=0.0), free, DAY))
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("svg")
    lines = [one for one in root if one.tag.endswith("polyline")]
    assert len(lines) >= 7
    for line in lines:
        for x, y in (point.split(",") for point in line.attrib["points"].split()):
            assert 0 <= float(x) <= 860
            assert 0 <= float(y) <= 500


WRONG = {
    "both": ("--calls", "5", "--daily", "5"), "library and calls": ("--library", "9", "--calls", "5"),
    "questions of nothing": ("--questions", "5"), "rent and price": ("--hour", "1", "--price", "1"),
    "not a number": ("--price", "nan"), "a library and a picture": ("--library", "9", "--svg-cost", "x.svg"),
    "too long": ("--in", "10M", "--out", "1M"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "scout", "--machine", "h100", *WRONG[case]]) == 2
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.count("\n") == 1
    assert out.err.startswith("herd: ")


def test_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERD_HOME", str(tmp_path))
    base = ["plan", "scout:q4_k", "--machine", "h100", "--hour", "2.5"]
    assert main([*base, "--daily", "1m", "--explain", "--svg-cost", str(tmp_path / "cost.svg")]) == 0
    text = capsys.readouterr().out
    for words in ("COST", "THE LIMIT", "nscale", "a host is cheaper", "$2.50 x 730 hours = $1,825", "source: "):
        assert words in text
    assert ElementTree.parse(tmp_path / "cost.svg").getroot().tag.endswith("svg")
    assert main([*base, "--daily", "1m", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["cost"]
    assert told["calls_month"] == pytest.approx(1e6 * 365 / 12 / 1300)
    assert told["own"][0]["month_dollars"] == pytest.approx(1825)
    assert main(["plan", "scout:q4_k", "--machine", "h200", "--library", "1m", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["cost"]
    assert (told["questions"], told["own"][0]["dollars"]) == (100, None)


def test_a_persons_own_prices_replace_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERD_HOME", str(tmp_path))
    row = '[[price]]\nhost = "mine"\nmodel = "scout"\ndollars_in = 9\ndollars_out = 9\nsource = "s"\ndate = "2026"\n'
    for path, flags in (
        (tmp_path / "other.toml", ["--prices", str(tmp_path / "other.toml")]),
        (tmp_path / "prices.toml", []),
    ):
        path.write_text(row)
        assert main(["plan", "scout", "--machine", "h100", "--calls", "9", "--json", *flags]) == 0
        told = json.loads(capsys.readouterr().out)["cost"]
        assert [host["host"] for host in told["hosts"]] == ["mine"]
        assert told["prices"]["old_days"] > 180
        path.write_text("[[price]]\nhost = 1\n")
        assert main(["plan", "scout", "--machine", "h100", "--calls", "9", *flags]) != 0
        assert capsys.readouterr().err.count("\n") == 1
        path.unlink()
