"""Chat templates whose calls have signs of their own, in the styles of public models, written here; formats over them."""

# ruff: noqa: E501 (a line end in a template is text)
import json
import random
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from herd.text.added import AddedToken
from herd.text.chat_template import Templated, templates_of, to_json
from herd.text.template_task import Task, Templates
from herd.text.templates import Writers
from herd.text.tokenizer import Tokenizer

IM = ("<|endoftext|>", "<|im_end|>", "<|im_start|>")
S = ("<s>", "</s>")
BAR, LOW = "\uff5c", "\u2581"
R1_TOKENS = tuple(
    f"<{BAR}{words.replace(' ', LOW)}{BAR}>"
    for words in (
        *("begin of sentence", "end of sentence", "User", "Assistant", "tool calls begin", "tool calls end"),
        *("tool call begin", "tool call end", "tool sep", "tool outputs begin", "tool outputs end"),
    )
)
_BOS, _EOS, _USER, _BOT, _ALL, _ALL_END, _ONE, _ONE_END, _SEP, _OUT, _OUT_END = R1_TOKENS


class CallStyle(NamedTuple):
    """control: the special tokens, the first of which begins a text, the second ends it. markers: added tokens that are
    not special. content, as_text: how transformers has to be given calls: what stands for no content, and whether
    arguments are a text."""

    control: tuple[str, ...]
    template: str
    markers: tuple[str, ...] = ()
    content: tuple[str, ...] = ()
    as_text: bool = False


