"""Whether a reply is right: checkers by name, each with options of its own and what an item must hold for it.

    exact      the text, white space around it aside, is the answer, or one of the answers
    includes   an answer stands in it (all: each of them), and none of what the item has as `never`
    numeric    the last number in it is the answer, within a tolerance
    one_of     of the item's `options` the answer alone stands in it
    json       it is one JSON value, equal to the answer where the item has one
    regex      the pattern that is the answer is found in it, within a second
    tool_call  it calls the item's `calls`, in order, with these arguments
    tool_call_any  it calls the item's `calls`, in any order, with arguments out of those that each `accepts`
    refuses    it refuses where the item's `refuse` is true, and does not where it is false
    reasoning_gym  as its own scorer says, in a sandbox (`herd.evals.reasoning`)
    code       the item's `tests` pass after the code in it, in a sandbox (`herd.evals.sandbox`)
    json_schema  it is JSON that is valid against the item's `schema`, judged in a process that can be killed

What it is not: code of a person's own (`herd.evals.programs`), or what runs it (`herd.evals.judging`).
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isclose
from time import monotonic
from typing import Annotated, Any

import msgspec
import regex  # type: ignore[import-untyped]

from herd.errors import BadFile, TimedOut, fail
from herd.evals.refusing import refused
from herd.evals.templates import Item, answers
from herd.events import Reply
from herd.grammar.regexes import repeats
from herd.strict_json import excess

REGEX_S = 1.0
"""Seconds that a pattern may look at a reply."""
PATTERN = 1000
"""Characters of a pattern."""
REPEATS = 1000
"""Least counts of a pattern, multiplied along their nesting: each is written out when it is compiled."""
_CALLED = re.compile(r"(?<!\\)(?:\\\\){0,500}+\(\?(?:R|&|P>|[+-]?[0-9])")
"""Where a pattern calls itself or a group of it: that may take all memory long before its time is over."""
MAX_NUMBER = 1e30
CALLS = 64
"""Calls of an item that may come in any order."""
JSON_DEPTH, JSON_VALUES = 64, 100_000
_NUMBER = re.compile(r"-?[0-9][0-9,]{0,30}+(?:\.[0-9]{1,30}+)?+")
_IGNORED = str.maketrans("'", '"', " ,./-_*^")
"""What makes no difference between texts that are arguments, as the Berkeley leaderboard has it."""
_SURE = 1e-9
"""A tolerance for what cannot be written in binary, as a part of the number."""


class _Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of a checker that has none."""


class _Case(_Options, frozen=True, forbid_unknown_fields=True):
    ignore_case: bool = False


class _Includes(_Case, frozen=True, forbid_unknown_fields=True):
    all: bool = False


class _Numeric(_Options, frozen=True, forbid_unknown_fields=True):
    tolerance: Annotated[float, msgspec.Meta(ge=0)] = 0.0


class _Program(_Options, frozen=True, forbid_unknown_fields=True):
    """Options of what is judged in a process of its own."""

    seconds: Annotated[float, msgspec.Meta(ge=0.1, le=600)] = 10.0
    """How long it may take for one answer."""


