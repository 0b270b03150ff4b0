"""Numbers of given ids as requests, against a table of bigrams: a FakeModel whose next token depends on the last one
alone. What they share, count and cost; that neither cuts nor a lost place change a bit."""

import itertools
import math
from typing import Any

import numpy as np
import pytest

from herd.engine.core import Core
from herd.engine.engine import Engine
from herd.engine.fake import FakeModel
from herd.engine.messages import EndedEvent, MeasuredEvent, StartedEvent, TokenEvent
from herd.engine.request import Request, SamplingOptions, TokenScore, Want
from herd.engine.score import BLOCK, State, measure_of, nll_of, windows
from herd.errors import BadCheckpoint, UsageError

V = 12
TABLE = np.random.default_rng(3).normal(size=(V, V)).astype(np.float32)
LOGP = TABLE - np.log(np.exp(TABLE.astype(np.float64)).sum(1, keepdims=True))
IDS = np.random.default_rng(4).integers(0, V, 57).tolist()


def model(context: int = 64, **options: Any) -> FakeModel:
    return FakeModel(lambda ids: TABLE[ids[-1]].tolist(), vocab_size=V, context=context, **options)


def order(number: int, ids: list[int], what: Any = "tokens", **fields: Any) -> Request:
    want = {name: fields.pop(name) for name in ("start", "top", "keep", "others") if name in fields}
    options = SamplingOptions(max_tokens=fields.pop("max_tokens", 4))
    return Request(number=number, ids=ids, options=options, want=Want(what=what, **want), **fields)


def run(core: Core, *orders: Request) -> dict[int, list[Any]]:
    """Events of each order, by number, until nothing is left to do."""
    heard: dict[int, list[Any]] = {one.number: [] for one in orders}
    for one in orders:
        core.add(one)
    while core.busy:
        for event in core.step():
            heard[event.number].append(event)
    core.runner.cache.check()
    return heard


def scores(events: list[Any]) -> list[TokenScore]:
    return [score for event in events if isinstance(event, MeasuredEvent) for score in event.scores]


def rows(events: list[Any]) -> Any:
    return np.concatenate([e.rows_RX for e in events if isinstance(e, MeasuredEvent) and e.rows_RX is not None])


# -- what they are -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [1, 5, 512])
@pytest.mark.parametrize("start", [1, 20, 56])
def test_logprobs_are_of_each_id_after_those_before_it(budget: int, start: int) -> None:
    events = run(Core(model(), budget=budget, places=1), order(1, IDS, "logprobs", start=start, top=2))[1]
    assert isinstance(events[0], StartedEvent)
    assert [e.reason for e in events if isinstance(e, MeasuredEvent)][-1] == "stop"
    found = scores(events)
    pairs = list(itertools.pairwise(IDS))[start - 1 :]
    assert [x.token_id for x in found] == IDS[start:]
    np.testing.assert_allclose([x.logprob for x in found], [LOGP[a, b] for a, b in pairs], rtol=1e-6)
    assert [x.is_greedy for x in found] == [int(np.argmax(TABLE[a])) == b for a, b in pairs]
    for x, (a, _) in zip(found, pairs, strict=True):
        assert [i for i, _ in x.top] == np.argsort(-TABLE[a])[:2].tolist()
        np.testing.assert_allclose([p for _, p in x.top], -np.sort(-LOGP[a])[:2], rtol=1e-6)


@pytest.mark.parametrize("budget", [1, 5, 512])
def test_logits_are_every_row(budget: int) -> None:
    events = run(Core(model(), budget=budget, places=1), order(1, IDS, "logits"))[1]
    np.testing.assert_array_equal(rows(events), TABLE[IDS])


def test_what_no_answer_holds_is_not_what_a_greedy_one_would_say() -> None:
    likeliest = int(np.argmax(TABLE[1]))
    second = int(np.argsort(-TABLE[1])[1])
    for barred in (False, True):
        core = Core(model(patch_id=likeliest if barred else None), budget=8)
        (found,) = scores(run(core, order(1, [1, second], "logprobs"))[1])
        assert found.is_greedy == barred


