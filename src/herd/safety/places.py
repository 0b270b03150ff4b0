"""Where text stands in a request, in the order in which a model reads it; read and written by one walk.

Not among the places: the system's text, wherever in the dialog it stands (it is the application's own), and images.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from herd.messages import Content, Message, TextPart, ToolCall
from herd.policies import Prompt
from herd.safety.reading import AdjacentText
from herd.safety.rules import Where
from herd.text.leaves import Leaf, changed
from herd.text.tools import Tool

PROSE = frozenset(("description", "title", "$comment", "default", "example", "examples"))
"""Members of a tool's definition in which a mark may stand: the others are names and values that a call has to have."""


@dataclass(frozen=True)
class TextPlace(AdjacentText):
    """A text of a request.

    message   which turn; None: a tool's definition
    place     as `Note.place` has it; `at`: characters of that place before this text (a turn's parts are one place)
    markable  whether a mark may stand in it
    """

    message: int | None = None
    place: str = "text"
    at: int = 0
    markable: bool = True


Change: TypeAlias = Callable[[TextPlace], str]


def places(prompt: Prompt) -> list[TextPlace]:
    """All of a request. Raises UsageError for arguments or definitions that nest too deep."""
    found: list[TextPlace] = []

    def keep(place: TextPlace) -> str:
        found.append(place)
        return place.text

    rewritten(prompt, keep)
    return found


def rewritten(prompt: Prompt, change: Change) -> Prompt:
    """The request with the text of every place as `change` has it, asked for in order."""
    variables = {name: _variable(name, value, change) for name, value in prompt.variables.items()}
    tools = [_tool(tool, i, change) for i, tool in enumerate(prompt.tools)]
    messages = [_message(message, i, change) for i, message in enumerate(prompt.messages)]
    return Prompt(messages, tools, variables)


def _variable(name: str, value: Any, change: Change) -> Any:
    """What a chat template is told: it may look for one value or another, so that no mark may stand there."""
    return change(TextPlace(value, place=f"variables.{name}", markable=False)) if isinstance(value, str) else value


def _tool(tool: Tool, index: int, change: Change) -> Tool:
    def place(leaf: Leaf) -> str:
        markable = leaf.kind != "key" and leaf.key in PROSE
        return change(_leaf(leaf, TextPlace("", place=f"tools[{index}]", markable=markable)))

    found: Tool = changed(tool, place)
    return found


def _message(message: Message, index: int, change: Change) -> Message:
    if message.role == "system":
        return message
    where: Where = {"tool": "tool", "assistant": "output"}.get(message.role, "input")  # type: ignore[assignment]
    here = TextPlace("", where=where, message=index)
    name, context = message.name, message.context
    if name is not None:
        name = change(replace(here, text=name, kind="name", place="name", markable=False))
    return replace(
        message,
        name=name,
        content=_content(message.content, here, change),
        context=context
        if context is None
        else _content(context, replace(here, place="context", before="\n\n"), change),
        tool_calls=tuple(
            _call(call, replace(here, place=f"calls[{i}]"), change) for i, call in enumerate(message.tool_calls)
        ),
    )


def _content(content: Content, here: TextPlace, change: Change) -> Content:
    """A text, or the texts among parts: a model sees them as one."""
    if isinstance(content, str):
        return change(replace(here, text=content))
    found: list[Any] = []
    at = 0
    for part in content:
        if isinstance(part, TextPart):
            found.append(TextPart(change(replace(here, text=part.text, at=at, before="" if at else here.before))))
            at += len(part.text)
        else:
            found.append(part)
    return tuple(found)


def _call(call: ToolCall, here: TextPlace, change: Change) -> ToolCall:
    """A past call: its arguments are data, so that marks may stand in them, but not in names."""
    name = change(replace(here, text=call.name, kind="name", markable=False))

    def place(leaf: Leaf) -> str:
        return change(_leaf(leaf, replace(here, markable=leaf.kind != "key")))

    return replace(call, name=name, arguments=changed(call.arguments, place))


def _leaf(leaf: Leaf, here: TextPlace) -> TextPlace:
    return replace(here, text=leaf.text, kind=leaf.kind)
