"""Calls of tools in every dialect: streamed as they are written, the same whole, cut, broken off, and held back.

The model says what stands behind SAY: in the prompt, so that one service gives every answer.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import httpx
import pytest
from msgspec import structs
from serving import BYTES as VOCABULARY
from serving import END, client_of, fake_service, running

from call_forms import BROKEN, FORCED, FORMS, TOOLS
from helpers import PATIENCE_S
from herd.messages import ToolCall
from herd.safety import Audit
from herd.server.keys import Key, digest_of
from herd.server.openai.turns import allowed
from herd.server.run import policies_of
from herd.server.tables import TABLES
from herd.text.chat import Llama4

Calls = list[tuple[str, str]]


class Told(NamedTuple):
    """What a client gets: text, calls with their arguments as JSON text, why it ended, and the fragments of all calls
    where they were streamed."""

    text: str
    calls: Calls
    why: str
    fragments: list[str] | None = None


def says(ids: list[int]) -> int:
    """What stands in the prompt behind SAY:, then the end."""
    header = Llama4(VOCABULARY)._open()
    start = max(i for i in range(len(ids)) if ids[i : i + len(header)] == header) + len(header)
    asked = bytes(i if i < 256 else 0 for i in ids[:start]).rpartition(b"SAY:")[2].partition(b"\0")[0]
    said = [*asked.replace(b"(at)", b"@"), END]
    return said[min(len(ids) - start, len(said) - 1)]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with client_of(fake_service(tmp_path_factory.mktemp("home"), says)) as found:
        yield found


def posted(client: httpx.Client, path: str, body: dict[str, Any]) -> httpx.Response:
    reply = client.post(path, json={"model": "fake", **body})
    assert reply.status_code == 200, reply.text
    return reply


def frames(reply: httpx.Response) -> list[Any]:
    data = [line[6:] for line in reply.text.splitlines() if line.startswith("data: ")]
    return [json.loads(x) for x in data if x != "[DONE]"]


def chat(client: httpx.Client, answer: str, *, stream: bool, required: bool = False, most: int = 2000) -> Told:
    body = {
        "messages": [{"role": "user", "content": "SAY:" + answer}],
        "tools": [{"type": "function", "function": tool} for tool in TOOLS],
        "tool_choice": "required" if required else "auto",
        "max_tokens": most,
        "temperature": 0,
        "stream": stream,
    }
    reply = posted(client, "/v1/chat/completions", body)
    if not stream:
        (choice,) = reply.json()["choices"]
        message = choice["message"]
        functions = [call["function"] for call in message.get("tool_calls", [])]
        return Told(message["content"] or "", [(f["name"], f["arguments"]) for f in functions], choice["finish_reason"])
    text, names, fragments, parts, why = "", [], [], {}, ""
    for frame in frames(reply):
        (choice,) = frame["choices"]
        text += choice["delta"].get("content", "")
        why = choice["finish_reason"] or why
        for call in choice["delta"].get("tool_calls", []):
            if "name" in call["function"]:
                assert call["index"] == len(names) and call["id"].startswith("call_")
                names.append(call["function"]["name"])
            parts[call["index"]] = parts.get(call["index"], "") + call["function"]["arguments"]
            fragments += [call["function"]["arguments"]] if call["function"]["arguments"] else []
    return Told(text, [(name, parts[i]) for i, name in enumerate(names)], why, fragments)


def responses(client: httpx.Client, answer: str, *, stream: bool, required: bool = False, most: int = 2000) -> Told:
    body = {
        "input": "SAY:" + answer,
        "tools": [{"type": "function", **tool} for tool in TOOLS],
        "tool_choice": "required" if required else "auto",
        "max_output_tokens": most,
        "temperature": 0,
        "stream": stream,
    }
    reply = posted(client, "/v1/responses", body)
    found = frames(reply) if stream else []
    whole = found[-1]["response"] if stream else reply.json()
    calls = [item for item in whole["output"] if item["type"] == "function_call"]
    texts = [part["text"] for item in whole["output"] if item["type"] == "message" for part in item["content"]]
    why = "length" if whole["status"] == "incomplete" else "tool_calls" if calls else "stop"
    for call in calls:
        assert call["status"] == ("completed" if is_json(call["arguments"]) else "incomplete")
    if not stream:
        return Told("".join(texts), [(call["name"], call["arguments"]) for call in calls], why)
    deltas = [x for x in found if x["type"] == "response.function_call_arguments.delta"]
    for call in calls:
        assert "".join(x["delta"] for x in deltas if x["item_id"] == call["id"]) == call["arguments"]
    done = [x["arguments"] for x in found if x["type"] == "response.function_call_arguments.done"]
    assert done == [call["arguments"] for call in calls if call["status"] == "completed"]
    open_ = [x["output_index"] for x in found if x["type"] == "response.output_item.added"]
    assert open_ == [x["output_index"] for x in found if x["type"] == "response.output_item.done"]
    fragments = [x["delta"] for x in deltas]
    return Told("".join(texts), [(call["name"], call["arguments"]) for call in calls], why, fragments)


def messages(client: httpx.Client, answer: str, *, stream: bool, required: bool = False, most: int = 2000) -> Told:
    body = {
        "messages": [{"role": "user", "content": "SAY:" + answer}],
        "tools": [{"name": t["name"], "input_schema": t["parameters"]} for t in TOOLS],
        "tool_choice": {"type": "any" if required else "auto"},
        "max_tokens": most,
        "temperature": 0,
        "stream": stream,
    }
    reply = posted(client, "/v1/messages", body)
    why = {"end_turn": "stop", "tool_use": "tool_calls", "max_tokens": "length", "refusal": "policy"}
    if not stream:
        found = reply.json()
        text = "".join(block["text"] for block in found["content"] if block["type"] == "text")
        uses = [block for block in found["content"] if block["type"] == "tool_use"]
        calls = [(use["name"], ToolCall("", use["input"]).arguments_text) for use in uses]
        return Told(text, calls, why[found["stop_reason"]])
    text, calls, fragments, last = "", [], [], ""
    for frame in frames(reply):
        delta = frame.get("delta", {})
        if frame["type"] == "content_block_start" and frame["content_block"]["type"] == "tool_use":
            calls.append((frame["content_block"]["name"], ""))
        elif delta.get("type") == "input_json_delta":
            fragments.append(delta["partial_json"])
            calls[-1] = (calls[-1][0], calls[-1][1] + delta["partial_json"])
        text += delta.get("text", "")
        last = delta.get("stop_reason") or last
    starts = [f["index"] for f in frames(reply) if f["type"] == "content_block_start"]
    assert starts == [f["index"] for f in frames(reply) if f["type"] == "content_block_stop"]
    return Told(text, calls, why[last], fragments)


def ollama(client: httpx.Client, answer: str, *, stream: bool, required: bool = False, most: int = 2000) -> Told:
    """Its form has whole calls, and no choice of them."""
    body = {
        "messages": [{"role": "user", "content": "SAY:" + answer}],
        "tools": [{"type": "function", "function": tool} for tool in TOOLS],
        "options": {"num_predict": most, "temperature": 0},
        "stream": stream,
    }
    lines = [json.loads(line) for line in posted(client, "/api/chat", body).text.splitlines()]
    called = [call["function"] for line in lines for call in line["message"].get("tool_calls", [])]
    calls = [(call["name"], ToolCall("", call["arguments"]).arguments_text) for call in called]
    why = "length" if lines[-1]["done_reason"] == "length" else "tool_calls" if calls else "stop"
    return Told("".join(line["message"]["content"] for line in lines), calls, why)


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


DIALECTS: dict[str, Callable[..., Told]] = {
    "POST /v1/chat/completions": chat,
    "POST /v1/responses": responses,
    "POST /v1/messages": messages,
    "POST /api/chat": ollama,
}
STREAMING = [name for name in DIALECTS if name != "POST /api/chat"]


def test_every_route_that_takes_tools_is_tested() -> None:
    taking = {
        name
        for name, table in TABLES.items()
        if any(field.encode_name == "tools" for field in structs.fields(table.honoured))
    }
    counting = {"POST /v1/messages/count_tokens", "POST /v1/responses/input_tokens"}
    assert taking - counting == DIALECTS.keys()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_calls_are_the_same_streamed_and_whole(dialect: str, form: str, client: httpx.Client) -> None:
    answer, text, calls = FORMS[form]
    expected = [(name, ToolCall(name, arguments).arguments_text) for name, arguments in calls]
    for stream in (False, True):
        told = DIALECTS[dialect](client, answer, stream=stream)
        assert told[:3] == (text, expected, "tool_calls")
        city = calls[0][1].get("city", "")
        if told.fragments is not None and "its name last" not in form and city:
            assert len(told.fragments) >= len(city) - city.count('"'), "a byte is a token here"


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("dialect", STREAMING)
def test_a_call_that_breaks_off_is_told_as_far_as_it_came(dialect: str, what: str, client: httpx.Client) -> None:
    answer, text, call = BROKEN[what]
    for stream in (False, True):
        told = DIALECTS[dialect](client, answer, stream=stream)
        assert told.text == text
        ((name, arguments),) = told.calls
        assert name == call[0]
        if stream or dialect != "POST /v1/messages":
            assert arguments == call[1]
        else:
            assert is_json(arguments), "Anthropic's whole form has objects: what is whole of it"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_required_call_that_is_cut_leaves_no_signs_in_the_text(dialect: str, client: httpx.Client) -> None:
    whole = json.loads(FORCED)["parameters"]
    for most in (1, 20, 45, 55, 62, 70, len(FORCED) - 3):
        for stream in (False, True):
            told = DIALECTS[dialect](client, FORCED, stream=stream, required=True, most=most)
            if dialect == "POST /api/chat":
                assert told.calls == [], "there whole calls come, or none"
                continue
            assert (told.text, told.why) == ("", "length")
            for name, arguments in told.calls:
                assert name == "weather"
                if stream or dialect != "POST /v1/messages":
                    assert ToolCall(name, whole).arguments_text.startswith(arguments)


@pytest.fixture(scope="module")
def policed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, httpx.Client]]:
    """Clients by the mode of their key's policy."""
    modes: tuple[Any, ...] = ("off", "observe", "redact", "block")
    keys = tuple(Key(mode, digest_of(mode * 9), policy=mode) for mode in modes)
    service = fake_service(tmp_path_factory.mktemp("home"), says, keys=keys)
    service.policies = policies_of("off", Audit(tmp_path_factory.mktemp("log") / "audit.jsonl"))
    with ExitStack() as stack:
        address = stack.enter_context(running(service))
        clients = {
            mode: httpx.Client(base_url=address, headers={"x-api-key": mode * 9}, timeout=PATIENCE_S) for mode in modes
        }
        yield {mode: stack.enter_context(client) for mode, client in clients.items()}


