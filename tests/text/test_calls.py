"""Calls in answers: every form, any split, and everything that is no call comes out as it went in."""

import ast
import json
import random
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from call_forms import BROKEN, FORCED, FORMS
from call_forms import TOOLS as FORMS_TOOLS
from herd.errors import UsageError
from herd.messages import CutCall, ToolCall
from herd.text.call_arguments import said_so_far
from herd.text.call_form import BARE, HERMES, ID, LLAMA, CallForm
from herd.text.calls import (
    CallArguments,
    CallCut,
    CallEnd,
    CallParser,
    CallStart,
    Piece,
    TextPiece,
    call_grammar,
    parameters_of,
)
from herd.text.calls_or_answer import calls_or_answer_grammar
from herd.text.message_checks import check_name
from herd.text.tools import call_text, definitions_text, hermes_text

TOOLS = {"f": ("a", "b"), "g.h": (), "code-2": ("x",)}
Found = tuple[str, list[tuple[str, dict[str, Any]]]]
FORM_TOOLS = parameters_of(FORMS_TOOLS)


def pieces_of(text: str, splits: Sequence[int] = (), *, tools: Any = TOOLS, **options: Any) -> list[Piece]:
    """What a parser makes of an answer that comes in pieces. options: of its end, and `forced`."""
    parser = CallParser(tools, forced=options.pop("forced", False))
    borders = [0, *sorted(splits), len(text)]
    pieces = [p for a, b in pairwise(borders) for p in parser.push(None, text[a:b])]
    pieces += parser.finish(**options)
    assert not parser.holding
    return pieces


def told(pieces: Sequence[Piece]) -> tuple[str, list[ToolCall], CutCall | None]:
    """Text, calls, and the call that was cut; fragments of each call in their order are its arguments."""
    calls: list[ToolCall] = []
    cut: CutCall | None = None
    open_: list[str] | None = None
    for piece in pieces:
        match piece:
            case TextPiece(text):
                assert text and open_ is None, "a call is told without text amid it"
            case CallStart(index, _):
                assert open_ is None and cut is None and index == len(calls)
                open_ = []
            case CallArguments(index, fragment):
                assert open_ is not None and fragment and index == len(calls)
                open_.append(fragment)
            case CallEnd(index, call):
                assert open_ is not None and index == len(calls)
                assert "".join(open_) == call.arguments_text == json.dumps(dict(call.arguments), ensure_ascii=False)
                calls.append(call)
                open_ = None
            case CallCut(index, cut):
                assert open_ is not None and index == len(calls) and cut.arguments == "".join(open_)
                with pytest.raises(json.JSONDecodeError):
                    json.loads(cut.arguments)
                open_ = None
    assert open_ is None, "a call that has begun ends, or is cut"
    return "".join(p.text for p in pieces if isinstance(p, TextPiece)), calls, cut


def read(text: str, splits: Sequence[int] = ()) -> Found:
    """(text, calls) of an answer that comes in pieces, none of which is cut."""
    said, calls, cut = told(pieces_of(text, splits))
    assert cut is None
    return said, [(c.name, dict(c.arguments)) for c in calls]


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
        ('{"name": "f", "parameters": null}', ("", [("f", {})])),
        ('{"name": "f", "parameters": {"a": 1}, "id": null}', ("", [("f", {"a": 1})])),
        # what has begun with a call and goes on with none
        ("[f(a=1), h()]", (", h()]", [("f", {"a": 1})])),
        ('[{"name": "f"}, {"name": "h"}]', (', {"name": "h"}]', [("f", {})])),
        ("[f(a=1) and so on]", (" and so on]", [("f", {"a": 1})])),
        ('<tool_call>{"name": "f"}</tool_calls> [g.h()]', ("</tool_calls> ", [("f", {}), ("g.h", {})])),
        ('{"name": "f", "parameters": {}, "mood": 1}', (', "mood": 1}', [("f", {})])),
        ("[f(a=1, a=2)]", ("", [("f", {"a": 1})])),
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
        "", "Hello.", "[1, 2]", '{"x": 1}', "[h(a=1)]", "f(1)", '{"name": "h", "parameters": {}}', "[f(a=1", "[f(a=",
        '{"name": "f", "parameters": {"a": "', "[f(a=b)]", "[f(a=1}]", "[f(a=1e999)]",
        "<tool_call>nothing</tool_call>", "<function=h>{}</function>", "<b>hi</b>", "```python\nprint([1])\n```",
        '{"name": 1}', '{"name": "f", "parameters": [1]}', "<|python_start|>[x(1)]<|python_end|>", "`f`", "[f]", "[f(",
        '{"name": "f", "parameters": {"a": 10', '{"name": "f", "parameters": {"a": [1', '{"name": "f"',
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
    whole = told(pieces_of(answer))
    assert told(pieces_of(answer, range(1, len(answer)))) == whole
    assert told(pieces_of(answer, [rng.randrange(len(answer) + 1) for _ in range(5)])) == whole
    if not whole[1] and whole[2] is None:
        assert whole[0] == answer
    at = rng.randrange(len(answer) + 1)
    cut = told(pieces_of(answer[:at], cut=True))
    assert told(pieces_of(answer[:at], range(1, at), cut=True)) == cut
    assert whole[1][: len(cut[1])] == cut[1], "a call that has come stays"


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


