"""Calls in forms that chat templates alone tell, from models: said freely and forced, whole and streamed."""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import herd
from call_styles import CALL_STYLES, TEXTS, TOOLS, Call, CallStyle, over_bytes, some_calls
from helpers import TINY_TEXT, byte_tokenizer_files, hf_folder
from herd.config import TINY
from herd.engine.fake import FakeModel
from herd.errors import UsageError
from herd.llm import LLM, CallArgumentsEvent, CallStartEvent
from herd.messages import Message, ToolCall
from herd.text.call_form import is_token
from herd.text.chat_template import Templated

USER = Message("user", "weather?")


def saying(style: CallStyle) -> tuple[LLM, list[int]]:
    """A model that says to every dialog the ids that are put into a list, and its end."""
    chat, said = over_bytes(style), list[int]()
    start = len(chat.encode([USER]))

    def next_id(ids: list[int]) -> int:
        at = len(ids) - start
        return said[at] if at < len(said) else min(chat.stop_ids)

    return LLM(TINY, FakeModel(next_id), chat.tokenizer, chat, name="fake"), said


def ids_of(chat: Templated, calls: list[Call]) -> list[int]:
    """Calls in a format's form, as the model would write them: control tokens, and text."""
    given = [(name, json.dumps(arguments, ensure_ascii=False)) for name, arguments in calls]
    found: list[int] = []
    for piece in re.split("([\ud800-\udbff])", chat.call_form.examples(given)):
        is_sign = piece and is_token(piece[0])
        found += [chat.call_form.tokens[ord(piece) - 0xD800]] if is_sign else chat.tokenizer.for_grammar().encode(piece)
    return found


def called(reply: Any) -> list[Call]:
    return [(call.name, dict(call.arguments)) for call in reply.tool_calls]


@pytest.mark.parametrize("name", CALL_STYLES)
def test_a_model_s_calls_are_calls_said_freely_and_forced_whole_and_streamed(name: str) -> None:
    rng = random.Random(name)
    llm, said = saying(CALL_STYLES[name])
    chat = llm._requests.format()
    dialog = [{"role": "user", "content": "weather?"}]
    for n in range(4):
        calls = some_calls(rng)
        turn = Message("assistant", "", tuple(ToolCall(called, arguments) for called, arguments in calls))
        history = chat.encode([USER, turn], open_assistant=False)[len(chat.encode([USER])) :]
        said[:] = history[: next(i for i, token in enumerate(history) if token in chat.stop_ids)]
        reply = llm.chat(dialog, tools=TOOLS, max_tokens=2000)
        assert (called(reply), reply.text.strip(), reply.finish_reason) == (calls, "", "tool_calls")
        said[:] = [*b"I look. ", *ids_of(chat, calls)]
        events = list(llm.stream(dialog, tools=TOOLS, max_tokens=2000))
        reply = events[-1].reply  # type: ignore[union-attr]
        assert (called(reply), reply.text) == (calls, "I look. ")
        assert [e.name for e in events if isinstance(e, CallStartEvent)] == [called for called, _ in calls]
        for i, call in enumerate(reply.tool_calls):
            parts = [e.fragment for e in events if isinstance(e, CallArgumentsEvent) and e.call_index == i]
            assert "".join(parts) == call.arguments_text
            assert len(parts) >= len(call.arguments.get("city", "")), "a text is told by characters"
        calls = calls if n % 2 else calls[:1]
        said[:] = ids_of(chat, calls)
        choice = "required" if n % 2 else calls[0][0]
        reply = llm.chat(dialog, tools=TOOLS, tool_choice=choice, max_tokens=2000, temperature=0)
        assert (called(reply), reply.text, reply.finish_reason) == (calls, "", "tool_calls")
        assert reply.usage.output_tokens == len(said) + 1, "no other token was forced"
        reply = llm.chat(dialog, tools=TOOLS, schema={"type": "object"}, parallel_tool_calls=False, max_tokens=2000)
        assert (called(reply), reply.text) == (calls[:1], "")


@pytest.mark.parametrize("name", CALL_STYLES)
def test_a_call_that_is_cut_is_told_as_far_as_it_came_and_leaves_no_sign_of_a_forced_one(name: str) -> None:
    llm, said = saying(CALL_STYLES[name])
    chat = llm._requests.format()
    call = ("weather", {"city": "Rome and Oslo", "days": 3})
    said[:] = ids_of(chat, [call])
    for at in range(1, len(said), 7):
        for choice in ("auto", "required"):
            reply = llm.chat("weather?", tools=TOOLS, tool_choice=choice, max_tokens=at, temperature=0)
            assert not reply.text or (choice == "auto" and reply.cut_call is None)
            if reply.cut_call is not None:
                assert json.dumps(call[1]).startswith(reply.cut_call.arguments)


