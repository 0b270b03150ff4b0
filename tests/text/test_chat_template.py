"""A model's own template as a chat format: ids, end ids, images, calls, and which model gets one."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from public_styles import IM, LLAMA4, STYLES, S, Style
from test_templates import TOOL, dialog, tokenizer_file

from call_styles import Here
from herd.errors import UsageError
from herd.messages import ImagePart, Message, TextPart, ToolCall
from herd.text.added import AddedToken
from herd.text.call_form import BARE, HERMES, ID, LLAMA, TOKENS, CallForm, Parameters
from herd.text.calls import call_grammar
from herd.text.calls_or_answer import calls_or_answer_grammar
from herd.text.chat import FORMATS, choose_format, how_chosen
from herd.text.chat_llama import Llama4
from herd.text.chat_template import Templated, templates_of
from herd.text.special import SMALL
from herd.text.tokenizer import Tokenizer
from herd.turns import message_of


def bytes_with(style: Style, **more: Any) -> Tokenizer:
    """The byte tokenizer with a style's tokens and template."""
    found = Tokenizer.bytes_only(style.control, 256 + len(style.control))
    found.template = style.template
    found.named = {"bos_token": style.control[0], "eos_token": style.control[1]}
    found.templates = more
    return found


def templated(style: Style, **more: Any) -> Templated:
    tokenizer = bytes_with(style, **more)
    return Templated(tokenizer, Here(templates_of(tokenizer)))


def messages_of(turns: list[dict]) -> list[Message]:
    return [message_of(turn, f"messages[{i}]", lambda image, where: ImagePart(1, 1)) for i, turn in enumerate(turns)]


def theirs_and_ours(style: Style, folder: Path, tokenizer: Any = None) -> tuple[Any, Templated]:
    """transformers' tokenizer with a style's template, and the format that is chosen for what it saves."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    bos, eos = style.control[:2]
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer or tokenizers.Tokenizer.from_file(tokenizer_file(style, folder)),
        bos_token=bos,
        eos_token=eos,
    )
    theirs.chat_template = style.template
    theirs.save_pretrained(folder / "saved")
    ours = Tokenizer.from_hf_folder(folder / "saved")
    chat = choose_format(ours, ours.template, None, lambda: Here(templates_of(ours)))
    assert chat.name == "template"
    return theirs, chat


@pytest.mark.parametrize("name", STYLES)
def test_a_dialog_of_messages_has_transformers_ids(name: str, tmp_path: Path) -> None:
    style, rng = STYLES[name], random.Random(name)
    theirs, chat = theirs_and_ours(style, tmp_path)
    for n in range(5):
        said, tools = dialog(rng, style), [TOOL] if style.tools and n % 2 else None
        expected = theirs.apply_chat_template(
            said, tools=tools, add_generation_prompt=True, return_dict=False, sanitize_control_tokens=False
        )
        assert chat.encode(messages_of(said), tools) == expected, said


MORE = ("<think>", "</think>", "<tool_call>", "</tool_call>", "  ", "    ", "\n\n", "\t\t")
"""Added tokens that are not special, besides a style's."""


def with_added(path: str, style: Style, rng: random.Random) -> Any:
    """A style's tokenizer with such tokens, and special ones that take white space beside them."""
    tokenizers = pytest.importorskip("tokenizers")
    found = tokenizers.Tokenizer.from_file(path)
    texts = dict.fromkeys((*style.markers, *MORE))
    found.add_tokens([tokenizers.AddedToken(text, special=False, normalized=False) for text in texts])
    whole = json.loads(found.to_str())
    for token in whole["added_tokens"]:
        if token["special"]:
            token.update(lstrip=rng.random() < 0.2, rstrip=rng.random() < 0.4)
    return tokenizers.Tokenizer.from_str(json.dumps(whole))


def beside(said: list[dict]) -> list[dict]:
    """A dialog in which the assistant alone thinks and calls."""
    for message in said:
        if message["role"] != "assistant":
            for text in ("<think>", "</think>", "<tool_call>", "</tool_call>"):
                message["content"] = message["content"].replace(text, "")
    return said


@pytest.mark.parametrize("name", STYLES)
def test_ids_are_transformers_among_added_tokens_of_all_kinds(name: str, tmp_path: Path) -> None:
    style, rng = STYLES[name], random.Random(name)
    theirs, chat = theirs_and_ours(style, tmp_path, with_added(tokenizer_file(style, tmp_path), style, rng))
    for n in range(5):
        said, tools = beside(dialog(rng, style)), [TOOL] if style.tools and n % 2 else None
        expected = theirs.apply_chat_template(
            said, tools=tools, add_generation_prompt=True, return_dict=False, sanitize_control_tokens=False
        )
        assert chat.encode(messages_of(said), tools) == expected, said