@pytest.mark.parametrize(
    "text",
    [
        "[" * 3 * 10**5, '[f(a="' + "x" * 3 * 10**5, '{"name": ' * 3 * 10**4, "[f(a=1), " * 3 * 10**4,
        '{"arguments": {"a": "' + "x" * 11 * 10**5,
    ],
)  # fmt: skip
def test_a_megabyte_of_brackets_is_text_read_once(text: str) -> None:
    reads = 0

    class Counting(CallParser):
        def _send(self, char: str, found: list[Any], **options: Any) -> bool:
            nonlocal reads
            reads += 1
            return super()._send(char, found, **options)

    parser = Counting(TOOLS)
    said, calls, cut = told([*parser.push(None, text), *parser.finish()])
    assert reads <= 2 * len(text) + 2
    assert said == text if cut is None and not calls else len(calls) == 3 * 10**4 or cut is not None


MISTRAL = CallForm('[{"name": "', '", "arguments": ', f', "id": "{ID}"}}, {{"name": "', f', "id": "{ID}"}}]')
OWN = {"llama": LLAMA, "bare": BARE, "hermes": HERMES, "mistral": MISTRAL, "one": BARE._replace(join=None)}
"""Forms that models write: built in, and learnt from templates."""


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize(("only", "parallel"), [(None, True), (None, False), ("g.h", False)])
def test_forced_calls_are_calls_valid_under_their_schemas(name: str, only: str | None, parallel: bool) -> None:
    parallel = parallel and name != "one"
    jsonschema = pytest.importorskip("jsonschema")
    llguidance = pytest.importorskip("llguidance")
    properties = {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}}
    schema = {"type": "object", "properties": properties, "required": ["a", "b"], "additionalProperties": False}
    tools: list[dict[str, Any]] = [{"name": "f", "parameters": schema}, {"name": "g.h", "description": "nothing"}]
    schemas = {t["name"]: t.get("parameters", {"type": "object", "maxProperties": 0}) for t in tools}
    text = call_grammar(tools, OWN[name], only=only, parallel=parallel)
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


@pytest.mark.parametrize("form", FORMS)
def test_any_cut_of_an_answer_has_its_first_calls_and_the_beginning_of_the_next(form: str) -> None:
    """What is told of a cut answer is what is told of the whole one up to there; of one that can be nothing but calls,
    none of their signs is text."""
    answer, _, calls = FORMS[form]
    for at in range(len(answer) + 1):
        for forced in (False, True):
            said, made, cut = told(pieces_of(answer[:at], tools=FORM_TOOLS, cut=True, forced=forced))
            assert [(c.name, dict(c.arguments)) for c in made] == calls[: len(made)]
            if cut is not None:
                name, arguments = calls[len(made)]
                whole = ToolCall(name, arguments).arguments_text
                assert cut.name == name and whole.startswith(cut.arguments) and cut.arguments != whole
            if forced and form not in ("a tag of a function", "Python's"):
                assert not said, at
            if cut is not None:
                assert said == told(pieces_of(answer, tools=FORM_TOOLS))[0][: len(said)]


