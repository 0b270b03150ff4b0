"""The schedule over integers: fairness, priorities, deadlines, bounds, preemption, places."""

import pytest

from herd.cache import Pager
from herd.cache.manager import KVCacheManager
from herd.cache.prefixes import PrefixTree
from herd.engine.scheduler import Scheduler, Sequence, StepPlan
from herd.errors import Busy, DoesNotFit, TimedOut


def scheduler(pages: int = 1000, **options: int) -> Scheduler[Sequence]:
    pager = Pager(None, 4, pages)
    return Scheduler(KVCacheManager(pager, PrefixTree(pager)), **{"budget": 32, "places": 4, **options})


def sequence(number: int, length: int = 3, **fields: object) -> Sequence:
    ids = [(number * 31 + t) % 97 for t in range(length)]
    return Sequence(number, ids, ids, **fields)  # type: ignore[arg-type]


def step(s: Scheduler[Sequence], now: float = 0.0, beside: int | None = None) -> StepPlan[Sequence]:
    """One step, its pass, and a token for each sequence that reached its end."""
    plan = s.schedule(now, beside)
    if plan.work:
        pager = s.cache.pager  # type: ignore[attr-defined]
        pager.step([(x.lease, n) for x, n in plan.work])
        pager.take_copies()
        for x, _ in plan.work:
            pager.commit(x.lease)
            if x.todo == 0:
                x.ids.append(number_of(x))
    s.cache.check()  # type: ignore[attr-defined]
    return plan


def number_of(x: Sequence) -> int:
    return (x.number + len(x.ids)) % 97


def test_decodes_go_on_beside_a_huge_prompt() -> None:
    s = scheduler(places=4)
    talk = [sequence(n) for n in range(3)]
    for x in talk:
        s.add(x)
    step(s)
    s.add(sequence(9, 2000))
    for _ in range(20):
        plan = step(s, beside=8)
        rows = {x.number: n for x, n in plan.work}
        assert all(rows[x.number] == 1 for x in talk), "every step has a row for each of them"
        assert rows[9] == 8


def test_a_client_with_many_requests_gets_its_share_only() -> None:
    s = scheduler(places=4, most_waiting=40_000, turn=16)
    for n in range(10_000):
        s.add(sequence(n, 8, client="greedy"))
    for _ in range(5):
        step(s)
    small = [sequence(20_000 + n, 8, client="small") for n in range(2)]
    for x in small:
        s.add(x)
    rows = {"greedy": 0, "small": 0}
    for _ in range(400):
        for x, n in step(s).work:
            rows[x.client] += n
    assert all(x.lease is not None or x.ran for x in small), "both were served"
    assert 0.8 < rows["small"] / rows["greedy"] < 1.25


def test_clients_share_prompt_rows_evenly() -> None:
    s = scheduler(2000, places=4, budget=16)
    for n, client in enumerate("aab"):
        s.add(sequence(n, 1500, client=client))
    rows = {"a": 0, "b": 0}
    for _ in range(100):
        for x, n in step(s).work:
            rows[x.client] += n
    assert abs(rows["a"] - rows["b"]) <= 16


def test_priorities_go_first_and_patience_counts() -> None:
    s = scheduler(places=1, patience=50)
    s.add(sequence(0, 4))
    step(s)
    s.add(sequence(1, 4, priority=1))
    plan = step(s)
    assert [x.number for x in plan.preempted] == [0]
    assert [x.number for x in s.running] == [1]
    # who has waited twice the patience goes before a newer one of priority 1
    for _ in range(101):
        step(s)
    s.add(sequence(2, 4, priority=1))
    s.remove(s.running[0])
    step(s)
    assert [x.number for x in s.running] == [0]


@pytest.mark.parametrize("priority", [1, 2])
@pytest.mark.parametrize("client", ["", "c"])
def test_a_dense_stream_of_urgent_ones_holds_up_for_the_patience_of_each_priority(priority: int, client: str) -> None:
    s = scheduler(places=1, patience=50)
    s.add(sequence(0, 4))
    for n in range(1, 500):
        s.add(sequence(n, 3, client=client, priority=priority))
        step(s)
        if s.running[0].number == 0:
            break
        s.remove(s.running[0])
    assert 50 * priority <= s.tick <= 50 * priority + 1