@pytest.mark.parametrize("dialect", STREAMING)
def test_calls_are_the_same_past_any_policy(dialect: str, policed: dict[str, httpx.Client]) -> None:
    clean, text, ((_, arguments), _) = FORMS["Python's"]
    for client in policed.values():
        told = DIALECTS[dialect](client, clean, stream=True)
        assert (told.text, told.calls[0]) == (text, ("weather", ToolCall("", arguments).arguments_text))


@pytest.mark.parametrize("most", [30, 60, 2000])
@pytest.mark.parametrize("dialect", STREAMING)
def test_what_a_policy_keeps_back_does_not_leave_in_a_fragment(
    dialect: str, most: int, policed: dict[str, httpx.Client]
) -> None:
    """Of calls that are whole, and of calls that were cut behind it or amid it."""
    answer = FORMS["JSON, closely written"][0].replace("Rome", "jane.doe(at)mail.example.org, that is her address")
    for mode in ("redact", "block"):
        for stream in (False, True):
            told = DIALECTS[dialect](policed[mode], answer, stream=stream, most=most)
            assert "jane" not in str(told), mode
            if most > 30:
                assert "stopped by a safety policy" in told.text
    assert "jane" in str(DIALECTS[dialect](policed["observe"], answer, stream=True))


CUT_CALL = '{"city": "Ro'
PAST: dict[str, Callable[[Any], dict[str, Any]]] = {
    "/v1/chat/completions": lambda arguments: {
        "messages": [
            {"role": "user", "content": "weather?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "a", "type": "function", "function": {"name": "weather", "arguments": arguments}}
                ],
            },
            {"role": "tool", "tool_call_id": "a", "content": "none"},
            {"role": "user", "content": "SAY:Yes."},
        ]
    },
    "/v1/responses": lambda arguments: {
        "input": [
            {"role": "user", "content": "weather?"},
            {"type": "function_call", "call_id": "a", "name": "weather", "arguments": arguments},
            {"type": "function_call_output", "call_id": "a", "output": "none"},
            {"role": "user", "content": "SAY:Yes."},
        ]
    },
    "/api/chat": lambda arguments: {
        "messages": [
            {"role": "user", "content": "weather?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"function": {"name": "weather", "arguments": arguments}}],
            },
            {"role": "tool", "tool_name": "weather", "content": "none"},
            {"role": "user", "content": "SAY:Yes."},
        ],
        "stream": False,
    },
}


