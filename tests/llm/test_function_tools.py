"""Python functions as tools: their schema, what is said about them, the call; what cannot be expressed is refused."""

import asyncio
import datetime
import enum
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Optional, TypedDict

import jsonschema
import msgspec
import pytest
from speaking import BYTES, END, saying

from herd.errors import UsageError
from herd.grammar.masks import Grammars
from herd.grammars import Grammar
from herd.llm.docstrings import described
from herd.llm.function_tools import acall_tool, bound, call_tool, definition
from herd.messages import Message, ToolCall
from herd.text.call_form import HERMES, LLAMA
from herd.text.calls import call_grammar


class Unit(enum.Enum):
    CELSIUS = "celsius"
    KELVIN = "kelvin"


@dataclass
class Place:
    city: str
    zip: int = 0


class Box(msgspec.Struct):
    corner: Place
    inside: list["Box"] = []


class Options(TypedDict, total=False):
    verbose: bool


class Point(NamedTuple):
    x: int
    y: int


def get_weather(city: str, days: int = 1, unit: Literal["C", "F"] = "C") -> str:
    """The weather of a city,
    for some days.

    It is measured at noon.

    Args:
        city: The city's name.
        days (int, optional): How many days,
            today included.
        unit: C or F.

    Returns:
        str: A text.
    """
    return f"{city} {days} {unit}"


def test_a_function_is_the_definition_that_one_would_write() -> None:
    assert definition(get_weather) == {
        "name": "get_weather",
        "description": "The weather of a city, for some days.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "The city's name."},
                "days": {"type": "integer", "description": "How many days, today included.", "default": 1},
                "unit": {"enum": ["C", "F"], "description": "C or F.", "default": "C"},
            },
            "required": ["city"],
            "additionalProperties": False,
        },
    }


HINTS: dict[str, tuple[Any, list[Any], list[Any]]] = {
    "str": (str, ["a", ""], [1, None]),
    "int": (int, [0, -7], ["1", 1.5, None]),
    "float": (float, [0.5, 2], ["1", None]),
    "bool": (bool, [True], [1, "true"]),
    "list": (list[int], [[], [1]], [["a"], 1]),
    "nested list": (list[list[str]], [[["a"]]], [["a"]]),
    "any list": (list, [[1, "a"]], ["a"]),
    "dict": (dict[str, float], [{}, {"a": 1.5}], [{"a": "b"}, []]),
    "Literal": (Literal["a", "b", 3], ["a", 3], ["c", 4]),
    "Optional": (Optional[int], [None, 1], ["a"]),  # noqa: UP045
    "| None": (str | None, [None, "a"], [1]),
    "union": (int | str, [1, "a"], [None, []]),
    "Enum": (Unit, ["kelvin"], ["KELVIN", 1]),
    "dataclass": (Place, [{"city": "Rome"}, {"city": "Rome", "zip": 7}], [{}, {"city": 1}, "Rome"]),
    "Struct": (Box, [{"corner": {"city": "a"}, "inside": [{"corner": {"city": "b"}}]}], [{"inside": []}, {}]),
    "TypedDict": (Options, [{}, {"verbose": True}], [{"verbose": "yes"}]),
    "NamedTuple": (Point, [[1, 2]], [[1], ["a", "b"]]),
    "tuple": (tuple[int, str], [[1, "a"]], [[1], ["a", 1]]),
    "set": (set[str], [["a", "b"]], [[1], "a"]),
    "set inside": (list[frozenset[int]], [[[1]]], [[["a"]]]),
    "date": (datetime.date, ["2026-02-28"], ["tomorrow", 5]),
    "Annotated": (Annotated[int, msgspec.Meta(ge=1, le=9)], [1, 9], [0, 10, "a"]),
    "Any": (Any, [None, 1, {"a": []}], []),
    "two that share a type": (dict[str, Place], [{"a": {"city": "b"}}], [{"a": {}}]),
}


def with_hint(hint: Any) -> Callable[..., Any]:
    def tool(value: Any, other: Any = None) -> Any:
        return value

    tool.__annotations__ = {"value": hint, "other": hint}
    return tool


