"""Python functions as tools: a function's name, hints and docstring -> a definition; a call of the model -> its result.

    def weather(city: str, days: int = 1) -> str:
        "The weather of a city."

    reply = model.chat(dialog, tools=[weather])
    dialog += [reply.message, *(call_tool([weather], call) for call in reply.tool_calls)]

Hints are those that msgspec has a JSON schema for: str, int, float, bool, lists, dicts, tuples, Literal, Enum, optional
ones, dates, dataclasses, TypedDict, msgspec.Struct, any of them with `Annotated`. What it is not: a loop that goes on
until the model has done, a sandbox.
"""

import inspect
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, TypeAlias, get_args, get_origin, get_type_hints

import msgspec

from herd.errors import UsageError, fail, printable
from herd.llm.docstrings import described
from herd.messages import Message, ToolCall
from herd.text.message_checks import check_name
from herd.turns import Dumped, is_dumped
from herd.value_checks import known, many, shown
from herd.value_checks import text as check_text

ToolLike: TypeAlias = Mapping[str, Any] | Callable[..., Any] | Dumped
"""A definition (name, description, parameters; the ollama package's `Tool` is one), or a function that has one."""
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_NO_SCHEMA = (TypeError, NameError, AttributeError, SyntaxError)
"""What a hint raises that no schema says, or that is not there."""
_DO = "wrap it in a function with named parameters and hints"


def definitions(tools: Sequence[ToolLike]) -> list[Mapping[str, Any]]:
    """Tools as objects: those that are functions as their definition, others as they are. Raises UsageError naming the
    tool and the parameter that no schema says, and for a function with the name of another tool."""
    found = [_defined(tool, f"tools[{i}]") for i, tool in enumerate(tools)]
    named = [inner.get("name") for tool in found if isinstance(inner := tool.get("function", tool), Mapping)]
    counts = Counter(name for name in named if isinstance(name, str))
    for i, tool in enumerate(tools):
        if callable(tool) and counts[found[i]["name"]] > 1:
            fail(UsageError, f"tools[{i}]", got=f"another tool called {found[i]['name']}", expected="a name for each")
    return found


def _defined(tool: Any, where: str) -> Mapping[str, Any]:
    if isinstance(tool, Mapping):
        return tool
    if is_dumped(tool):
        found: dict[str, Any] = tool.model_dump(exclude_none=True)
        return found
    return definition(tool, where)


def definition(function: Callable[..., Any], where: str = "tool") -> dict[str, Any]:
    """Name, description and parameters (a JSON schema) of a function.

    The description is the docstring's first paragraph; what it says about arguments, in Google's, NumPy's or Sphinx's
    form, describes them. A parameter with a default may be left out. Raises UsageError: no function, no hint, a hint
    without a schema, *args, **kwargs, a parameter without a name at the call.
    """
    name, parameters, hints = _parts(function, where)
    about, arguments = described(inspect.getdoc(function) or "")
    schemas, components = _schemas(name, hints)
    properties = {
        key: _property(schemas[key], hints[key], parameter.default, arguments.get(key))
        for key, parameter in parameters.items()
    }
    required = [key for key, parameter in parameters.items() if parameter.default is parameter.empty]
    schema: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
    schema["additionalProperties"] = False
    if components:
        schema["$defs"] = components
    return {"name": name, **({"description": about} if about else {}), "parameters": schema}


def call_tool(tools: Sequence[ToolLike], call: ToolCall) -> Message:
    """Call the function of `tools` that the model called; its result as the turn that answers the call, a text as it
    is, anything else as JSON. What the function itself raises is raised.

    Raises UsageError, before anything is called: no function of that name, an argument that is missing, unknown or not
    what its hint says; for a coroutine function (`acall_tool`), and a result that JSON cannot say.
    """
    function, arguments = bound(tools, call)
    if inspect.iscoroutinefunction(function):
        fail(UsageError, call.name, got="a coroutine function", expected="a plain one", do="await acall_tool(...)")
    result = function(**arguments)
    if inspect.iscoroutine(result):  # of a wrapper that does not look like one
        result.close()
        fail(UsageError, call.name, got="a coroutine", expected="a result", do="await acall_tool(...)")
    return _result(call, result)


async def acall_tool(tools: Sequence[ToolLike], call: ToolCall) -> Message:
    """`call_tool` for coroutine functions, whose result is awaited, and plain ones, which run in this thread."""
    function, arguments = bound(tools, call)
    result = function(**arguments)
    return _result(call, await result if inspect.isawaitable(result) else result)


