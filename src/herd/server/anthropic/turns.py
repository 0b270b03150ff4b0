"""A dialog as Anthropic's clients write it -> turns and tools as `herd.dialogs` reads them."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from herd.media.encoded import image_of
from herd.server.openai.turns import NO_ARGUMENTS
from herd.server.requests.fields import Refused
from herd.server.requests.media import Images, check_count


class Text(msgspec.Struct, tag_field="type", tag="text"):
    """Text."""

    text: str


class Base64Source(msgspec.Struct, tag_field="type", tag="base64"):
    """Bytes. What kind they are is seen in them."""

    data: str


class UrlSource(msgspec.Struct, tag_field="type", tag="url"):
    """An address."""

    url: str


class TextSource(msgspec.Struct, tag_field="type", tag="text"):
    """Text of a document."""

    data: str


class Image(msgspec.Struct, tag_field="type", tag="image"):
    """An image."""

    source: Base64Source | UrlSource


class Document(msgspec.Struct, tag_field="type", tag="document"):
    """A document; only plain text is read."""

    source: TextSource
    title: str | None = None
    context: str | None = None


class ToolUse(msgspec.Struct, tag_field="type", tag="tool_use"):
    """A call of an earlier answer."""

    id: str
    name: str
    input: dict[str, Any] | None = None


class ToolResult(msgspec.Struct, tag_field="type", tag="tool_result"):
    """What came of a call."""

    tool_use_id: str
    content: str | list[Text | Image] | None = None
    is_error: bool | None = None


class Thinking(msgspec.Struct, tag_field="type", tag="thinking"):
    """Thoughts of an earlier answer; not shown again."""

    thinking: str = ""
    signature: str = ""


class HiddenThinking(msgspec.Struct, tag_field="type", tag="redacted_thinking"):
    """Thinking of an earlier answer, unreadable."""

    data: str = ""


Block: TypeAlias = Text | Image | Document | ToolUse | ToolResult | Thinking | HiddenThinking


class AnthropicMessage(msgspec.Struct):
    """A message."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Tool(msgspec.Struct):
    """A tool that the client runs."""

    name: str
    input_schema: dict[str, Any] | None
    """Null: it takes no arguments."""
    description: str | None = None
    type: Literal["custom"] | None = None


class Choice(msgspec.Struct):
    """Which tool: auto, any, none, or the one of that name."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


def dialog_of(
    turns: Sequence[AnthropicMessage], system: str | Sequence[Text] | None, images: Images
) -> list[dict[str, Any]]:
    """Turns for `ChatModel.astream`. Raises Refused naming the place, BadMedia."""
    found: list[dict[str, Any]] = []
    if system:
        text = system if isinstance(system, str) else "\n".join(block.text for block in system)
        found.append({"role": "system", "content": text})
    check_count(sum(_images(turn.content) for turn in turns))
    names: dict[str, str] = {}
    for i, turn in enumerate(turns):
        found += _turns(turn, f"messages[{i}]", names, images)
    return found


def _images(content: str | Sequence[Block]) -> int:
    """How many a message shows, those in results of tools among them."""
    if isinstance(content, str):
        return 0
    inner = sum(_images(b.content) for b in content if isinstance(b, ToolResult) and b.content is not None)
    return inner + sum(isinstance(block, Image) for block in content)


def tools_of(tools: Sequence[Tool] | None) -> list[dict[str, Any]]:
    """Definitions for `ChatModel.astream`."""
    found = []
    for tool in tools or ():
        one: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema or NO_ARGUMENTS}
        if tool.description is not None:
            one["description"] = tool.description
        found.append(one)
    return found


def choice_of(choice: Choice | None, tools: Sequence[dict[str, Any]]) -> str:
    """auto, none, required, or the name of a tool. Raises Refused for a name that no tool has."""
    if choice is None or choice.type == "auto":
        return "auto"
    if choice.type == "none":
        return "none"
    if not tools:
        raise Refused(f"tool_choice: got {choice.type}, expected tools to choose from", "tool_choice")
    if choice.type == "any":
        return "required"
    if choice.name not in [tool["name"] for tool in tools]:
        raise Refused(f"tool_choice: no tool is called {choice.name!r}", "tool_choice")
    assert choice.name is not None
    return choice.name


def _turns(turn: AnthropicMessage, where: str, names: dict[str, str], images: Images) -> list[dict[str, Any]]:
    """One message is one turn, and one before it for each result of a tool."""
    if isinstance(turn.content, str):
        return [{"role": turn.role, "content": turn.content}]
    results: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for i, block in enumerate(turn.content):
        at = f"{where}.content[{i}]"
        match block:
            case ToolResult():
                results.append(_result(block, at, names, images))
            case ToolUse(id, name, arguments):
                names[id] = name
                calls.append({"name": name, "arguments": arguments or {}, "id": id})
            case Thinking() | HiddenThinking():
                pass
            case _:
                parts += _parts(block, at, images)
    if results and turn.role != "user":
        raise Refused(f"{where}: got a tool_result of the {turn.role}, expected one of the user", where)
    if calls and turn.role != "assistant":
        raise Refused(f"{where}: got a tool_use of the {turn.role}, expected one of the assistant", where)
    if not parts and not calls:
        return results
    content: Any = parts or ""
    found: dict[str, Any] = {"role": turn.role, "content": content}
    if calls:
        found["tool_calls"] = calls
    return [*results, found]


def _result(block: ToolResult, where: str, names: dict[str, str], images: Images) -> dict[str, Any]:
    content: Any = block.content or ""
    if not isinstance(content, str):
        parts = [_parts(one, f"{where}.content[{i}]", images) for i, one in enumerate(content)]
        content = [part for some in parts for part in some]
    if block.is_error:
        words = [{"type": "text", "text": content}] if isinstance(content, str) else content
        content = [{"type": "text", "text": "The tool failed: "}, *words]
    found = {"role": "tool", "content": content, "tool_call_id": block.tool_use_id}
    if block.tool_use_id in names:
        found["name"] = names[block.tool_use_id]
    return found


def _parts(block: Block, where: str, images: Images) -> list[dict[str, Any]]:
    match block:
        case Text(text):
            return [{"type": "text", "text": text}]
        case Image(Base64Source(data)):
            return [{"type": "image", "image": image_of(data, where)}]
        case Image(UrlSource(url)):
            return [images.part(url, where)]
        case Document(source, title, context):
            head = "\n".join(line for line in (title, context) if line)
            return [{"type": "text", "text": f"{head}\n\n{source.data}" if head else source.data}]
    raise AssertionError(block)