@pytest.mark.parametrize("name", HINTS)
def test_a_schema_takes_what_the_call_takes_and_can_be_enforced(name: str) -> None:
    hint, good, bad = HINTS[name]
    tool = with_hint(hint)
    made = definition(tool)
    schema = json.loads(json.dumps(made["parameters"]))
    check = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    for value in good:
        assert not list(check.iter_errors({"value": value}))
        assert bound([tool], ToolCall("tool", {"value": value}))[1] == {"value": msgspec.convert(value, hint)}
    for value in bad:
        assert list(check.iter_errors({"value": value})), value
        with pytest.raises(UsageError, match=r"^tool: argument value.*: got "):
            call_tool([tool], ToolCall("tool", {"value": value}))
    grammars = Grammars(BYTES, [END])
    grammars.matcher(Grammar("schema", json.dumps(schema)))
    for form in (LLAMA, HERMES):
        grammars.matcher(Grammar("lark", call_grammar([made], form, only=None, parallel=True)))


def google(a: int, b: str = "x") -> None:
    """First.

    Args:
        a (Literal["x: y"]): Of a: one,
            two.

            three.
        b: Of b.
    Raises:
        c: not an argument.
    """


def google_at_once(a: int, b: str = "x") -> None:
    """First.
    Arguments:
      a: Of a: one, two. three.
      b: Of b.
    """


def numpy(a: int, b: str = "x") -> None:
    """First.

    Parameters
    ----------
    a : Literal["x: y"]
        Of a: one,
        two.

        three.
    b : str, optional
        Of b.

    Returns
    -------
    c : int
        Not an argument.
    """


def sphinx(a: int, b: str = "x") -> None:
    """First.

    :param a: Of a: one,
        two. three.
    :param str b: Of b.
    :type a: int
        c: not an argument.
    :returns: nothing
    """


def annotated(a: Annotated[int, "Of a: one, two. three."], b: Annotated[str, "Of b."] = "x") -> None:
    """First."""


@pytest.mark.parametrize("function", [google, google_at_once, numpy, sphinx, annotated])
def test_every_form_of_docstring_describes_the_arguments(function: Callable[..., Any]) -> None:
    found = definition(function)
    assert found["description"] == "First."
    said = {name: one["description"] for name, one in found["parameters"]["properties"].items()}
    assert said == {"a": "Of a: one, two. three.", "b": "Of b."}


def test_numpy_describes_several_names_at_once_and_no_docstring_is_no_description() -> None:
    assert described("Parameters\n----------\nx, y : int\n    Both.") == ("", {"x": "Both.", "y": "Both."})
    assert described("") == ("", {})
    assert "description" not in definition(with_hint(int))


def test_a_default_is_told_where_json_can_say_it() -> None:
    def tool(a: Unit = Unit.KELVIN, b: float = float("inf"), c: Any = object, d: int | None = None) -> None: ...

    found = definition(tool)["parameters"]
    assert {name: one.get("default") for name, one in found["properties"].items()} == {
        **{"a": "kelvin", "b": None, "c": None, "d": None}
    }
    assert found["required"] == []
    json.dumps(found, allow_nan=False)


def method_owner() -> Any:
    class Home:
        def light(self, on: bool) -> str:
            """Turn it on or off."""
            return f"light {on}"

    return Home()


def test_a_bound_method_is_a_tool_and_a_later_annotation_is_read() -> None:
    home = method_owner()
    assert list(definition(home.light)["parameters"]["properties"]) == ["on"]
    assert call_tool([home.light], ToolCall("light", {"on": True})).text == "light True"

    def later(place: "Place") -> str:
        return place.city

    assert call_tool([later], ToolCall("later", {"place": {"city": "Rome"}})).text == "Rome"


def no_hint(city) -> None: ...  # type: ignore[no-untyped-def]
def star(*cities: str) -> None: ...
def stars(**cities: str) -> None: ...
def only_place(city: str, /) -> None: ...
def no_schema(city: complex) -> None: ...
def no_schema_inside(cities: list[complex]) -> None: ...


@dataclass
class Odd:
    city: Any


Odd.__annotations__["city"] = "datetime.nothing"