@pytest.mark.parametrize("name", STYLES)
def test_a_begun_answer_has_transformers_ids_or_is_refused_as_there(name: str, tmp_path: Path) -> None:
    style, rng = STYLES[name], random.Random(name)
    theirs, chat = theirs_and_ours(style, tmp_path)
    for begun in ("Yes, and", "Yes ", " \n", "", "a\n\n", "<think>\nhm", "<think>\nhm\n</think>\n\nyes, "):
        said = [*dialog(rng, style), {"role": "user", "content": "a"}, {"role": "assistant", "content": begun}]
        said = said[-2:] if said[-3]["role"] == "user" else said
        try:
            expected = theirs.apply_chat_template(
                said, continue_final_message=True, return_dict=False, sanitize_control_tokens=False
            )
        except ValueError:  # it does not appear in what the template writes
            with pytest.raises(UsageError, match="changes an answer that is begun"):
                chat.encode(messages_of(said), begun=True)
        else:
            assert chat.encode(messages_of(said), begun=True) == expected, said


@pytest.mark.parametrize("name", ["r1", "qwen 3", "hermes over llama's tokens"])
def test_markers_that_are_not_special_are_text_where_others_say_them(name: str, tmp_path: Path) -> None:
    style, rng = STYLES[name], random.Random(name)
    bos, eos = style.control[:2]
    source = with_added(tokenizer_file(style, tmp_path), style, rng).to_str().encode()
    ours = Tokenizer.from_tokenizer_json(
        source, {"bos_token": bos, "eos_token": eos, "chat_template": style.template, "tokenizer_class": "x"}
    )
    markers = [text for text in (*style.markers, *MORE) if text in style.template and not text.isspace()]
    assert markers
    chat = Templated(ours, Here(templates_of(ours)))
    for text in (*markers, *style.control):
        harmless, hostile = (
            [{"role": "user", "content": f"a{said}b"}, {"role": "tool", "name": "f", "content": said}]
            for said in ("x", text)
        )
        found = [[i for i in chat.encode(messages_of(turns)) if i in ours.control_ids] for turns in (harmless, hostile)]
        assert found[0] == found[1], text


def test_markers_of_a_named_template_are_control_too() -> None:
    chat = templated(Style(S, "{{ messages[0].content }}"), tool_use="<call>{{ messages[0].content }}")
    made = Tokenizer(
        lambda text, most: list(text.encode()),
        [bytes([b]) for b in range(256)] + [b"<call>"],
        {},
        bos_id=None,
        eos_ids=(),
        split="bytes",
        template=chat.tokenizer.template,
        templates=chat.tokenizer.templates,
        added=[AddedToken(256, "<call>")],
    )
    assert made.control_ids == {256}
    chat = Templated(made, Here(templates_of(made)))
    assert chat.encode([Message("user", "<call>")], [TOOL]) == [256, *b"<call>"]


ENDS = {
    "llama 3": "<|eot_id|>",
    "llama 4": "<|eot|>",
    "hermes over llama's tokens": "<|im_end|>",
    "r1": "<｜end▁of▁sentence｜>",
    "mistral": "</s>",
    "turns of gemma": "<end_of_turn>",
    "phi": "<|end|>",
    "command": "<|END_OF_TURN_TOKEN|>",
    "granite, with a date": "<|end_of_text|>",
    "parts or text": "<|end|>",
}


@pytest.mark.parametrize("name", ENDS)
def test_an_answer_ends_with_what_the_template_writes_behind_one(name: str) -> None:
    chat = templated(STYLES[name])
    ends = {text for text, i in chat.tokenizer.specials.items() if i in chat.stop_ids}
    assert ENDS[name] in ends
    assert not ends & {"<|im_start|>", "<|start_header_id|>", "<start_of_turn>", "[INST]"}


PYTHON, PYTHON_END = TOKENS[:2]


def test_forced_calls_take_the_form_that_the_template_writes() -> None:
    forms = {name: templated(STYLES[name]).call_form for name in STYLES}
    one_tag = HERMES._replace(join=(HERMES.join or "").replace(">\n<", "><"))
    learnt = {name: form for name, form in forms.items() if form != LLAMA}
    assert learnt == {
        "llama 3.1": BARE._replace(join=None),
        **dict.fromkeys(("hermes over llama's tokens", "qwen 2.5", "qwen 3"), one_tag),
        "mistral": CallForm('[{"name": "', '", "arguments": ', '}, {"name": "', "}]"),
        "llama 4": CallForm(PYTHON, " ", PYTHON_END + PYTHON, PYTHON_END, tokens=(261, 262), own=True),
        "calls as tags": CallForm(
            "<function=",
            ">",
            "\n</function>\n<function=",
            "\n</function>",
            Parameters("\n<parameter=", ">\n", "\n</parameter>", True, ("true", "false", "null")),
            own=True,
        ),
    }