def test_deadlines_end_who_waits_and_who_runs() -> None:
    s = scheduler(places=1)
    s.add(sequence(0, deadline=5.0))
    s.add(sequence(1, deadline=3.0))
    s.add(sequence(2))
    step(s, 1.0)
    assert [x.number for x, _ in step(s, 3.0).ended] == [1]
    ended = step(s, 6.0).ended
    assert [(x.number, type(e)) for x, e in ended] == [(0, TimedOut)]
    assert [x.number for x in s.running] == [2]


def test_the_queue_is_bounded_and_always_has_a_place_for_another_client() -> None:
    s = scheduler(places=1, most_waiting=16)
    for n in range(8):
        s.add(sequence(n, client="greedy"))
    with pytest.raises(Busy, match="the queue is full: 8 requests wait; try again in a moment"):
        s.add(sequence(8, client="greedy"))
    for n in range(4):
        s.add(sequence(200 + n, client="other"))
    with pytest.raises(Busy):
        s.add(sequence(300, client="other"))


def test_when_pages_run_out_the_newest_gives_way_and_comes_back() -> None:
    s = scheduler(pages=12, places=3, headroom=0)
    for n in range(3):
        s.add(sequence(n, 8))
    preempted: list[int] = []
    for _ in range(30):
        plan = step(s)
        preempted += [x.number for x in plan.preempted]
        assert not plan.ended
        assert s.running[0].number == 0, "the first in rank always goes on"
    assert preempted[0] == 2
    s.remove(s.running[0])
    for _ in range(3):
        step(s)
    assert {x.number for x in s.running} == {1, 2}


def test_only_who_does_not_fit_alone_is_refused() -> None:
    s = scheduler(pages=4, places=2)
    s.add(sequence(0, 40))
    s.add(sequence(1, 4))
    plan = step(s)
    assert [(x.number, type(e)) for x, e in plan.ended] == [(0, DoesNotFit)]
    for _ in range(12):
        assert not step(s).ended
    ended = [e for _ in range(3) for e in step(s).ended]
    assert [x.number for x, _ in ended] == [1], "17 positions need a fifth page"
    assert s.cache.free() == s.cache.total()  # type: ignore[attr-defined]


def test_removing_frees_pages_at_once() -> None:
    s = scheduler(pages=8, places=2)
    x = sequence(0, 20)
    s.add(x)
    step(s)
    s.remove(x)
    assert s.cache.free() == s.cache.total()  # type: ignore[attr-defined]
    assert not s.busy


def test_two_that_do_not_fit_beside_each_other_come_to_an_end_beside_a_stream_of_urgent_ones() -> None:
    """Each pushes out what the other has computed, whenever somebody urgent comes between them."""
    s = scheduler(pages=16, places=4, budget=8, turn=8, patience=50)
    big = [sequence(n, 50, client=client) for n, client in enumerate("ab")]
    for x in big:
        s.add(x)
    little: list[Sequence] = []
    for n in range(400):
        if n % 4 == 0:
            little.append(sequence(100 + n, 3, client="c", priority=1))
            s.add(little[-1])
        step(s)
        for x in [x for x in (*little, *big) if x.lease is not None and len(x.ids) > (5 if x.priority else 52)]:
            s.remove(x)
            (little if x.priority else big).remove(x)
        if not big:
            return
    raise AssertionError([(x.number, x.ran, x.reached) for x in big])


def test_waiting_is_not_forgotten_when_a_place_is_lost() -> None:
    s = scheduler(places=1, patience=20)
    old = sequence(0, 40)
    s.add(old)
    for n in range(1, 30):
        if old.lease is None and len(s.running) == 1:
            s.remove(s.running[0])
        urgent = sequence(n, 3, priority=1)
        s.add(urgent)
        step(s)
        step(s)
        if old.lease is None:
            s.remove(urgent)
            step(s)
    assert old.level == 1
    assert old.lease is not None, "as urgent as those who come, and older"


# -- requests under way that begin alike -------------------------------------------------------------------------------


def alike(number: int, begins: int, length: int = 60, **fields: object) -> Sequence:
    ids = [*range(begins), *(500 + number * 61 + t for t in range(length - begins))]
    return Sequence(number, ids, ids, **fields)  # type: ignore[arg-type]


