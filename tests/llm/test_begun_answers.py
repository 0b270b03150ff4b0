"""Answers that are begun: the model goes on with the last turn, and the reply holds what is new alone."""

import asyncio
import json
from functools import cache
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from speaking import BYTES, END, saying

from herd.config import TINY
from herd.engine.fake import FakeModel
from herd.engine.request import Request, SamplingOptions
from herd.engine.runner import Runner
from herd.errors import UsageError
from herd.llm import LLM, LoadOptions, Message, Reply, TextEvent, child, loading
from herd.messages import ToolCall
from herd.progress import silent
from herd.text.added import AddedToken
from herd.text.chat import Llama4
from herd.text.chat_other import ChatML
from herd.text.special import SMALL
from herd.text.tokenizer import Tokenizer

SAID = "Once upon a time there was a herd."
ASK = {"role": "user", "content": "Tell"}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}},
    "required": ["city", "degrees"],
    "additionalProperties": False,
}
JSON = '{"city": "Rome", "degrees": 12}'
TOOL = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
CALL = '{"type": "function", "name": "weather", "parameters": {"city": "Oslo"}}'


@cache
def model(answer: str) -> LLM:
    """`speaking.saying`, once each: every other one tries grammars in a process of its own."""
    return saying(answer)


def begun(text: str) -> list[dict[str, Any]]:
    return [ASK, {"role": "assistant", "content": text}]


def ways(answer: str, dialog: Any, **options: Any) -> dict[str, Reply]:
    """The reply of every method that answers a dialog."""
    llm = model(answer)
    events = list(llm.stream(dialog, **options))
    done = events[-1].reply  # type: ignore[union-attr]
    assert "".join(e.text for e in events if isinstance(e, TextEvent)) == done.text

    async def coroutines() -> dict[str, Reply]:
        return {"achat": await llm.achat(dialog, **options), "amany": (await llm.achat_many([dialog], **options))[0]}

    return {
        "chat": llm.chat(dialog, **options),
        "stream": done,
        "samples": llm.chat_samples(dialog, 2, **options)[1],
        "many": llm.chat_many([dialog], **options)[0],
        **asyncio.run(coroutines()),
    }


@pytest.mark.parametrize("cut", [0, 1, 5, 17, len(SAID)])
def test_every_method_goes_on_and_says_what_is_new_alone(cut: int) -> None:
    for name, reply in ways(SAID, begun(SAID[:cut])).items():
        assert (reply.text, reply.finish_reason) == (SAID[cut:], "stop"), name


def test_its_ids_are_the_dialog_s_with_the_last_turn_open() -> None:
    llm, turns = model(SAID), [Message("user", "Tell"), Message("assistant", "Once")]
    wanted = [*Llama4(BYTES).encode(turns[:1]), *b"Once"]
    assert llm.tokenize(begun("Once")) == llm.tokenize(turns) == wanted
    assert llm.count(turns) == len(wanted) == llm.chat(turns).usage.prompt_tokens
    parts = [ASK, {"role": "assistant", "content": [{"type": "text", "text": "On"}, {"type": "text", "text": "ce"}]}]
    assert llm.tokenize(parts) == wanted


def test_another_answer_is_opened_where_that_is_asked_for_or_the_turn_is_over() -> None:
    turns = [Message("user", "Tell"), Message("assistant", "Once")]
    opened = Llama4(BYTES).encode(turns)
    for name, reply in ways(SAID, turns, continue_final_message=False).items():
        assert (reply.text, reply.usage.prompt_tokens) == (SAID, len(opened)), name
    llm = model(SAID)
    assert llm.tokenize(turns, continue_final_message=False) == opened
    assert llm.count(turns, continue_final_message=False) == len(opened)
    over = [turns[0], Message("assistant", "Once", end_of_message=True)]
    assert llm.chat(over).text == SAID
    with pytest.raises(UsageError, match="continue_final_message: got 1"):
        llm.chat(turns, continue_final_message=1)  # type: ignore[arg-type]


def test_a_turn_with_tool_calls_is_not_gone_on_with() -> None:
    turns = [Message("user", "Tell"), Message("assistant", "", (ToolCall("weather", {}),))]
    llm = model(SAID)
    for call in (llm.chat, llm.tokenize, llm.count, lambda dialog: list(llm.stream(dialog))):
        with pytest.raises(UsageError, match=r"messages\[1\]: got an answer with tool calls.*role tool"):
            call(turns)
    assert llm.chat(turns, continue_final_message=False).text == SAID
    assert llm.chat([*turns, Message("tool", "sunny")]).text == SAID


@pytest.mark.parametrize("cut", range(len(JSON) + 1))
def test_a_schema_holds_for_begun_part_and_answer_together(cut: int) -> None:
    reply = model(JSON).chat(begun(JSON[:cut]), schema=SCHEMA)
    assert (reply.text, reply.finish_reason) == (JSON[cut:], "stop")
    assert reply.parsed == json.loads(JSON)


def test_a_model_that_would_say_something_else_is_held_to_the_schema_behind_its_begun_part() -> None:
    reply = model("X" * 99).chat(begun('{"city": "'), schema=SCHEMA, max_tokens=200, stop=None)
    assert reply.text.startswith("X")
    text = model('{"city": "XX').chat(begun('{"city":"R", '), schema=SCHEMA, max_tokens=12).text
    assert text.startswith('"degrees":')


