"""Calls of tools: found, forced, or left as the text they are; the same for threads and coroutines."""

import asyncio
import re
from typing import Any

import pytest
from speaking import saying

from herd.errors import UsageError
from herd.llm import CallArgumentsEvent, CallEndEvent, CallStartEvent, DoneEvent, Event, TextEvent

WEATHER = {
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
CLOCK = {"name": "clock", "description": "The time.", "parameters": NOTHING}
TOOLS = [WEATHER, CLOCK]
TWO = 'I look. [weather(city="Rome"), clock()]'


def plain(events: list[Event]) -> list[Any]:
    """Events without their ids, which are drawn anew, and their times."""
    found: list[Any] = []
    for event in events:
        match event:
            case TextEvent(text):
                found.append(text)
            case CallStartEvent(number, _, name):
                found.append((number, name))
            case CallArgumentsEvent(number, fragment):
                found.append((number, fragment))
            case CallEndEvent(number, call):
                found.append((number, call.name, dict(call.arguments)))
            case DoneEvent(reply):
                found.append((reply.text, reply.finish_reason, len(reply.tool_calls)))
    return found


def test_calls_are_events_and_parts_of_the_reply() -> None:
    llm = saying(TWO)
    events = list(llm.stream("weather?", tools=TOOLS))
    reply = events[-1].reply  # type: ignore[union-attr]
    assert (reply.text.strip(), reply.finish_reason) == ("I look.", "tool_calls")
    assert [(c.name, dict(c.arguments)) for c in reply.tool_calls] == [("weather", {"city": "Rome"}), ("clock", {})]
    ids = [c.id for c in reply.tool_calls]
    assert all(re.fullmatch("call_[A-Za-z0-9]{24}", i) for i in ids)
    assert [e.id for e in events if isinstance(e, CallStartEvent)] == ids
    assert [e.call.id for e in events if isinstance(e, CallEndEvent)] == ids
    again = llm.chat("weather?", tools=TOOLS)
    assert len({*ids, *(c.id for c in again.tool_calls)}) == 4

    async def read() -> list[Event]:
        return [event async for event in llm.astream("weather?", tools=TOOLS)]

    assert plain(asyncio.run(read())) == plain(events)


def test_one_call_is_the_end_when_calls_are_not_parallel() -> None:
    reply = saying(TWO).chat("weather?", tools=TOOLS, parallel_tool_calls=False)
    assert [c.name for c in reply.tool_calls] == ["weather"]
    assert reply.finish_reason == "tool_calls"


def test_with_choice_none_the_tools_are_shown_and_calls_stay_text() -> None:
    llm = saying(TWO)
    reply = llm.chat("weather?", tools=TOOLS, tool_choice="none")
    assert (reply.text, reply.finish_reason, reply.tool_calls) == (TWO, "stop", ())
    assert reply.usage.prompt_tokens == len(llm.tokenize([{"role": "user", "content": "weather?"}], tools=TOOLS))
    assert reply.usage.prompt_tokens > len(llm.tokenize([{"role": "user", "content": "weather?"}]))


def test_a_tool_that_was_not_given_is_not_called() -> None:
    reply = saying(TWO).chat("weather?", tools=[CLOCK])
    assert (reply.text, reply.tool_calls) == (TWO, ())


@pytest.mark.parametrize(("choice", "names"), [("required", {"weather", "clock"}), ("clock", {"clock"})])
def test_a_model_that_would_rather_talk_has_to_call(choice: str, names: set[str]) -> None:
    """The grammar leaves no other ids; what a FakeModel prefers among them decides the rest."""
    llm = saying('{"type": "function", "name": "clock", "parameters": {}}')
    reply = llm.chat("what time?", tools=TOOLS, tool_choice=choice, max_tokens=200)
    assert reply.finish_reason == "tool_calls"
    assert {c.name for c in reply.tool_calls} <= names
    assert reply.text.strip() == ""
    talker = saying("Sure, let me tell you something else entirely, at length and in prose.")
    forced = talker.chat("what time?", tools=TOOLS, tool_choice="clock", max_tokens=200, seed=1)
    assert [c.name for c in forced.tool_calls][:1] == ["clock"]


def test_an_answer_that_is_cut_in_a_call_has_made_none() -> None:
    reply = saying(TWO).chat("weather?", tools=TOOLS, max_tokens=len('I look. [weather(city="Ro'))
    assert (reply.finish_reason, reply.tool_calls) == ("length", ())
    assert reply.text == 'I look. [weather(city="Ro'


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tools": TOOLS, "tool_choice": "radio"}, "got radio, expected auto, none, required, weather, clock"),
        ({"tool_choice": "required"}, "tool_choice: got required, expected tools to choose from"),
        ({"tools": [{"description": "x"}]}, "name"),
    ],
)
def test_what_cannot_be_called_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        saying("x").chat("hi", **arguments)
