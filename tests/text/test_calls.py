"""Calls in answers: every form, any split, and everything that is no call comes out as it went in."""

import ast
import json
import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from herd.errors import UsageError
from herd.messages import ToolCall
from herd.text.calls import CallEnd, CallParser, CallStart, TextPiece, call_grammar, parameters_of
from herd.text.calls_or_answer import calls_or_answer_grammar
from herd.text.message_checks import check_name
from herd.text.tools import call_text, definitions_text, hermes_text

TOOLS = {"f": ("a", "b"), "g.h": (), "code-2": ("x",)}
Found = tuple[str, list[tuple[str, dict[str, Any]]]]


def read(text: str, splits: list[int] | None = None) -> Found:
    """(text, calls) of an answer that comes in pieces."""
    parser = CallParser(TOOLS)
    borders = [0, *sorted(splits or []), len(text)]
    pieces = [p for a, b in pairwise(borders) for p in parser.push(None, text[a:b])]
    pieces += parser.finish()
    calls = [p.call for p in pieces if isinstance(p, CallEnd)]
    assert [p.index for p in pieces if isinstance(p, CallStart)] == list(range(len(calls)))
    return "".join(p.text for p in pieces if isinstance(p, TextPiece)), [(c.name, dict(c.arguments)) for c in calls]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('[f(a=1, b="x"), g.h()]', ("", [("f", {"a": 1, "b": "x"}), ("g.h", {})])),
        ("Sure. [f(a=[1, {'k': None}], b='it\\'s')] Done.",
         ("Sure.  Done.", [("f", {"a": [1, {"k": None}], "b": "it's"})])),
        ("[f(1, True)]", ("", [("f", {"a": 1, "b": True})])),
        ("[f(null, b=(1, 2,))]", ("", [("f", {"a": None, "b": [1, 2]})])),
        ("[f(b={x=1, 'y': -1.5e3})]", ("", [("f", {"b": {"x": 1, "y": -1500.0}})])),
        ('[f(a="""q"q\n""")]', ("", [("f", {"a": 'q"q\n'})])),
        ('[f(a="\\u00e9\\x41\\n\\q")]', ("", [("f", {"a": "\u00e9A\n\\q"})])),
        ("[ f ( a = 1 , ) , g.h( ) ]", ("", [("f", {"a": 1}), ("g.h", {})])),
        ('{"name": "f", "parameters": {"a": "}"}}', ("", [("f", {"a": "}"})])),
        ('{"type": "function", "name": "f", "parameters": {}}; {"name":"g.h"}', ("", [("f", {}), ("g.h", {})])),
        ('{"arguments": "{\\"a\\": 2}", "name": "f"}', ("", [("f", {"a": 2})])),
        ('{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}', ("", [("f", {"a": 1})])),
        ('[{"name": "f", "parameters": {}}, {"name": "g.h", "parameters": {}}]', ("", [("f", {}), ("g.h", {})])),
        ('<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>\n', ("", [("f", {"a": 1})])),
        ('<function=f>{"a": 2}</function> ok', (" ok", [("f", {"a": 2})])),
        ('```json\n{"name": "f", "parameters": {}}\n```', ("", [("f", {})])),
        ("[[f(a=1)]]", ("[]", [("f", {"a": 1})])),
        # what the end of the answer makes up for
        ("[f(a=1)", ("", [("f", {"a": 1})])),
        ('{"name": "f", "parameters": {"a": [1, 2]}', ("", [("f", {"a": [1, 2]})])),
        ('[{"name": "f", "parameters": {}}, {"name": "g.h"}', ("", [("f", {}), ("g.h", {})])),
        ('```json\n{"name": "f"}\n{"name": "g.h"}\n```', ("", [("f", {}), ("g.h", {})])),
        ('[f(a="\\ud83d\\ude00")]', ("", [("f", {"a": "\N{GRINNING FACE}"})])),
        ('<tool_call>{"name": "f", "arguments": {}}</tool', ("", [("f", {})])),
        ('<function=f>{"a": 2}', ("", [("f", {"a": 2})])),
        ("[f(a=1), g.h()", ("", [("f", {"a": 1}), ("g.h", {})])),
    ],
)  # fmt: skip
def test_forms(answer: str, expected: Found) -> None:
    assert read(answer) == expected