def test_a_mean_is_of_rows_of_equal_weight_added_by_position_however_they_come() -> None:
    x_TD = np.random.default_rng(5).normal(size=(2 * BLOCK + 100, 24)).astype(np.float32)

    def by_definition() -> Any:
        total = None
        for start in range(0, len(x_TD), BLOCK):
            part = x_TD[start : start + BLOCK].astype(np.float64)
            part /= np.sqrt((part**2).mean(axis=1, keepdims=True)) + 1e-12
            total = part.sum(axis=0) if total is None else total + part.sum(axis=0)
        assert total is not None
        return (total / np.linalg.norm(total)).astype(np.float32)

    rng = np.random.default_rng(6)
    for most in (1, 7, 300, len(x_TD)):
        state, at = State(), 0
        while at < len(x_TD):
            start = max(0, at - int(rng.integers(0, 20)))  # some rows come again
            end = min(len(x_TD), at + int(rng.integers(1, most + 1)))
            state.take(start, x_TD[start:end])
            at = end
        _, found = state.give(last=True)
        assert found is not None
        assert found[0].tobytes() == by_definition().tobytes(), most


# -- several continuations of one text ---------------------------------------------------------------------------------

OTHERS = ((3, 1), (3,), (5, 6, 7, 8), (5, 6, 7, 8, 9, 1), (5, 6, 0), (5,), tuple(IDS[:12]), tuple(IDS[:12]))
"""Alike for a while, a beginning of the one before or after it, long, and the same twice."""


def last_two(ids: list[int]) -> Any:
    """Logits that depend on where an id stands and on two ids, so that a row out of place shows."""
    return (TABLE[ids[-1]] + TABLE[ids[max(0, len(ids) - 2)]][::-1] + TABLE[len(ids) % V]).tolist()


def of_all(start: int, others: tuple[tuple[int, ...], ...], core: Core, **more: Any) -> list[TokenScore]:
    ids = IDS[: start + 2]
    return scores(run(core, order(1, ids, "logprobs", start=start, top=2, others=others, **more))[1])


@pytest.mark.parametrize("start", [1, 6, 15, 16, 17, 31])
@pytest.mark.parametrize(
    "shape", [(None, 1, None), (16, 1, None), (16, 4, None), (8, 8, None), (16, 4, 40), (None, 8, 9)]
)
@pytest.mark.parametrize("budget", [2, 64])
def test_continuations_together_are_those_alone(shape: tuple[Any, int, Any], start: int, budget: int) -> None:
    chunk, page_size, exact = shape

    def core() -> Core:
        pages = {"page_size": page_size, "num_exact_pages": exact}
        return Core(FakeModel(last_two, vocab_size=V, context=128, chunk=chunk, **pages), budget=budget, places=2)

    alone = []
    for other in (tuple(IDS[start : start + 2]), *OTHERS):
        text = [*IDS[:start], *other]
        alone += scores(run(core(), order(1, text, "logprobs", start=start, top=2))[1])
    for keep in (True, False):
        assert of_all(start, OTHERS, core(), keep=keep) == alone


def test_what_continuations_begin_with_is_computed_once() -> None:
    m = model(chunk=None, page_size=4)
    found = of_all(20, ((5, 6, 7, 1), (5, 6, 7, 2), (5, 6, 8, 3), (9,)), Core(m, budget=64))
    assert len(found) == 2 + 13
    # the text and its first continuation, without the last id; then 5, 6, 7; nothing for the next; 8; nothing
    assert [len(ids) for p in m.passes for ids in p] == [21, 3, 1]


def test_a_continuation_that_breaks_ends_its_text_and_no_other() -> None:
    for bad in ("raise", "nan"):
        core = Core(model(bad={11: bad}), budget=64)  # type: ignore[dict-item]
        clean = [i for i in IDS if i != 11]
        broken = order(1, clean[:9], "logprobs", start=7, others=((1, 2), (11, 1), (3, 4)))
        heard = run(core, broken, order(2, clean, "logprobs", start=7))
        end = heard[1][-1]
        assert isinstance(end, EndedEvent)
        assert type(end.error).__name__ == {"raise": "PassFailed", "nan": "BadCheckpoint"}[bad]
        assert len(scores(heard[2])) == len(clean) - 7
        assert len(scores(heard[1])) >= 4, "what came before it was told"


def test_continuations_that_are_ended_give_their_pages_back() -> None:
    core = Core(model(chunk=None), budget=64)
    core.add(order(1, IDS, "logprobs", start=20, others=((1, 2, 3), (4, 5, 6))))
    core.step()
    core.step()
    core.cancel(1)
    core.step()
    assert not core.busy
    core.runner.cache.clear()
    assert core.runner.cache.free() == core.runner.cache.total()


