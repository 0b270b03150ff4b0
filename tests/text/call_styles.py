"""Chat templates whose calls have signs of their own, in the styles of public models, written here."""

# ruff: noqa: E501 (a line end in a template is text)
from typing import NamedTuple

from public_styles import IM, S, Style

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
    """style: its markers are added tokens that are not special. given: how transformers has to be given calls: what
    stands for no content, and whether arguments are a text."""

    style: Style
    content: tuple = ()
    as_text: bool = False
    parallel: bool = True


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

CALL_STYLES: dict[str, CallStyle] = {
    "fences between tokens, arguments as text": CallStyle(
        Style(R1_TOKENS[:2], _R1.replace("ARGUMENTS", "call.function.arguments"), R1_TOKENS[2:], tools=True),
        ("",),
        as_text=True,
    ),
    "fences between tokens, arguments as objects": CallStyle(
        Style(R1_TOKENS, _R1.replace("ARGUMENTS", "(call.function.arguments | tojson)"), tools=True), ("",)
    ),
    "a tag of a parameter": CallStyle(Style(IM, _im(_TAGS), ("<tool_call>", "</tool_call>"), tools=True)),
    "a tag of a parameter, special tokens around": CallStyle(
        Style((*IM, "<tool_call>", "</tool_call>"), _im(_TAGS), tools=True)
    ),
    "a tag of a key, a tag of a value": CallStyle(Style(IM, _im(_PAIRS), tools=True)),
    "keys and values between tokens": CallStyle(
        Style(
            IM,
            _im(_PAIRS),
            ("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
            tools=True,
        )
    ),
    "names as attributes": CallStyle(
        Style(IM, _im(_INVOKED), ("<max:tool_call>", "</max:tool_call>"), tools=True),
    ),
    "lines of JSON in a tag": CallStyle(Style(IM, _im(_LINES), tools=True)),
    "tokens before a name and before arguments": CallStyle(
        Style((*S, "[TOOL_CALLS]", "[ARGS]", *_MISTRAL_TOKENS), _MISTRAL, tools=True)
    ),
}
