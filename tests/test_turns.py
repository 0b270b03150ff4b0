"""Turns in the forms of OpenAI's and Ollama's clients: read whole, or refused by name and place."""

import builtins
import io
import json
import os
import socket
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from herd.config import TINY
from herd.dialogs import Dialog, read_dialog, turns_of
from herd.errors import BadMedia, HerdError, NoVision, UsageError
from herd.events import Reply, Timings, Usage
from herd.messages import ImagePart, Message, TextPart, ToolCall
from herd.text import special
from herd.text.chat import FORMATS
from herd.text.tokenizer import Tokenizer
from herd.turns import call_arguments
from turn_forms import ASSISTANT, BASE64, DATA, OLLAMA_ASSISTANT, OLLAMA_RESULT, PNG, RESULT, in_lines

ROME = ToolCall("weather", {"city": "Rome"}, "call_1")
CLOCK = ToolCall("clock", {}, "call_2")


def read(*turns: Any, vision: Any = None) -> list[Message]:
    dialog: Dialog = turns
    return read_dialog(dialog, system=None, images=(), vision=vision)


def reply(text: str, *calls: ToolCall) -> Reply:
    return Reply(text, "tool_calls" if calls else "stop", Usage(1, 1), Timings(), tool_calls=calls)


def test_a_turn_of_openai_is_read_with_its_calls() -> None:
    assistant, result = read(ASSISTANT, RESULT)
    assert assistant == Message("assistant", "", tool_calls=(ROME, CLOCK))
    assert result == Message("tool", "12 degrees", tool_call_id="call_1")


def test_a_turn_of_ollama_is_read_with_its_calls() -> None:
    assistant, result = read(OLLAMA_ASSISTANT, OLLAMA_RESULT)
    assert assistant == Message("assistant", "", tool_calls=(ToolCall("weather", {"city": "Rome"}),))
    assert result == Message("tool", "12 degrees", name="weather")


def test_a_developer_is_the_system() -> None:
    assert read({"role": "developer", "content": "be brief"}) == [Message("system", "be brief")]
    with pytest.raises(UsageError, match="a system text and a system turn"):
        read_dialog([{"role": "developer", "content": "a"}], system="b", images=(), vision=None)


def test_parts_of_both_apis_are_texts() -> None:
    parts = [
        {"type": "text", "text": "a"},
        {"type": "input_text", "text": "b"},
        {"type": "output_text", "text": "c", "annotations": [], "logprobs": None},
        {"type": "refusal", "refusal": "d"},
    ]
    (turn,) = read({"role": "user", "content": parts})
    assert turn.content == tuple(TextPart(text) for text in "abcd")


PICTURES: list[dict[str, Any]] = [
    {"content": [{"type": "image_url", "image_url": {"url": DATA, "detail": "auto"}}]},
    {"content": [{"type": "input_image", "image_url": DATA, "detail": "low", "file_id": None}]},
    {"content": [{"type": "image_url", "image_url": DATA.replace("data:image/png;base64", "DATA:Image/PNG;BASE64")}]},
    {"content": [{"type": "image_url", "image_url": DATA}]},
    {"content": [{"type": "image_url", "image_url": BASE64}]},
    {"content": [{"type": "image_url", "image_url": {"url": BASE64}}]},
    {"content": [{"type": "input_image", "image_url": in_lines(DATA)}]},
    {"content": [{"type": "input_image", "image_url": in_lines(BASE64)}]},
    {"content": [{"type": "image", "image": PNG}]},
    {"content": "", "images": [BASE64]},
    {"content": "", "images": [DATA]},
    {"content": "", "images": [in_lines(BASE64)]},
    {"content": None, "images": [PNG]},
]


@pytest.mark.parametrize("turn", PICTURES)
def test_an_image_is_the_same_however_it_came(turn: dict[str, Any]) -> None:
    (found,) = read({"role": "user", **turn}, vision=TINY.vision)
    assert [p for p in found.content if isinstance(p, ImagePart)] == [ImagePart(1, 1)]
    (raw,) = turns_of([{"role": "user", **turn}])
    assert [p.data for p in raw.content if isinstance(p, ImagePart)] == [PNG]
    with pytest.raises(NoVision, match="an image was given to a text model"):
        read({"role": "user", **turn})


