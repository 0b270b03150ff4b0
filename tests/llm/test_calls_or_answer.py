"""Tools and a schema at once: the answer is calls or fits the schema, whole and as it is streamed."""

import itertools
import json
from collections.abc import Mapping
from typing import Any

import pytest
from speaking import saying

from herd.config import TINY
from herd.engine.fake import FakeModel
from herd.errors import UsageError
from herd.llm import LLM, CallEndEvent, CallStartEvent, DoneEvent, TextEvent
from herd.text.call_form import LLAMA
from herd.text.calls import CallEnd, CallParser, CallStart, TextPiece, parameters_of
from herd.text.calls_or_answer import CallsOrAnswer
from herd.text.chat import ChatML
from herd.text.tokenizer import Tokenizer

WEATHER = {
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CLOCK = {"name": "clock", "parameters": {"type": "object", "properties": {}}}
TOOLS = [WEATHER, CLOCK]
SCHEMA = {
    "type": "object",
    "properties": {"said": {"type": "string"}, "sure": {"type": "boolean"}},
    "required": ["said"],
}
ROME = '{"type": "function", "name": "weather", "parameters": {"city": "Rome"}}'
CALLS = {
    "one": (ROME, [("weather", {"city": "Rome"})]),
    "without its type": ('{"name": "weather", "parameters": {"city": "Rome"}}', [("weather", {"city": "Rome"})]),
    "two": (
        ROME + '\n{"type": "function", "name": "clock", "parameters": {}}',
        [("weather", {"city": "Rome"}), ("clock", {})],
    ),
    "with a call in a text": (
        '{"name": "weather", "parameters": {"city": "[clock()]"}}',
        [("weather", {"city": "[clock()]"})],
    ),
}
ANSWERS = (
    '{"said": "It rains.", "sure": true}',
    '{"said":"It rains."}',
    '{"said": "[clock()]"}',
    '{"said": "<function=clock>{}</function> ```json [clock()] ```"}',
    '{"said": "{\\"name\\": \\"clock\\", \\"parameters\\": {}}"}',
)


def called(reply: Any) -> list[tuple[str, Mapping[str, Any]]]:
    return [(call.name, dict(call.arguments)) for call in reply.tool_calls]


@pytest.mark.parametrize("name", CALLS)
def test_a_model_that_calls_calls(name: str) -> None:
    text, calls = CALLS[name]
    reply = saying(text).chat("weather?", tools=TOOLS, schema=SCHEMA)
    assert (called(reply), reply.text, reply.finish_reason, reply.parsed) == (calls, "", "tool_calls", None)


@pytest.mark.parametrize("text", ANSWERS)
def test_an_answer_that_fits_is_text_whatever_stands_in_it(text: str) -> None:
    reply = saying(text).chat("weather?", tools=TOOLS, schema=SCHEMA)
    assert (reply.text, reply.tool_calls, reply.finish_reason) == (text, (), "stop")
    assert reply.parsed == json.loads(text)


def test_an_answer_is_streamed_as_it_is_written_and_a_call_as_a_call() -> None:
    text = ANSWERS[0]
    events = list(saying(text).stream("weather?", tools=TOOLS, schema=SCHEMA))
    pieces = [event.text for event in events if isinstance(event, TextEvent)]
    assert "".join(pieces) == text
    assert len(pieces) > len(text) - 4, "its first letters alone may be a call's"
    events = list(saying(ROME).stream("weather?", tools=TOOLS, schema=SCHEMA))
    assert [type(event) for event in events if isinstance(event, TextEvent | CallStartEvent | CallEndEvent)] == [
        CallStartEvent,
        CallEndEvent,
    ]
    assert isinstance(events[-1], DoneEvent)


@pytest.mark.parametrize(
    "text",
    [
        "Sure! [clock()]",
        "[clock()]",
        '{"said": "x", "mood": "y"}',
        '{"type": "function", "name": "radio", "parameters": {}}',
        '{"type": "function", "name": "weather", "parameters": {"town": 3}}',
    ],
)
@pytest.mark.parametrize("schema", [SCHEMA, {"anyOf": [{"type": "string", "maxLength": 9}, {"type": "null"}]}])
def test_a_model_that_would_say_something_else_is_held_to_either(text: str, schema: Any) -> None:
    reply = saying(text).chat("weather?", tools=TOOLS, schema=schema, max_tokens=300)
    if reply.finish_reason == "tool_calls":
        for name, arguments in called(reply):
            assert (set(arguments), name) in [({"city"}, "weather"), (set(), "clock")]
    elif reply.finish_reason == "stop":
        assert reply.parsed is not None or reply.text == "null"
        assert set(reply.parsed) <= {"said", "sure"} if isinstance(reply.parsed, dict) else True
    else:
        assert reply.finish_reason == "length"


@pytest.mark.parametrize("choice", ["required", "clock"])
@pytest.mark.parametrize("schema", [True, SCHEMA])
def test_a_call_that_is_forced_is_made_beside_a_schema(choice: str, schema: Any) -> None:
    text = '{"type": "function", "name": "clock", "parameters": {}}'
    reply = saying(text).chat("time?", tools=TOOLS, tool_choice=choice, schema=schema)
    assert (called(reply), reply.text, reply.finish_reason) == ([("clock", {})], "", "tool_calls")
    other = saying(ANSWERS[0]).chat("time?", tools=TOOLS, tool_choice="clock", schema=schema, max_tokens=200)
    assert called(other)[:1] == [("clock", {})]


def test_without_a_choice_the_answer_fits_the_schema() -> None:
    reply = saying(ROME).chat("weather?", tools=TOOLS, tool_choice="none", schema=True)
    assert (reply.text, reply.tool_calls, reply.parsed) == (ROME, (), json.loads(ROME))


def test_any_json_may_be_a_call() -> None:
    tools = saying(ROME).chat("weather?", tools=TOOLS, schema=True)
    assert called(tools) == [("weather", {"city": "Rome"})]
    other = '{"name": "weather", "price": 3}'
    assert saying(other).chat("weather?", tools=TOOLS, schema=True).text == other


def test_one_call_is_the_end_when_calls_are_not_parallel() -> None:
    reply = saying(CALLS["two"][0]).chat("weather?", tools=TOOLS, schema=SCHEMA, parallel_tool_calls=False)
    assert called(reply) == [("weather", {"city": "Rome"})]


@pytest.mark.parametrize("grammar", ["json", "schema:" + json.dumps(SCHEMA)])
def test_a_grammar_of_json_is_a_schema_as_well(grammar: str) -> None:
    assert called(saying(ROME).chat("weather?", tools=TOOLS, grammar=grammar)) == [("weather", {"city": "Rome"})]
    text = ANSWERS[3]
    assert saying(text).chat("weather?", tools=TOOLS, grammar=grammar).text == text


def test_chatml_calls_in_its_own_form() -> None:
    words = Tokenizer.bytes_only(("<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>"))
    chat = ChatML(words)
    end = words.specials["<|im_end|>"]

    def speaker(answer: str) -> LLM:
        header, said = chat._open(), [*answer.encode(), end]

        def next_id(ids: list[int]) -> int:
            start = max(i for i in range(len(ids)) if ids[i : i + len(header)] == header) + len(header)
            return said[min(len(ids) - start, len(said) - 1)]

        return LLM(TINY, FakeModel(next_id), words, chat, name="fake")

    text = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
    reply = speaker(text).chat("weather?", tools=TOOLS, schema=SCHEMA)
    assert (called(reply), reply.text) == ([("weather", {"city": "Rome"})], "")
    text = '{"said": "<tool_call>"}'
    assert speaker(text).chat("weather?", tools=TOOLS, schema=SCHEMA).text == text


def test_what_is_wrong_with_a_tool_or_schema_is_told() -> None:
    wrong = {"name": "bad", "parameters": {"type": "object", "properties": {"a": {"not": {}}}}}
    with pytest.raises(UsageError, match="schema #/properties/a/not: "):
        saying("x").chat("hi", tools=[wrong], schema=SCHEMA)
    with pytest.raises(UsageError, match="schema #/properties/b/not: "):
        saying("x").chat("hi", tools=TOOLS, schema={"properties": {"b": {"not": {}}}})
    with pytest.raises(UsageError, match="schema: got no JSON"):
        saying("x").chat("hi", tools=TOOLS, grammar="schema:oops")


@pytest.mark.parametrize("text", [*ANSWERS, *(text for text, _ in CALLS.values())])
def test_any_split_of_an_answer_gives_the_same(text: str) -> None:
    def read(pieces: list[str]) -> tuple[str, list[Any]]:
        parser = CallsOrAnswer(CallParser(parameters_of(TOOLS)), ["weather", "clock"], LLAMA)
        found = [piece for part in pieces for piece in parser.push(None, part)] + parser.finish()
        assert not parser.holding
        return "".join(piece.text for piece in found if isinstance(piece, TextPiece)), [
            (piece.call.name, piece.call.arguments) for piece in found if isinstance(piece, CallEnd)
        ]

    whole = read([text])
    assert bool(whole[0]) != bool(whole[1])
    for at, more in itertools.combinations(range(0, len(text), 3), 2):
        assert read([text[:at], text[at:more], text[more:]]) == whole
    assert read(list(text)) == whole


def test_a_beginning_that_is_cut_is_text_until_it_is_that_of_a_call() -> None:
    head = ROME.index("{", 1)
    for at in range(1, len(ROME)):
        calls = CallParser(parameters_of(TOOLS), forced=True)
        parser = CallsOrAnswer(calls, ["weather", "clock"], LLAMA)
        found = [*parser.push(None, ROME[:at]), *parser.finish(cut=True)]
        said = "".join(piece.text for piece in found if isinstance(piece, TextPiece))
        assert said == (ROME[:at] if at < head else "")
        assert any(isinstance(piece, CallStart) for piece in found) == (at > ROME.index("Rome"))
