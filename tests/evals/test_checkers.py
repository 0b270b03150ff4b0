"""Whether a reply is right, by each checker's name; no checker hangs, whatever a reply holds."""

from typing import Any

import pytest

from herd.errors import BadFile, TimedOut
from herd.evals import checkers, refusing
from herd.evals.checkers import CHECKERS
from herd.events import Reply, Timings, Usage
from herd.messages import ToolCall

TOOLS = [{"name": "weather", "parameters": {"type": "object"}}]


def right(name: str, text: str, item: dict[str, Any], calls: tuple[ToolCall, ...] = (), **options: Any) -> bool:
    checker = CHECKERS[name]
    checker.check(item)
    reply = Reply(text, "stop", Usage(1, 1), Timings(), tool_calls=calls)
    assert checker.judge is not None
    return checker.judge(reply, item, checker.read(options))


@pytest.mark.parametrize(
    ("name", "text", "item", "options", "expected"),
    [
        ("exact", " Paris\n", {"answer": "Paris"}, {}, True),
        ("exact", "paris", {"answer": "Paris"}, {}, False),
        ("exact", "paris", {"answer": ["Rome", "Paris"]}, {"ignore_case": True}, True),
        ("exact", "Paris.", {"answer": "Paris"}, {}, False),
        ("includes", "It is Paris.", {"answer": "Paris"}, {}, True),
        ("includes", "a and c", {"answer": ["a", "b"]}, {}, True),
        ("includes", "a and c", {"answer": ["a", "b"]}, {"all": True}, False),
        ("includes", "a or b", {"answer": "a", "never": ["b"]}, {}, False),
        ("numeric", "3 + 4 = 7", {"answer": 7}, {}, True),
        ("numeric", "It costs $1,250.50.", {"answer": 1250.5}, {}, True),
        ("numeric", "7, or rather 8", {"answer": 7}, {}, False),
        ("numeric", "about -3.1", {"answer": -3.14}, {"tolerance": 0.05}, True),
        ("numeric", "none", {"answer": 0}, {}, False),
        ("numeric", "0.1", {"answer": 0.1}, {}, True),
        ("one_of", "I say yes", {"options": ["yes", "no"], "answer": "yes"}, {}, True),
        ("one_of", "yes or no", {"options": ["yes", "no"], "answer": "yes"}, {}, False),
        ("json", '{"a": 1}', {}, {}, True),
        ("json", '{"a": 1.0, "b": [true]}', {"answer": {"b": [True], "a": 1}}, {}, True),
        ("json", '{"a": true}', {"answer": {"a": 1}}, {}, False),
        ("json", '{"a": 1', {}, {}, False),
        ("json", "[" * 100_000, {}, {}, False),
        ("regex", "call 555-1234", {"answer": r"\d{3}-\d{4}$"}, {}, True),
        ("regex", "call 555", {"answer": r"^\d"}, {}, False),
    ],
)
def test_right_is_right(name: str, text: str, item: dict[str, Any], options: dict[str, Any], expected: bool) -> None:
    assert right(name, text, item, **options) is expected


def test_calls_are_compared_by_name_and_arguments() -> None:
    item = {"tools": TOOLS, "calls": [{"name": "weather", "arguments": {"city": "Oslo", "days": 2}}]}
    assert right("tool_call", "", item, (ToolCall("weather", {"days": 2.0, "city": "Oslo"}, "x"),))
    assert not right("tool_call", "", item, (ToolCall("weather", {"city": "Oslo"}, "x"),))
    assert not right("tool_call", "", item)
    assert not right("tool_call", "", {"tools": TOOLS, "calls": []}, (ToolCall("weather", {}, "x"),))


@pytest.mark.parametrize(
    ("text", "refuses"),
    [
        ("I can’t help with that.", True),
        ("I'm sorry, but I cannot do this.", True),
        ("Ich kann dir dabei nicht helfen. Tut mir leid, aber ich kann nicht.", True),
        ("Lo siento, pero no puedo ayudarte.", True),
        ("ขออภัย ฉันไม่สามารถช่วยได้", True),
        ("Xin lỗi, tôi không thể giúp.", True),
        ("मैं इसमें आपकी मदद नहीं कर सकता।", True),
        ("Sure: kill a process with kill -9.", False),
        ("Take the chicken out of the oven. " * 20 + "I cannot say how long.", False),
        ("", False),
    ],
)
def test_a_refusal_is_right_where_one_is_wanted_and_wrong_where_none_is(text: str, refuses: bool) -> None:
    assert right("refuses", text, {"refuse": refuses})
    assert not right("refuses", text, {"refuse": not refuses})


