"""Several models in order: who answers where one cannot, and that no private word leaves the house on the way."""

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from fake_host import BOUNDS, DONE, FakeHost, Script, answer, chunk, hosting, patient, whole

from fake_chat_model import OnlyChats
from herd.backends.failures import Absent, Blocked, Broken, Denied, Full, Reason, TooLong, Unfit, Withdrawn
from herd.backends.model import BackendModel
from herd.backends.route import COOL_S, LONGEST_COOL_S, Missed, Route
from herd.backends.transport import Transport
from herd.chat_model import Capabilities, ChatStream
from herd.errors import (
    Busy,
    ContextTooLong,
    EngineDied,
    GrammarStuck,
    HerdError,
    NetworkError,
    NotReady,
    PassFailed,
    StaysHere,
    TimedOut,
    Unsupported,
    UsageError,
)
from herd.event_stream import EventStream
from herd.events import DoneEvent, Event, Reply, TextEvent
from herd.gated import GatedStream
from herd.policies import Prompt

HELLO = [{"role": "user", "content": "Hello."}]


class Fails(OnlyChats):
    """Fails as it is told, at a step, so many times."""

    def __init__(self, name: str, error: HerdError, step: str = "first", times: int = 1000) -> None:
        super().__init__(name=name)
        self.error, self.step, self.times = error, step, times
        self.streams: list[EventStream] = []

    def astream(self, messages: Any, **options: Any) -> ChatStream:
        inner = super().astream(messages, **options)
        self.times -= 1
        if self.times < 0:
            return inner
        if self.step == "at once":
            raise self.error
        self.streams.append(Failing(self._events(), self.error if self.step == "prepare" else None))
        return self.streams[-1]

    async def _events(self) -> AsyncGenerator[Event, None]:
        if self.step == "later":
            yield TextEvent("One")
        raise self.error


class Failing(EventStream):
    """A stream that may fail while it is prepared."""

    def __init__(self, events: AsyncGenerator[Event, None], error: HerdError | None) -> None:
        super().__init__(events)
        self.error = error

    async def prepare(self) -> None:
        if self.error is not None:
            raise self.error