def test_a_key_that_is_misspelt_is_told_the_nearest_and_a_flag_is_a_flag() -> None:
    with pytest.raises(UsageError, match=r"got contnt, .*; leave it out, or did you mean content[?]"):
        read({"role": "user", "contnt": "x"})
    for value in ("yes", 1, []):
        with pytest.raises(UsageError, match=r"messages\[0\].end_of_message: got .*, expected true or false"):
            read({"role": "assistant", "content": "x", "end_of_message": value})
    with pytest.raises(UsageError, match=r"^messages: got b'x', expected a text, or a list"):
        turns_of(b"x")  # type: ignore[arg-type]


def test_a_message_of_another_kind_is_refused_by_place_for_any_model() -> None:
    wrong: list[tuple[Any, str]] = [
        (Message("usr", "x"), r"messages\[0\].role: got usr, expected one of system"),
        (Message("user", 5), r"messages\[0\].content: got int, expected text"),  # type: ignore[arg-type]
        (Message("user", ("x",)), r"messages\[0\].content\[0\]: got str, expected a TextPart"),  # type: ignore[arg-type]
        (Message("user", "x", context=5), r"messages\[0\].context: got int"),  # type: ignore[arg-type]
        (Message("tool", "x", name=5), r"messages\[0\].name: got 5, expected a text"),  # type: ignore[arg-type]
        (Message("assistant", "", (5,)), r"messages\[0\].tool_calls\[0\]: got int, expected a ToolCall"),  # type: ignore[arg-type]
    ]
    for turn, line in wrong:
        for look in (turns_of, lambda turns: read(*turns)):
            with pytest.raises(UsageError, match=line):
                look([turn])


def test_an_address_that_is_none_is_refused_by_place() -> None:
    for wrong, got in ((None, "null"), ({}, "null"), ({"url": 3}, "3")):
        with pytest.raises(UsageError, match=rf"content\[0\].image_url(.url)?: got {got}, expected data:image"):
            read({"role": "user", "content": [{"type": "image_url", "image_url": wrong}]}, vision=TINY.vision)


def test_images_of_ollama_stand_before_the_text() -> None:
    (turn,) = read({"role": "user", "content": "what?", "images": [BASE64, PNG]}, vision=TINY.vision)
    assert turn.content == (ImagePart(1, 1), ImagePart(1, 1), TextPart("what?"))


