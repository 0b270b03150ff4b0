"""Messages and tools as chat templates are given them: transformers' form, of plain values alone."""

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from herd.errors import UsageError, fail
from herd.messages import Content, ImagePart, Message, TextPart, ToolCall, plain_text
from herd.text.stand_ins import texts_of
from herd.text.tools import Tool, dumps, function_of

MOST_DEPTH = 64
"""Levels of tool arguments and definitions."""
MOST_VARIABLES = 16
MOST_TEXT = 64
"""Characters of what a caller tells a template besides: it says how to answer, not what."""
OURS = ("messages", "tools", "documents", "add_generation_prompt")
"""Names that a template gets from here."""
_SILENT: tuple[dict[str, str | None], ...] = ({}, {"content": ""}, {"content": None})


class CallTurns(NamedTuple):
    """How a template is given turns with calls: transformers leaves that to whoever calls it."""

    silent: Mapping[str, str | None] = MappingProxyType({})
    """What says that such a turn has no content: nothing, null or an empty text."""
    as_text: bool = False
    """Whether arguments are JSON in a text; else the value."""


CALL_TURNS = tuple(CallTurns(dict(silent), as_text) for as_text in (False, True) for silent in _SILENT)
"""All ways, the usual one first."""


def plain_messages(
    messages: Sequence[Message], *, parts: bool, calls: "CallTurns | None" = None
) -> list[dict[str, Any]]:
    """Messages in transformers' form; keys that say nothing are left out, as there. parts: whether the template writes
    a list of parts as what they hold; else texts are joined. Raises UsageError for images then, and for arguments that
    are no JSON."""
    return [_message(message, parts, calls or CALL_TURNS[0]) for message in messages]


def plain_tools(tools: Sequence[Tool]) -> list[dict[str, Any]] | None:
    """Definitions in OpenAI's form; None for none. Raises UsageError."""
    found = []
    for tool in tools:
        inner = function_of(tool)
        whole = dict(tool) if isinstance(tool.get("function"), Mapping) else {"function": inner}
        found.append(_plain({**whole, "type": "function"}))
    return found or None


def check_variables(name: str, given: Any) -> None:
    """Raise UsageError for what a caller may not tell a template besides its dialog: names and plain values, short and
    few. name: what they came as."""
    if not isinstance(given, Mapping) or len(given) > MOST_VARIABLES:
        got = f"{len(given)} of them" if isinstance(given, Mapping) else type(given).__name__
        fail(UsageError, name, got=got, expected=f"an object of at most {MOST_VARIABLES} names and plain values")
    for key, value in given.items():
        if not isinstance(key, str) or not key.isidentifier() or len(key) > MOST_TEXT:
            fail(UsageError, f"{name}: a name", got=str(key)[:MOST_TEXT], expected="letters, digits and _")
        if key in OURS or key.endswith("_token"):
            fail(UsageError, f"{name}: {key}", got="it", expected="names that Herd does not give itself")
        if not isinstance(value, str | int | float | bool | None) or len(dumps(value)) > MOST_TEXT + 2:
            expected = f"a text, a number, true, false or null, of at most {MOST_TEXT} characters"
            fail(UsageError, f"{name}: {key}", got=type(value).__name__, expected=expected)


def check_texts(value: Any) -> None:
    """Raise UsageError for a lone surrogate in any text of plain values."""
    for text in texts_of(value):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            at = error.start
            fail(UsageError, f"text holds a lone surrogate (U+{ord(text[at]):04X}) at character {at}")


def _message(message: Message, parts: bool, calls: CallTurns) -> dict[str, Any]:
    content: Any = message.content if message.context is None else _with_context(message.content, message.context)
    if not isinstance(content, str):
        content = [_part(part) for part in content] if parts else _joined(content)
    found: dict[str, Any] = {"role": message.role}
    found |= {"content": content} if content or not message.tool_calls else calls.silent
    if message.tool_calls:
        found["tool_calls"] = [_call(call, calls.as_text) for call in message.tool_calls]
    more = {"name": message.name, "tool_call_id": message.tool_call_id}
    return {**found, **{key: value for key, value in more.items() if value}}


def _with_context(content: Content, context: Content) -> Content:
    if isinstance(content, str):
        return f"{content}\n\n{plain_text(context)}"
    return (*content, TextPart("\n\n"), TextPart(plain_text(context)))


def _part(part: TextPart | ImagePart) -> dict[str, str]:
    return {"type": "text", "text": part.text} if isinstance(part, TextPart) else {"type": "image"}


def _joined(content: Sequence[TextPart | ImagePart]) -> str:
    if any(isinstance(part, ImagePart) for part in content):
        fail(UsageError, "this model's chat template writes no images", got="an image", do="use a model with vision")
    return plain_text(tuple(content))


def _call(call: ToolCall, as_text: bool) -> dict[str, Any]:
    named = {"id": call.id} if call.id else {}
    arguments = _plain(dict(call.arguments))
    given = dumps(arguments, ascii_only=False) if as_text else arguments
    return {"type": "function", **named, "function": {"name": call.name, "arguments": given}}


def _plain(value: Any) -> Any:
    """A copy of JSON's own types. Raises UsageError for what JSON cannot say, or what nests too deep."""
    text = dumps(value, ascii_only=False)
    _check_depth(value)
    return json.loads(text)


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level:
        if depth > MOST_DEPTH:
            fail(UsageError, "tool arguments or definitions nest too deep", expected=f"at most {MOST_DEPTH} levels")
        inner = [one.values() if isinstance(one, Mapping) else one for one in level]
        level = [v for values in inner for v in values if isinstance(v, Mapping | list | tuple)]
        depth += 1
