"""Everything goes through the gate: text, calls of tools, stop strings, ids, and what stands over borders."""

import json
from random import Random
from typing import Any

import pytest
from random_replies import leave
from test_layers import BYTES, END, PEM

from herd.config import TINY
from herd.engine.fake import FakeModel
from herd.events import CallArgumentsEvent, CallStartEvent, DoneEvent
from herd.llm import LLM, Message, Reply, TextEvent
from herd.messages import TextPart, ToolCall
from herd.policies import Prompt
from herd.safety import Layers, Settings, reading
from herd.text.call_arguments import said_so_far
from herd.text.chat import Llama4

MAIL = "jane.doe@mail.example.org"
KEY = "sk-" + "a1B2c3D4e5F6g7H8i9J0k1L2"
TOOLS = [{"name": "send", "parameters": {"type": "object"}}]
AT = "\\u0040"
"""@ as JSON may write it."""


def call(**arguments: Any) -> str:
    """A call as a model writes it."""
    return json.dumps({"name": "send", "parameters": arguments})


def heard(text: str, policy: Layers, **options: Any) -> tuple[str, Reply]:
    """All text that leaves of what a model says, events and reply, and the reply."""
    head, said = Llama4(BYTES)._open(), [*text.encode(), END]

    def next_id(ids: list[int]) -> int:
        start = max(i for i in range(len(ids)) if ids[i : i + len(head)] == head) + len(head)
        return said[min(len(ids) - start, len(said) - 1)]

    llm = LLM(TINY, FakeModel(next_id), BYTES, Llama4(BYTES))
    out: list[str] = []
    fragments: dict[int, str] = {}
    for event in llm.stream("hi", policy=policy, temperature=0, max_tokens=4000, **{"tools": TOOLS, **options}):
        match event:
            case TextEvent():
                out += [event.text, "".join(x.text for x in event.logprobs or ())]
            case CallStartEvent():
                out.append(event.name)
            case CallArgumentsEvent():
                fragments[event.call_index] = fragments.get(event.call_index, "") + event.fragment
            case DoneEvent():
                reply = event.reply
                out += [json.dumps(reply.to_dict(), ensure_ascii=False), BYTES.decode(reply.ids), str(reply.parsed)]
                out.append("".join(x.text for x in reply.logprobs or ()))
    for text in fragments.values():
        out += [text, str(said_so_far(text, open_too=True))]
    return "\n".join(out), reply


CALLS = {
    "a value": (f"Sure. {call(to=MAIL)}", MAIL, "calls[0]"),
    "an escaped value": (call(to=MAIL).replace("@", AT), MAIL, "calls[0]"),
    "a name": (call(**{MAIL: 1}), MAIL, "calls[0]"),
    "the second call": (f"{call(a=1)}\n{call(b=[{'c': MAIL}])}", MAIL, "calls[1]"),
    "half in text, half in a call": (f"It is jane.doe@mail{call(to='.example.org')}", MAIL, "text"),
    "half in one value, half in another": (call(a=KEY[:9], b=KEY[9:]), KEY, "calls[0]"),
    "half in a call, half in text": (call(a="jane.doe@ma") + "il.example.org is it", MAIL, "calls[0]"),
    "a number": (call(card=4111111111111111), "4111111111111111", "calls[0]"),
    "a value under its name": (call(password="h7Gk2pQ9xZ4mR8w"), "h7Gk2pQ9xZ4mR8w", "calls[0]"),
}  # fmt: skip


@pytest.mark.parametrize("what", CALLS)
@pytest.mark.parametrize("mode", ["observe", "redact", "block"])
def test_what_is_found_in_calls_is_noted_and_does_not_leave(what: str, mode: Any) -> None:
    text, planted, place = CALLS[what]
    out, reply = heard(text, Layers(Settings(mode)), logprobs=0)
    (note,) = reply.notes
    decision = "observe" if mode == "observe" else "block"
    assert (note.decision, note.where, note.place) == (decision, "output", place)
    if mode == "observe":
        assert reply.tool_calls and reply.finish_reason == "tool_calls"
    else:
        assert planted not in out and "jane" not in "".join(map(str, reply.tool_calls))
        assert reply.finish_reason == "policy" and not reply.tool_calls[1:]


@pytest.mark.parametrize("mode", ["observe", "redact", "block"])
def test_calls_without_finds_leave_as_they_are(mode: Any) -> None:
    text = f"First.{call(a=1)} Then {'and on ' * 40}{call(b='x')}{call(c=[None, True, 'é'])}"
    free, wanted = heard(text, Layers(Settings("observe"), structured=True))
    _, reply = heard(text, Layers(Settings(mode), structured=True))
    assert [c.arguments for c in reply.tool_calls] == [{"a": 1}, {"b": "x"}, {"c": [None, True, "é"]}]
    assert (reply.text, reply.ids, reply.finish_reason) == (wanted.text, wanted.ids, "tool_calls")
    assert reply.notes == () and "First." in free


def test_a_stop_string_that_is_found_is_not_told() -> None:
    text = f"Write to {MAIL} soon"
    for mode, decision in (("observe", "observe"), ("redact", "redact"), ("block", "block")):
        out, reply = heard(text, Layers(Settings(mode)), tools=None, stop=[MAIL], logprobs=0)  # type: ignore[arg-type]
        (note,) = reply.notes
        assert (note.decision, note.place) == (decision, "stop")
        assert (reply.stop == MAIL) is (mode == "observe")
        assert (MAIL in out) is (mode == "observe")