def bound(tools: Sequence[ToolLike], call: ToolCall) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function that a call means, and its arguments as the hints have them (an Enum's member, a dataclass). Raises
    UsageError as `call_tool` does."""
    if not isinstance(call, ToolCall) or not isinstance(call.arguments, Mapping):
        got = type(getattr(call, "arguments", call)).__name__
        fail(UsageError, "call of a tool", got=got, expected="a ToolCall, as in reply.tool_calls")
    functions = {getattr(tool, "__name__", ""): tool for tool in many("tools", tools) if callable(tool)}
    if not functions:
        fail(UsageError, "call of a tool", got=call.name, expected="functions among the tools")
    known("call of a tool", [call.name], list(functions))
    name, parameters, hints = _parts(functions[call.name], "tool")
    known(f"{name}: an argument", call.arguments, list(parameters))
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in call.arguments:
            fail(UsageError, f"{name}: argument {key}", got="nothing", expected="a value: it has no default")
    return functions[call.name], {
        key: _converted(value, hints[key], f"{name}: argument {key}") for key, value in call.arguments.items()
    }


def _converted(value: Any, hint: Any, where: str) -> Any:
    try:
        return msgspec.convert(value, hint, str_keys=True)
    except msgspec.ValidationError as error:
        wanted, _, place = str(error).partition(" - at `$")
        inside = place.rstrip("`")
        head, colon, _ = wanted.removeprefix("Expected ").partition(", got ")
        expected = head if colon else f"what its type allows ({wanted})"
        fail(UsageError, f"{where}{printable(inside[:80])}", got=shown(value), expected=expected)


def _result(call: ToolCall, value: Any) -> Message:
    if not isinstance(value, str):
        try:
            value = msgspec.json.encode(value).decode()
        except (TypeError, ValueError, OverflowError, RecursionError):
            got = type(value).__name__
            fail(UsageError, f"{call.name}: its result", got=got, expected="a text, or what JSON can say")
    check_text(f"{call.name}: its result", value)
    return Message("tool", value, name=call.name, tool_call_id=call.id or None)


def _parts(function: Any, where: str) -> tuple[str, Mapping[str, inspect.Parameter], dict[str, Any]]:
    """Name, parameters and hints of a function. Raises UsageError for what makes no tool."""
    name = getattr(function, "__name__", None)
    if isinstance(function, type) or not callable(function) or not isinstance(name, str):
        got = f"the class {name}" if isinstance(function, type) else type(function).__name__
        fail(UsageError, where, got=got, expected="a function, or an object with a name")
    if name == "<lambda>":
        fail(UsageError, where, got="a lambda", expected="a function with a name and hints")
    check_name(name, f"{where}: name")
    try:
        parameters = inspect.signature(function).parameters
        hints = get_type_hints(function, include_extras=True)
    except (ValueError, TypeError):
        fail(UsageError, f"{where} ({name})", got="a function that does not tell its parameters", do=_DO)
    except NameError as error:
        fail(UsageError, f"{where} ({name})", got=f"a hint that is not there ({error})", do="import it at run time")
    except (SyntaxError, AttributeError) as error:
        fail(UsageError, f"{where} ({name})", got=f"a hint that is no type ({error})", do="write it as Python has it")
    for key, parameter in parameters.items():
        if parameter.kind not in _NAMED:
            got = f"the {parameter.kind.description} parameter {parameter}"
            fail(UsageError, f"{where} ({name})", got=got, expected="parameters with names", do=_DO)
        if key not in hints:
            fail(UsageError, f"{where} ({name}): parameter {key}", got="no hint", expected="a type, as in `city: str`")
    return name, parameters, {key: hints[key] for key in parameters}


def _schemas(name: str, hints: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """A schema for each hint, and what they refer to. Raises UsageError naming the parameter."""
    try:
        found, components = _components(list(hints.values()))
        return dict(zip(hints, found, strict=True)), components
    except _NO_SCHEMA:
        for key, hint in hints.items():
            try:
                _components([hint])
            except _NO_SCHEMA as error:
                why = str(error).splitlines()[-1:]
                got = f"{inspect.formatannotation(hint)} ({''.join(why)})"
                fail(UsageError, f"{name}: parameter {key}", got=got, expected="a type with a JSON schema")
        raise


def _components(hints: Sequence[Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    found, components = msgspec.json.schema_components(hints, ref_template="#/$defs/{name}")
    return [_enforceable(schema) for schema in found], {key: _enforceable(one) for key, one in components.items()}


def _enforceable(schema: Any) -> Any:
    """A schema without what no mask holds a text to, and reading makes good: a set is made of a list that says a thing
    twice."""
    if isinstance(schema, list | tuple):
        return [_enforceable(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: _enforceable(one) for key, one in schema.items() if not (key == "uniqueItems" and one is True)}


def _property(schema: Mapping[str, Any], hint: Any, default: Any, about: str | None) -> dict[str, Any]:
    """A parameter's schema with what is said about it, and its default where that is a plain value."""
    found = dict(schema)
    if about is None and get_origin(hint) is Annotated:
        about = next((extra for extra in get_args(hint)[1:] if isinstance(extra, str)), None)
    if about:
        found["description"] = about
    if default is not None and default is not inspect.Parameter.empty:
        with suppress(TypeError, ValueError, RecursionError):  # one that JSON cannot say can be left out all the same
            plain = msgspec.to_builtins(default, str_keys=True)
            json.dumps(plain, allow_nan=False)
            found["default"] = plain
    return found