IDS = """{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}
{%- if m.tool_calls %}[{% for call in m.tool_calls %}{"name": "{{ call.function.name }}", "arguments":
{{- ' ' }}{{ call.function.arguments | tojson }}, "id": "{{ call.id }}"}{{ ', ' if not loop.last }}{% endfor %}]
{%- else %}{{ m.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"""


def test_ids_in_a_form_are_any() -> None:
    form = templated(Style(IM, IDS)).call_form
    assert form == CallForm('[{"name": "', '", "arguments": ', f', "id": "{ID}"}}, {{"name": "', f', "id": "{ID}"}}]')


NAMED, GIVEN = '{"name": "{{ c.function.name }}", ', '"arguments": {{ c.function.arguments | tojson }}'
ODD = {
    "spaces before": "<tool_call>{{ ' ' * 300000 }}" + NAMED + GIVEN + "}</tool_call>",
    "an id before": '{"id": "{{ \'x\' * 300000 }}", "name": "{{ c.function.name }}", ' + GIVEN + "}",
    "spaces within": NAMED + "{{ ' ' * 300000 }}" + GIVEN + "}",
    "spaces between": NAMED + GIVEN + "}{% if not loop.last %}{{ ' ' * 300000 }}{% endif %}",
    "arguments before": '{"parameters": {{ c.function.arguments | tojson }}, ' + NAMED[1:] + GIVEN + "}",
    "arguments behind": NAMED + GIVEN + ', "parameters": {{ c.function.arguments | tojson }}}',
    "no end": "{% for i in range(100000000) %}x{% endfor %}" + NAMED + GIVEN + "}",
    "a failure": "{{ 1 / 0 }}" + NAMED + GIVEN + "}",
    "a refusal": "{{ raise_exception('no calls') }}" + NAMED + GIVEN + "}",
    "no name": "{" + GIVEN + "}",
    "no quotes": "<function={{ c.function.name }}>{{ c.function.arguments | tojson }}</function>",
    "of a grammar": '{"id": "%json {} /a+/ \\" | start: [^]", ' + NAMED[1:] + GIVEN + "}",
    **{f"U+{i:04X}": f'{{"id": "{chr(i)}", ' + NAMED[1:] + GIVEN + "}" for i in (*range(32), 127, 133, 0x2028, 0xFFFE)},
}
"""What a template may write for a call."""


@pytest.mark.parametrize("name", ODD)
def test_whatever_a_template_writes_for_a_call_its_grammars_are_ones(name: str) -> None:
    llguidance = pytest.importorskip("llguidance")
    turn = "<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or () %}" + ODD[name] + "{% endfor %}"
    form = templated(Style(IM, "{% for m in messages %}" + turn + "<|im_end|>{% endfor %}")).call_form
    tools = [{"name": name, "parameters": {"type": "object"}} for name in ("f", 'a"b\\c', "\x7f\x01")]
    for text in (
        call_grammar(tools, form, only=None, parallel=True),
        calls_or_answer_grammar(tools, {"type": "object"}, form, parallel=True),
    ):
        assert not llguidance.LLMatcher.validate_grammar(llguidance.LLMatcher.grammar_from_lark(text))
        assert len(text) < 1 << 16
        assert "rain" not in text


def test_a_template_that_leaves_tools_out_is_known() -> None:
    told = {name for name in STYLES if templated(STYLES[name]).tells_tools}
    assert told == {name for name, style in STYLES.items() if "for tool in tools" in style.template}
    assert 1 < len(told) < len(STYLES)


def test_tools_take_the_template_of_their_name() -> None:
    chat = templated(
        Style(S, "{{ messages[0].content }}{{ messages[1].content }}"), tool_use="{{ tools | length }} tools"
    )
    assert chat.tokenizer.decode(chat.encode([Message("user", "a"), Message("user", "b")])) == "ab"
    assert chat.tokenizer.decode(chat.encode([Message("user", "a")], [TOOL])) == "1 tools"


def test_variables_reach_the_template_and_cannot_forge() -> None:
    chat = templated(Style(IM, "{% for m in messages %}{{ m.content }}{% endfor %}{{ effort }}"))
    found = chat.encode([Message("user", "a")], variables={"effort": "<|im_end|>"})
    assert found == list(b"a<|im_end|>")
    assert chat.encode([Message("user", "a")], variables={"effort": 3}) == list(b"a3")


IMAGES = Style(
    (*SMALL,),
    """{% for m in messages %}<|header_start|>{{ m.role }}<|header_end|>
{%- if m.content is string %}{{ m.content }}{% else %}
{%- for p in m.content %}{{ '<|image|>' if p.type == 'image' else p.text -}}
{% endfor %}{% endif %}<|eot|>{% endfor %}""",
)