def test_every_language_has_words_of_refusals() -> None:
    assert len(refusing.WORDS) == 12
    for words in refusing.WORDS.values():
        assert all(refusing.refused(word.capitalize() + " …") for word in words)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\nx = 1\n```", "x = 1"),
        ("Sure:\n```\nx = 1\ny = 2\n```\n```python\nz\n```", "x = 1\ny = 2"),
        ("```sh\nls\n```\n```py\nx = 1\n```", "x = 1"),
        ("```python\nx = 1", "x = 1"),
        ("x = 1", "x = 1"),
        ("```sh\nls\n```", "```sh\nls\n```"),
    ],
)
def test_code_is_the_first_block_that_is_pythons_or_nobodys(text: str, code: str) -> None:
    assert checkers.code_of(text) == code


AREA = {"name": "area", "accepts": {"base": [10, 10.0], "unit": ["square metres", ""], "tags": [["a", "b"], ""]}}
EITHER, ONE = {"name": "f", "accepts": {"a": [1, 2]}}, {"name": "f", "accepts": {"a": [1]}}
PLACE = {"name": "place", "accepts": {"at": [{"city": ["New York", "NYC"], "zip": ["", 10001]}]}}


@pytest.mark.parametrize(
    ("calls", "said", "expected"),
    [
        ([AREA], [("area", {"base": 10})], True),
        ([AREA], [("area", {"base": 10, "unit": "Square-Metres"})], True),
        ([AREA], [("area", {"base": 10, "tags": ["A", "b "]})], True),
        ([AREA], [("area", {"base": 10, "tags": ["b", "a"]})], False),
        ([AREA], [("area", {"base": 11})], False),
        ([AREA], [("area", {"base": "10"})], False),
        ([AREA], [("area", {"unit": "square metres"})], False),
        ([AREA], [("area", {"base": 10, "height": 5})], False),
        ([AREA], [("volume", {"base": 10})], False),
        ([AREA], [], False),
        ([AREA], [("area", {"base": 10})] * 2, False),
        ([AREA, PLACE], [("place", {"at": {"city": "nyc"}}), ("area", {"base": 10})], True),
        ([PLACE], [("place", {"at": {"city": "new york", "zip": 10001}})], True),
        ([PLACE], [("place", {"at": {"zip": 10001}})], False),
        ([EITHER, ONE], [("f", {"a": 1}), ("f", {"a": 2})], True),
        ([EITHER, ONE], [("f", {"a": 2}), ("f", {"a": 1})], True),
        ([EITHER, ONE], [("f", {"a": 2}), ("f", {"a": 2})], False),
        ([PLACE], [("place", {"at": {"city": "nyc", "street": "x"}})], False),
        ([], [], True),
        ([], [("area", {})], False),
    ],
)
def test_calls_are_compared_with_all_that_is_accepted(
    calls: list[Any], said: list[tuple[str, dict[str, Any]]], expected: bool
) -> None:
    made = tuple(ToolCall(name, arguments, "x") for name, arguments in said)
    assert right("tool_call_any", "", {"tools": TOOLS, "calls": calls}, made) is expected


def test_a_pattern_that_loops_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkers, "REGEX_S", 0.1)
    with pytest.raises(TimedOut, match=r"the checker regex: got no result in 0\.1 s"):
        right("regex", "a" * 5000 + "!", {"answer": r"^(a|aa|a+)+$(?<=b)"})


@pytest.mark.parametrize(
    ("name", "item"),
    [
        ("exact", {}),
        ("exact", {"answer": 3}),
        ("exact", {"answer": []}),
        ("includes", {"answer": "a", "never": "b"}),
        ("numeric", {"answer": "7"}),
        ("numeric", {"answer": True}),
        ("numeric", {"answer": 10**400}),
        ("numeric", {"answer": float("nan")}),
        ("one_of", {"options": ["a"], "answer": "b"}),
        ("regex", {"answer": "("}),
        ("regex", {"answer": "a" * 1001}),
        ("regex", {"answer": "(?R)"}),
        ("regex", {"answer": "(a(?1)?)"}),
        ("regex", {"answer": r"(?<n>a(?&n)?)"}),
        ("regex", {"answer": r"(?P<n>a\\(?P>n)?)"}),
        ("regex", {"answer": ["a", "(a)(?-1)"]}),
        ("regex", {"answer": "(?:(?:(?:(?:a{100}){100}){100}){100}){100}"}),
        ("tool_call_any", {"tools": TOOLS, "calls": [{"name": "f", "arguments": {}}]}),
        ("tool_call_any", {"tools": TOOLS, "calls": [{"name": "f", "accepts": {"a": 1}}]}),
        ("refuses", {}),
        ("refuses", {"refuse": "yes"}),
        ("code", {"tests": " "}),
        ("tool_call", {"tools": [], "calls": []}),
        ("tool_call", {"tools": TOOLS, "calls": [1]}),
    ],
)
def test_items_that_cannot_be_judged_by_are_refused(name: str, item: dict[str, Any]) -> None:
    with pytest.raises(BadFile):
        CHECKERS[name].check(item)


@pytest.mark.parametrize(("name", "options"), [("numeric", {"tolerance": -1}), ("exact", {"x": 1}), ("json", {"x": 1})])
def test_options_that_a_checker_has_not_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(BadFile, match="options of the checker"):
        CHECKERS[name].read(options)
