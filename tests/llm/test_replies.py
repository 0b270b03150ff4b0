"""Whole answers: many of one call run to their end whatever becomes of some, and what was said in time is not lost."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from speaking import BYTES, endless, saying

from helpers import PATIENCE_S
from herd.config import TINY
from herd.engine.executors.thread import ThreadExecutor
from herd.engine.fake import FakeModel
from herd.errors import Busy, ContextTooLong, EngineDied, HerdError, PassFailed, SomeFailed, TimedOut, UsageError
from herd.llm import LLM, Message, Reply
from herd.llm.prepare import Requests
from herd.text.chat import Llama4

OWN = {"chat_many": "per_dialog", "achat_many": "per_dialog", "complete_many": "per_prompt"}
OWN["acomplete_many"] = "per_prompt"
"""Each call, and the name of its options of each request."""


def many(model: LLM, name: str, asked: Any, **options: Any) -> list[Any]:
    """What a call of several requests gives."""

    async def within() -> list[Any]:
        found: list[Any] = await asyncio.wait_for(getattr(model, name)(asked, **options), PATIENCE_S)
        return found

    found: list[Any] = asyncio.run(within()) if name.startswith("a") else getattr(model, name)(asked, **options)
    return found


def small(next_id: Callable[[list[int]], int] = lambda ids: 65) -> LLM:
    """A model that says A for ever, to one at a time; one more may wait."""
    return LLM(TINY, FakeModel(next_id), BYTES, Llama4(BYTES), name="fake", parallel=1, queue=1)


def asked_apart(call: Callable[[], list[Any]]) -> "Future[list[Any]]":
    """What a call gives, on a thread of its own."""
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(call)
    finally:
        pool.shutdown(wait=False)


@pytest.mark.parametrize("name", OWN)
def test_replies_are_in_order_and_each_request_may_have_options_of_its_own(name: str) -> None:
    with endless() as model:
        own: list[dict[str, Any]] = [{"max_tokens": 1}, {}, {"max_tokens": 3, "seed": 5}]
        replies = many(model, name, ["a", "b", "c"], max_tokens=2, **{OWN[name]: own})
        assert [r.text for r in replies] == ["A", "AA", "AAA"]
        assert replies[2].seed == 5
        assert many(model, name, []) == []


@pytest.mark.parametrize("name", OWN)
def test_one_that_fails_ends_no_other_and_one_error_has_all(name: str) -> None:
    with endless() as model:
        asked = ["a", "b" * 5000, "c", "d" * 5000]
        with pytest.raises(SomeFailed) as raised:
            many(model, name, asked, max_tokens=2)
        what = OWN[name].removeprefix("per_") + "s"
        assert str(raised.value).startswith(f"2 of 4 {what} failed; {what}[1]: the prompt has ")
        assert [type(x) for x in raised.value.replies] == [Reply, ContextTooLong, Reply, ContextTooLong]
        assert raised.value.__cause__ is raised.value.replies[1]
        found = many(model, name, asked, max_tokens=2, return_errors=True)
        assert [type(x) for x in found] == [Reply, ContextTooLong, Reply, ContextTooLong]
        assert model._running().num_under_way == 0


@pytest.mark.parametrize("name", OWN)
def test_one_that_fails_while_it_runs_stands_in_its_place(name: str) -> None:
    with LLM(TINY, FakeModel(lambda ids: 65, bad={ord("!"): "raise"}), BYTES, Llama4(BYTES), name="fake") as model:
        found = many(model, name, ["a", "!", "c"], max_tokens=2, return_errors=True)
        assert [type(x) for x in found] == [Reply, PassFailed, Reply]


@pytest.mark.parametrize("name", OWN)
def test_a_policy_that_breaks_costs_its_own_request_alone(name: str) -> None:
    class Breaks:
        hold_tokens = 0

        def before(self, messages: list[Message]) -> str | None:
            raise ZeroDivisionError("b") if "b" in messages[-1].text else None

        window = after = lambda *_: None

    with endless() as model:
        found = many(model, name, ["a", "b"], policy=Breaks(), max_tokens=1, return_errors=True)
        assert isinstance(found[1], PassFailed)
        assert isinstance(found[1].__cause__, ZeroDivisionError)


@pytest.mark.parametrize("name", OWN)
def test_more_than_the_queue_holds_wait_for_their_turn(name: str) -> None:
    with small() as model:
        assert [r.text for r in many(model, name, ["a"] * 8, max_tokens=2)] == ["AA"] * 8


@pytest.mark.parametrize("name", OWN)
def test_where_others_fill_the_queue_a_call_waits_for_them_and_prepares_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()
    prepared: list[object] = []
    for kind in ("dialog", "text"):
        prepare = getattr(Requests, kind)
        monkeypatch.setattr(
            Requests, kind, lambda *given, prepare=prepare: [prepared.append(given[2]), prepare(*given)][1]
        )
    with small(lambda ids: 65 if goes_on.wait(PATIENCE_S) else 66) as model:
        bound = model._running()._table.gate
        check, refused = bound.check, threading.Event()

        def checked(client: str) -> None:
            try:
                check(client)
            except Busy:
                refused.set()
                raise

        bound.check = checked  # type: ignore[method-assign]
        other = asked_apart(lambda: [model.chat("x", max_tokens=1)])
        while not model._running().num_under_way:
            threading.Event().wait(0.001)
        call = asked_apart(lambda: many(model, name, ["a", "b"], max_tokens=2))
        assert refused.wait(PATIENCE_S)
        assert not call.done()
        assert "b" not in prepared
        goes_on.set()
        assert [r.text for r in call.result(PATIENCE_S)] == ["AA", "AA"]
        assert [r.text for r in other.result(PATIENCE_S)] == ["A"]
        assert sorted(map(str, prepared)) == ["a", "b", "x"]


@pytest.mark.parametrize("name", OWN)
def test_what_is_wrong_with_options_is_told_before_anything_is_computed(name: str) -> None:
    with endless() as model:
        own = OWN[name]
        wrong: list[tuple[dict[str, Any], str]] = [
            ({"temprature": 1}, "option: got temprature"),
            ({"temperature": -1}, "temperature: got -1"),
            ({own: [{}, {"temperature": -1}]}, rf"{own}\[1\]: temperature: got -1"),
            ({own: [{}, {"temprature": 1}]}, rf"{own}\[1\]: option: got temprature"),
            ({own: [{}, 5]}, rf"{own}\[1\]: got int, expected options by name"),
            ({own: [{}]}, f"{own}: got 1 of them, expected 2, one a request"),
            ({own: {}}, f"{own}: got dict, expected a list"),
            ({own: [{}, {"n": 2}]}, rf"{own}\[1\]: n: got 2"),
            ({"schema": 5}, "schema: got 5, expected True"),
            ({own: [{}, {"schema": {"x": {1}}}]}, rf"{own}\[1\]: schema: got what JSON cannot say"),
            ({"return_errors": 1}, "return_errors: got 1"),
            ({"retrun_errors": True}, "expected one of .*, return_errors; did you mean return_errors?"),
            ({own[:-1]: [{}, {}]}, f"expected one of .*, {own}, return_errors; did you mean {own}?"),
        ]
        for options, line in wrong:
            with pytest.raises(UsageError, match=line):
                many(model, name, ["a", "b"], **options)
        assert model._running().runner.passes == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["chat_many", "achat_many"])
def test_what_all_choose_may_stand_among_the_options_of_each(name: str) -> None:
    with endless() as model:
        tool = {"name": "f", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}}
        asked: dict[str, Any] = {"tool_choice": "f", "max_tokens": 1}
        assert len(many(model, name, ["a", "b"], **asked, per_dialog=[{"tools": [tool]}] * 2)) == 2
        with pytest.raises(UsageError, match=r"per_dialog\[1\]: tool_choice: got f, expected auto, none, required"):
            many(model, name, ["a", "b"], **asked, per_dialog=[{"tools": [tool]}, {}])
        with pytest.raises(UsageError, match=r"^tool_choice: got f, expected auto, none, required"):
            many(model, name, ["a", "b"], **asked)


@pytest.mark.parametrize("name", OWN)
def test_what_is_no_list_of_requests_is_refused_in_one_line(name: str) -> None:
    with endless() as model:
        what = OWN[name].removeprefix("per_") + "s"
        for asked, got in (("a text", "str"), (5, "int"), (None, "NoneType"), ({"role": "user"}, "dict")):
            with pytest.raises(UsageError, match=f"^{what}: got {got}, expected a list$"):
                many(model, name, asked)
        for asked, got in (([5], "int"), (["a", {"role": "user", "content": "x"}], "dict"), ([None], "NoneType")):
            with pytest.raises(UsageError, match=rf"^{what}\[{len(asked) - 1}\]: got {got}, expected a "):
                many(model, name, asked)


@pytest.mark.parametrize("name", OWN)
def test_when_the_model_dies_every_request_says_so(name: str) -> None:
    def die(ids: list[int]) -> int:
        model._running().executor.close()
        return 65

    model = LLM(TINY, FakeModel(die), BYTES, Llama4(BYTES), name="fake")
    found = many(model, name, ["a", "b"], return_errors=True)
    assert [type(x) for x in found] == [EngineDied] * 2


@pytest.mark.parametrize("name", ["achat_many", "acomplete_many"])
def test_cancelling_ends_all_of_them(name: str) -> None:
    async def talk(model: LLM) -> None:
        task = asyncio.create_task(getattr(model, name)(["a"] * 20))
        while not model._running().num_under_way:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert model._running().num_under_way == 0

    with endless() as model:
        asyncio.run(asyncio.wait_for(talk(model), PATIENCE_S))


def test_a_broken_off_call_leaves_nothing_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(stream: Iterator[Any]) -> Reply:
        raise KeyboardInterrupt

    monkeypatch.setattr("herd.llm.replies.last", interrupted)
    with endless() as model:
        with pytest.raises(KeyboardInterrupt):
            model.chat_many(["a", "b"])
        while model._running().num_under_way:
            threading.Event().wait(0.001)


def late(told: int) -> LLM:
    """A model that says A for ever, and after so many tokens takes an hour."""
    seen = 0

    def next_id(ids: list[int]) -> int:
        nonlocal seen
        seen += 1
        if seen > told:
            executor._core._clock = lambda: 1e9
        return 65

    model = LLM(TINY, FakeModel(next_id), BYTES, Llama4(BYTES), name="fake")
    executor = model._running().executor
    assert isinstance(executor, ThreadExecutor)
    executor._core._clock = lambda: 0.0
    return model


@pytest.mark.parametrize("name", ["chat", "complete", "achat", "acomplete"])
def test_an_answer_that_is_late_tells_what_was_said_in_time(name: str) -> None:
    with late(3) as model:
        ask = partial(getattr(model, name), "Hi", timeout_s=60, speculate="off")
        with pytest.raises(TimedOut) as raised:
            asyncio.run(ask()) if name.startswith("a") else ask()
        assert raised.value.text.startswith("AAA")
        assert len(raised.value.text) < 6


def test_a_late_one_of_many_tells_it_too() -> None:
    with late(3) as model:
        (found,) = model.chat_many(["Hi"], timeout_s=60, speculate="off", return_errors=True)
        assert isinstance(found, TimedOut)
        assert found.text.startswith("AAA")
    assert TimedOut("a body").text == ""
    assert issubclass(SomeFailed, HerdError)
    with saying("x") as quick:
        assert quick.chat("Hi", timeout_s=60).text == "x"