def computed(s: Scheduler[Sequence], steps: int = 20) -> dict[int, int]:
    """Rows of each until its prompt is read."""
    rows: dict[int, int] = {}
    for _ in range(steps):
        for x, n in step(s).work:
            rows[x.number] = rows.get(x.number, 0) + n
            if x.lease is not None and x.todo == 1:
                s.cache.insert(x.lease, x.keys, x.salt, over=True)
                s.remove(x)
    return rows


def test_what_several_begin_with_is_computed_by_one_of_them() -> None:
    s = scheduler(budget=16, places=8)
    for n in range(5):
        s.add(alike(n, 48))
    assert computed(s) == {0: 60, 1: 12, 2: 12, 3: 12, 4: 12}


def test_who_begins_like_one_that_decodes_takes_its_pages_at_once() -> None:
    s = scheduler(budget=64)
    first = alike(0, 50)
    s.add(first)
    step(s)
    s.add(alike(1, 50))
    plan = step(s)
    assert {x.number: n for x, n in plan.work} == {0: 1, 1: 10}
    assert plan.admitted[0].cached == 50, "of them 48 were in whole pages"


@pytest.mark.parametrize("priority", [0, 1])
def test_who_begins_with_the_answer_of_one_that_decodes_waits_for_none_of_it(priority: int) -> None:
    """A token at a time it would be later than whoever computes them at once, and an urgent one later than others."""
    s = scheduler(budget=64)
    talk = sequence(0, 40)
    s.add(talk)
    for _ in range(40):
        step(s)
    said = [*talk.ids]
    while len(said) < 300:
        said.append(number_of(Sequence(0, said, said)))
    asks = Sequence(1, said, said, priority=priority)
    s.add(asks)
    while asks.ran < 1 or asks.todo > 1:
        assert {x.number for x, _ in step(s).work} == {0, 1}, "each step has rows of both"
    assert asks.cached == 79, "and all that was there is taken"
    assert talk.ids == said[: len(talk.ids)]


def test_a_chain_of_beginnings_is_computed_once() -> None:
    s = scheduler(budget=200, places=8)
    for n, begins in enumerate((20, 40, 60, 80)):
        s.add(alike(n, begins, 100))
    # what stands before the place where each parts from the next
    assert computed(s) == {0: 100, 1: 80, 2: 60, 3: 40}


class Counted(int):
    """A key that counts how often one is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return int.__eq__(self, other) is True

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = int.__hash__


@pytest.mark.parametrize("places", [8, 16])
def test_many_that_begin_alike_are_not_each_compared_with_each(places: int) -> None:
    s = scheduler(4000, budget=1024, places=places)
    Counted.compared = 0
    for n in range(places):
        ids = alike(n, 640, 650).ids
        s.add(Sequence(n, ids, [Counted(i) for i in ids]))
    rows = computed(s, 40)
    assert rows == {0: 650} | dict.fromkeys(range(1, places), 10)
    assert Counted.compared < 2.5 * 640 * places


@pytest.mark.parametrize("why", ["salt", "traced", "short"])
def test_who_may_not_share_does_not_wait(why: str) -> None:
    s = scheduler(budget=200, places=8)
    more: dict[str, object] = {"salt": {"salt": b"x"}, "traced": {"shares": False}, "short": {}}[why]  # type: ignore[assignment]
    begins = 15 if why == "short" else 40
    s.add(alike(0, begins))
    s.add(alike(1, begins, **more))
    assert {x.number: n for x, n in step(s).work} == {0: 60, 1: 60}


def test_when_the_one_that_is_waited_for_goes_the_next_goes_on() -> None:
    s = scheduler(budget=16, places=8)
    for n in range(4):
        s.add(alike(n, 48))
    step(s)
    s.remove(s.running[0])  # 16 positions of it are gone with it
    assert computed(s) == {1: 60, 2: 12, 3: 12}


def test_nobody_waits_for_ever_for_others_that_end_before_their_time() -> None:
    s = scheduler(budget=200, places=8)
    for n in range(7):
        s.add(alike(n, 48 + n, 100))
    for _ in range(4):
        (_,) = step(s).work  # the others wait
        s.remove(s.running[0])
    assert len(step(s).work) > 1 and all(x.ran for x in s.running[:2])


def test_who_waits_loses_to_nobody_that_is_less_urgent() -> None:
    s = scheduler(budget=16, places=8)
    s.add(alike(0, 48))
    s.add(alike(1, 48, priority=1))
    assert {x.number: n for x, n in step(s).work} == {1: 16}, "the urgent one is first, the other waits for it"
