"""Chat templates in the styles of public models, written here: what such templates do, in other words than theirs."""

# ruff: noqa: E501 (a line end in a template is text)
from typing import NamedTuple


class Style(NamedTuple):
    """control: the special tokens, the first of which begins a text, the second ends it. markers: added tokens that
    are not special. tools: whether it writes tools and calls. system: whether it takes a system turn."""

    control: tuple[str, ...]
    template: str
    markers: tuple[str, ...] = ()
    tools: bool = False
    system: bool = True


LLAMA3 = ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|python_tag|>")
LLAMA4 = ("<|begin_of_text|>", "<|eot|>", "<|header_start|>", "<|header_end|>", "<|eom|>", "<|python_start|>")
IM = ("<|endoftext|>", "<|im_end|>", "<|im_start|>")
S = ("<s>", "</s>")

_CALLS = """{%- for call in message.tool_calls %}
{{- '<tool_call>\\n' + ({'name': call.function.name, 'arguments': call.function.arguments} | tojson) }}
{{- '\\n</tool_call>' }}
{%- endfor %}"""

STYLES: dict[str, Style] = {
    "llama 3": Style(
        LLAMA3,
        """{% for message in messages %}
{% set head = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' %}
{% if loop.first %}{% set head = bos_token + head %}{% endif %}
{{ head + (message['content'] | trim) + '<|eot_id|>' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}""",
    ),
    "llama 3.1": Style(
        LLAMA3,
        """{{- bos_token }}
{%- set date_string = date_string if date_string is defined else '26 Jul 2024' %}
{%- if messages[0].role == 'system' %}
    {%- set said = messages[0].content | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set said = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{%- if tools is not none %}{{- 'Environment: ipython\\n' }}{%- endif %}
{{- 'Today: ' + date_string + '\\n\\n' + said + '<|eot_id|>' }}
{%- if tools is not none and messages | length != 0 %}
    {{- '<|start_header_id|>user<|end_header_id|>\\n\\nFunctions, answer with JSON:\\n\\n' }}
    {%- for tool in tools %}{{- tool | tojson(indent=4) + '\\n\\n' }}{%- endfor %}
    {{- messages[0].content | trim + '<|eot_id|>' }}
    {%- set messages = messages[1:] %}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls | length == 1 %}{{- raise_exception('one call a turn') }}{%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}
        {{- '}<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' }}
        {%- if message.content is mapping or message.content is iterable and message.content is not string %}
            {{- message.content | tojson }}
        {%- else %}{{- message.content }}{%- endif %}
        {{- '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
""",
        tools=True,
    ),
    "llama 4": Style(
        (*LLAMA4, "<|python_end|>", "<|image|>"),
        """{{- bos_token }}
{%- for message in messages %}
    {{- '<|header_start|>' ~ ('ipython' if message.role == 'tool' else message.role) ~ '<|header_end|>\\n\\n' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for part in message.content or [] %}
            {%- if part.type == 'image' %}{{- '<|image|>' }}{%- elif part.type == 'text' %}{{- part.text | trim }}{%- endif %}
        {%- endfor %}
    {%- endif %}
    {%- for call in message.tool_calls %}
        {{- '<|python_start|>' + call.function.name ~ ' ' ~ (call.function.arguments | tojson) + '<|python_end|>' }}
    {%- endfor %}
    {{- '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|header_start|>assistant<|header_end|>\\n\\n' }}{%- endif %}""",
        tools=True,
    ),
    "chatml": Style(
        IM,
        """{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}""",
    ),
    "chatml with a default": Style(
        IM,
        """{%- for m in messages %}
{%- if loop.first and messages[0]['role'] != 'system' %}<|im_start|>system
You help.<|im_end|>
{% endif %}
<|im_start|>{{ m['role'] }}
{{ m['content'] }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}
<|im_start|>assistant
{% endif %}""",
    ),
    "hermes over llama's tokens": Style(
        (*LLAMA3, "<|im_start|>", "<|im_end|>"),
        """{{- bos_token }}{{- '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
{%- if tools %}
    {{- '<tools>' }}
    {%- for tool in tools %}{{- '\\n' + (tool.function if tool.function is defined else tool) | tojson }}{%- endfor %}
    {{- '\\n</tools>' }}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- for message in messages %}
    {%- if message.role == 'user' or message.role == 'assistant' and not message.tool_calls %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}"""
        + _CALLS
        + """{{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>tool\\n<tool_response>\\n' ~ message.content ~ '\\n</tool_response><|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}""",
        tools=True,
    ),
    "qwen 2.5": Style(
        IM,
        """{%- if tools %}
    {{- '<|im_start|>system\\n' ~ (messages[0].content if messages[0].role == 'system' else 'You help.') }}
    {{- '\\n\\n# Tools\\n\\n<tools>' }}
    {%- for tool in tools %}{{- '\\n' ~ (tool | tojson) }}{%- endfor %}
    {{- '\\n</tools>\\n<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == 'user') or (message.role == 'system' and not loop.first)
        or (message.role == 'assistant' and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>' + message.role + '\\n' }}
        {%- if message.content %}{{- message.content + '\\n' }}{%- endif %}"""
        + _CALLS
        + """{{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != 'tool') %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != 'tool') %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}""",
        tools=True,
    ),
    "qwen 3": Style(
        IM,
        """{%- set ns = namespace(searching=true, last=messages | length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages | length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == 'user' and message.content is string
        and not (message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.searching = false %}{%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == 'assistant' %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is string %}{%- set thought = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > ns.last and (loop.last or thought) %}
            {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- content }}"""
        + _CALLS
        + """{{- '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}""",
        tools=True,
    ),
    "calls as tags": Style(
        IM,
        """{%- macro shown(items) %}{% for item in items %}{{ '\\n- ' ~ item }}{% endfor %}{% endmacro %}
{%- if messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content }}
{%- else %}{{- '<|im_start|>system\\n' }}{%- endif %}
{%- for tool in tools or [] %}
    {{- '\\n<function>\\n<name>' ~ tool.function.name ~ '</name>' }}
    {%- for name, fields in tool.function.parameters.properties | items %}
        {{- '\\n<parameter>\\n<name>' ~ name ~ '</name>\\n<type>' ~ fields.type | string ~ '</type>' }}
        {%- if fields.enum is defined and fields.enum is sequence and fields.enum is not string %}{{ shown(fields.enum) }}{% endif %}
        {{- '\\n</parameter>' }}
    {%- endfor %}
    {{- '\\n</function>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- for message in messages if message.role != 'system' %}
    {{- '<|im_start|>' + message.role + '\\n' ~ (message.content or '') }}
    {%- for call in message.tool_calls or [] %}
        {{- '\\n<function=' + call.function.name + '>\\n' }}
        {%- for name, value in call.function.arguments.items() %}
            {{- '<parameter=' + name + '>\\n' }}
            {{- value | tojson if value is mapping or value is not string else value }}
            {{- '\\n</parameter>\\n' }}
        {%- endfor %}
        {{- '</function>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}""",
        tools=True,
    ),
    "r1": Style(
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
        """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}
{%- set ns = namespace(system='') %}
{%- for message in messages %}{% if message['role'] == 'system' %}{% set ns.system = message['content'] %}{% endif %}{% endfor %}
{{- bos_token }}{{ ns.system }}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}{{- '<｜User｜>' + message['content'] }}{%- endif %}
    {%- if message['role'] == 'assistant' and message['content'] is not none %}
        {%- set content = message['content'] %}
        {%- if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}
        {{- '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}""",
        markers=("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"),
    ),
    "llama 2": Style(
        S,
        """{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}{% set said = messages[0]['content'] %}
{% else %}{% set turns = messages %}{% set said = false %}{% endif %}
{% for m in turns %}
{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns must alternate') }}{% endif %}
{% if loop.index0 == 0 and said != false %}{% set content = '<<SYS>>\\n' + said + '\\n<</SYS>>\\n\\n' + m['content'] %}
{% else %}{% set content = m['content'] %}{% endif %}
{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
{% elif m['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}
{% endfor %}""",
    ),
    "mistral": Style(
        (
            *S,
            "[INST]",
            "[/INST]",
            "[TOOL_CALLS]",
            "[AVAILABLE_TOOLS]",
            "[/AVAILABLE_TOOLS]",
            "[TOOL_RESULTS]",
            "[/TOOL_RESULTS]",
        ),
        """{%- if messages[0]['role'] == 'system' %}{%- set said = messages[0]['content'] %}{%- set turns = messages[1:] %}
{%- else %}{%- set turns = messages %}{%- endif %}
{%- set users = turns | selectattr('role', 'equalto', 'user') | list %}
{{- bos_token }}
{%- for m in turns %}
    {%- if m['role'] == 'user' %}
        {%- if tools is not none and m == users[-1] %}
            {{- '[AVAILABLE_TOOLS]' + '[' }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, value in tool.items() if key != 'return' %}
                    {%- if value is string %}{{- '"' + key + '": "' + value + '"' }}
                    {%- else %}{{- '"' + key + '": ' + value | tojson }}{%- endif %}
                    {%- if not loop.last %}{{- ', ' }}{%- endif %}
                {%- endfor %}
                {{- '}}' }}{%- if not loop.last %}{{- ', ' }}{%- else %}{{- ']' }}{%- endif %}
            {%- endfor %}
            {{- '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST]' + (said + '\\n\\n' if loop.last and said is defined else '') + m['content'] + '[/INST]' }}
    {%- elif m.tool_calls is defined and m.tool_calls is not none %}
        {{- '[TOOL_CALLS][' }}
        {%- for call in m.tool_calls %}{{- call.function | tojson }}{{- ', ' if not loop.last else ']' + eos_token }}{%- endfor %}
    {%- elif m['role'] == 'assistant' %}{{- m['content'] + eos_token }}
    {%- elif m['role'] == 'tool' %}{{- '[TOOL_RESULTS]{"content": ' + m.content | string + '}[/TOOL_RESULTS]' }}
    {%- endif %}
{%- endfor %}""",
        tools=True,
    ),
    "turns of gemma": Style(
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turns') }}{% endif %}
{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}
{{ '<start_of_turn>' + role + '\\n' + m['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}""",
        system=False,
    ),
    "phi": Style(
        ("<|endoftext|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"),
        """{% for m in messages %}{% if m['role'] == 'system' and m['content'] %}{{ '<|system|>\\n' + m['content'] + '<|end|>\\n' }}
{%- elif m['role'] == 'user' %}{{ '<|user|>\\n' + m['content'] + '<|end|>\\n' }}
{%- elif m['role'] == 'assistant' %}{{ '<|assistant|>\\n' + m['content'] + '<|end|>\\n' }}{% endif %}{% endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}""",
    ),
    "zephyr, roles in the middle of tokens": Style(
        (*S, "<|system|>", "<|user|>", "<|assistant|>"),
        """{% for m in messages %}
{{ '<|' + m['role'] + '|>\\n' + m['content'] + eos_token }}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}""",
    ),
    "command": Style(
        (
            "<BOS_TOKEN>",
            "<|END_OF_TURN_TOKEN|>",
            "<|START_OF_TURN_TOKEN|>",
            "<|USER_TOKEN|>",
            "<|CHATBOT_TOKEN|>",
            "<|SYSTEM_TOKEN|>",
        ),
        """{{ bos_token }}{% set names = {'user': '<|USER_TOKEN|>', 'assistant': '<|CHATBOT_TOKEN|>', 'system': '<|SYSTEM_TOKEN|>'} %}
{% for m in messages %}{{ '<|START_OF_TURN_TOKEN|>' + names[m.role] + m['content'].strip() + '<|END_OF_TURN_TOKEN|>' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}""",
    ),
    "granite, with a date": Style(
        ("<|end_of_text|>", "<|end_of_role|>", "<|start_of_role|>"),
        """{%- if messages[0]['role'] == 'system' %}{%- set said = messages[0]['content'] %}{%- set turns = messages[1:] %}
{%- else %}{%- set said = 'Today is ' + strftime_now('%B %d, %Y') + '.' %}{%- set turns = messages %}{%- endif %}
{{- '<|start_of_role|>system<|end_of_role|>' + said + '<|end_of_text|>\\n' }}
{%- for m in turns %}
{{- '<|start_of_role|>' + m['role'] + '<|end_of_role|>' + m['content'] + '<|end_of_text|>\\n' }}
{%- if loop.last and add_generation_prompt %}{{- '<|start_of_role|>assistant<|end_of_role|>' }}{%- endif %}
{%- endfor %}""",
    ),
    "training marks": Style(
        IM,
        """{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' }}
{%- if m.role == 'assistant' %}{% generation %}{{- m.content + '<|im_end|>' }}{%- endgeneration -%}
{%- else %}{{- m.content + '<|im_end|>' }}{%- endif %}{{- '\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}""",
    ),
    "words for roles": Style(
        S,
        """{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content ~ '\\n\\n' }}{% continue %}{% endif %}
{{ m.role.upper() ~ ': ' ~ m.content ~ (eos_token if m.role == 'assistant' else '\\n') }}{% endfor %}
{{ 'ASSISTANT:' if add_generation_prompt }}""",
    ),
    "parts or text": Style(
        (*S, "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
        """{%- macro said(content) -%}
{%- if content is string -%}{{ content }}
{%- elif content is iterable -%}{%- for part in content -%}{%- if part['type'] == 'text' -%}{{ part['text'] }}{%- endif -%}{%- endfor -%}
{%- else -%}{{ '' }}{%- endif -%}
{%- endmacro -%}
{{- bos_token -}}
{%- for m in messages -%}
{{- '<|' ~ m.role ~ '|>' ~ said(m.content) | trim ~ '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}""",
    ),
}
assert len(STYLES) == 20
