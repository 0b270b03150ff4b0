"""A dialog as OpenAI's clients write it -> turns and tools as `herd.dialogs` reads them."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from herd.errors import UsageError
from herd.server.requests.fields import Refused
from herd.server.requests.media import Images, check_count
from herd.turns import call_arguments


class Text(msgspec.Struct, tag_field="type", tag="text"):
    """A part that is text."""

    text: str


class Refusal(msgspec.Struct, tag_field="type", tag="refusal"):
    """A part in which an earlier answer refused; read as its text."""

    refusal: str


class ImageAddress(msgspec.Struct):
    """Where an image is."""

    url: str


class Image(msgspec.Struct, tag_field="type", tag="image_url"):
    """A part that is an image."""

    image_url: ImageAddress | str

    @property
    def url(self) -> str:
        """Where it is."""
        return self.image_url if isinstance(self.image_url, str) else self.image_url.url


Part: TypeAlias = Text | Refusal | Image


class CalledFunction(msgspec.Struct):
    """What an earlier answer called."""

    name: str
    arguments: str | dict[str, Any] | None = None
    """JSON. An object is no form of OpenAI's, but of some of its clients'."""


class Call(msgspec.Struct):
    """A call of an earlier answer."""

    function: CalledFunction
    id: str = ""
    type: Literal["function"] = "function"


class OpenAIMessage(msgspec.Struct):
    """A message."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None


class Function(msgspec.Struct):
    """A function that may be called."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct):
    """A tool; only functions are known."""

    function: Function
    type: Literal["function"] = "function"


class ChosenFunction(msgspec.Struct):
    """The name of a tool."""

    name: str


class ChosenTool(msgspec.Struct):
    """A tool that may be called."""

    function: ChosenFunction
    type: Literal["function"] = "function"


class AllowedTools(msgspec.Struct):
    """Tools that may be called. mode: whether one has to be."""

    mode: Literal["auto", "required"]
    tools: list[ChosenTool]


class Choice(msgspec.Struct):
    """The one tool that has to be called, or those that may be."""

    type: Literal["function", "allowed_tools"] = "function"
    function: ChosenFunction | None = None
    allowed_tools: AllowedTools | None = None


ToolChoice: TypeAlias = Literal["auto", "none", "required"] | Choice


def dialog_of(turns: Sequence[OpenAIMessage], images: Images) -> list[dict[str, Any]]:
    """Turns for `ChatModel.astream`. Raises Refused naming the place, BadMedia."""
    check_count(sum(isinstance(p, Image) for turn in turns if isinstance(turn.content, list) for p in turn.content))
    return [_turn(turn, f"messages[{i}]", images) for i, turn in enumerate(turns)]


def goes_on(turns: Sequence[OpenAIMessage], wanted: bool | None, opened: bool | None) -> bool:
    """Whether the last turn is gone on with. wanted, opened: `continue_final_message` and `add_generation_prompt`.
    Raises Refused for both, for neither, or where there is nothing to go on with."""
    if wanted and opened:
        raise Refused("add_generation_prompt: got true beside continue_final_message; give one of them", OPENED)
    if opened is False and not wanted:
        raise Refused("add_generation_prompt: got false, expected continue_final_message to be true with it", OPENED)
    if wanted and (not turns or turns[-1].role != "assistant"):
        got = f"a last message of the {turns[-1].role}" if turns else "no messages"
        raise Refused(f"{GOES_ON}: got {got}, expected one of the assistant", GOES_ON)
    return wanted is True


GOES_ON = "continue_final_message"
OPENED = "add_generation_prompt"


def tools_of(tools: Sequence[Tool] | None) -> list[dict[str, Any]]:
    """Definitions for `ChatModel.astream`."""
    found = []
    for tool in tools or ():
        function = tool.function
        one: dict[str, Any] = {"name": function.name, "parameters": function.parameters or NO_ARGUMENTS}
        if function.description is not None:
            one["description"] = function.description
        found.append(one)
    return found


NO_ARGUMENTS = {"type": "object", "properties": {}}
"""Parameters of a tool that says none."""


class Asked(NamedTuple):
    """auto, none, required, or the name of a tool; and the tools that a model sees."""

    choice: str
    tools: list[dict[str, Any]]


def choice_of(choice: ToolChoice | None, tools: list[dict[str, Any]]) -> Asked:
    """What is asked of tools. Raises Refused for a name that no tool has."""
    if choice is None:
        return Asked("auto", tools)
    if isinstance(choice, str):
        if choice == "required" and not tools:
            raise Refused("tool_choice: got required, expected tools to choose from", "tool_choice")
        return Asked(choice, tools)
    inner = choice.function if choice.type == "function" else choice.allowed_tools
    if inner is None:
        raise Refused(f"tool_choice: got none, expected a member {choice.type}", "tool_choice")
    if isinstance(inner, AllowedTools):
        return allowed(inner.mode, [tool.function.name for tool in inner.tools], tools)
    _check_known([inner.name], tools)
    return Asked(inner.name, tools)


def allowed(mode: str, names: Sequence[str], tools: Sequence[dict[str, Any]]) -> Asked:
    """What `allowed_tools` asks for: the model sees the tools that it may call, and no others. Raises Refused for a
    name that no tool has."""
    _check_known(names, tools)
    wanted = frozenset(names)
    found = [tool for tool in tools if tool["name"] in wanted]
    if mode == "required" and not found:
        raise Refused("tool_choice: got required, expected tools to choose from", "tool_choice")
    return Asked(mode, found)


def _check_known(names: Sequence[str], tools: Sequence[dict[str, Any]]) -> None:
    there = {tool["name"] for tool in tools}
    for name in names:
        if name not in there:
            raise Refused(f"tool_choice: no tool is called {name!r}", "tool_choice")


def arguments_of(arguments: str | dict[str, Any] | None) -> str | dict[str, Any]:
    """The arguments of a past call; as the text that they are, where that is no JSON object."""
    if not isinstance(arguments, str):
        return arguments or {}
    found = call_arguments(arguments)
    return arguments if found is None else found


def _turn(turn: OpenAIMessage, where: str, images: Images) -> dict[str, Any]:
    content: Any = turn.content
    if isinstance(content, list):
        content = [_part(part, f"{where}.content[{i}]", images) for i, part in enumerate(content)]
    found: dict[str, Any] = {"role": "system" if turn.role == "developer" else turn.role, "content": content}
    if turn.tool_calls:
        found["tool_calls"] = [
            {"name": c.function.name, "arguments": arguments_of(c.function.arguments), "id": c.id}
            for c in turn.tool_calls
        ]
    if turn.name is not None:
        found["name"] = turn.name
    if turn.tool_call_id is not None:
        found["tool_call_id"] = turn.tool_call_id
    return found


def _part(part: Part, where: str, images: Images) -> dict[str, Any]:
    match part:
        case Text(text):
            return {"type": "text", "text": text}
        case Refusal(refusal):
            return {"type": "text", "text": refusal}
        case Image():
            return images.part(part.url, where)
    raise UsageError(f"{where}: unknown part")