def not_there_inside(city: Odd) -> None: ...
def not_there(city: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821
def no_python(city: Any) -> None: ...
def not_in_it(city: Any) -> None: ...


no_python.__annotations__["city"] = "1 +"
not_in_it.__annotations__["city"] = "datetime.nothing"


@pytest.mark.parametrize(
    ("tool", "line"),
    [
        (no_hint, r"tools\[0\] \(no_hint\): parameter city: got no hint, expected a type, as in `city: str`"),
        (star, r"tools\[0\] \(star\): got the variadic positional parameter \*cities: str, expected parameters with"),
        (stars, r"tools\[0\] \(stars\): got the variadic keyword parameter \*\*cities: str"),
        (only_place, r"tools\[0\] \(only_place\): got the positional-only parameter city: str"),
        (no_schema, r"no_schema: parameter city: got complex \(.*\), expected a type with a JSON schema"),
        (no_schema_inside, r"no_schema_inside: parameter cities: got list\[complex\]"),
        (not_there, r"tools\[0\] \(not_there\): got a hint that is not there \(name 'Nowhere' is not defined\)"),
        (not_there_inside, r"not_there_inside: parameter city: got .*Odd \(module 'datetime' has no attribute"),
        (no_python, r"tools\[0\] \(no_python\): got a hint that is no type \("),
        (not_in_it, r"tools\[0\] \(not_in_it\): got a hint that is no type \("),
        (lambda city: city, r"tools\[0\]: got a lambda, expected a function with a name and hints"),
        (Place, r"tools\[0\]: got the class Place, expected a function"),
        (partial(get_weather, "Rome"), r"tools\[0\]: got partial, expected a function"),
        (dict.fromkeys, r"tools\[0\] \(fromkeys\): "),
        (min, r"tools\[0\] \(min\): got a function that does not tell its parameters"),
        ("get_weather", r"tools\[0\]: got str, expected a function"),
        (None, r"tools\[0\]: got NoneType, expected a function"),
    ],
)
def test_what_no_schema_says_is_refused_by_name(tool: Any, line: str) -> None:
    llm = saying("x")
    for ask in (partial(llm.chat, "hi"), partial(llm.tokenize, [Message("user", "hi")])):
        with pytest.raises(UsageError, match=line) as error:
            ask(tools=[tool])
        assert "\n" not in str(error.value)


def test_two_tools_of_one_name_are_refused() -> None:
    for other in (get_weather, {"name": "get_weather", "parameters": {}}):
        with pytest.raises(UsageError, match="got another tool called get_weather"):
            saying("x").chat("hi", tools=[get_weather, other])


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (ToolCall("get_time", {}), "call of a tool: got get_time, expected one of get_weather"),
        (ToolCall("clock", {}), "call of a tool: got clock, expected one of get_weather"),
        (ToolCall("get_wether", {}), "got get_wether, .*; did you mean get_weather[?]"),
        (ToolCall("get_weather", {"ciity": "a"}), "got ciity, expected one of city, days, unit; did you mean city[?]"),
        (ToolCall("get_weather", {}), "get_weather: argument city: got nothing, expected a value"),
        (
            ToolCall("get_weather", {"city": "a", "x": 1}),
            "get_weather: an argument: got x, expected one of city, days, unit",
        ),
        (ToolCall("get_weather", {"city": None}), "get_weather: argument city: got null, expected `str`"),
        (ToolCall("get_weather", {"city": "a", "days": "2"}), "get_weather: argument days: got 2, expected `int`"),
        (
            ToolCall("get_weather", {"city": "a", "unit": "K"}),
            r"argument unit: got K, expected what its type allows \(",
        ),
    ],
)
def test_arguments_are_checked_before_the_call(call: ToolCall, line: str) -> None:
    with pytest.raises(UsageError, match=line):
        call_tool([get_weather, {"name": "clock", "parameters": {}}], call)


@pytest.mark.parametrize("value", [None, 5, "{}", b"", [1], {1: 2}, [["x"]], object(), get_weather])
def test_what_is_no_call_and_no_list_of_tools_is_refused_in_one_line(value: Any) -> None:
    def now() -> str:
        return "noon"

    for tools, call in (
        ([now], value),
        (value, ToolCall("now", {})),
        ([now], ToolCall("now", value)),
        ([now], ToolCall(value, {})),
    ):
        with pytest.raises(UsageError) as error:
            call_tool(tools, call)
        assert "\n" not in str(error.value)