@pytest.mark.parametrize("schema", [None, True])
def test_text_counts_as_what_it_decodes_to_and_what_it_means_does_not_leave(schema: Any) -> None:
    text = '{"to": "' + (MAIL if schema else MAIL.replace("@", AT)) + '"}'
    for mode in ("redact", "block"):
        out, reply = heard(text, Layers(Settings(mode), structured=True), tools=None, schema=schema)  # type: ignore[arg-type]
        assert "jane" not in out
        assert (reply.finish_reason, reply.parsed) == ("policy", None)
    _, reply = heard(text, Layers(structured=True), tools=None, schema=schema)
    assert [n.rule for n in reply.notes] == ["personal.email"] and json.loads(reply.text) == {"to": MAIL}
    assert heard(text, Layers(Settings("redact")), tools=None)[1].text == '{"to": "[EMAIL]"}'


def test_what_hidden_characters_part_is_one_find_and_their_removal_joins_nothing() -> None:
    text = f"it is {KEY[:9]}\x07{KEY[9:]}, mail jane.doe\x00\u200b@mail.example.org so"
    want = "it is [SECRET], mail [EMAIL] so"
    assert heard(text, Layers(Settings("redact")), tools=None)[1].text == want
    clean = Layers(Settings("redact")).cleaned(Prompt([Message("user", text)])).messages
    assert clean[0].text == want


@pytest.mark.parametrize(
    "written", ["so we go on " * 400, f"{PEM}\n{'MIIEpAIBAAKCAQEA7bq ' * 120}", call(a="x " * 300) * 8]
)
def test_all_looks_together_read_a_text_a_bounded_number_of_times(
    written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    scan = reading.scan

    def counted(text: str, *arguments: Any) -> Any:
        read.append(len(text))
        return scan(text, *arguments)

    monkeypatch.setattr(reading, "scan", counted)
    each = []
    for long in (written, written * 2):
        read.clear()
        leave(Random(0), long, Layers(Settings("redact")), most=4)
        each.append(sum(read) / len(long))
    assert each[1] < 1.3 * each[0], each


# -- what comes in ---------------------------------------------------------------------------------------------------


def test_what_stands_over_parts_and_messages_is_one_find() -> None:
    dialog = [
        Message("user", (TextPart("I am jane.doe@ma"), TextPart("il.example.org. My key is " + KEY[:9]))),
        Message("user", KEY[9:]),
    ]
    layers = Layers(Settings("redact"))
    clean = layers.cleaned(Prompt(dialog)).messages
    assert [m.text for m in clean] == ["I am [EMAIL]. My key is [SECRET]", ""]
    assert layers.before(dialog) is None
    assert [(n.rule, n.decision, n.message) for n in layers._seen] == [
        ("personal.email", "redact", 0),
        ("secret.openai", "redact", 0),
    ]


def test_past_calls_and_their_results_are_read_decoded() -> None:
    dialog = [
        Message("user", "go"),
        Message("assistant", "", tool_calls=(ToolCall("send", {"to": MAIL, "n": [1, {"card": 4111111111111111}]}),)),
        Message("tool", json.dumps({"pem": "-----BEGIN " + "PRIVATE KEY-----\nMIIEv"}), name="send"),
    ]
    _, asked, result = Layers(Settings("redact")).cleaned(Prompt(dialog)).messages
    assert asked.tool_calls[0].arguments == {"to": "[EMAIL]", "n": [1, {"card": "[CARD]"}]}
    assert result.content == '{"pem": "[PRIVATE_KEY]"}'


@pytest.mark.parametrize(
    ("tool", "refused"),
    [
        ({"name": "f", "description": f"asks {MAIL}"}, False),
        ({"name": "f", "parameters": {"properties": {"a": {"description": MAIL, "examples": [MAIL]}}}}, False),
        ({"name": "f", "parameters": {"properties": {"a": {"enum": ["x", MAIL]}}}}, True),
        ({"name": "f", "parameters": {"properties": {MAIL: {}}}}, True),
        ({"name": KEY}, True),
    ],
)  # fmt: skip
def test_definitions_of_tools_are_read_and_only_their_prose_is_marked(tool: dict[str, Any], refused: bool) -> None:
    layers = Layers(Settings("redact"))
    shown = layers.cleaned(Prompt([Message("user", "hi")], [tool]))
    said = layers.before([])
    assert (said is not None) is refused
    assert {n.decision for n in layers._seen} == {"block" if refused else "redact"}
    assert {(n.where, n.message, n.place) for n in layers._seen} == {("input", None, "tools[0]")}
    if not refused:
        assert MAIL not in json.dumps(shown.tools) and "[EMAIL]" in json.dumps(shown.tools)


def test_two_numbers_beside_each_other_and_words_before_an_address_are_no_finds_over_borders() -> None:
    dialog = [Message("user", "41111111"), Message("user", "11111111 Hello"), Message("user", f"{MAIL}")]
    clean = Layers(Settings("redact")).cleaned(Prompt(dialog)).messages
    assert [m.text for m in clean] == ["41111111", "11111111 Hello", "[EMAIL]"]
    _, reply = heard(call(a="41111111", b="11111111", c=[4111, 1111, 1111, 1111]), Layers())
    assert reply.notes == ()
