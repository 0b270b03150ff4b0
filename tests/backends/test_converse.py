"""Bedrock's Converse: what is sent is what botocore would send, what comes is what botocore reads, and no more."""

import asyncio
import base64
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_host import JSON, KEY, FakeHost, Script, hosting, patient, whole
from frames_there import (
    KIND,
    START,
    answer,
    arguments,
    call,
    event,
    exception,
    finish,
    frame,
    said,
    stop,
    usage,
)
from test_hostile_hosts import check_line
from test_openai_form import HELLO, PNG, SAID, TOOLS

from helpers import PATIENCE_S
from herd.backends.converse_request import body_of, images_in
from herd.backends.failures import reason_of
from herd.backends.model import BackendModel
from herd.backends.presets import PRESETS
from herd.backends.probing import probe
from herd.backends.settings import Backend, target_of
from herd.backends.target import Target
from herd.chat_model import WHOSE
from herd.errors import HerdError, Unsupported, UsageError
from herd.events import DoneEvent, Event, Reply
from herd.messages import Message, TextPart, ToolCall

LLAMA = "us.meta.llama4-scout-17b-instruct-v1:0"
OTHER = "amazon.nova-lite-v1:0"


def there(address: str = "http://127.0.0.1:1", model: str = OTHER, **more: Any) -> Target:
    return patient(address.removesuffix("/v1"), model=model, form="converse", **more)


THERE = there()


def events_of(script: Script, model: str = OTHER, **options: Any) -> list[Event]:
    async def read(address: str) -> list[Event]:
        return [one async for one in BackendModel(there(address, model)).astream(HELLO, **options)]

    with hosting(script) as host:
        return asyncio.run(read(host.address))


def reply_of(*pieces: bytes, **options: Any) -> Reply:
    last = events_of(Script(pieces, kind=KIND), **options)[-1]
    assert isinstance(last, DoneEvent)
    return last.reply


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes botocore's client for a fake host."""
    session = pytest.importorskip("botocore.session")
    from botocore import UNSIGNED
    from botocore.config import Config

    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    quiet = Config(signature_version=UNSIGNED, retries={"max_attempts": 0}, proxies={})

    def make(host: FakeHost) -> Any:
        address = host.address.removesuffix("/v1")
        return session.Session().create_client("bedrock-runtime", "us-east-1", endpoint_url=address, config=quiet)

    return make


DIALOG = [
    Message("system", "Be brief."),
    Message("system", "And kind."),
    {"role": "user", "content": [{"type": "text", "text": "See:"}, {"type": "image", "image": PNG}]},
    Message("assistant", "I look.", (ToolCall("weather", {"city": "Oslo"}), ToolCall("clock", {}, "c.2:x"))),
    Message("tool", "rain", name="weather"),
    Message("tool", "noon", tool_call_id="c.2:x"),
    Message("user", (TextPart("So"), TextPart("?")), context="It is noon."),
    Message("user", "Well?"),
]
INFERENCE: dict[str, Any] = {"max_tokens": 9, "ceiling": 5, "temperature": 0.5, "top_p": 1.0, "stop": ["x", "y"]}
ASKED: list[tuple[Any, dict[str, Any]]] = [
    (HELLO, {}),
    (HELLO, INFERENCE),
    (DIALOG, {"tools": TOOLS, **INFERENCE}),
    (HELLO, {"tools": TOOLS, "tool_choice": "required", "stop": "x"}),
    (HELLO, {"tools": TOOLS, "tool_choice": "clock"}),
    ([*HELLO, Message("assistant", "Hi.", end_of_message=False), *HELLO], {}),
]