def test_an_image_becomes_its_ids_where_the_template_writes_its_token() -> None:
    chat = templated(IMAGES)
    one, two = ImagePart(1, 1), ImagePart(2, 1)
    ids = chat.encode([Message("user", (TextPart("a"), one, TextPart("<|image|>b"), two))], tokens_per_tile=4)
    whole = Llama4(Tokenizer.bytes_only())
    head = [258, *b"user", 259]
    assert ids == [*head, *b"a", *whole.encode_image(one, 4), *b"<|image|>b", *whole.encode_image(two, 4), 263]


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("{% for m in messages %}{{ m.content if m.content is string }}{% endfor %}", "writes no images"),
        (
            "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
            "{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}{% endfor %}",
            "got 0 image tokens, expected 1",
        ),
        (IMAGES.template + "<|image|>", "got 2 image tokens, expected 1"),
    ],
)
def test_images_that_a_template_does_not_write_once_each_are_refused(written: str, why: str) -> None:
    with pytest.raises(UsageError, match=why.replace("(", r"\(")):
        templated(Style(SMALL, written)).encode([Message("user", (ImagePart(1, 1),))])


def test_roles_are_a_closed_set_and_texts_are_text() -> None:
    chat = templated(STYLES["zephyr, roles in the middle of tokens"])
    for messages, word in (
        ([Message("s", "x")], "role"),
        ([], "messages"),
        ([Message("user", "\ud800")], "lone surrogate"),
        ([Message("assistant", "", (ToolCall("f", {"a": "\ud800"}),))], "lone surrogate"),
        ([Message("assistant", "", (ToolCall("f", {"a": float("nan")}),))], "not JSON"),
    ):
        with pytest.raises(UsageError, match=word):
            chat.encode(messages)
    deep: Any = []
    for _ in range(80):
        deep = [deep]
    with pytest.raises(UsageError, match="nest too deep"):
        chat.encode([Message("assistant", "", (ToolCall("f", {"a": deep}),))])


def test_a_context_follows_its_content_and_keys_that_say_nothing_are_left_out() -> None:
    chat = templated(Style(S, "{% for m in messages %}{{ m.content }}{{ m | length }};{% endfor %}"))
    ids = chat.encode([Message("user", "a", context="b"), Message("tool", "c", name="f")])
    assert bytes(ids) == b"a\n\nb2;c3;"


# -- which model gets one ----------------------------------------------------------------------------------------------


def chosen(tokenizer: Tokenizer, template: str | None, name: str | None = None) -> Any:
    tokenizer.template = template
    return choose_format(tokenizer, template, name, lambda: Here(templates_of(tokenizer)))


def test_a_template_that_is_not_known_is_run_and_a_name_goes_before_it() -> None:
    mixed = Tokenizer.bytes_only((*SMALL, "<|im_start|>", "<|im_end|>"), 400)
    template = STYLES["chatml"].template
    assert chosen(mixed, template).name == "template"
    assert mixed.specials["<|im_end|>"] in chosen(mixed, template).stop_ids
    for name in FORMATS:
        if name != "llama3":
            assert chosen(mixed, template, name).name == name
    assert chosen(mixed, template, "template").name == "template"
    assert how_chosen(mixed).startswith("template, its own (")
    mixed.template = None
    assert how_chosen(mixed) == "llama4, by its special tokens"
    with pytest.raises(UsageError, match="a model that came with a template"):
        chosen(mixed, None, "template")


@pytest.mark.parametrize("broken", ["{% for %}", "{{ nobody() }}", "{{ raise_exception('no') }}", "nothing said"])
def test_a_template_that_cannot_be_run_gives_way_to_the_form_whose_tokens_it_writes(broken: str) -> None:
    tokenizer = Tokenizer.bytes_only()
    found = chosen(tokenizer, "{#<|header_start|>#}" + broken)
    assert found.name == "llama4"
    assert found.note.startswith("chat format llama4 stands in for the model's own: the chat template")
    with pytest.raises(UsageError, match=r"the chat template.*--chat-format"):
        chosen(tokenizer, broken)
    with pytest.raises(UsageError, match="the chat template"):
        chosen(tokenizer, "{#<|header_start|>#}" + broken, "template")


def test_what_a_template_needs_is_let_go_where_it_is_not_taken() -> None:
    tokenizer = Tokenizer.bytes_only(LLAMA4, 256 + len(LLAMA4))
    tokenizer.template = "{#<|header_start|>#}{% for %}"
    opened: list[Here] = []
    choose_format(
        tokenizer, tokenizer.template, None, lambda: opened.append(Here(templates_of(tokenizer))) or opened[0]
    )
    assert opened[0].closed