@pytest.mark.parametrize("steps", range(1, 9))
def test_new_weights_between_continuations_are_those_of_the_rest(steps: int) -> None:
    other = np.random.default_rng(9).normal(size=(V, V)).astype(np.float32)
    m = model(chunk=None)
    core = Core(m, budget=4, places=2)
    core.add(order(1, IDS[:12], "logprobs", start=8, others=((1, 2, 3), (1, 2, 9, 4), (5, 6, 7))))
    told = [e for _ in range(steps) for e in core.step()]
    before = len(scores(told))
    core.update_weights(m.ready_weights(lambda ids: other[ids[-1]].tolist()))
    while core.busy:
        told += core.step()
    texts = [IDS[8:12], [1, 2, 3], [1, 2, 9, 4], [5, 6, 7]]
    pairs = [(([IDS[7], *text])[i], text[i]) for text in texts for i in range(len(text))]
    assert [x.token_id for x in scores(told)] == [b for _, b in pairs]
    for at, (x, (a, b)) in enumerate(zip(scores(told), pairs, strict=True)):
        row = (TABLE if at < before else other)[a].astype(np.float64)
        assert x.logprob == pytest.approx(row[b] - np.log(np.exp(row).sum()), rel=1e-6)


# -- what they share and leave -----------------------------------------------------------------------------------------


def cached(events: list[Any]) -> int:
    return next(e.cached for e in events if isinstance(e, StartedEvent))


def test_a_prefix_is_taken_up_to_the_first_wanted_row_and_left_to_others() -> None:
    core = Core(model(context=256, chunk=None), budget=16)
    assert cached(run(core, order(1, IDS))[1]) == 0
    found = run(core, order(2, IDS, "logprobs", start=30))[2]
    assert cached(found) == 29, "row 29 says how likely the id in place 30 is"
    whole = run(Core(model(chunk=None), budget=16), order(2, IDS, "logprobs", start=30))[2]
    assert scores(found) == scores(whole)
    for n, what in enumerate(("state", "logits")):
        assert cached(run(core, order(3 + n, IDS, what))[3 + n]) == 0
    other = [*IDS[:40], (IDS[40] + 1) % V, 4, 5]
    assert cached(run(core, order(6, other, "logprobs", start=42))[6]) == 40
    again = [*other[:-1], 9, 9]
    assert cached(run(core, order(7, again, "logprobs", start=43))[7]) == 42, "what a score computed is there, too"


@pytest.mark.parametrize("what", ["logprobs", "state", "logits"])
def test_what_is_not_kept_pushes_nothing_out_of_the_cache(what: str) -> None:
    core = Core(model(context=128, chunk=None), budget=16)
    run(core, order(1, IDS))
    for n in range(2, 20):
        other = [(i + n) % V for i in IDS]
        run(core, order(n, other, what, keep=False))
    assert cached(run(core, order(20, IDS))[20]) == 56


def test_other_salts_share_nothing() -> None:
    core = Core(model(context=256, chunk=None), budget=16)
    run(core, order(1, IDS, "logprobs", salt=b"a"))
    assert cached(run(core, order(2, IDS, "logprobs", start=50, salt=b"b"))[2]) == 0
    assert cached(run(core, order(3, IDS, "logprobs", start=50, salt=b"a"))[3]) == 49


@pytest.mark.parametrize("what", ["logprobs", "state", "logits"])
@pytest.mark.parametrize("keep", [True, False])
def test_who_loses_its_place_gets_the_same_numbers(what: str, keep: bool) -> None:
    quiet = run(Core(model(chunk=None), budget=7, places=1), order(1, IDS, what, keep=keep))[1]
    core = Core(model(chunk=None), budget=7, places=1)
    core.add(order(1, IDS, what, keep=keep))
    events = []
    for n in range(2, 5):
        while not core._entries[1].ran:
            events += [e for e in core.step() if e.number == 1]
        core._entries[1].ran = 0
        core.add(order(n, [n] * 60, priority=n, max_tokens=2))  # it takes the place, and all of the pages
        while n in core._entries:
            events += [e for e in core.step() if e.number == 1]
    while core.busy:
        events += [e for e in core.step() if e.number == 1]
    assert core.counters.preempted >= 3
    if what == "logprobs":
        assert scores(events) == scores(quiet)
    else:
        assert rows(events).tobytes() == rows(quiet).tobytes()
    assert sum(isinstance(e, StartedEvent) for e in events) == 1
    core.runner.cache.check()


