"""Calls in forms that chat templates alone tell: learnt, read back from transformers' ids, forced by grammars."""

import random
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_chat_template import messages_of, theirs_and_ours
from test_templates import tokenizer_file

from call_styles import CALL_STYLES, TEXTS, TOOLS, Call, CallStyle, over_bytes, some_calls, turn_of
from herd.errors import UsageError
from herd.grammar.masks import Grammars
from herd.grammars import Grammar
from herd.text.call_form import LLAMA, TOKENS, CallForm, Parameters
from herd.text.call_parameters import types_of
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
from herd.text.calls_or_answer import CallsOrAnswer, calls_or_answer_grammar
from herd.text.chat_template import Templated
from herd.text.stream import StreamDecoder
from herd.text.tokenizer import Tokenizer


def chat_of(name: str) -> Templated:
    """A style's format over bytes."""
    return over_bytes(CALL_STYLES[name])


def read(pieces: Sequence[Piece]) -> tuple[str, list[Call], Any]:
    """Text, calls and the call that was cut; the pieces of each call's arguments are those of the whole."""
    text, calls, cut, fragments = "", list[Call](), None, dict[int, str]()
    for piece in pieces:
        match piece:
            case TextPiece(said):
                text += said
            case CallStart(index, _):
                assert index == len(calls)
            case CallArguments(index, fragment):
                fragments[index] = fragments.get(index, "") + fragment
            case CallEnd(index, call):
                assert fragments[index] == call.arguments_text
                calls.append((call.name, dict(call.arguments)))
            case CallCut(_, cut):
                assert fragments.get(cut and len(calls), "") == cut.arguments
    return text, calls, cut


def parser_of(form: CallForm, tools: Sequence[dict[str, Any]] = TOOLS, **options: Any) -> CallParser:
    return CallParser(parameters_of(tools), form=form, types=types_of(tools), **options)


def heard(chat: Any, ids: Sequence[int], parser: Any = None) -> tuple[str, list[Call], Any]:
    """What is read of an answer's ids, one after the other."""
    parser, stream = parser or parser_of(chat.call_form), StreamDecoder(chat.tokenizer)
    pieces = [piece for i in ids for piece in parser.push(i, stream.push(i))]
    return read([*pieces, *parser.push(None, stream.flush()), *parser.finish()])


def dialog(rng: random.Random, style: CallStyle) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"role": "system", "content": "You help."}] if rng.random() < 0.5 else []
    for _ in range(rng.randint(1, 3)):
        found += [
            {"role": "user", "content": rng.choice(TEXTS) + "?"},
            turn_of(style, some_calls(rng)),
            {"role": "tool", "content": rng.choice(TEXTS)},
            {"role": "assistant", "content": "So it is."},
        ]
    return found


def with_plain_markers(style: CallStyle, folder: Path) -> Any:
    """A style's tokenizer with its markers as tokens that are not special."""
    tokenizers = pytest.importorskip("tokenizers")
    found = tokenizers.Tokenizer.from_file(tokenizer_file(style, folder))
    found.add_tokens([tokenizers.AddedToken(text, special=False, normalized=False) for text in style.markers])
    return found


@pytest.mark.parametrize("name", CALL_STYLES)
def test_calls_in_a_dialog_have_transformers_ids_and_are_read_back_from_them(name: str, tmp_path: Path) -> None:
    style, rng = CALL_STYLES[name], random.Random(name)
    theirs, chat = theirs_and_ours(style, tmp_path, with_plain_markers(style, tmp_path))
    assert chat.call_form.own

    def ids(said: list[dict[str, Any]], opened: bool = False) -> list[int]:
        return list(
            theirs.apply_chat_template(
                said, add_generation_prompt=opened, return_dict=False, sanitize_control_tokens=False
            )
        )

    for _ in range(6):
        said = [message for message in dialog(rng, style) if "<tool_call>" not in (message.get("content") or "")]
        assert chat.encode(messages_of(said), open_assistant=False) == ids(said), said
    user = [{"role": "user", "content": "weather?"}]
    for _ in range(20):
        calls = some_calls(rng)
        answer = ids([*user, turn_of(style, calls)])[len(ids(user, True)) :]
        text, found, cut = heard(chat, [i for i in answer if i not in chat.stop_ids])
        assert (text.strip(), found, cut) == ("", calls, None)


# -- forced by grammars ------------------------------------------------------------------------------------------------

