"""Calls of tools: found, forced, or left as the text they are; the same for threads and coroutines."""

import asyncio
import json
import re
from typing import Any

import pytest
from speaking import saying

from call_forms import FORCED, FORMS
from call_forms import TOOLS as FORM_TOOLS
from herd.errors import UsageError
from herd.llm import CallArgumentsEvent, CallEndEvent, CallStartEvent, DoneEvent, Event, Reply, TextEvent
from herd.messages import CutCall
from herd.text.call_form import BARE, HERMES, ID, LLAMA, CallForm

WEATHER = {
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
CLOCK = {"name": "clock", "description": "The time.", "parameters": NOTHING}
TOOLS = [WEATHER, CLOCK]
LIST = CallForm('[{"name": "', '", "arguments": ', f', "id": "{ID}"}}, {{"name": "', f', "id": "{ID}"}}]')
"""Mistral's."""
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


@pytest.mark.parametrize("form", [LLAMA, BARE, HERMES, LIST])
def test_a_forced_call_is_said_in_the_form_that_the_model_writes(form: CallForm) -> None:
    said = form.example("weather", '{"city": "Rome"}')
    llm = saying(said)
    llm._requests.format().call_form = form
    reply = llm.chat("weather?", tools=TOOLS, tool_choice="required", max_tokens=200, temperature=0)
    assert [(c.name, dict(c.arguments)) for c in reply.tool_calls] == [("weather", {"city": "Rome"})]
    assert (reply.text, reply.usage.output_tokens) == ("", len(said) + 1), "no other letter was forced"


def test_an_answer_that_is_cut_in_a_call_has_begun_one_and_made_none() -> None:
    events = list(saying(TWO).stream("weather?", tools=TOOLS, max_tokens=len('I look. [weather(city="Ro')))
    reply = events[-1].reply  # type: ignore[union-attr]
    assert (reply.finish_reason, reply.tool_calls, reply.text) == ("length", (), "I look. ")
    assert reply.cut_call == CutCall("weather", '{"city": "Ro', reply.cut_call.id)
    assert "".join(e.fragment for e in events if isinstance(e, CallArgumentsEvent)) == reply.cut_call.arguments
    assert [e.id for e in events if isinstance(e, CallStartEvent)] == [reply.cut_call.id]
    assert Reply.from_dict(json.loads(json.dumps(reply.to_dict()))) == reply
    assert reply.message.tool_calls == (), "nobody goes on from a call that was not made"


@pytest.mark.parametrize("form", FORMS)
def test_fragments_of_a_call_are_its_arguments_in_every_form(form: str) -> None:
    answer, text, calls = FORMS[form]
    llm = saying(answer)
    events = list(llm.stream("weather?", tools=FORM_TOOLS, max_tokens=1000))
    reply = events[-1].reply  # type: ignore[union-attr]
    assert (reply.text, [(c.name, dict(c.arguments)) for c in reply.tool_calls], reply.cut_call) == (text, calls, None)
    for i, call in enumerate(reply.tool_calls):
        fragments = [e.fragment for e in events if isinstance(e, CallArgumentsEvent) and e.call_index == i]
        assert "".join(fragments) == call.arguments_text
    assert llm.chat("weather?", tools=FORM_TOOLS, max_tokens=1000).text == text


def test_a_forced_call_that_is_cut_leaves_none_of_its_signs_in_the_text() -> None:
    llm = saying(FORCED)
    for at in range(1, len(FORCED), 3):
        for choice in ("required", "weather"):
            reply = llm.chat("weather?", tools=FORM_TOOLS, tool_choice=choice, max_tokens=at, temperature=0)
            assert reply.text == ""
            assert reply.finish_reason == ("length" if not reply.tool_calls else reply.finish_reason)
            assert FORCED.partition('"parameters": ')[2].startswith(reply.cut_call.arguments if reply.cut_call else "")


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