def as_arguments(value: Any) -> Any:
    """A body as botocore takes it: with bytes in place of base64."""
    if isinstance(value, dict):
        return {k: base64.b64decode(v) if k == "bytes" else as_arguments(v) for k, v in value.items()}
    return [as_arguments(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("number", range(len(ASKED)))
def test_what_is_sent_is_what_botocore_sends(number: int, theirs: Any) -> None:
    turns, options = ASKED[number]
    body = body_of(THERE, turns, options)
    calls = [call(0, "t", "clock"), stop()] if options.get("tool_choice") else [said("Yes.")]
    with hosting(Script([START, *calls, finish(), usage()], kind=KIND)) as host:
        asyncio.run(BackendModel(there(host.address)).achat(turns, **options))
        client = theirs(host)
        client.converse_stream(modelId=OTHER, **as_arguments(body))  # which checks it by its own description
        mine, botocores = host.asked
    assert mine.body == botocores.body == body
    assert mine.path == botocores.path == "/model/amazon.nova-lite-v1%3A0/converse-stream"
    assert mine.headers["authorization"] == f"Bearer {KEY}" and mine.headers["accept"] == KIND


def test_a_dialog_in_its_words() -> None:
    body = body_of(THERE, DIALOG, {"tools": TOOLS})
    assert body["system"] == [{"text": "Be brief."}, {"text": "And kind."}]
    user, assistant, results = body["messages"]
    image = {"image": {"format": "png", "source": {"bytes": base64.b64encode(PNG).decode()}}}
    assert user == {"role": "user", "content": [{"text": "See:"}, image]}
    first, second = (block["toolUse"] for block in assistant["content"][1:])
    assert (first["input"], second) == ({"city": "Oslo"}, {"toolUseId": "c.2:x", "name": "clock", "input": {}})
    told = [block["toolResult"] for block in results["content"][:2]]
    assert [one["toolUseId"] for one in told] == [first["toolUseId"], "c.2:x"]
    assert results["content"][2:] == [{"text": "So?\n\nIt is noon."}, {"text": "Well?"}]
    assert images_in(body) == 1
    assert body_of(THERE, HELLO, INFERENCE)["inferenceConfig"] == {
        "maxTokens": 5, "temperature": 0.5, "topP": 1.0, "stopSequences": ["x", "y"]
    }  # fmt: skip


KNOWN = {"temperature", "top_p", "max_tokens", "ceiling", "stop", "tools"}


@pytest.mark.parametrize("name", SAID)
def test_every_option_is_sent_or_kept_or_refused_by_name(name: str) -> None:
    """Though the target claims to do all of it."""
    options = {"tools": TOOLS} if name in ("tool_choice", "parallel_tool_calls") else {}
    if name in (*WHOSE, "timeout_s", "continue_final_message"):
        assert body_of(THERE, HELLO, {name: SAID[name]}) == body_of(THERE, HELLO, {})
    elif name in KNOWN:
        assert body_of(THERE, HELLO, {name: SAID[name]}) != body_of(THERE, HELLO, {})
    else:
        with pytest.raises(Unsupported):
            body_of(THERE, HELLO, {**options, name: SAID[name]})


UNSAID: dict[str, tuple[Any, dict[str, Any]]] = {
    "a temperature above one": (HELLO, {"temperature": 1.5}),
    "a begun answer": ([*HELLO, {"role": "assistant", "content": "Once"}], {}),
    "a late system turn": ([*HELLO, Message("system", "x")], {}),
    "a turn that is not over": ([*HELLO, Message("assistant", "x", end_of_message=True), *HELLO], {}),
    "an empty turn": ([Message("user", "")], {}),
    "a bitmap": ([{"role": "user", "content": [{"type": "image", "image": b"BM" + b"\0" * 60}]}], {}),
    "a name of other signs": (HELLO, {"tools": [{"name": "größe.x"}]}),
    "a long id": (
        [*HELLO, Message("assistant", "", (ToolCall("f", {}, "c" * 65),)), Message("tool", "", tool_call_id="c" * 65)],
        {},
    ),
}


@pytest.mark.parametrize("name", UNSAID)
def test_what_converse_has_no_words_for_is_refused(name: str) -> None:
    with pytest.raises(Unsupported):
        body_of(THERE, *UNSAID[name])


def test_a_result_of_no_call_and_a_wrong_choice_are_the_request_s_fault() -> None:
    with pytest.raises(UsageError, match="tool_call_id"):
        body_of(THERE, [HELLO[0], {"role": "tool", "content": "rain"}], {})
    with pytest.raises(UsageError, match="tool_choice"):
        body_of(THERE, HELLO, {"tools": TOOLS, "tool_choice": "shell"})


def test_images_are_no_files_and_need_the_capability(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    for wrong in (str(tmp_path / "a.png"), "https://host/a.png"):
        with pytest.raises(HerdError):
            body_of(THERE, [{"role": "user", "content": [{"type": "image", "image": wrong}]}], {})
    plain = replace(THERE, capabilities=PRESETS["replicate"].capabilities)
    for asked in (([{"role": "user", "content": [{"type": "image", "image": PNG}]}], {}), (HELLO, {"tools": TOOLS})):
        with pytest.raises(Unsupported):
            body_of(plain, *asked)


def test_a_llama_s_tools_go_where_they_are_not_streamed() -> None:
    use = {"toolUse": {"toolUseId": "t1", "name": "weather", "input": {"city": "Oslo"}}}
    found = whole(
        {"output": {"message": {"role": "assistant", "content": [{"text": "Let me see."}, use]}},
         "stopReason": "tool_use", "usage": {"inputTokens": 9, "outputTokens": 4, "totalTokens": 13},
         "metrics": {"latencyMs": 3}}
    )  # fmt: skip
    with hosting(found) as host:
        reply = asyncio.run(BackendModel(there(host.address, LLAMA)).achat(HELLO, tools=TOOLS))
    assert host.asked[0].path == "/model/us.meta.llama4-scout-17b-instruct-v1%3A0/converse"
    assert (reply.text, reply.tool_calls) == ("Let me see.", (ToolCall("weather", {"city": "Oslo"}, "t1"),))
    assert (reply.finish_reason, reply.usage.prompt_tokens, reply.usage.output_tokens) == ("tool_calls", 9, 4)
    with hosting(answer("Yes.")) as host:
        assert asyncio.run(BackendModel(there(host.address, LLAMA)).achat(HELLO)).text == "Yes."
    assert host.asked[0].path.endswith("/converse-stream")
    for choice in ("required", "clock", "none"):
        with pytest.raises(Unsupported, match=r"forced|shown"):
            body_of(there(model=LLAMA), HELLO, {"tools": TOOLS, "tool_choice": choice})


def test_an_answer_is_what_botocore_reads(theirs: Any) -> None:
    calls = [call(1, "t1", "weather"), arguments('{"city": ', 1), arguments('"Oslo"}', 1), stop(1)]
    script = Script([START, said("Grüße, "), said("🌍"), stop(), *calls, finish("tool_use"), usage()], kind=KIND)
    found = events_of(script, tools=TOOLS)
    with hosting(script) as host:
        read = list(theirs(host).converse_stream(modelId=OTHER, **as_arguments(body_of(THERE, HELLO, {})))["stream"])
    deltas = [one["contentBlockDelta"]["delta"] for one in read if "contentBlockDelta" in one]
    last = found[-1]
    assert isinstance(last, DoneEvent)
    assert last.reply.text == "".join(one.get("text", "") for one in deltas) == "Grüße, 🌍"
    assert last.reply.tool_calls == (ToolCall("weather", {"city": "Oslo"}, "t1"),)
    told = next(one["metadata"]["usage"] for one in read if "metadata" in one)
    assert (last.reply.usage.prompt_tokens, last.reply.usage.output_tokens) == (
        told["inputTokens"],
        told["outputTokens"],
    )


REASONS = {
    "end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "model_context_window_exceeded": "length",
    "content_filtered": "policy", "guardrail_intervened": "policy", "malformed_model_output": None,
    "malformed_tool_use": None, "tool_use": "tool_calls",
}  # fmt: skip


def test_every_reason_to_end_is_known() -> None:
    loaders = pytest.importorskip("botocore.loaders")
    shapes = loaders.Loader().load_service_model("bedrock-runtime", "service-2")["shapes"]
    assert set(shapes["StopReason"]["enum"]) == REASONS.keys()
    events = set(shapes["ConverseStreamOutput"]["members"])
    assert {one for one in events if not one.endswith("Exception")} == {
        "messageStart", "contentBlockStart", "contentBlockDelta", "contentBlockStop", "messageStop", "metadata"
    }  # fmt: skip


@pytest.mark.parametrize("reason", REASONS)
def test_why_an_answer_ended(reason: str) -> None:
    calls = [call(1, "t", "clock"), stop(1)] if reason == "tool_use" else []
    pieces = [START, said("Yes."), stop(), *calls, finish(reason), usage()]
    if REASONS[reason] is None:
        with pytest.raises(HerdError, match="unknown reason"):
            reply_of(*pieces)
        return
    assert reply_of(*pieces, tools=TOOLS).finish_reason == REASONS[reason]


def test_thoughts_stand_between_marks_and_signatures_are_left_out() -> None:
    thought = [{"reasoningContent": {"text": "Hm."}}, {"reasoningContent": {"signature": "abc"}}]
    pieces = [event("contentBlockDelta", {"contentBlockIndex": 0, "delta": one}) for one in thought]
    assert reply_of(START, *pieces, stop(), said("Yes.", 1), finish(), usage()).text == "<think>\nHm.\n</think>\n\nYes."


def delta(value: Any, block: Any = 0) -> bytes:
    return event("contentBlockDelta", {"contentBlockIndex": block, "delta": value})


BROKEN: dict[str, list[bytes]] = {
    "a cut stream": [START, said("Hel")],
    "a cut frame": [START, said("Hel")[:-3]],
    "nothing": [],
    "an event of no kind": [START, event("surprise", {})],
    "a frame of no kind": [frame({":message-type": "event"}, b"{}")],
    "no event": [frame({":message-type": "hello", ":event-type": "messageStart"}, b"{}")],
    "no JSON": [event("messageStart", b"{nothing")],
    "deep JSON": [event("messageStart", b"[" * 2000)],
    "an event that is a list": [event("messageStart", [1])],
    "the user's answer": [event("messageStart", {"role": "user"})],
    "a delta that is a list": [START, delta([1])],
    "a delta of nothing known": [START, delta({"video": "x"})],
    "a text that is a number": [START, delta({"text": 5})],
    "a block at no place": [START, delta({"text": "x"}, "0")],
    "a block below zero": [START, delta({"text": "x"}, -1)],
    "a block beyond all": [START, delta({"text": "x"}, 10**9)],
    "a block after its end": [START, said("x"), stop(), said("y")],
    "a second answer": [START, said("One."), finish(), said("Two.", 1), finish(), usage()],
    "arguments of no call": [START, arguments("{}")],
    "a call twice": [START, call(0, "t", "clock"), call(0, "u", "clock")],
    "a call of no name": [START, call(0, "t", None), stop(), finish("tool_use"), usage()],
    "a tool nobody offered": [START, call(0, "t", "shell"), stop(), finish("tool_use"), usage()],
    "arguments that are no JSON": [START, call(0, "t", "clock"), arguments("{"), stop(), finish("tool_use"), usage()],
    "two calls with one id": [
        START, call(0, "t", "clock"), stop(0), call(1, "t", "clock"), stop(1), finish("tool_use"), usage()
    ],
    "tokens below zero": [START, said("x"), finish(), usage(-1)],
    "tokens that are true": [START, said("x"), finish(), usage(True)],
    "a usage of nothing": [START, said("x"), finish(), event("metadata", {"usage": 5})],
    "bytes that are no frame": [b"data: {}\n\n" * 3],
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_every_broken_answer_is_one_typed_line(name: str) -> None:
    with pytest.raises(HerdError) as caught:
        reply_of(*BROKEN[name], tools=TOOLS)
    check_line(caught.value)
    assert reason_of(caught.value) == "broken"


def test_what_is_no_binary_stream_is_no_answer() -> None:
    ours = {"choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}]}
    for script in (whole(ours), Script([b"data: [DONE]\n\n"]), whole({"output": {}})):
        with pytest.raises(HerdError) as caught:
            events_of(script)
        assert reason_of(caught.value) == "broken"
    for wrong in (
        {},
        {"output": {"message": {"role": "user", "content": []}}},
        {"output": {"message": {"content": 5}}},
    ):
        with pytest.raises(HerdError) as caught:
            events_of(whole(wrong), LLAMA, tools=TOOLS)
        assert reason_of(caught.value) == "broken"


EXCEPTIONS: list[tuple[str, int, str, str]] = [
    ("ThrottlingException", 429, "Too many tokens, please wait before trying again.", "full"),
    ("ServiceQuotaExceededException", 400, "Your request exceeds the service quota.", "full"),
    ("ModelNotReadyException", 429, "The model is not ready.", "full"),
    ("ServiceUnavailableException", 503, "The service isn't currently available.", "full"),
    ("InternalServerException", 500, "An internal server error occurred.", "absent"),
    ("ModelErrorException", 424, "The request failed due to an error while processing the model.", "absent"),
    ("ModelStreamErrorException", 424, "An error occurred while streaming the response.", "absent"),
    ("ModelTimeoutException", 408, "The request took too long to process.", "absent"),
    ("AccessDeniedException", 403, "You don't have access to the model with the specified model ID.", "refused"),
    ("UnrecognizedClientException", 403, "The security token included in the request is invalid.", "refused"),
    ("ResourceNotFoundException", 404, "This model version has reached the end of its life.", "withdrawn"),
    ("ValidationException", 400, "The provided model identifier is invalid.", "withdrawn"),
    ("ValidationException", 400, "Invocation of model ID x with on-demand throughput isn’t supported.", "withdrawn"),
    ("ValidationException", 400, "This model's maximum context length is 131072 tokens.", "context"),
    ("ValidationException", 400, "Input is too long for requested model.", "context"),
    ("ValidationException", 400, "This model doesn't support tool use in streaming mode.", "unsupported"),
    ("ValidationException", 400, "A conversation must start with a user message.", "unfit"),
]
"""Errors by name, with words as others have met them."""


@pytest.mark.parametrize(("name", "status", "words", "reason"), EXCEPTIONS)
def test_its_errors_are_of_a_kind_by_status_and_within_a_stream(
    name: str, status: int, words: str, reason: str
) -> None:
    header = (("x-amzn-ErrorType", f"{name}:http://internal.amazon.com/coral/com.amazon.bedrock/"),)
    scripts = [
        whole({"message": words}, status, headers=header),
        whole({"__type": f"com.amazon.bedrock#{name}", "Message": words}, status),
        Script([START, exception(name[0].lower() + name[1:], words)], kind=KIND),
    ]
    for script in scripts:
        with pytest.raises(HerdError) as caught:
            events_of(script)
        assert reason_of(caught.value) == reason, script
        check_line(caught.value)


def test_a_wrong_key_and_an_error_without_exception() -> None:
    wrong = whole({"Message": "Authentication failed: Please make sure your API Key is valid."}, 403)
    fault = Script([frame({":message-type": "error", ":error-code": "500", ":error-message": KEY}, b"")], kind=KIND)
    for script, reason in ((wrong, "refused"), (fault, "absent")):
        with pytest.raises(HerdError) as caught:
            events_of(script)
        assert reason_of(caught.value) == reason
        check_line(caught.value)


def test_every_exception_that_bedrock_has_is_of_a_kind() -> None:
    loaders = pytest.importorskip("botocore.loaders")
    shapes = loaders.Loader().load_service_model("bedrock-runtime", "service-2")["shapes"]
    model = loaders.Loader().load_service_model("bedrock-runtime", "service-2")["operations"]["ConverseStream"]
    named = {one["shape"] for one in model["errors"]}
    named |= {shapes["ConverseStreamOutput"]["members"][m]["shape"] for m in shapes["ConverseStreamOutput"]["members"]
              if m.endswith("Exception")}  # fmt: skip
    known = {name: status for name, status, *_ in EXCEPTIONS}
    assert named <= known.keys()
    assert all(shapes[name]["error"]["httpStatusCode"] == known[name] for name in named)


def test_an_endless_frame_is_cut_off_and_leaving_ends_the_request() -> None:
    large = frame({":message-type": "event", ":event-type": "messageStart"}, b" " * 100_000)
    with pytest.raises(HerdError, match="more than"):
        reply_of(large)

    async def leave(host: FakeHost) -> None:
        stream = BackendModel(there(host.address)).astream(HELLO)
        assert await anext(stream)
        await stream.aclose()

    with hosting(Script([START, said("Hel")], kind=KIND, hangs="after")) as host:
        asyncio.run(leave(host))
        assert host.left.wait(PATIENCE_S)


def test_a_backend_of_the_preset_is_added_and_tried() -> None:
    backend = Backend("bedrock", LLAMA, url=PRESETS["bedrock"].at("us-east-1"), key=KEY, limit_dollars=1)
    found = target_of("far", backend)
    assert (found.base_url, found.form) == ("https://bedrock-runtime.us-east-1.amazonaws.com", "converse")
    for wrong in ("us-east-1.evil.com/", "US", "", "../x", "us-east-1#"):
        with pytest.raises(UsageError, match="region"):
            PRESETS["bedrock"].at(wrong)
    with pytest.raises(UsageError, match="region"):
        PRESETS["deepinfra"].at("us-east-1")


@pytest.fixture(params=[LLAMA, OTHER])
def tried(request: pytest.FixtureRequest) -> Iterator[tuple[str, dict[str, Any]]]:
    """What a probe finds of a good host."""
    use = {"toolUse": {"toolUseId": "t1", "name": "say", "input": {"word": "yes"}}}
    told = {"inputTokens": 9, "outputTokens": 4, "totalTokens": 13}
    called = whole({"output": {"message": {"role": "assistant", "content": [use]}}, "stopReason": "tool_use",
                    "usage": told})  # fmt: skip
    streamed = Script([START, call(0, "t1", "say"), arguments('{"word": "yes"}'), stop(), finish("tool_use"), usage()],
                      kind=KIND)  # fmt: skip
    with hosting(answer("Yes."), called if request.param == LLAMA else streamed) as host:
        model = BackendModel(there(host.address, request.param))
        yield request.param, asyncio.run(probe(model, leave=False, tell=lambda *_: None))


def test_a_probe_lists_nothing_and_tries_the_rest(tried: tuple[str, dict[str, Any]]) -> None:
    found = {check: one["result"] for check, one in tried[1].items()}
    assert found == {
        "reached": "ok", "key": "ok", "model": "ok", "streams": "ok", "usage": "ok", "tools": "ok", "schema": "lacks"
    }  # fmt: skip


def test_a_probe_says_what_fails() -> None:
    denied = whole({"Message": "Authentication failed"}, 403)
    gone = whole({"message": "The provided model identifier is invalid."}, 400,
                 headers=(("x-amzn-ErrorType", "ValidationException"),))  # fmt: skip
    for script, failed in ((denied, "key"), (gone, "model"), (Script([], 502, JSON), "reached")):
        with hosting(script) as host:
            model = BackendModel(there(host.address, LLAMA))
            found = asyncio.run(probe(model, leave=False, tell=lambda *_: None))
        assert found[failed]["result"] == "failed", found