def test_what_only_looks_like_a_call_is_text() -> None:
    llm, said = saying(CALL_STYLES["a tag of a parameter"])
    for text in (
        "<tool_call>\n<function=nobody>\n</function>\n</tool_call>",
        "<tool_call>\n<function=weather> is a call",
        "<tool_call> and </tool_call>",
        "a <tool_call>\n<func",
        "<tool_call>\n<function=weather>\n<parameter=city",
    ):
        said[:] = text.encode()
        reply = llm.chat("weather?", tools=TOOLS, max_tokens=500)
        assert (reply.text, reply.tool_calls, reply.cut_call) == (text, (), None)
    said[:] = b'<tool_call>\n<function=weather>{"city": "Rome"}</function> so'
    reply = llm.chat("weather?", tools=TOOLS, max_tokens=500)
    assert (reply.text, called(reply)) == ("<tool_call>\n so", [("weather", {"city": "Rome"})]), "other forms are read"
    said[:] = b'[weather(city="Rome")]'
    assert called(llm.chat("weather?", tools=TOOLS, max_tokens=500)) == [("weather", {"city": "Rome"})]


@pytest.mark.parametrize("name", CALL_STYLES)
def test_no_text_of_users_or_tools_is_a_control_token_or_a_call(name: str) -> None:
    llm, said = saying(CALL_STYLES[name])
    chat = llm._requests.format()
    said[:] = b"No."
    style = CALL_STYLES[name]
    plain = chat.call_form.example("weather", '{"city": "Rome"}')
    for token, text in zip(chat.call_form.tokens, map(chr, range(0xD800, 0xDC00)), strict=False):
        plain = plain.replace(text, chat.tokenizer.token_bytes(token).decode())
    for hostile in (plain, *style.control, *style.markers, *TEXTS):
        for role in ("user", "tool"):
            ids = [
                [i for i in chat.encode([USER, Message(role, content)]) if i in chat.tokenizer.control_ids]  # type: ignore[arg-type]
                for content in ("harmless", hostile)
            ]
            assert ids[0] == ids[1]
    assert llm.chat("weather?", tools=TOOLS).tool_calls == ()


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "object", "properties": {"a": {"const": "</parameter>"}}, "required": ["a"]}, "no value can be"),
        (
            {"type": "object", "properties": {"a": {"pattern": "^</parameter>$", "type": "string"}}},
            "which ends a value",
        ),
        ({"type": "object", "properties": {"a>b": {"type": "string"}}}, "this name"),
        ({"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, "anyOf"),
        ({"type": "object", "properties": {"a": {"type": "string", "not": {}}}}, "got not"),
        ({"type": "object", "properties": {"a": {}}, "minProperties": 1}, "minProperties 1"),
        ({"type": "object", "properties": {"a": {"type": "string"}}, "required": True}, "schema #/required"),
        ({"type": "object", "properties": {"a": {"type": "string", "minLength": "x"}}}, "schema #/properties/a"),
        ({"type": "object", "properties": {"a": {"anyOf": 3}}}, "schema #/properties/a"),
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/nothing"}}}, "schema #/properties/a"),
    ],
)
def test_what_cannot_be_said_in_a_form_is_refused_in_one_line(schema: Any, why: str) -> None:
    llm, said = saying(CALL_STYLES["a tag of a parameter"])
    said[:] = b"No."
    tools = [{"name": "f", "parameters": schema}]
    with pytest.raises(UsageError, match=why) as caught:
        llm.chat("weather?", tools=tools, tool_choice="required")
    assert "\n" not in str(caught.value)
    assert llm.chat("weather?", tools=tools).text == "No.", "nothing is forced there"


# -- random weights ----------------------------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 8},
        "kind": {"enum": ["rain", 3, None]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "more": {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]},
    },
    "required": ["city", "days", "more"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    """A model from a folder, whose template's tokens are in its vocabulary, not all of them special."""
    style = CALL_STYLES["keys and values between tokens"]
    files = byte_tokenizer_files()
    tokenizer = json.loads(files["tokenizer.json"])
    texts = [*style.control[1:], *style.markers]
    for token, text in zip(tokenizer["added_tokens"][-len(texts) :], texts, strict=True):
        token.update(content=text, special=text in style.control)
    files = {"tokenizer.json": json.dumps(tokenizer), "chat_template.jinja": style.template}
    folder = hf_folder(Path(tmp_path_factory.mktemp("models")) / "own", TINY_TEXT, **files)
    with herd.load(folder, threads=1, context=1024) as found:
        yield found


def test_random_weights_that_must_call_do_and_fit_the_schema(random_weights: LLM) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    form = random_weights._requests.format().call_form
    assert form.own and len(form.tokens) == 4
    tools = [{"name": "f", "parameters": SCHEMA}]
    for seed in range(6):
        reply = random_weights.chat("?", tools=tools, tool_choice="f", max_tokens=600, seed=seed)
        assert (reply.text, reply.cut_call, len(reply.tool_calls)) == ("", None, 1)
        jsonschema.validate(dict(reply.tool_calls[0].arguments), SCHEMA)