def _im(calls: str, results: str = "<tool_response>\n{{ m.content }}\n</tool_response>") -> str:
    """A dialog in ChatML with calls. calls: what is written for `m.tool_calls`."""
    return (
        """{%- for m in messages %}
{{- '<|im_start|>' + ('user' if m.role == 'tool' else m.role) + '\\n' }}
{%- if m.role == 'tool' %}{{- '"""
        + results.replace("\n", "\\n").replace("{{ m.content }}", "' + m.content + '")
        + """' }}
{%- elif m.content %}{{- m.content }}{%- endif %}
"""
        + calls
        + """{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if tools and messages | length == 0 %}{{- tools | tojson }}{%- endif %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
    )


_R1 = (
    (
        """{{- bos_token }}{% set ns = namespace(first=true) %}
{%- for m in messages %}
{%- if m.role == 'system' %}{{- m.content }}{%- endif %}
{%- if m.role == 'user' %}{{- 'U' + m.content }}{%- endif %}
{%- if m.role == 'assistant' and m.tool_calls %}
    {%- set ns.first = true %}
    {{- 'A' }}
    {%- for call in m.tool_calls %}
        {%- if ns.first %}
            {%- if m['content'] is none %}{{- 'BC' }}{%- else %}{{- m['content'] + 'BC' }}{%- endif %}
            {%- set ns.first = false %}
        {%- else %}{{- '\\nC' }}{%- endif %}
        {{- call.type + 'P' + call.function.name + '\\n```json\\n' + ARGUMENTS + '\\n```c' }}
    {%- endfor %}
    {{- 'bE' }}
{%- elif m.role == 'assistant' %}{{- 'A' + m.content + 'E' }}{%- endif %}
{%- if m.role == 'tool' %}{{- 'O' + m.content + 'o' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- 'A' }}{%- endif %}"""
    )
    .replace("{{- 'U' +", f"{{{{- '{_USER}' +")
    .replace("{{- 'A'", f"{{{{- '{_BOT}'")
)
for _short, _long in (
    ("'BC'", f"'{_ALL}{_ONE}'"),
    ("'\\nC'", f"'\\n{_ONE}'"),
    ("'P'", f"'{_SEP}'"),
    ("```c'", f"```{_ONE_END}'"),
    ("'bE'", f"'{_ALL_END}{_EOS}'"),
    ("+ 'E'", f"+ '{_EOS}'"),
    ("'O'", f"'{_OUT}'"),
    ("+ 'o'", f"+ '{_OUT_END}'"),
):
    _R1 = _R1.replace(_short, _long)

_TAGS = """{%- for call in m.tool_calls or [] %}
{{- '\\n<tool_call>\\n<function=' + call.function.name + '>\\n' }}
{%- for key, said in call.function.arguments | items %}
{{- '<parameter=' + key + '>\\n' }}
{{- said | tojson if said is mapping or (said is sequence and said is not string) else said | string }}
{{- '\\n</parameter>\\n' }}
{%- endfor %}
{{- '</function>\\n</tool_call>' }}
{%- endfor %}"""
_PAIRS = """{%- for call in m.tool_calls or [] %}
{{- '\\n<tool_call>' + call.function.name }}
{%- for key, said in call.function.arguments.items() %}
{{- '\\n<arg_key>' + key + '</arg_key>\\n<arg_value>' }}{{- said if said is string else said | tojson(ensure_ascii=False) }}
{{- '</arg_value>' }}
{%- endfor %}
{{- '\\n</tool_call>' }}
{%- endfor %}"""
_INVOKED = """{%- if m.tool_calls %}
{{- '\\n<max:tool_call>' }}
{%- for call in m.tool_calls %}
{{- '\\n<invoke name="' + call.function.name + '">' }}
{%- for key, said in call.function.arguments.items() %}
{{- '\\n<parameter name="' + key + '">' }}{{- said if said is string else said | tojson }}{{- '</parameter>' }}
{%- endfor %}
{{- '\\n</invoke>' }}
{%- endfor %}
{{- '\\n</max:tool_call>' }}
{%- endif %}"""
_LINES = """{%- if m.tool_calls %}
{{- '<tool_calls>' }}
{%- for call in m.tool_calls %}
{{- '\\n{"name": "' + call.function.name + '", "arguments": ' }}{{- call.function.arguments | tojson }}{{- '}' }}
{%- endfor %}
{{- '\\n</tool_calls>' }}
{%- endif %}"""
_MISTRAL = """{{- bos_token }}{%- for m in messages %}
{%- if m.role == 'user' %}{{- '[INST]' + m.content + '[/INST]' }}
{%- elif m.role == 'system' %}{{- '[SYSTEM_PROMPT]' + m.content + '[/SYSTEM_PROMPT]' }}
{%- elif m.role == 'tool' %}{{- '[TOOL_RESULTS]' + m.content + '[/TOOL_RESULTS]' }}
{%- else %}
{%- for call in m.tool_calls or [] %}{{- '[TOOL_CALLS]' + call.function.name + '[ARGS]' }}{{- call.function.arguments | tojson }}{%- endfor %}
{{- (m.content or '') + eos_token }}
{%- endif %}{%- endfor %}"""
_MISTRAL_TOKENS = ("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]")

_OF_CALLS = ("<tool_call>", "</tool_call>")
CALL_STYLES: dict[str, CallStyle] = {
    "fences between tokens, arguments as text": CallStyle(
        R1_TOKENS[:2], _R1.replace("ARGUMENTS", "call.function.arguments"), R1_TOKENS[2:], ("",), as_text=True
    ),
    "fences between tokens, arguments as objects": CallStyle(
        R1_TOKENS, _R1.replace("ARGUMENTS", "(call.function.arguments | tojson)"), content=("",)
    ),
    "a tag of a parameter": CallStyle(IM, _im(_TAGS), _OF_CALLS),
    "a tag of a parameter, special tokens around": CallStyle((*IM, *_OF_CALLS), _im(_TAGS)),
    "a tag of a key, a tag of a value": CallStyle(IM, _im(_PAIRS)),
    "keys and values between tokens": CallStyle(
        IM, _im(_PAIRS), (*_OF_CALLS, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
    ),
    "names as attributes": CallStyle(IM, _im(_INVOKED), ("<max:tool_call>", "</max:tool_call>")),
    "lines of JSON in a tag": CallStyle(IM, _im(_LINES)),
    "tokens before a name and before arguments": CallStyle((*S, "[TOOL_CALLS]", "[ARGS]", *_MISTRAL_TOKENS), _MISTRAL),
}

FIELDS: dict[str, Any] = {
    "city": {"type": "string"},
    "note": {"type": ["string", "null"]},
    "days": {"type": "integer"},
    "sure": {"type": "boolean"},
    "list": {"type": "array"},
    "more": {"type": "object"},
    "any": {},
}
TOOLS: list[dict[str, Any]] = [
    {"name": "weather", "parameters": {"type": "object", "properties": FIELDS}},
    {"name": "look-up.2", "parameters": {"type": "object", "properties": FIELDS, "required": ["city"]}},
    {"name": "clock", "parameters": {"type": "object", "properties": {}}},
]
TEXTS = (
    *("", "Rome", " \u00c5s \U0001f600", "a\nb\n", "\n", "5", "true", '["x"]', '{"a": 1}'),
    "</x> <y> & \"q\" 'p' \\n \\",
)
Call = tuple[str, dict[str, Any]]


class Here:
    """Templates that run in this process."""

    def __init__(self, templates: Templates) -> None:
        self.writers = Writers(templates)
        self.owners: list[str] = []
        self.closed = False

    def write(self, name: str, task: Task, owner: str) -> list[str]:
        self.owners.append(owner)
        return self.writers.pieces(name, msgspec.convert({**json.loads(to_json(task)), "now_s": time.time()}, Task))

    def close(self) -> None:
        self.closed = True


def over_bytes(style: CallStyle) -> Templated:
    """A style's format over a byte vocabulary with its special tokens, and its markers as tokens that are not."""
    texts = (*style.control, *style.markers)
    added = [AddedToken(256 + i, text, special=i < len(style.control)) for i, text in enumerate(texts)]
    tokenizer = Tokenizer(
        lambda text, most: list(text[: most + 1].encode()),
        [*(bytes([b]) for b in range(256)), *(text.encode() for text in texts)],
        {token.text: token.id for token in added if token.special},
        bos_id=256,
        eos_ids=(257,),
        split="bytes",
        template=style.template,
        named={"bos_token": style.control[0], "eos_token": style.control[1]},
        added=added,
    )
    return Templated(tokenizer, Here(templates_of(tokenizer)))


def some_calls(rng: random.Random) -> list[Call]:
    """Random calls of the tools, with values that read as they are written, required ones among them."""
    values: dict[str, Sequence[Any]] = {
        "city": TEXTS,
        "note": (None, "x", "no\nne", "Rome"),
        "days": (0, -12, 10**12),
        "sure": (True, False),
        "list": ([], [1, "a\n", None, {"b": [True]}], ["\u00c5"]),
        "more": ({}, {"a": {"b": "</parameter>"}, "c": 1.5}),
        "any": ("Rome and Oslo", 3, [1], {"a": None}),
    }
    found = []
    for _ in range(rng.randint(1, 3)):
        name = rng.choice(["weather", "look-up.2", "clock"])
        keys = [key for key in values if name != "clock" and (key == "city" or rng.random() < 0.4)]
        found.append((name, {key: rng.choice(values[key]) for key in keys}))
    return found


def turn_of(style: CallStyle, calls: Sequence[Call]) -> dict[str, Any]:
    """An assistant's turn with calls, as transformers is given it for a style."""
    given = [
        {
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(said, ensure_ascii=False) if style.as_text else said},
        }
        for name, said in calls
    ]
    silent = {"content": style.content[0]} if style.content else {}
    return {"role": "assistant", **silent, "tool_calls": given}