@pytest.mark.parametrize("path", PAST)
def test_past_calls_without_arguments_or_with_cut_ones_refuse_nothing(path: str, client: httpx.Client) -> None:
    for arguments in (None, CUT_CALL):
        reply = posted(client, path, PAST[path](arguments))
        assert "Yes." in reply.text
        assert ("x-herd-note" in reply.headers) == (arguments == CUT_CALL)
    assert "put in as text" in reply.headers["x-herd-note"]


def test_what_was_cut_can_be_gone_on_from_by_its_id(client: httpx.Client) -> None:
    body = {"input": "SAY:" + FORCED, "tools": [{"type": "function", **tool} for tool in TOOLS]}
    first = posted(client, "/v1/responses", {**body, "max_output_tokens": FORCED.index("Rome") + 2}).json()
    (call,) = first["output"]
    assert (call["type"], call["status"]) == ("function_call", "incomplete")
    second = posted(client, "/v1/responses", {**body, "input": "SAY:Yes.", "previous_response_id": first["id"]})
    assert second.json()["output"][0]["content"][0]["text"] == "Yes."


ONLY: dict[str, Callable[[str, list[str]], dict[str, Any]]] = {
    "/v1/chat/completions": lambda mode, names: {
        "messages": [{"role": "user", "content": "SAY:[clock()]"}],
        "tools": [{"type": "function", "function": tool} for tool in TOOLS],
        "tool_choice": {
            "type": "allowed_tools",
            "allowed_tools": {
                "mode": mode,
                "tools": [{"type": "function", "function": {"name": name}} for name in names],
            },
        },
    },
    "/v1/responses": lambda mode, names: {
        "input": "SAY:[clock()]",
        "tools": [{"type": "function", **tool} for tool in TOOLS],
        "tool_choice": {
            "type": "allowed_tools",
            "mode": mode,
            "tools": [*({"type": "function", "name": name} for name in names), {"type": "mcp", "server_label": "x"}],
        },
    },
}


