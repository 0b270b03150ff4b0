"""Tools of /v1/responses: functions, alone or in namespaces; what else is offered runs elsewhere and is left out."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from herd.server.openai.response_items import Spaces, name_in
from herd.server.openai.turns import NO_ARGUMENTS, Asked, allowed
from herd.server.requests.fields import Refused


class Function(msgspec.Struct, tag_field="type", tag="function"):
    """A function that may be called."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Namespace(msgspec.Struct, tag_field="type", tag="namespace"):
    """Functions under a name of their own; an MCP server's, for instance."""

    name: str
    tools: list[Function]
    description: str | None = None


Tool: TypeAlias = Function | Namespace


class Chosen(msgspec.Struct, tag_field="type", tag="function"):
    """The tool that must be called."""

    name: str
    namespace: str | None = None


class Allowed(msgspec.Struct, tag_field="type", tag="allowed_tools"):
    """Tools that may be called; mode: whether one has to be. What is no function is no tool here."""

    mode: Literal["auto", "required"]
    tools: list[dict[str, Any]]

    @property
    def names(self) -> list[str]:
        """Names of the functions among them, as the model has them. Raises Refused for one without a name."""
        try:
            named = msgspec.convert([x for x in self.tools if x.get("type", "function") == "function"], list[Chosen])
        except msgspec.ValidationError:
            raise Refused("tool_choice.tools: expected functions with a name", "tool_choice") from None
        return [name_in(one.namespace, one.name) for one in named]


ToolChoice: TypeAlias = Literal["auto", "none", "required"] | Chosen | Allowed
KNOWN = "function", "namespace"
"""Types of tools."""


def functions(tools: Sequence[Tool]) -> Iterator[tuple[str, Function]]:
    """(its namespace or "", function). What is said of a namespace is said with the first of its functions."""
    for tool in tools:
        match tool:
            case Function():
                yield "", tool
            case Namespace(name, inner, description):
                for f in inner:
                    said = "\n\n".join(text for text in (description, f.description) if text)
                    yield name, msgspec.structs.replace(f, description=said)
                    description = None


def definitions(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """Definitions for `ChatModel.astream`."""
    return [
        {
            "name": name_in(space, f.name),
            "description": f.description or "",
            "parameters": f.parameters or NO_ARGUMENTS,
        }
        for space, f in functions(tools)
    ]


def choice_of(choice: ToolChoice | None, tools: list[dict[str, Any]]) -> Asked:
    """What is asked of tools, by the names that the model knows. Raises Refused for one that must be called where there
    is none, and for allowed ones that are not there."""
    if choice == "required" and not tools:
        raise Refused("tool_choice: got required, expected functions to choose from", "tool_choice")
    if isinstance(choice, Allowed):
        return allowed(choice.mode, choice.names, tools)
    return Asked(name_in(choice.namespace, choice.name) if isinstance(choice, Chosen) else choice or "auto", tools)


def spaces_of(tools: Sequence[Tool]) -> Spaces:
    """Where each function of a namespace is. Raises Refused where the model would know two by one name."""
    plain = {f.name for space, f in functions(tools) if not space}
    found: dict[str, tuple[str, str]] = {}
    for space, f in functions(tools):
        if not space:
            continue
        name = name_in(space, f.name)
        if name in plain or name in found:
            raise Refused(f"tools: two are called {name[:64]!r}; a namespace goes before a name with __", "tools")
        found[name] = space, f.name
    return found


def shown(tool: Tool) -> dict[str, Any]:
    """A tool as the response tells it."""
    match tool:
        case Function(name, description, parameters, strict):
            found = {"type": "function", "name": name, "description": description, "parameters": parameters or {}}
            return {**found, "strict": strict is not False}
        case Namespace(name, inner, description):
            return {
                "type": "namespace",
                "name": name,
                "description": description or "",
                "tools": [shown(f) for f in inner],
            }


def shown_choice(choice: ToolChoice | None) -> Any:
    """What was chosen as the response tells it."""
    if isinstance(choice, Allowed):
        return msgspec.to_builtins(choice)
    if not isinstance(choice, Chosen):
        return choice or "auto"
    space = {"namespace": choice.namespace} if choice.namespace else {}
    return {"type": "function", "name": choice.name, **space}