class Clock:
    """A time that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


GOES_ON: list[tuple[HerdError, Reason]] = [
    (Full("x"), "full"), (Absent("x"), "absent"), (Withdrawn("x"), "withdrawn"), (TooLong("x"), "context"),
    (Denied("x"), "refused"), (Blocked("x"), "refused"), (Broken("x"), "broken"), (StaysHere("x"), "private"),
    (Unsupported("x"), "unsupported"), (Busy("x"), "full"), (NotReady("x"), "absent"), (EngineDied("x"), "absent"),
    (ContextTooLong("x"), "context"), (NetworkError("x"), "absent"),
]  # fmt: skip
STAYS: list[HerdError] = [Unfit("x"), UsageError("x"), TimedOut("x"), PassFailed("x"), GrammarStuck("x")]


def reply(route: Route, **options: Any) -> Reply:
    return asyncio.run(route.achat(HELLO, **options))


@pytest.mark.parametrize("step", ["at once", "prepare", "first"])
@pytest.mark.parametrize(("error", "reason"), GOES_ON, ids=[type(one).__name__ for one, _ in GOES_ON])
def test_the_next_one_answers_and_why_is_told(error: HerdError, reason: Reason, step: str) -> None:
    told: list[Missed] = []
    first, second = Fails("first", error, step), OnlyChats("Yes.", name="second")
    found = reply(Route("both", [first, second], tell=told.append))
    assert (found.text, found.answered_by) == ("Yes.", "second")
    assert [(one.name, one.reason, one.words) for one in told] == [("first", reason, "x")]
    assert all(stream._closed for stream in first.streams)


@pytest.mark.parametrize("step", ["at once", "prepare", "first"])
@pytest.mark.parametrize("error", STAYS, ids=[type(one).__name__ for one in STAYS])
def test_what_is_wrong_with_the_request_is_told_at_once(error: HerdError, step: str) -> None:
    second = OnlyChats("Yes.", name="second")
    with pytest.raises(type(error)):
        reply(Route("both", [Fails("first", error, step), second]))
    assert second.asked == []


@pytest.mark.parametrize(("error", "reason"), GOES_ON, ids=[type(one).__name__ for one, _ in GOES_ON])
def test_after_the_first_token_nobody_else_is_asked(error: HerdError, reason: Reason) -> None:
    second, said = OnlyChats("Two.", name="second"), []

    async def read() -> None:
        async for event in Route("both", [Fails("first", error, "later"), second]).astream(HELLO):
            said.append(event)

    with pytest.raises(type(error)):
        asyncio.run(read())
    assert said == [TextEvent("One")] and second.asked == []


def test_where_nobody_answers_one_line_tells_why_each_did_not() -> None:
    for errors, kind in (
        ([StaysHere("a"), StaysHere("b")], StaysHere),
        ([TooLong("a"), ContextTooLong("b")], ContextTooLong),
        ([Unsupported("a")], Unsupported),
        ([Full("a"), Absent("b")], Busy),
        ([Withdrawn("a"), Absent("b")], NetworkError),
    ):
        with pytest.raises(kind) as caught:
            reply(Route("all", [Fails(f"m{i}", error) for i, error in enumerate(errors)]))
        told = str(caught.value)
        assert type(caught.value) is kind and "\n" not in told
        assert all(f"m{i} (" in told for i in range(len(errors)))


def test_one_that_is_away_comes_last_for_a_while() -> None:
    clock = Clock()
    first, second = Fails("first", Absent("x"), times=1), OnlyChats("Two.", name="second")
    route = Route("both", [first, second], clock=clock)
    assert [reply(route).answered_by for _ in range(3)] == ["second"] * 3
    assert len(first.asked) == 1, "it was not asked while it cooled down"
    clock.now = COOL_S + 1
    assert reply(route).answered_by == "first"
    assert [one.name for one in route.order()] == ["first", "second"]


def test_it_says_itself_for_how_long_but_not_without_end() -> None:
    for asked, cool in ((1.0, COOL_S), (90.0, 90.0), (1e9, LONGEST_COOL_S)):
        clock, error = Clock(), Full("x")
        error.retry_after_s = asked
        route = Route("both", [Fails("first", error), OnlyChats(name="second")], clock=clock)
        reply(route)
        clock.now = cool - 1
        assert route.order()[0].name == "second"
        clock.now = cool + 1
        assert route.order()[0].name == "first"


def test_all_that_cool_down_are_asked_all_the_same() -> None:
    route = Route("both", [Fails(name, Absent("x"), times=1) for name in ("first", "second")])
    with pytest.raises(NetworkError):
        reply(route)
    assert reply(route).answered_by == "first"


@pytest.mark.parametrize("error", [TooLong("x"), StaysHere("x"), Unsupported("x"), Blocked("x"), Denied("x")])
def test_what_lies_in_the_request_cools_nobody_down(error: HerdError) -> None:
    route = Route("both", [Fails("first", error), OnlyChats(name="second")])
    reply(route)
    assert route.order()[0].name == "first"


def test_a_route_can_what_one_of_its_models_can() -> None:
    class Sees(OnlyChats):
        capabilities = Capabilities(images=True, tools=True, ids=True, scores=True)

    route = Route("both", [OnlyChats(name="first", context=9), Sees(name="second", context=99)])
    assert route.capabilities == Capabilities(images=True, tools=True) and route.context == 99
    for names in ([], ["a", "a"]):
        with pytest.raises(UsageError, match="one or more, each once"):
            Route("none", [OnlyChats(name=name) for name in names])
    route.close()


def test_all_tries_share_the_time_of_the_request() -> None:
    first, second = Fails("first", Absent("x")), OnlyChats(name="second")
    reply(Route("both", [first, second]), timeout_s=50.0)
    assert first.asked[0][1]["timeout_s"] <= 50.0
    assert second.asked[0][1]["timeout_s"] <= first.asked[0][1]["timeout_s"]


def test_who_leaves_leaves_the_model_that_answers() -> None:
    async def leave() -> None:
        model = OnlyChats("One two three.", name="first")
        stream = Route("one", [model]).astream(HELLO)
        await anext(stream)
        await stream.aclose()
        assert [event async for event in stream] == []

    asyncio.run(leave())


def test_room_is_asked_for_once_and_by_whoever_answers() -> None:
    async def held(model: Any) -> int:
        found: list[int] = []
        stream = model.astream(HELLO)
        stream.hold = found.append
        await stream.ready()
        [_ async for _ in stream]
        return sum(found)

    second = OnlyChats("One two.", name="second")
    route = Route("both", [Fails("first", Absent("x")), second])
    assert asyncio.run(held(route)) == asyncio.run(held(second))


def test_a_policy_around_it_keeps_who_answered() -> None:
    class Nothing:
        hold_tokens = 0

        def before(self, messages: Any) -> None:
            """It goes on."""

        def window(self, text: str, shown: int) -> None:
            """It goes on."""

        def after(self, reply: Reply) -> None:
            """It goes on."""

    async def read() -> Reply:
        route = Route("both", [Fails("first", Absent("x")), OnlyChats("Yes.", name="second")])
        policy: Any = Nothing()
        stream = GatedStream(policy, lambda: Prompt(()), lambda shown: route.astream(HELLO))
        return [one async for one in stream if isinstance(one, DoneEvent)][-1].reply

    assert asyncio.run(read()).answered_by == "second"


BROKEN: Sequence[Script] = [
    Script([], 503), whole({"error": {"code": "model_not_found"}}, 404), Script([b"<html>"], 200, "text/html"),
    Script([chunk({"content": ""}), DONE]), Script([], cut=True), answer("Yes."),
]  # fmt: skip


def test_no_private_word_leaves_the_house_whatever_happens_in_it() -> None:
    """Random requests over a route of a host outside, one in the house that fails in all ways, and another outside."""
    draws = random.Random(5)
    with hosting(answer("Out.")) as out, hosting(answer("Out.")) as far, hosting(answer("In.")) as house:
        members = [
            BackendModel(patient(host.address, name=name, in_house=name == "house", bounds=replace(BOUNDS, retries=0)))
            for name, host in (("out", out), ("house", house), ("far", far))
        ]
        for i in range(60):
            private, canary = draws.random() < 0.5, f"canary-{i}"
            house.scripts[:] = [draws.choice(BROKEN)]
            draws.shuffle(members)
            before = [len(host.asked) for host in (out, far)]
            turns = [{"role": "user", "content": canary}]
            said = {} if private and draws.random() < 0.5 else {"leave": not private}
            try:
                found = asyncio.run(Route("all", members).achat(turns, **said))
                assert found.answered_by == "house" or not private
            except HerdError:
                assert private
            if private:
                assert [len(host.asked) for host in (out, far)] == before
        assert out.connections + far.connections == len(out.asked) + len(far.asked) == len(leaked(out) | leaked(far))
        assert house.asked and out.asked and far.asked


def leaked(host: FakeHost) -> set[str]:
    """What was sent to a host."""
    return {one.body["messages"][0]["content"] for one in host.asked}


def test_nobody_is_asked_twice_while_another_one_is_left() -> None:
    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    waits: list[float] = []
    with hosting(whole({"error": {"message": "full", "code": 503}}, 503)) as full:
        target = patient(full.address, bounds=replace(BOUNDS, retries=2))
        busy = BackendModel(target, transport=Transport(target, sleep=sleep))
        assert reply(Route("both", [busy, OnlyChats("Yes.", name="second")])).answered_by == "second"
        assert (full.connections, waits) == (1, [])
        with pytest.raises(Full):
            asyncio.run(busy.achat(HELLO))
        assert (full.connections, len(waits)) == (4, 2)