@pytest.mark.parametrize("form", FORMS)
def test_arguments_are_told_as_they_are_written(form: str) -> None:
    answer, text, calls = FORMS[form]
    by_character = pieces_of(answer, range(1, len(answer)), tools=FORM_TOOLS)
    said, made, cut = told(by_character)
    assert (said, [(c.name, dict(c.arguments)) for c in made], cut) == (text, calls, None)
    assert told(pieces_of(answer, tools=FORM_TOOLS)) == (said, made, None)
    city = made[0].arguments.get("city")
    if city is not None and "its name last" not in form:
        waiting = city.count('"')  # for the third that would end a long string
        assert sum(isinstance(p, CallArguments) and p.index == 0 for p in by_character) >= len(city) - waiting


def test_no_character_of_a_text_waits_for_the_next() -> None:
    for begun in ('[weather(city="', '{"name": "weather", "parameters": {"city": "', '<function=weather>{"city": "'):
        parser = CallParser(FORM_TOOLS)
        parser.push(None, begun)
        for char in "Oslo":
            assert parser.push(None, char)[-1] == CallArguments(0, char if char != "O" else '{"city": "O')


@pytest.mark.parametrize("what", BROKEN)
def test_a_call_that_breaks_off_is_cut_and_the_rest_is_text(what: str) -> None:
    answer, text, (name, arguments) = BROKEN[what]
    for splits in ((), range(1, len(answer)), (len(answer) // 2,)):
        said, calls, cut = told(pieces_of(answer, splits, tools=FORM_TOOLS))
        assert (said, calls, cut) == (text, [], CutCall(name, arguments))


@pytest.mark.parametrize("form", FORMS)
def test_a_call_that_an_answer_goes_on_with_is_told_whole(form: str) -> None:
    answer, _, calls = FORMS[form]
    for at in range(len(answer) + 1):
        parser = CallParser(FORM_TOOLS)
        parser.begin(answer[:at])
        _, made, cut = told([*parser.push(None, answer[at:]), *parser.finish()])
        assert cut is None
        assert [(c.name, dict(c.arguments)) for c in made] == calls[len(calls) - len(made) :]


def test_a_cut_call_of_a_forced_answer_has_no_text_from_its_first_character_on() -> None:
    for at in range(len(FORCED) + 1):
        assert told(pieces_of(FORCED[:at], tools=FORM_TOOLS, cut=True, forced=True))[0] == ""
        free = told(pieces_of(FORCED[:at], tools=FORM_TOOLS, cut=True))
        assert free[0] == (FORCED[:at] if not free[1] and free[2] is None else "")


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=5), VALUES, min_size=1, max_size=3), st.integers(0, 400))
def test_what_a_cut_text_says_so_far_is_a_part_of_the_whole(value: dict[str, Any], at: int) -> None:
    text = json.dumps(value, ensure_ascii=False)
    cut = text[: max(1, at % len(text))]
    with suppress(ValueError):  # inside a number, or a word such as true
        assert part_of(said_so_far(cut, open_too=True), value)
        assert part_of(said_so_far(cut, open_too=False), value)
    assert said_so_far(text, open_too=False) == said_so_far(text, open_too=True) == json.loads(text)


def part_of(found: Any, whole: Any) -> bool:
    """Whether one value is the beginning of another."""
    if isinstance(found, dict):
        return all(
            (name in whole and part_of(member, whole[name]))
            or (member is None and any(x.startswith(name) for x in whole))
            for name, member in found.items()
        )
    if isinstance(found, list):
        return len(found) <= len(whole) and all(map(part_of, found, whole))
    if isinstance(found, str):
        return isinstance(whole, str) and whole.startswith(found)
    return found is None or isinstance(whole, bool | float | int)


def test_an_answer_in_json_is_shown_while_it_comes() -> None:
    for answer in ('{"name": "Ada", ', '{"x": 1', '[{"name": "Ada"'):
        parser = CallParser(TOOLS)
        assert "".join(p.text for p in parser.push(None, answer) if isinstance(p, TextPiece)) == answer


def test_arguments_of_a_forced_call_are_an_object() -> None:
    text = call_grammar([{"name": "f", "parameters": {"properties": {}}}], LLAMA, only=None, parallel=False)
    assert '"type": "object"' in text.split("%json")[1]
    with pytest.raises(UsageError, match="type of parameters"):
        call_grammar([{"name": "f", "parameters": {"type": "integer"}}], LLAMA, only=None, parallel=False)


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
            call_grammar([tool], HERMES if hermes else LLAMA, only=None, parallel=False),
            calls_or_answer_grammar([tool], {"type": "null"}, HERMES if hermes else LLAMA, parallel=False),
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