@pytest.mark.parametrize(
    ("text", "options", "match"),
    [
        ('{"town": 1', {"schema": SCHEMA}, "schema: got .*'town.*at character 2.*one line"),
        ("Sure: {", {"schema": True}, "json: got .*'Sure: {' at character 0"),
        ("ax", {"grammar": "regex:a+b"}, "regex: got .*'x' at character 1"),
        (JSON + " ", {"schema": SCHEMA}, f"schema: got .*' ' at character {len(JSON)}"),
    ],
)
def test_a_begun_part_that_leaves_its_grammar_is_refused_with_the_place(text: str, options: Any, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        model(JSON).chat(begun(text), **options)


def test_a_begun_part_that_is_too_hard_to_follow_is_refused_in_time() -> None:
    grammar = 'lark:start: (a | b)*\na: "a" start? "x"?\nb: "b" start?\n'
    with pytest.raises(
        UsageError, match=r"begun: got one that (takes over 1 s to follow|meets a limit of the grammar)"
    ):
        model("a").chat(begun("ab" * 1500), grammar=grammar)


@pytest.mark.parametrize("cut", [0, 1, 9, 30, len(CALL) - 1, len(CALL)])
@pytest.mark.parametrize("choice", ["auto", "required", "weather"])
def test_a_call_that_is_begun_is_gone_on_with_and_comes_whole(cut: int, choice: str) -> None:
    for name, reply in ways(CALL, begun(CALL[:cut]), tools=[TOOL], tool_choice=choice).items():
        assert reply.text == "", name
        assert [(c.name, c.arguments) for c in reply.tool_calls] == [("weather", {"city": "Oslo"})], name
        assert reply.finish_reason == "tool_calls"


@pytest.mark.parametrize("answer", ['{"name": "weat, no call', "[1, 2] is a list", "<b>bold</b> text", "Text, {open"])
def test_what_turns_out_to_be_no_call_says_nothing_of_its_begun_part(answer: str) -> None:
    for cut in range(len(answer) + 1):
        reply = model(answer).chat(begun(answer[:cut]), tools=[TOOL])
        assert (reply.text, reply.tool_calls) == (answer[cut:], ()), cut


def test_calls_of_the_begun_part_are_not_told_again() -> None:
    answer = f"{CALL}\n{CALL.replace('Oslo', 'Rome')}"
    reply = model(answer).chat(begun(answer[: len(CALL) + 3]), tools=[TOOL])
    assert [c.arguments for c in reply.tool_calls] == [{"city": "Rome"}]


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_marker_that_is_special_begins_a_call_under_a_grammar_too(choice: str) -> None:
    """The prompt has its id, the grammar its text."""
    chat = ChatML(Tokenizer.bytes_only(("<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>")))
    added, call = chat.tokenizer.added, '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
    header = chat._open()
    said = [*call.encode(), added["<|im_end|>"]]

    def next_id(ids: list[int]) -> int:
        start = max(i for i in range(len(ids)) if ids[i : i + len(header)] == header) + len(header)
        return said[min(len(chat.tokenizer.decode(ids[start:])), len(said) - 1)]

    llm = LLM(TINY, FakeModel(next_id), chat.tokenizer, chat, name="fake")
    for cut in (0, 11, 12, 20, len(call)):
        dialog = [Message("user", "Tell"), Message("assistant", call[:cut])]
        assert (added["<tool_call>"] in llm.tokenize(dialog)) == (cut > 0)
        reply = llm.chat(dialog, tools=[TOOL], tool_choice=choice)
        assert [(c.name, c.arguments) for c in reply.tool_calls] == [("weather", {"city": "Oslo"})], cut
        assert reply.text == ""


def test_it_holds_in_the_engine_s_own_process_too() -> None:
    """A request crosses there with what it goes on with."""
    request = Request([1, 2], SamplingOptions(), begun=(2,))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=Request).begun == (2,)


def test_the_engine_s_own_process_compiles_grammars_over_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chat format's markers are control there, too, where the file does not call them special."""
    texts = [bytes([b]) for b in range(256)] + [name.encode() for name in SMALL]
    added = [AddedToken(256 + i, name, special="python" not in name) for i, name in enumerate(SMALL)]
    specials = {token.text: token.id for token in added if token.special}
    words = Tokenizer(
        lambda text, most: list(text.encode()), texts, specials, bos_id=None, eos_ids=(), split="", added=added
    )
    chat = Llama4(words)
    told = loading.ChildLoad("x", LoadOptions(), [END], loading.control_of(chat.tokenizer))
    parts = SimpleNamespace(runner=object.__new__(Runner), tokenizer=words, config=TINY, pack=False)
    monkeypatch.setattr(loading, "read_model", lambda *arguments, **options: parts)
    monkeypatch.setattr(child, "_loaded", [])
    _, arguments = child._load(msgspec.msgpack.encode(told), silent)
    theirs = arguments["grammars"]._vocabulary
    ours = LLM(TINY, FakeModel(lambda ids: 65), words, chat)._grammars._vocabulary
    ids = range(words.vocab_size)
    assert [*map(theirs.is_special, ids)] == [*map(ours.is_special, ids)]
    assert sum(map(theirs.is_special, ids)) == len(SMALL)
    assert theirs.encode("<|python_start|><think>") == ours.encode("<|python_start|><think>")


@pytest.mark.parametrize("answer", [CALL, JSON])
def test_where_an_answer_may_be_calls_or_fit_a_schema_it_goes_on_as_either(answer: str) -> None:
    for cut in (0, 1, 9, len(answer)):
        reply = model(answer).chat(begun(answer[:cut]), tools=[TOOL], schema=SCHEMA)
        calls = [(c.name, c.arguments) for c in reply.tool_calls]
        assert calls == ([("weather", {"city": "Oslo"})] if answer == CALL else []), cut
        assert reply.text == ("" if answer == CALL else JSON[cut:]), cut