WORDS = Tokenizer.bytes_only([*(f"<|t{i}|>" for i in range(12)), "<|eot|>"], 256 + 13)
END = WORDS.specials["<|eot|>"]
BEYOND = re.compile(rb"[eE][+]?[0-9]{3}")
"""A number beyond double precision, which JSON may write and no call holds."""
SMALL_TEXTS = ("a", "b c", "5", "null", "[", "\n", "</parameter", "x\n")


def a_schema(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    """A random schema of a parameter."""
    kinds = [
        "text",
        "text",
        "lengths",
        "enum",
        "const",
        "pattern",
        "whole",
        "number",
        "boolean",
        "null",
        "array",
        "any",
    ]
    kind = rng.choice(kinds + ["object", "types", "anyOf", "ref", "allOf", "format"] * (depth < 2))
    match kind:
        case "text":
            return {"type": "string", "description": "said as it is"}
        case "lengths":
            return {"type": "string", "minLength": rng.randint(0, 2), "maxLength": rng.randint(2, 5)}
        case "enum":
            return {"enum": rng.sample([*SMALL_TEXTS, 1, 2.5, True, None, ["a"], {"a": 1}], 3)}
        case "const":
            return {"const": rng.choice([*SMALL_TEXTS, 7, False, None, [1]])}
        case "pattern":
            pattern = rng.choice(["^[a-c]+$", "x|^y/z$", "^(?:ab|c){1,3}$", "[0-9]", "^\\d{2}$", "^a.c$", "[/<]"])
            return {"type": "string", "pattern": pattern}
        case "format":
            names = ["date", "time", "date-time", "email", "uuid", "ipv4", "ipv6", "hostname", "uri", "none such"]
            return {"type": "string", "format": rng.choice(names)}
        case "whole":
            return {"type": "integer", "minimum": rng.randint(-9, 5), "maximum": 30}
        case "number":
            return {"type": "number", "exclusiveMinimum": 0, "maximum": 5}
        case "array":
            return {"type": "array", "items": a_schema(rng, 2), "maxItems": 2}
        case "object":
            return {"type": "object", "properties": {"p": a_schema(rng, 2)}, "required": ["p"]}
        case "types":
            return {"type": rng.sample(["string", "integer", "null", "boolean"], rng.randint(1, 4)), "maximum": 9}
        case "anyOf":
            return {"anyOf": [a_schema(rng, depth + 1), a_schema(rng, depth + 1)], "default": None}
        case "allOf":
            return {"allOf": [a_schema(rng, depth + 1)], "title": "one"}
        case "ref":
            return {"$ref": "#/$defs/d"}
        case "any":
            return {"description": "anything"}
    return {"type": kind}


def a_tool(rng: random.Random, name: str) -> dict[str, Any]:
    """A tool with a random schema."""
    names = rng.sample(["a", "b_2", "c-d", "\u00e4", "e.f"], rng.randint(0, 4))
    properties = {name: a_schema(rng) for name in names}
    required = [name for name in names if rng.random() < 0.5]
    parameters = {"type": "object", "properties": properties, "required": required, "$defs": {"d": a_schema(rng, 2)}}
    if rng.random() < 0.2:
        parameters |= {"additionalProperties": rng.choice([False, {"type": "string"}])}
    return {"name": name, "parameters": parameters}


def said_at_random(grammars: Any, text: str, rng: random.Random, most: int = 400) -> list[int] | None:
    """Ids that a grammar allows, drawn at random, more often those that end something; None for a text without end."""
    matcher = grammars.matcher(Grammar("lark", text))
    said: list[int] = []
    while len(said) < most and not matcher.is_over:
        allowed = matcher.allowed().tolist()
        if END in allowed and (len(allowed) == 1 or rng.random() < 0.5):
            return said
        some = [i for i in allowed if i != END]
        likely = [i for i in some if 32 <= i < 127 or i >= 256] or some
        closing = [i for i in some if i >= 256 or chr(i) in '<\n"}]']
        said.append(rng.choice(closing if closing and rng.random() < 0.4 else likely if rng.random() < 0.8 else some))
        matcher.accept(said[-1])
    return said if matcher.is_over else None


def tokens_of(form: CallForm) -> CallForm:
    """The form with its control tokens among the first ones."""
    return form._replace(tokens=tuple(256 + i for i, _ in enumerate(form.tokens)))


def pieces_of(ids: Sequence[int], parser: Any, rng: random.Random) -> list[Piece]:
    """What is read of random ids: bytes come in pieces of random size."""
    found, waiting = list[Piece](), bytearray()
    for i in [*ids, -1]:
        if i < 0 or i >= 256 or rng.random() < 0.3:
            text = waiting.decode() if i < 0 or i >= 256 else bytes(waiting).decode("utf-8", "ignore")
            if text.encode() == bytes(waiting):
                found += parser.push(None, text)
                waiting.clear()
        if i >= 256:
            found += parser.push(i, "")
        elif i >= 0:
            waiting.append(i)
    return [*found, *parser.finish()]


def judge(tool: dict[str, Any]) -> Any:
    jsonschema = pytest.importorskip("jsonschema")
    standard = jsonschema.Draft202012Validator
    return standard(tool["parameters"], format_checker=standard.FORMAT_CHECKER)


FORMS = {name: tokens_of(chat_of(name).call_form) for name in CALL_STYLES}


@pytest.mark.parametrize("name", CALL_STYLES)
def test_whatever_a_grammar_allows_is_read_as_calls_that_fit_their_schemas(name: str) -> None:
    form, rng = FORMS[name], random.Random(name)
    grammars = Grammars(WORDS, [END])
    whole, refused = 0, list[str]()
    for n in range(40):
        tools = [a_tool(rng, "f"), a_tool(rng, "g.h")]
        try:
            if n % 4:
                text = call_grammar(tools, form, only=None, parallel=bool(n % 2))
            else:
                text = calls_or_answer_grammar(tools, {"type": "null"}, form, parallel=False)
            ids = said_at_random(grammars, text, rng)
        except UsageError as error:
            refused.append(str(error))
            continue
        if ids is None or BEYOND.search(bytes(i for i in ids if i < 256)):
            continue
        parser = parser_of(form, tools, forced=True)
        parts = pieces_of(ids, parser if n % 4 else CallsOrAnswer(parser, ["f", "g.h"], form), rng)
        said, calls, cut = read(parts)
        if not n % 4 and said == "null":
            continue
        assert (said.strip(), cut) == ("", None), (text, bytes(i for i in ids if i < 256))
        assert calls and (n % 4 == 1 or n % 4 == 3 or len(calls) == 1)
        for called, arguments in calls:
            tool = next(tool for tool in tools if tool["name"] == called)
            errors = [error.message for error in judge(tool).iter_errors(arguments)]
            assert not errors, (errors, bytes(i for i in ids if i < 256))
        whole += 1
    assert whole > 10
    assert all("schema" in why or "this model writes calls parameter by parameter" in why for why in refused)


def test_forms_are_learnt_with_the_tokens_that_show_in_no_answer() -> None:
    assert chat_of("names as attributes").call_form == CallForm(
        f'{TOKENS[0]}\n<invoke name="',
        '">',
        '\n</invoke>\n<invoke name="',
        f"\n</invoke>\n{TOKENS[1]}",
        Parameters('\n<parameter name="', '">', "</parameter>", True, ("true", "false", "null")),
        tuple(chat_of("names as attributes").tokenizer.added[text] for text in ("<max:tool_call>", "</max:tool_call>")),
        own=True,
    )
    form = chat_of("a tag of a parameter").call_form
    assert (form.head, form.tokens) == ("<tool_call>\n<function=", ()), "a token that shows is text"
    assert form.parameters is not None and form.parameters.words == ("True", "False", "None")
    assert chat_of("tokens before a name and before arguments").call_form.tail == ""


def form_of(call: str) -> CallForm:
    """The form of a template that writes this for a call."""
    turn = "<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or () %}" + call + "{% endfor %}"
    source = "{% for m in messages %}" + turn + "<|im_end|>{% endfor %}"
    return over_bytes(CallStyle(("<a>", "<|im_end|>", "<|im_start|>"), source)).call_form


def test_values_as_python_prints_them_are_learnt_too() -> None:
    each = "{% for k, v in c.function.arguments.items() %}<k>{{ k }}</k><v>{{ v }}</v>{% endfor %}"
    form = form_of("<c>{{ c.function.name }}" + each + "</c>")
    assert form.parameters == Parameters("<k>", "</k><v>", "</v>", True, ("True", "False", "None"))
    said = "<c>weather<k>list</k><v>[1, {'a': None}]</v><k>sure</k><v>True</v></c>"
    parser = parser_of(form)
    assert read([*parser.push(None, said), *parser.finish()])[1] == [
        ("weather", {"list": [1, {"a": None}], "sure": True})
    ]


def test_an_end_that_stands_behind_several_calls_alone_ends_one_too() -> None:
    call = "{{ '[' if loop.first }}{{ c.function.name }}:{{ c.function.arguments | tojson }};"
    form = form_of(call + "{{ '|' if not loop.last }}{{ ']' if loop.last and not loop.first }}")
    assert (form.join, form.tail) == (";|", ";]")
    for said, names in (('[weather:{"city": "a"};', 1), ('[weather:{"city": "a"};|clock:{};]', 2)):
        parser = parser_of(form)
        text, calls, cut = read([*parser.push(None, said), *parser.finish()])
        assert (text, len(calls), cut) == ("", names, None)


def test_words_of_the_examples_that_a_template_says_anyway_are_not_taken_for_a_call() -> None:
    style = CALL_STYLES["fences between tokens, arguments as text"]
    said = style._replace(template="I was trained to look_up rain." + style.template)
    assert over_bytes(said).call_form == over_bytes(style).call_form


UNLEARNT = {
    "no name": "{{ c.id }} {{ c.function.arguments | tojson }}",
    "no values": "<call>{{ c.function.name }}{% for k in c.function.arguments %}<{{ k }}>{% endfor %}</call>",
    "a sign between parameters": "<c>{{ c.function.name }}({% for k, v in c.function.arguments.items() %}"
    "{{ k }}={{ v }}{{ ', ' if not loop.last }}{% endfor %})</c>",
    "names in capitals": "<c>{{ c.function.name | upper }}:{{ c.function.arguments | tojson }}</c>",
    "shortened texts": "<c>{{ c.function.name }}{% for k, v in c.function.arguments.items() %}<k>{{ k }}</k>"
    "<v>{{ v | string | truncate(4) }}</v>{% endfor %}</c>",
    "nothing before": "{{ c.function.name }}: {{ c.function.arguments | tojson }}",
    "nothing behind a name": "<c>{{ c.function.name }}s{{ c.function.arguments | tojson }}</c>",
    "a failure": "{{ 1 / 0 }}",
}


@pytest.mark.parametrize("name", UNLEARNT)
def test_a_form_that_cannot_be_learnt_is_llamas(name: str) -> None:
    assert form_of(UNLEARNT[name]) == LLAMA


PARTS = (
    *("<tool_call>\n<function=", "<tool_call>", "weather", "clock", ">", "\n<parameter=", "city", ">\n", "Rome", "5"),
    *("\n", "\n</parameter>", "</parameter>", "\n</function>", "\n</tool_call>", "<function=clock>{}</function>"),
    *("[clock()]", "<", "days", "list", "[1, ", "]", '{"name": "clock"}', " ", "None", "text \u00e9"),
    *("<tool_call>\n<function=clock>", "<tool_call>\n<function=weather>\n<parameter=city>\n"),
    "<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>",
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=12), st.randoms(use_true_random=False))
def test_any_split_of_an_answer_in_a_form_of_its_own_gives_the_same(parts: list[str], rng: random.Random) -> None:
    answer, form = "".join(parts), FORMS["a tag of a parameter"]

    def told(borders: Sequence[int], **options: Any) -> tuple[str, list[Call], Any]:
        parser = parser_of(form)
        cuts = pairwise([0, *sorted(borders), len(answer)])
        return read([*(piece for a, b in cuts for piece in parser.push(None, answer[a:b])), *parser.finish(**options)])

    for options in ({}, {"cut": True}):
        whole = told((), **options)
        assert told(range(1, len(answer)), **options) == whole
        assert told([rng.randrange(len(answer) + 1) for _ in range(5)], **options) == whole
    if not whole[1] and whole[2] is None:
        assert whole[0] == answer


def test_control_tokens_that_lead_to_no_call_have_no_text_and_text_that_spells_one_is_text() -> None:
    chat = chat_of("tokens before a name and before arguments")
    calls, args = chat.call_form.tokens
    assert heard(chat, [*b"a", calls, *b"nobody", args, *b"{}"]) == ("anobody{}", [], None)
    assert heard(chat, [args, *b"a", calls, calls, *b"[clock()]"]) == ("a", [("clock", {})], None)
    assert heard(chat, [calls, *b"clock", args, *b"{} so ", args, *b"x"])[:2] == (" so x", [("clock", {})])
    assert heard(chat, b"[TOOL_CALLS]clock[ARGS]{}") == ("[TOOL_CALLS]clock[ARGS]{}", [], None)
    text, made, cut = heard(chat, [calls, *b"weather", args, *b'{"city": "Ro', calls, *b'me"}'])
    assert (text, made, cut.arguments) == ('me"}', [], '{"city": "Ro')