# -- what they cost ----------------------------------------------------------------------------------------------------


def test_rows_whose_logits_are_wanted_count_twice_and_a_block_of_them_is_there_at_once() -> None:
    m = model()
    most: list[int] = []
    core = Core(m, budget=16)
    core.add(order(1, IDS, "logprobs", start=9))
    measure = core._entries[1].measure
    assert measure is not None
    take = measure.take
    measure.take = lambda position, rows: (most.append(len(rows)), take(position, rows))[1]  # type: ignore[method-assign]
    while core.busy:
        core.step()
    assert [len(ids) for p in m.passes for ids in p] == [12, 4, 8, 8, 8, 8, 8], (
        "8 before the first wanted; 16 to a chunk"
    )
    assert max(most) <= 3


def gaps(what: str) -> list[float]:
    """Seconds between tokens of a stream while a request of 4,000 ids comes in beside it."""
    m = FakeModel(lambda ids: 1, vocab_size=V, context=8192, chunk=None, page_size=64, cost=lambda n: 0.01 + 0.001 * n)
    core = Core(m, clock=m.clock)
    core.add(order(1, [1, 2, 3], max_tokens=1000))
    for _ in range(20):
        core.step()
    core.add(order(2, [5] * 4000, what, max_tokens=1))
    found, last, over = [], m.now_s, False
    while not over:
        for event in core.step():
            if isinstance(event, TokenEvent) and event.number == 1:
                found.append(m.now_s - last)
                last = m.now_s
            over = over or (event.number == 2 and getattr(event, "reason", None) is not None)
    assert core.counters.preempted == 0, "it keeps its pages"
    return found


