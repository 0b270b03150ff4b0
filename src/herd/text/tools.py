"""Tool syntax: past calls and definitions of tools as text. Parsing a model's answer is another subject.

Forms of a call (Meta's llama-models, models/llama3/tool_utils.py; its spacing is kept, ids depend on it):

    json           {"type": "function", "name": "f", "parameters": {"a": 1}}
    python_list    [f(a=1, b="x")]          strings stand in quotes as they are
    function_tag   <function=f>{"a": 1}</function>

Four built-in names have a form of their own, whatever was chosen: `brave_search.call(query="...")`, `wolfram_alpha`,
`photogen` alike, and `code_interpreter`, whose call is the code.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from herd.errors import UsageError, fail
from herd.messages import ToolCall
from herd.text.message_checks import check_name

FORMS = ("json", "python_list", "function_tag")
_QUERY_TOOLS = ("brave_search", "wolfram_alpha", "photogen")
Tool = Mapping[str, Any]
_OF_FUNCTIONS = (("description", str, "a text"), ("parameters", Mapping, "an object: a JSON schema"))

_HOW = {
    "json": 'To call one, answer with only {"type": "function", "name": its name, "parameters": its arguments}.',
    "python_list": 'To call some of them, answer with only a list such as [first(a=1), second(b="text")].',
    "function_tag": "To call one, answer with only <function=its name>{its arguments as JSON}</function>.",
}


def call_text(call: ToolCall, form: str) -> str:
    """A past call as the model would have written it. Raises UsageError for arguments that cannot be written."""
    if call.name in _QUERY_TOOLS:
        return f'{call.name}.call(query="{_argument(call, "query")}")'
    if call.name == "code_interpreter":
        return _argument(call, "code")
    match form:
        case "json":
            return dumps({"type": "function", "name": call.name, "parameters": dict(call.arguments)})
        case "function_tag":
            return f"<function={call.name}>{dumps(dict(call.arguments))}</function>"
        case "python_list":
            arguments = ", ".join(f"{key}={_python(value, 0)}" for key, value in call.arguments.items())
            return f"[{call.name}({arguments})]"
    return fail(UsageError, "form of tool calls", got=form, expected="one of " + ", ".join(FORMS))


def definitions_text(tools: Sequence[Tool], form: str) -> str:
    """What a system turn says about the tools: a JSON list of name, description, parameters; how to call them."""
    listed = dumps([function_of(tool) for tool in tools], indent=4, ascii_only=False)
    return f"You can call these functions:\n{listed}\n{_HOW[form]} If none of them helps, answer in words."


def hermes_text(tools: Sequence[Tool]) -> str:
    """Definitions in the form that ChatML models know (Nous Research's Hermes function calling)."""
    written = (dumps({"type": "function", "function": function_of(tool)}, ascii_only=False) for tool in tools)
    listed = "\n".join(written)
    return (
        f"You can call these functions:\n<tools>\n{listed}\n</tools>\n"
        'To call one, answer with <tool_call>\n{"name": its name, "arguments": its arguments}\n</tool_call>. '
        "If none of them helps, answer in words."
    )


def function_of(tool: Tool) -> dict[str, Any]:
    """A tool's name, description and parameters; OpenAI's {"type": "function", "function": {...}} is opened."""
    inner = tool.get("function", tool)
    if not isinstance(inner, Mapping):
        fail(UsageError, "tool", got=type(inner).__name__, expected="an object with a name")
    name = check_name(inner.get("name"), "tool name")
    for key, kind, expected in _OF_FUNCTIONS:
        if not isinstance(inner.get(key), kind | None):
            fail(UsageError, f"tool {name}: {key}", got=type(inner[key]).__name__, expected=expected)
    return {key: inner[key] for key in ("name", "description", "parameters") if inner.get(key) is not None}


def dumps(value: Any, *, indent: int | None = None, ascii_only: bool = True) -> str:
    """JSON as Python's json module spaces it. Raises UsageError for what JSON cannot say."""
    try:
        return json.dumps(value, indent=indent, ensure_ascii=ascii_only, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        fail(UsageError, "tool arguments or definitions are not JSON", got=str(error))


def _argument(call: ToolCall, key: str) -> str:
    value = call.arguments.get(key)
    if not isinstance(value, str):
        fail(UsageError, f"tool call {call.name}: argument {key!r}", got=type(value).__name__, expected="text")
    return value


def _python(value: Any, depth: int) -> str:
    if depth > 64:
        fail(UsageError, "tool arguments nest too deep", expected="at most 64 levels")
    match value:
        case str():
            return f'"{value}"'
        case bool() | int() | float() | None:
            dumps(value)  # not for NaN, or a number of thousands of digits
            return str(value)
        case list() | tuple():
            return f"[{', '.join(_python(v, depth + 1) for v in value)}]"
        case Mapping():
            return f"{{{', '.join(f'{k}={_python(v, depth + 1)}' for k, v in value.items())}}}"
    return fail(UsageError, "tool arguments", got=type(value).__name__, expected="JSON values")