@pytest.mark.parametrize("path", ONLY)
def test_of_allowed_tools_alone_calls_are_made(path: str, client: httpx.Client) -> None:
    def called(mode: str, *names: str) -> list[str]:
        found = posted(client, path, {**ONLY[path](mode, list(names)), "temperature": 0}).json()
        if "output" in found:
            assert found["tool_choice"]["mode"] == mode
            return [item["name"] for item in found["output"] if item["type"] == "function_call"]
        return [call["function"]["name"] for call in found["choices"][0]["message"].get("tool_calls", [])]

    assert called("auto", "clock", "weather") == ["clock"]
    assert called("auto", "weather") == called("auto") == []
    assert called("required", "clock")[:1] == ["clock"]
    for mode, names in (("auto", ["radio"]), ("required", [])):
        refused = client.post(path, json={"model": "fake", **ONLY[path](mode, names)})
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "tool_choice"


def test_many_allowed_tools_are_looked_up_once_each() -> None:
    """They are read before anybody counts tools."""
    looked = 0

    class Counted(str):
        def __hash__(self) -> int:
            nonlocal looked
            looked += 1
            return hash(str(self))

        def __eq__(self, other: object) -> bool:
            nonlocal looked
            looked += 1
            return str(self) == str(other)

    names = [Counted(f"t{i}") for i in range(300)]
    tools = [{"name": name} for name in names]
    assert allowed("auto", names, tools).tools == tools
    assert looked < 20 * len(names)


@pytest.mark.parametrize(
    ("path", "body", "tool"),
    [
        ("/v1/chat/completions", {}, {"type": "function", "function": {"name": "clock", "parameters": None}}),
        ("/api/chat", {"stream": False}, {"type": "function", "function": {"name": "clock", "parameters": None}}),
        ("/v1/messages", {"max_tokens": 99}, {"name": "clock", "input_schema": None}),
        ("/v1/responses", {}, {"type": "function", "name": "clock", "parameters": None}),
    ],
)
def test_null_parameters_of_a_tool_are_none(path: str, body: Any, tool: Any, client: httpx.Client) -> None:
    says = "SAY:[clock()]"
    asked = {"input": says} if "responses" in path else {"messages": [{"role": "user", "content": says}]}
    reply = posted(client, path, {**asked, **body, "tools": [tool]}).text
    assert any(f'"{sign}"' in reply for sign in ("tool_calls", "tool_use", "function_call"))