def test_the_limits_of_images_come_before_base64_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("base64.b64decode", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(BadMedia, match="images in one request: got 17"):
        read({"role": "user", "content": "", "images": [BASE64] * 17}, vision=TINY.vision)
    part = {"type": "image_url", "image_url": {"url": DATA}}
    with pytest.raises(BadMedia, match="got 18"):
        read(*[{"role": "user", "content": [part] * 9}] * 2, vision=TINY.vision)
    long = "A" * (24 << 20)
    with pytest.raises(BadMedia, match="images of one request: got 75497472 bytes"):
        read({"role": "user", "content": "", "images": [long] * 4}, vision=TINY.vision)
    with pytest.raises(BadMedia, match=r"messages\[0\].images\[0\]: got about 22020096 bytes"):
        read({"role": "user", "content": "", "images": ["A" * (28 << 20)]}, vision=TINY.vision)


@pytest.mark.parametrize("url", ["http://x/y.png", "https://x/y.png", "file:///etc/hostname", "/etc/hostname", ""])
def test_no_text_names_a_file_or_an_address(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    touched: list[object] = []
    for module, name in ((os, "stat"), (os.path, "isfile"), (builtins, "open"), (io, "open"), (socket, "socket")):
        monkeypatch.setattr(module, name, lambda *a, **_: touched.append(a))
    lines: list[str] = []
    for turn in (
        {"content": [{"type": "image_url", "image_url": {"url": url}}]},
        {"content": [{"type": "input_image", "image_url": url}]},
        {"content": [{"type": "image", "image": url}]},
        {"content": "x", "images": [url or "!"]},
    ):
        with pytest.raises(HerdError) as error:
            read({"role": "user", **turn}, vision=TINY.vision)
        lines.append(str(error.value))
    monkeypatch.undo()
    assert touched == []
    assert all("\n" not in line for line in lines)
    assert lines[0].startswith("messages[0].content[0].image_url.url: got ")
    assert all("bytes or a pathlib.Path" in line for line in lines[:2])


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def calling(**change: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": [CALL, {**CALL, **change}]}


@pytest.mark.parametrize(
    ("turn", "line"),
    [
        (
            calling(function={"name": "f", "arguments": [1]}),
            "messages[0].tool_calls[1].function.arguments: got [1], expected an object, or a JSON object as text",
        ),
        ({**calling(function={"name": "f", "arguments": "{"}), "role": "user"}, "tool_calls: got role user, expected"),
        (calling(function={"arguments": "{}"}), "messages[0].tool_calls[1].function.name: got null, expected a text"),
        (calling(function="f"), "messages[0].tool_calls[1].function: got f, expected an object"),
        (calling(type="custom"), "messages[0].tool_calls[1].type: got custom, expected function"),
        (calling(custom={"x": 1}), "messages[0].tool_calls[1]: got custom, expected keys among id, type"),
        (calling(id=3), "messages[0].tool_calls[1].id: got 3, expected a text"),
        ({"role": "assistant", "content": None}, "messages[0].content: got null, expected a text or a list of parts"),
        ({"role": "tool", "content": None}, "messages[0].content: got null"),
        ({"role": "function", "content": "x"}, "messages[0].role: got function, expected one of system, user"),
        ({"role": "tool", "content": "x", "name": "a", "tool_name": "b"}, "messages[0].tool_name: got b, expected a"),
        ({"role": "user", "content": "x", "images": "abc"}, "messages[0].images: got str, expected a list"),
        ({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, "content[0].type: got input_audio"),
        ({"role": "user", "content": [{"text": "x"}]}, "messages[0].content[0]: got {'text': 'x'}, expected a part"),
        (reply("x"), "messages[0]: got Reply, expected a Message, or an object with role and content; of a Reply, ap"),
    ],
)
def test_a_wrong_turn_is_one_line_with_its_place(turn: Any, line: str) -> None:
    with pytest.raises(UsageError) as error:
        read(turn)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


LOST = {
    "refusal": "I will not",
    "annotations": [{"type": "url_citation"}],
    "audio": {"id": "a"},
    "function_call": {"name": "f", "arguments": "{}"},
    "thinking": "hm",
    "reasoning_content": "hm",
    "cache_control": {"type": "ephemeral"},
}


@pytest.mark.parametrize("key", LOST)
def test_a_key_that_says_something_is_refused_by_name_and_an_empty_one_is_none(key: str) -> None:
    said = {"role": "assistant", "content": "x"}
    part = {"type": "text", "text": "x"}
    for empty in (None, "", [], {}):
        assert read({**said, key: empty}) == [Message("assistant", "x")]
        if key != "refusal":
            assert read({**said, "content": [{**part, key: empty}]}) == [Message("assistant", (TextPart("x"),))]
    with pytest.raises(UsageError, match=rf"messages\[0\]: got {key}, expected keys among role, .*; leave it out"):
        read({**said, key: LOST[key]})
    with pytest.raises(UsageError, match=rf"messages\[0\].content\[0\]: got {key}, expected keys among type, text"):
        read({**said, "content": [{**part, key: LOST[key]}]})


def test_arguments_are_what_json_says() -> None:
    said = {"a": [1, 2.5, None, True], "b": {"c": "ü\n"}}
    assert call_arguments(json.dumps(said)) == said
    assert call_arguments(" ") == call_arguments("null") == {}
    for wrong in WRONG:
        assert call_arguments(wrong) is None


WRONG = (
    *('{"a": "Ro', '{"a"', "{", "[1]", "3", '{"a": NaN}', '{"a": 1e999}', '{"a": -1e999}'),
    *('{"a": ' + "9" * 5000 + "}", '{"a": ' + "[" * 10**5),
)
"""No JSON objects, as arguments of a call that was cut."""


@pytest.mark.parametrize("arguments", WRONG)
def test_a_call_whose_arguments_were_cut_is_text_of_its_turn(arguments: str) -> None:
    text = f'{{"name": "f", "arguments": {arguments}'
    calls = [CALL, {**CALL, "function": {"name": "f", "arguments": arguments}}]
    for content, said in ((None, text), ("I look.", f"I look.\n{text}")):
        (turn,) = read({"role": "assistant", "content": content, "tool_calls": calls})
        assert (turn.content, [call.name for call in turn.tool_calls]) == (said, ["f"])
    (turn,) = read({**calling(), "content": [{"type": "text", "text": "a"}], "tool_calls": calls[1:]})
    assert (turn.text, turn.tool_calls) == (f"a\n{text}", ())


def test_null_arguments_are_none() -> None:
    for function in ({"name": "f"}, {"name": "f", "arguments": None}, {"name": "f", "arguments": "null"}):
        (turn,) = read(calling(function=function))
        assert turn.tool_calls[1].arguments == {}


_KEYS = st.sampled_from(
    [
        *("role", "content", "tool_calls", "name", "tool_name", "tool_call_id", "images", "context", "end_of_message"),
        *("type", "text", "image", "image_url", "url", "detail", "refusal", "function", "arguments", "id", "index"),
    ]
)
_LEAVES = st.sampled_from(
    [
        *(None, True, 0, -1.5, "", "user", "assistant", "tool", "developer", "text", "image", "image_url", "function"),
        *(
            "{}",
            "[",
            DATA,
            DATA[:-9],
            BASE64,
            "http://x",
            "f",
            b"",
            PNG,
            ROME,
            TextPart("a"),
            ImagePart(0, 0),
            object(),
        ),
    ]
)
_ANY = st.recursive(_LEAVES, lambda x: st.lists(x, max_size=3) | st.dictionaries(_KEYS, x, max_size=4), max_leaves=12)
_TURN = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool", "developer", "x"])},
    optional=dict.fromkeys(("content", "tool_calls", "images", "name", "tool_name", "context", "more"), _ANY),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(_TURN | _ANY, min_size=1, max_size=3))
def test_whatever_a_turn_holds_it_is_read_or_refused_in_one_line(turns: list[Any]) -> None:
    for look in (lambda: read(*turns, vision=TINY.vision), lambda: read(*turns), lambda: turns_of(turns)):
        try:
            assert all(isinstance(one, Message) for one in look())
        except HerdError as error:
            assert str(error)  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017


# -- what comes out goes in again -------------------------------------------------------------------------------------

REPLIES = [reply("Rome is fine."), reply("", ROME), reply("I look.", ROME, CLOCK), reply("")]


@pytest.mark.parametrize("answer", REPLIES)
def test_a_message_as_a_dict_is_the_form_of_openai_and_reads_the_same(answer: Reply) -> None:
    found = json.loads(json.dumps(answer.message.to_dict()))
    assert found["role"] == "assistant"
    assert read(found) == [answer.message] == read(answer.message)
    for call in found.get("tool_calls", ()):
        assert (call.keys(), call["type"]) == ({"id", "type", "function"}, "function")
        assert isinstance(call["function"]["arguments"], str)


def test_every_field_of_a_message_reads_the_same_from_its_dict() -> None:
    for message in (
        Message("user", (TextPart("a"), TextPart("b")), context="c"),
        Message("user", "a", context=(TextPart("c"),)),
        Message("tool", "12", name="weather", tool_call_id="call_1"),
        Message("assistant", "a", end_of_message=True),
    ):
        assert read(json.loads(json.dumps(message.to_dict()))) == [message]
    with pytest.raises(UsageError, match="got an image, expected texts; keep the turn"):
        Message("user", (ImagePart(1, 1),)).to_dict()
    with pytest.raises(UsageError, match="arguments of a call of f"):
        Message("assistant", "", (ToolCall("f", {"a": float("nan")}),)).to_dict()


def test_a_message_shows_itself_shortly() -> None:
    assert repr(Message("user", "hi")) == "Message(role='user', content='hi')"
    assert len(repr(Message("user", "x" * 100_000, context="y" * 1000))) < 250
    assert "call_1" in repr(reply("", ROME).message)


@pytest.mark.parametrize("answer", REPLIES)
@pytest.mark.parametrize("name", FORMATS)
def test_the_next_prompt_begins_with_the_ids_of_the_last_one_and_its_answer(name: str, answer: Reply) -> None:
    more = ("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    tokenizer = Tokenizer.bytes_only((*special.SMALL, *more))
    chat = FORMATS[name](tokenizer)
    if name == "plain" and answer.tool_calls:
        with pytest.raises(UsageError, match="cannot say tools"):
            chat.encode([answer.message])
        return
    dialog: list[Any] = [{"role": "user", "content": "How is Rome?"}]
    asked = chat.encode(read(*dialog))
    dialog.append(answer.message)
    answered = chat.encode(read(*dialog), open_assistant=False)
    assert answered[: len(asked)] == asked
    if not answer.tool_calls:
        said = tokenizer.encode("\n\n" * (name == "plain") + answer.text)
        assert answered[len(asked) : len(asked) + len(said)] == said
    dialog += [Message("tool", "12", tool_call_id=call.id) for call in answer.tool_calls]
    dialog.append({"role": "user", "content": "And now?"})
    assert chat.encode(read(*dialog))[: len(answered)] == answered