@pytest.mark.parametrize(
    "answer",
    [
        "", "Hello.", "[1, 2]", '{"x": 1}', "[h(a=1)]", "f(1)", '{"name": "h", "parameters": {}}', "[f(a=1", "[f(a='x",
        '{"name": "f", "parameters": {"a": "', "[f(a=1, a=2)]", "[f(1, 2, 3)]", "[f(a=b)]", "[f(a=1}]", "[f(a=1e999)]",
        "<tool_call>nothing</tool_call>", "<function=h>{}</function>", "<b>hi</b>", "```python\nprint([1])\n```",
        '{"name": 1}', '{"name": "f", "parameters": [1]}', "<|python_start|>[x(1)]<|python_end|>", "`f`", "[f]", "[f(",
        '{"name": "f", "parameters": {"a": 10', '{"name": "f", "parameters": {"a": [1, 2', '{"name": "f"',
        '<function=f>{"a": 2',
        '{"name": "f", "parameters": {"a": NaN}}', '{"name": "f", "parameters": {"a": 1e400}}',
        '{"name": "f", "parameters": {"a": "\\ud800"}}', '[f(a="\\ud800")]', '{"name": "f", "description": "x"}',
        '[{"name": "h", "parameters": {}}, {"name": "f"',
        "a < b > c [d] {e}", '[f(a="\\u12")]', "[" * 50, '{"name"' * 50, "[f(a=" + "[" * 100,
    ],
)  # fmt: skip
def test_what_is_no_call_stays_the_text_that_it_is(answer: str) -> None:
    assert read(answer) == (answer, [])


def test_control_tokens_around_a_call_have_no_text_and_text_that_spells_one_is_text() -> None:
    parser = CallParser(TOOLS, markers=[7, 8])
    found = [*parser.push(7, ""), *parser.push(1, "[f(a=1)]"), *parser.push(8, ""), *parser.finish()]
    assert [p.call for p in found if isinstance(p, CallEnd)] == [ToolCall("f", {"a": 1})]
    assert read("<|python_start|>[f(a=1)]") == ("<|python_start|>", [("f", {"a": 1})])


FRAGMENTS = (
    '[f(a=1, b="x")]', "[f(a=", '{"name": "f", "parameters": {"a": [1]}}', '{"name": "f"', "<tool_call>",
    "</tool_call>", '{"a": 1}', "```json\n", "```", "<function=f>", "{}", "</function>", "[", "]", "{",
    "}", "'", '"', "\\", " ", "\n", "; ", "text", "f(1)", "g.h()", ", ", "\N{GRINNING FACE}",
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=12), st.randoms(use_true_random=False))
def test_any_split_gives_the_same_and_nothing_is_lost(parts: list[str], rng: random.Random) -> None:
    answer = "".join(parts)
    whole = read(answer)
    assert read(answer, list(range(1, len(answer)))) == whole
    assert read(answer, [rng.randrange(len(answer) + 1) for _ in range(5)]) == whole
    if not whole[1]:
        assert whole[0] == answer


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(-1e9, 1e9, allow_nan=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "long_name"]), VALUES, max_size=3))
def test_values_are_those_of_python_and_of_json(arguments: dict[str, Any]) -> None:
    python = "[f(" + ", ".join(f"{k}={v!r}" for k, v in arguments.items()) + ")]"
    expected = {k: ast.literal_eval(repr(v)) for k, v in arguments.items()}
    assert read(python) == ("", [("f", expected)])
    for form in ("json", "function_tag"):
        assert read(call_text(ToolCall("f", arguments), form)) == ("", [("f", json.loads(json.dumps(arguments)))])


@pytest.mark.parametrize("text", ["[" * 10**6, '[f(a="' + "x" * 2 * 10**6, '{"name": ' * 10**5, "[f(a=1), " * 10**5])
def test_a_megabyte_of_brackets_is_text_read_once(text: str) -> None:
    reads = 0

    class Counting(CallParser):
        def _send(self, char: str, found: list[Any]) -> bool:
            nonlocal reads
            reads += 1
            return super()._send(char, found)

    parser = Counting(TOOLS)
    pieces = [*parser.push(None, text), *parser.finish()]
    assert "".join(p.text for p in pieces if isinstance(p, TextPiece)) == text
    assert reads <= 2 * len(text) + 2