class _Reasoning(_Program, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    seed: Annotated[int, msgspec.Meta(ge=0, le=1 << 31)] = 0
    size: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 100


@dataclass(frozen=True)
class Checker:
    """One checker. options: the type of its options; check: raises BadFile for an item that it cannot judge by; judge:
    None where a process of its own judges (`herd.evals.judging`)."""

    options: type[_Options]
    check: Callable[[Item], None]
    judge: Callable[[Reply, Item, Any], bool] | None

    def read(self, given: Mapping[str, Any]) -> Any:
        """Its options out of a task's file. Raises BadFile."""
        return _converted(given, self.options)


def options_of(checker: str, given: Mapping[str, Any]) -> Any:
    """Options of a checker, by its name or its file's, out of a task's file. Raises BadFile."""
    return _converted(given, CHECKERS[checker].options if checker in CHECKERS else _Program)


def _converted(given: Mapping[str, Any], kind: type[_Options]) -> Any:
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        fail(BadFile, f"options of the checker: {error}")


def _exact(reply: Reply, item: Item, options: _Case) -> bool:
    return _plain(reply.text.strip(), options) in [_plain(one.strip(), options) for one in answers(item)]


def _includes(reply: Reply, item: Item, options: _Includes) -> bool:
    text = _plain(reply.text, options)
    if any(_plain(one, options) in text for one in item.get("never", ())):
        return False
    return (all if options.all else any)(_plain(one, options) in text for one in answers(item))


def _numeric(reply: Reply, item: Item, options: _Numeric) -> bool:
    found = _NUMBER.findall(reply.text)
    if not found:
        return False
    said, wanted = float(found[-1].replace(",", "")), float(item["answer"])
    return isclose(said, wanted, rel_tol=_SURE, abs_tol=options.tolerance)


def _one_of(reply: Reply, item: Item, options: _Case) -> bool:
    text = _plain(reply.text, options)
    return [one for one in item["options"] if _plain(one, options) in text] == [item["answer"]]


def _json(reply: Reply, item: Item, _options: _Options) -> bool:
    data = reply.text.strip().encode("utf-8", "replace")
    if excess(data, depth=JSON_DEPTH, values=JSON_VALUES) is not None:
        return False
    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return "answer" not in item or _same(said, item["answer"])


def _regex(reply: Reply, item: Item, _options: _Options) -> bool:
    end = monotonic() + REGEX_S
    try:
        return any(regex.search(one, reply.text, timeout=max(0.001, end - monotonic())) for one in answers(item))
    except TimeoutError:
        fail(TimedOut, "the checker regex", got=f"no result in {REGEX_S:g} s", do="simplify the item's pattern")


def _tool_call(reply: Reply, item: Item, _options: _Options) -> bool:
    said = [{"name": call.name, "arguments": dict(call.arguments)} for call in reply.tool_calls]
    return _same(said, [{"name": one["name"], "arguments": one.get("arguments", {})} for one in item["calls"]])


def _tool_call_any(reply: Reply, item: Item, _options: _Options) -> bool:
    said, wanted = reply.tool_calls, item["calls"]
    if len(said) != len(wanted):
        return False
    fits = [
        [i for i, one in enumerate(wanted) if one["name"] == call.name and _accepted(call.arguments, one)]
        for call in said
    ]
    taken: dict[int, int] = {}

    def place(call: int, seen: set[int]) -> bool:
        """Give a call one that is wanted, moving those that have theirs where that makes room."""
        for one in fits[call]:
            if one not in seen:
                seen.add(one)
                if one not in taken or place(taken[one], seen):
                    taken[one] = call
                    return True
        return False

    return all(place(call, set()) for call in range(len(said)))


def _accepted(arguments: Mapping[str, Any], call: Mapping[str, Any]) -> bool:
    """Whether arguments are among those that a call accepts; "" among these: it may be left out."""
    accepts = call["accepts"]
    if not arguments.keys() <= accepts.keys():
        return False
    return all(
        any(_alike(arguments[name], one) for one in values) if name in arguments else "" in values
        for name, values in accepts.items()
    )


def _alike(said: Any, wanted: Any) -> bool:
    """Whether a value is one that is accepted: texts by their letters and digits, members of an object each out of
    those that it accepts."""
    if isinstance(said, str) and isinstance(wanted, str):
        return _letters(said) == _letters(wanted)
    if isinstance(said, list) and isinstance(wanted, list):
        return len(said) == len(wanted) and all(map(_alike, said, wanted))
    if isinstance(said, dict) and isinstance(wanted, dict):
        lists = {name: values if isinstance(values, list) else [values] for name, values in wanted.items()}
        return _accepted(said, {"accepts": lists})
    return isinstance(said, bool) == isinstance(wanted, bool) and bool(said == wanted)


def _letters(text: str) -> str:
    return text.translate(_IGNORED).casefold()


def _refuses(reply: Reply, item: Item, _options: _Options) -> bool:
    return bool(refused(reply.text) == item["refuse"])


def code_of(text: str) -> str:
    """The code in an answer: its first block between fences that is Python's or nobody's; all of it without one."""
    block: list[str] | None = None
    other = False
    for line in text.split("\n"):
        mark = line.strip()
        if not mark.startswith("```"):
            if block is not None:
                block.append(line)
        elif block is not None:
            break
        elif other:
            other = False
        elif mark[3:].strip().lower() in ("", "py", "python", "python3"):
            block = []
        else:
            other = True
    return text if block is None else "\n".join(block)


def _plain(text: str, options: _Case) -> str:
    return text.casefold() if options.ignore_case else text


def _same(a: Any, b: Any) -> bool:
    """Whether two JSON values are equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def _texts(name: str, value: Any) -> None:
    if not isinstance(value, list) or not value or not all(isinstance(one, str) and one for one in value):
        fail(BadFile, name, got=value, expected="a list of texts that are not empty")


def _has_texts(item: Item) -> None:
    given = item.get("answer")
    if given is None:
        fail(BadFile, "answer", got="none", expected="a text, or a list of some")
    _texts("answer", given if isinstance(given, list) else [given])
    if "never" in item:
        _texts("never", item["never"])


def _has_number(item: Item) -> None:
    given = item.get("answer")
    if isinstance(given, bool) or not isinstance(given, int | float) or not abs(given) <= MAX_NUMBER:
        fail(BadFile, "answer", got=given, expected=f"a number of at most {MAX_NUMBER:g}")


def _has_options(item: Item) -> None:
    _texts("options", item.get("options"))
    if item.get("answer") not in item["options"]:
        fail(BadFile, "answer", got=item.get("answer"), expected="one of the options")


def _has_pattern(item: Item) -> None:
    _has_texts(item)
    for one in answers(item):
        if len(one) > PATTERN:
            fail(BadFile, "answer", got=f"{len(one)} characters", expected=f"a pattern of at most {PATTERN}")
        if _CALLED.search(one):
            fail(BadFile, "answer", got=one, expected="a pattern that does not call itself or its groups")
        if repeats(one) > REPEATS:
            fail(BadFile, "answer", got=one, expected=f"counts that multiply to at most {REPEATS}")
        try:
            regex.compile(one)
        except (regex.error, ValueError, OverflowError, RecursionError) as error:
            fail(BadFile, "answer", got=str(error), expected="a regular expression")


def _has_calls(item: Item) -> None:
    calls, tools = item.get("calls"), item.get("tools")
    if not isinstance(tools, list) or not tools:
        fail(BadFile, "tools", got=tools, expected="a list of tools")
    if not isinstance(calls, list) or not all(isinstance(c, dict) and isinstance(c.get("name"), str) for c in calls):
        fail(BadFile, "calls", got=calls, expected='a list of {"name": ..., "arguments": {...}}')


def _has_accepts(item: Item) -> None:
    calls, tools = item.get("calls"), item.get("tools")
    if not isinstance(tools, list) or not tools:
        fail(BadFile, "tools", got=tools, expected="a list of tools")
    if not isinstance(calls, list) or len(calls) > CALLS or not all(map(_accepting, calls)):
        fail(
            BadFile,
            "calls",
            got=calls,
            expected=f'at most {CALLS} of {{"name": ..., "accepts": {{argument: [values]}}}}',
        )


def _accepting(call: Any) -> bool:
    return (
        isinstance(call, dict)
        and isinstance(call.get("name"), str)
        and isinstance(call.get("accepts"), dict)
        and all(isinstance(values, list) for values in call["accepts"].values())
    )


def _has_refuse(item: Item) -> None:
    if not isinstance(item.get("refuse"), bool):
        fail(BadFile, "refuse", got=item.get("refuse"), expected="true where a good answer refuses, or false")


def _has_tests(item: Item) -> None:
    if not isinstance(item.get("tests"), str) or not item["tests"].strip():
        fail(BadFile, "tests", got=item.get("tests"), expected="Python that raises where the answer's code is wrong")


def _has_place(item: Item) -> None:
    if not isinstance(item.get("question"), str) or not isinstance(item.get("number"), int):
        fail(BadFile, "number", got=item.get("number"), expected="a question's place in its data set")


def _has_schema(item: Item) -> None:
    if not isinstance(item.get("schema"), dict):
        fail(BadFile, "schema", got=item.get("schema"), expected="a JSON schema: an object")


def _anything(_item: Item) -> None:
    """Any item will do."""


CHECKERS: Mapping[str, Checker] = {
    "exact": Checker(_Case, _has_texts, _exact),
    "includes": Checker(_Includes, _has_texts, _includes),
    "numeric": Checker(_Numeric, _has_number, _numeric),
    "one_of": Checker(_Case, _has_options, _one_of),
    "json": Checker(_Options, _anything, _json),
    "regex": Checker(_Options, _has_pattern, _regex),
    "tool_call": Checker(_Options, _has_calls, _tool_call),
    "tool_call_any": Checker(_Options, _has_accepts, _tool_call_any),
    "refuses": Checker(_Options, _has_refuse, _refuses),
    "code": Checker(_Program, _has_tests, None),
    "reasoning_gym": Checker(_Reasoning, _has_place, None),
    "json_schema": Checker(_Program, _has_schema, None),
}