def test_a_wrapper_around_a_coroutine_function_and_a_lone_surrogate_are_no_results() -> None:
    async def later() -> str:
        return "done"

    def hidden() -> Any:
        return later()

    def broken() -> str:
        return "\ud800"

    with pytest.raises(UsageError, match=r"hidden: got a coroutine, expected a result; await acall_tool"):
        call_tool([hidden], ToolCall("hidden", {}))
    assert asyncio.run(acall_tool([hidden], ToolCall("hidden", {}))).text == "done"
    with pytest.raises(UsageError, match="broken: its result: got a lone surrogate"):
        call_tool([broken], ToolCall("broken", {}))


def test_a_wrong_value_is_told_with_its_place() -> None:
    tool = with_hint(list[Place])
    with pytest.raises(UsageError, match=r"tool: argument value\[0\]\.zip: got .*, expected `int`"):
        call_tool([tool], ToolCall("tool", {"value": [{"city": "a", "zip": "b\n"}]}))


def test_arguments_come_as_the_hints_have_them_and_results_go_as_text() -> None:
    def look(place: Place, unit: Unit, names: set[str]) -> dict[str, Any]:
        assert (place, unit, names) == (Place("Rome", 7), Unit.KELVIN, {"a"})
        return {"place": place, "unit": unit, "at": datetime.date(2026, 1, 2)}

    call = ToolCall("look", {"place": {"city": "Rome", "zip": 7}, "unit": "kelvin", "names": ["a", "a"]}, "call_1")
    result = call_tool([look], call)
    assert (result.role, result.name, result.tool_call_id) == ("tool", "look", "call_1")
    assert json.loads(result.text) == {"place": {"city": "Rome", "zip": 7}, "unit": "kelvin", "at": "2026-01-02"}

    def odd() -> object:
        return object()

    with pytest.raises(UsageError, match="odd: its result: got object"):
        call_tool([odd], ToolCall("odd", {}))


def test_what_a_function_raises_is_raised() -> None:
    def broken() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        call_tool([broken], ToolCall("broken", {}))


def test_coroutine_functions_are_awaited_and_plain_ones_called() -> None:
    async def later(city: str) -> str:
        await asyncio.sleep(0)
        return city.upper()

    call = ToolCall("later", {"city": "Rome"})
    assert asyncio.run(acall_tool([later], call)).text == "ROME"
    assert asyncio.run(acall_tool([get_weather], ToolCall("get_weather", {"city": "Rome"}))).text == "Rome 1 C"
    with pytest.raises(UsageError, match=r"got a coroutine function, .*await acall_tool"):
        call_tool([later], call)


def test_a_dialog_goes_from_the_question_to_the_result() -> None:
    llm = saying('[get_weather(city="Rome", days=2)]')
    tools = [get_weather, {"name": "clock", "description": "The time.", "parameters": {"type": "object"}}]
    dialog: list[Any] = [{"role": "user", "content": "weather?"}]
    reply = llm.chat(dialog, tools=tools)
    assert reply.usage.prompt_tokens == llm.count(dialog, tools=[definition(get_weather), tools[1]])
    dialog += [reply.message, *(call_tool(tools, call) for call in reply.tool_calls)]
    assert [turn.text for turn in dialog[1:]] == ["", "Rome 2 C"]
    assert dialog[2].tool_call_id == reply.tool_calls[0].id
    assert llm.count(dialog, tools=tools) > reply.usage.prompt_tokens
    assert llm.chat(dialog, tools=tools).tool_calls


def test_a_function_can_be_forced() -> None:
    llm = saying('{"type": "function", "name": "get_weather", "parameters": {"city": "Rome", "days": 3}}')
    (call, *_) = llm.chat("weather?", tools=[get_weather], tool_choice="get_weather", max_tokens=300).tool_calls
    assert call_tool([get_weather], call).text == "Rome 3 C"


def test_the_example_of_the_page_runs() -> None:
    page = Path(__file__).parents[2] / "docs" / "tools.md"
    example = page.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {"model": saying('[get_weather(city="Rome")]')}
    exec(compile(example, page.name, "exec"), names)
    assert [turn.text for turn in names["dialog"][1:]] == ["", "sunny"]
    asked = definition(names["get_weather"])["parameters"]["properties"]
    assert [one["description"] for one in asked.values()] == ["The city's name.", "How many days, today included."]