@pytest.mark.parametrize("hermes", [True, False])
@pytest.mark.parametrize(("only", "parallel"), [(None, True), (None, False), ("g.h", False)])
def test_forced_calls_are_calls_valid_under_their_schemas(hermes: bool, only: str | None, parallel: bool) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    llguidance = pytest.importorskip("llguidance")
    properties = {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}}
    schema = {"type": "object", "properties": properties, "required": ["a", "b"], "additionalProperties": False}
    tools: list[dict[str, Any]] = [{"name": "f", "parameters": schema}, {"name": "g.h", "description": "nothing"}]
    schemas = {t["name"]: t.get("parameters", {"type": "object", "maxProperties": 0}) for t in tools}
    text = call_grammar(tools, hermes=hermes, only=only, parallel=parallel)
    tokenizer = llguidance.LLTokenizer("byte")
    rng = random.Random(5)
    for _ in range(20):
        matcher = llguidance.LLMatcher(tokenizer, llguidance.grammar_from("lark", text))
        said = bytearray()
        while not matcher.is_stopped() and len(said) < 2000:
            mask = matcher.compute_bitmask()
            allowed = [i for i in range(tokenizer.vocab_size) if mask[i // 8] >> (i % 8) & 1]
            if tokenizer.eos_token in allowed and (len(said) > 150 or len(allowed) == 1 or rng.random() < 0.3):
                break
            token = rng.choice([i for i in allowed if i < 256])
            assert matcher.consume_token(token)
            said.append(token)
        parser = CallParser(parameters_of(tools))
        pieces = [*parser.push(None, said.decode()), *parser.finish()]
        calls = [p.call for p in pieces if isinstance(p, CallEnd)]
        if len(said) >= 2000:
            continue  # a number without end
        assert calls, said
        assert not [p for p in pieces if isinstance(p, TextPiece) and p.text.strip()]
        assert parallel or len(calls) == 1
        for call in calls:
            assert only in (None, call.name)
            jsonschema.validate(dict(call.arguments), schemas[call.name])


def test_an_answer_that_was_cut_is_not_added_to() -> None:
    for answer in ("[f(a=1)", '{"name": "f", "parameters": {"a": 1}', '<tool_call>{"name": "f"}'):
        parser = CallParser(TOOLS)
        pieces = [*parser.push(None, answer), *parser.finish(cut=True)]
        assert pieces == [TextPiece(answer)], answer


def test_an_answer_in_json_is_shown_while_it_comes() -> None:
    for answer in ('{"name": "Ada", ', '{"x": 1', '[{"name": "Ada"'):
        parser = CallParser(TOOLS)
        assert "".join(p.text for p in parser.push(None, answer) if isinstance(p, TextPiece)) == answer


def test_arguments_of_a_forced_call_are_an_object() -> None:
    text = call_grammar([{"name": "f", "parameters": {"properties": {}}}], hermes=False, only=None, parallel=False)
    assert '"type": "object"' in text.split("%json")[1]
    with pytest.raises(UsageError, match="type of parameters"):
        call_grammar([{"name": "f", "parameters": {"type": "integer"}}], hermes=False, only=None, parallel=False)


SCRIPTS = (
    "wetter_\u00e4\u00df",
    "\u043f\u043e\u0433\u043e\u0434\u0430",
    "\u5929\u6c14",
    "\u0645\u0637\u0631-1",
    "\u092e\u094c\u0938\u092e",
    "\u0e2d\u0e32\u0e01\u0e32\u0e28",
    "\ub0a0\uc528.v2",
)
"""Names in Latin, Cyrillic, Chinese, Arabic, Devanagari and Thai letters (both with marks), Hangul."""


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_tool_may_be_called_by_a_name_in_any_script(name: str) -> None:
    assert check_name(name, "a") == name
    for answer in (
        f"[{name}(a=1)]",
        json.dumps({"name": name, "parameters": {"a": 1}}),
        json.dumps({"name": name, "parameters": {"a": 1}}, ensure_ascii=False),
        f'<function={name}>{{"a": 1}}</function>',
        f'<tool_call>{{"name": "{name}", "arguments": {{"a": 1}}}}</tool_call>',
    ):
        parser = CallParser({name: ("a",)})
        pieces = [*parser.push(None, answer), *parser.finish()]
        assert [(p.call.name, p.call.arguments) for p in pieces if isinstance(p, CallEnd)] == [(name, {"a": 1})], answer


@pytest.mark.parametrize("hermes", [True, False])
def test_grammars_of_calls_spell_names_as_the_prompt_does(hermes: bool) -> None:
    llguidance = pytest.importorskip("llguidance")
    tokenizer = llguidance.LLTokenizer("byte")
    for name in SCRIPTS:
        tool = {"name": name, "parameters": {"type": "object", "properties": {}, "additionalProperties": False}}
        assert f'"name": "{name}"' in (hermes_text([tool]) if hermes else definitions_text([tool], "json"))
        key, kind = ("arguments", "") if hermes else ("parameters", '"type": "function", ')
        said = f'{{{kind}"name": "{name}", "{key}": {{}}}}'
        said = f"<tool_call>\n{said}\n</tool_call>" if hermes else said
        for text in (
            call_grammar([tool], hermes=hermes, only=None, parallel=False),
            calls_or_answer_grammar([tool], {"type": "null"}, hermes=hermes, parallel=False),
        ):
            matcher = llguidance.LLMatcher(tokenizer, llguidance.grammar_from("lark", text))
            assert all(matcher.consume_token(byte) for byte in said.encode()), (text, matcher.get_error())
            assert matcher.is_accepting()


@pytest.mark.parametrize(
    "wrong",
    ["", "a b", "a\n", "a\u2028", 'a"', "a<", "\u202ea", "a\u200b", "\U0001f600", "a/b", "\uff5c", "x" * 500, 3],
)
def test_signs_blanks_and_hidden_characters_are_in_no_name(wrong: Any) -> None:
    with pytest.raises(UsageError, match="letters, digits"):
        check_name(wrong, "a")
