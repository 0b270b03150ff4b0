"""What a chat template is given: a dialog as plain values, copied, with marks in what is said where they are wanted.

What it is not: the running of a template (`herd.text.templates`), which few processes need.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from herd.text.stand_ins import Marker


class Templates(msgspec.Struct, frozen=True):
    """Chat templates of a vocabulary by name, and its control tokens; see `herd.text.templates.Writer`."""

    sources: dict[str, str]
    control: list[str]
    own: list[str]


class Task(msgspec.Struct, frozen=True):
    """A dialog to write.

    messages, tools   in transformers' form: plain values
    variables         more of them: names of tokens, a caller's own
    open_assistant    whether the header of the assistant's next turn comes last
    now_s             the date that the template is told, in seconds since 1970
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    tokens: dict[str, str] = {}
    variables: dict[str, str | int | float | bool | None] = {}
    open_assistant: bool = True
    now_s: float = 0.0

    def given(self, others: Marker | None = None, own: Marker | None = None) -> dict[str, Any]:
        """What a template gets, copied; with markers for what others and what the assistant said."""
        mark = others or _Copy()
        turns = [_turn(m, (own or mark) if m["role"] == "assistant" else mark) for m in self.messages]
        return {
            "messages": turns,
            "tools": None if self.tools is None else [_tool(tool, mark) for tool in self.tools],
            "documents": None,
            "add_generation_prompt": self.open_assistant,
            **self.tokens,
            **{name: mark.tree(value) for name, value in self.variables.items()},
        }


class _Copy:
    """A marker that only copies."""

    def text(self, text: str) -> str:
        return text

    def tree(self, value: Any) -> Any:
        match value:
            case list():
                return [self.tree(one) for one in value]
            case dict():
                return {key: self.tree(one) for key, one in value.items()}
        return value


def _turn(message: Mapping[str, Any], mark: Any) -> dict[str, Any]:
    """A message, copied: its role, its keys and the types of its parts are ours, all else is outside."""
    found: dict[str, Any] = {}
    for key, value in message.items():
        if key == "content" and isinstance(value, list):
            found[key] = [{k: v if k == "type" else mark.text(v) for k, v in part.items()} for part in value]
        elif key == "tool_calls":
            found[key] = [_call(call, mark) for call in value]
        else:
            found[key] = value if key == "role" or value is None else mark.text(value)
    return found


def _call(call: Mapping[str, Any], mark: Any) -> dict[str, Any]:
    function = call["function"]
    inner = {"name": mark.text(function["name"]), "arguments": mark.tree(function["arguments"])}
    rest = {key: mark.text(call[key]) for key in ("id",) if key in call}
    return {"type": "function", **rest, "function": inner}


def _tool(tool: Mapping[str, Any], mark: Any) -> dict[str, Any]:
    """A definition in OpenAI's form, copied; the keys around it are ours."""
    inner = tool["function"]
    ours = ("name", "description", "parameters")
    function = {key if key in ours else mark.text(key): mark.tree(value) for key, value in inner.items()}
    rest = {mark.text(key): mark.tree(value) for key, value in tool.items() if key not in ("type", "function")}
    return {"type": "function", "function": function, **rest}