@pytest.mark.parametrize("what", ["state", "logprobs"])
def test_a_stream_waits_no_longer_beside_a_measured_text_than_beside_a_prompt(what: str) -> None:
    beside, prompt = gaps(what), gaps("tokens")
    assert max(beside) <= max(prompt)
    assert sorted(beside)[len(beside) * 99 // 100] <= 3.1 * 0.011


# -- how they end ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["logprobs", "state", "logits"])
@pytest.mark.parametrize("bad", ["raise", "nan"])
def test_a_measured_text_that_breaks_fails_by_itself(what: str, bad: Any) -> None:
    core = Core(model(bad={11: bad}), budget=64)
    clean = [i for i in IDS if i != 11]
    broken = [*clean[:9], 11, *clean[9:]]
    alone = run(Core(model(), budget=64), order(1, clean, what), order(3, clean))
    heard = run(core, order(1, clean, what), order(2, broken, what), order(3, clean))
    end = heard[2][-1]
    assert isinstance(end, EndedEvent)
    assert type(end.error).__name__ == {"raise": "PassFailed", "nan": "BadCheckpoint"}[bad]
    assert heard[3] == alone[3] or [e.token_id for e in heard[3] if isinstance(e, TokenEvent)] == [
        e.token_id for e in alone[3] if isinstance(e, TokenEvent)
    ]
    if what == "logprobs":
        assert scores(heard[1]) == scores(alone[1])
    else:
        assert rows(heard[1]).tobytes() == rows(alone[1]).tobytes()


def test_a_cancelled_one_gives_its_pages_back() -> None:
    core = Core(model(), budget=4, places=2)
    core.add(order(1, IDS, "state"))
    core.step()
    core.cancel(1)
    assert [e for e in core.step() if isinstance(e, EndedEvent)] == [EndedEvent(1)]
    assert not core.busy
    core.runner.cache.clear()
    assert core.runner.cache.free() == core.runner.cache.total()


@pytest.mark.parametrize(
    ("want", "more", "message"),
    [
        (Want(what="logprobs", start=3), {}, "want.start: got 3, expected a place in the prompt, 1 to 2"),
        (Want(what="state"), {"samples": ((2, 0),)}, "want: got state, with samples or a trace, expected neither"),
        (Want(what="state"), {"traced": True}, "want: got state, with samples or a trace, expected neither"),
        ("state", {}, "want: got str, expected a Want"),
        (Want(what="logprobs", others=((1, V),)), {}, f"want.others: got id {V}, expected ids from 0 to {V - 1}"),
        (Want(what="logprobs", others=((1, True),)), {}, "want.others: got True, expected whole numbers"),
    ],
)
def test_what_a_prompt_cannot_give_is_refused(want: Any, more: Any, message: str) -> None:
    core = Core(model(), budget=4, places=2)
    with pytest.raises(UsageError, match=message):
        core.add(Request(number=1, ids=[1, 2, 3], options=SamplingOptions(), want=want, **more))
    assert not core.busy


OTHER_WANTS: tuple[dict[str, Any], ...] = (
    {"what": "logprobs", "others": [(1,)]},
    {"what": "logprobs", "others": ((),)},
    {"what": "logprobs", "others": (1,)},
    {"what": "logprobs", "others": ((1,),) * 64},
    {"what": "state", "others": ((1,),)},
)


def test_wrong_wants_are_no_wants() -> None:
    for wrong in ({"what": "x"}, {"what": None}, {"start": 0}, {"start": True}, {"top": 21}, {"keep": 1}, *OTHER_WANTS):
        with pytest.raises(UsageError, match="want"):
            Want(**wrong)  # type: ignore[arg-type]


def test_a_reader_of_a_job_is_told_how_many_tokens_were_found() -> None:
    engine = Engine(model(chunk=None), lambda: None)  # type: ignore[arg-type, return-value]
    want = Want(what="logprobs", start=40)
    for found in (0, 39):
        *_, last = engine.stream(engine.submit(Request(IDS, SamplingOptions(), want=want)))
        assert last.finish is not None
        usage = last.finish.usage
        assert (usage.prompt_tokens, usage.output_tokens, usage.cached_tokens) == (57, 0, found)
    engine.close()


@pytest.mark.parametrize("what", ["logprobs", "logits"])
def test_logits_that_are_no_numbers_are_none(what: Any) -> None:
    measure = measure_of([1, 2], Want(what=what), np.array([], np.int64))
    assert measure is not None
    with pytest.raises(BadCheckpoint, match="logits: got nan"):
        measure.take(0, np.full((1, V), np.nan, np.float32))


# -- windows of a text of any length -----------------------------------------------------------------------------------


def measured(ids: list[int], **cut: Any) -> tuple[float, int, int]:
    """(negative log-likelihood, scored tokens, windows)."""
    core, total, count = Core(model(), budget=32), 0.0, 0
    found = list(windows(ids, loaded=64, **cut))
    for n, (window, first) in enumerate(found):
        part = scores(run(core, order(n, window, "logprobs", start=first, keep=False))[n])
        total += nll_of(part)
        count += len(part)
    return total, count, len(found)


def nll(pairs: list[tuple[int, int]]) -> float:
    return -math.fsum(LOGP[a, b] for a, b in pairs)


def test_one_window() -> None:
    total, scored, count = measured(IDS, context=64, stride=None)
    assert (scored, count) == (56, 1)
    assert total == pytest.approx(nll(list(itertools.pairwise(IDS))), rel=1e-6)


def test_windows_apart_leave_out_the_first_token_of_each() -> None:
    total, scored, count = measured(IDS, context=10, stride=10)
    pairs = [(IDS[i - 1], IDS[i]) for i in range(57) if i % 10]
    assert (scored, count) == (len(pairs), 6)
    assert total == pytest.approx(nll(pairs), rel=1e-6)


@pytest.mark.parametrize(("context", "stride"), [(10, 5), (10, 9), (10, 1), (57, 3)])
def test_overlapping_windows_score_every_token_once(context: int, stride: int) -> None:
    total, scored, _ = measured(IDS, context=context, stride=stride)
    assert scored == 56
    assert total == pytest.approx(nll(list(itertools.pairwise(IDS))), rel=1e-6)


def test_with_a_first_token_every_token_is_scored() -> None:
    total, scored, _ = measured(IDS, context=10, stride=9, bos_id=7)
    pairs = [(IDS[i - 1] if i % 9 else 7, IDS[i]) for i in range(57)]
    assert scored == 57
    assert total == pytest.approx(nll(pairs), rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"context": 65, "stride": 1}, "context: got 65, expected 2 to the model's loaded context, 64"),
        ({"context": 10, "stride": 11}, "stride: got 11, expected 1 to 10"),
        ({"context": 10, "stride": 10, "bos_id": 1}, "stride: got 10, expected 1 to 9"),
    ],
)
def test_bad_windows_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        windows(IDS, loaded=64, **arguments)


def test_a_text_of_one_token_is_refused() -> None:
    with pytest.raises(UsageError, match="text: got 1 tokens"):
        windows([1], context=8, stride=8, loaded=64)
