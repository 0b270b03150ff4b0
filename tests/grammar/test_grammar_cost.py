"""What is looked at before a grammar is compiled takes time in proportion to its length, whatever it holds."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from costs import grows
from herd.errors import UsageError
from herd.grammar import json_schema, lark
from herd.grammar.regexes import repeats

LONG = 48_000


def counted(n: int, each: int) -> range:
    """As many as make n characters, each of so many."""
    return range(max(n // each, 1))


def members(n: int, value: Any) -> dict[str, Any]:
    return {f"p{i}": value for i in counted(n, len(json.dumps(value)) + 10)}


def defs(n: int, of: Callable[[int], Any]) -> dict[str, Any]:
    return {f"d{i}": of(i) for i in counted(n, len(json.dumps(of(100))) + 10)}


def chain(n: int, of: Callable[[Any], Any], backwards: bool = False) -> dict[str, Any]:
    """Definitions of which each leads to the next."""
    count = len(counted(n, len(json.dumps(of({"$ref": "#/$defs/d1000"}))) + 10))
    order = range(count)[::-1] if backwards else range(count)
    table = {f"d{i}": of({"$ref": f"#/$defs/d{i + 1}"}) if i + 1 < count else {"type": "null"} for i in order}
    return {"$ref": "#/$defs/d0", "$defs": table}


def spellings(n: int) -> dict[str, Any]:
    """One large definition, referred to by many spellings of one pointer."""
    name = "~" * 12
    refs = [
        {"$ref": "#/$defs/" + "".join("~0" if i >> bit & 1 else "~" for bit in range(12))} for i in counted(n // 2, 40)
    ]
    return {"anyOf": refs, "$defs": {name: {"required": [f"r{i}" for i in counted(n // 2, 10)]}}}


def web(n: int) -> dict[str, Any]:
    """Options whose required members lead to each other."""
    names = [f"r{i}" for i in range(20)]
    table = {
        f"d{i}": {"required": names, "properties": {name: {"$ref": f"#/$defs/d{i + 1}"} for name in names}}
        for i in counted(n, 900)
    }
    table[f"d{len(table)}"] = {"type": "null"}
    return {"oneOf": [{"$ref": "#/$defs/d0"}, {"$ref": "#/$defs/d1"}], "$defs": table}


SCHEMAS: dict[str, Callable[[int], Any]] = {
    "members": lambda n: {"required": list(members(n // 2, 0)), "properties": members(n // 2, True)},
    "required": lambda n: {"required": [f"r{i}" for i in counted(n, 8)], "minProperties": 1},
    "one more than required": lambda n: {
        "required": [f"p{i}" for i in counted(n // 3, 8)],
        "properties": members(n // 2, True),
        "minProperties": len(counted(n // 3, 8)) + 1,
    },
    "types": lambda n: {"type": ["object"] * len(counted(n, 10)), "properties": members(4_000, {"type": "null"})},
    "values": lambda n: {"enum": list(counted(n, 7))},
    "a long value": lambda n: {"const": "a" * n},
    "long names above many": lambda n: {
        "patternProperties": {"k" * (n // 2): {"prefixItems": [{"const": i} for i in counted(n // 2, 15)]}}
    },
    "long names above values": lambda n: {"patternProperties": {"k" * (n // 2): {"enum": [list(counted(n // 2, 7))]}}},
    "references": lambda n: {
        "anyOf": [{"$ref": f"#/$defs/d{i}"} for i in range(len(defs(n // 2, lambda i: {})))],
        "$defs": defs(n // 2, lambda i: {}),
    },
    "references to parents": lambda n: {"anyOf": [{"items": {"$ref": "#"}} for _ in counted(n, 30)]},
    "a chain": lambda n: chain(n, lambda ref: {"anyOf": [ref]}),
    "a chain of members": lambda n: chain(n, lambda ref: {"required": ["a"], "properties": {"a": ref}}),
    "a chain backwards": lambda n: chain(n, lambda ref: {"required": ["a"], "properties": {"a": ref}}, backwards=True),
    "spellings": spellings,
    "a web": web,
    "options": lambda n: {"oneOf": [{"const": f"{i}"} for i in counted(n, 20)]},
    "options of members": lambda n: {
        "oneOf": [{"required": ["k"], "properties": {"k": {"const": i}}} for i in counted(n, 70)]
    },
    "divisors": lambda n: {"prefixItems": [{"type": "integer", "multipleOf": 3} for _ in counted(n, 40)]},
    "all of it": lambda n: {"allOf": [{"multipleOf": 1} for _ in counted(n, 20)]},
    "classes in a pattern": lambda n: {"pattern": "[a]" * len(counted(n, 3))},
    "open classes in a pattern": lambda n: {"pattern": "[" + "a-" * len(counted(n, 2))},
    "groups in a pattern": lambda n: {"pattern": "(" * (n // 2) + ")" * (n // 2)},
    "counts in a pattern": lambda n: {"pattern": "a{3}" * len(counted(n, 4))},
    "escapes in a pattern": lambda n: {"pattern": "\\\\" * len(counted(n, 4))},
}
TEXTS: dict[str, Callable[[int], str]] = {
    "a string without an end": lambda n: '{"const": "' + '\\"' * (n // 2),
    "quotes": lambda n: '"' * n,
    "backslashes": lambda n: '"' + "\\" * n,
    "spaces": lambda n: "{" + " " * n + "}",
    "digits": lambda n: '{"const": ' + "9" * n + "}",
    "numbers": lambda n: '{"enum": [' + "0, " * (n // 3) + "0]}",
    "brackets": lambda n: "[]" * (n // 2),
    "open brackets": lambda n: "[" * n,
    "a late name twice": lambda n: (
        "{" + ", ".join(f'"p{i}": 1' for i in counted(n, 10)) + f', "p{len(counted(n, 10)) - 1}": 1}}'
    ),
    **{name: (lambda n, make=make: json.dumps(make(n))) for name, make in SCHEMAS.items()},
}
LARKS: dict[str, Callable[[int], str]] = {
    "a string without an end": lambda n: 'start: "' + '\\"' * (n // 2),
    "an expression without an end": lambda n: "start: /" + "\\/" * (n // 2),
    "quotes": lambda n: '"' * n,
    "quotes on lines": lambda n: '"\n' * (n // 2),
    "slashes": lambda n: "/" * n,
    "slashes on lines": lambda n: "/a\n" * (n // 3),
    "slashes and stars": lambda n: "/*" * (n // 2),
    "backslashes": lambda n: '"' + "\\" * n,
    "spaces": lambda n: "start: %json" + " " * n + "{}",
    "schemas": lambda n: "start: " + "%json {} " * (n // 9),
    "schemas without one": lambda n: "start: %json " + "%json" * (n // 5),
    "comments": lambda n: "# a\n" * (n // 4),
    "marks": lambda n: "%" * n,
    "brackets": lambda n: "()" * (n // 2),
    "strings": lambda n: "start: " + '"a" ' * (n // 4),
    "expressions": lambda n: "start: " + "/a{3}/ " * (n // 7),
}
PATTERNS: dict[str, Callable[[int], str]] = {
    repr(piece): (lambda n, piece=piece: piece * (n // len(piece)))
    for piece in ("(", ")", "[", "]", "{", "}", "\\", "a", "{9", "{9}", "(a{2}", "[^", "[\\", "a{2}){3}", "(?:", "|")
}


def check(work: Callable[[str], Any], make: Callable[[int], str]) -> None:
    assert not grows(work, make, first=LONG // 64, most=LONG)


@pytest.mark.parametrize("name", TEXTS)
def test_a_schema_is_read_in_linear_time(name: str) -> None:
    check(json_schema.enforceable, TEXTS[name])


@pytest.mark.parametrize("name", LARKS)
def test_lark_is_read_in_linear_time(name: str) -> None:
    check(lambda text: lark.enforceable(text, lambda schema: {}), LARKS[name])


@pytest.mark.parametrize("name", PATTERNS)
def test_counts_are_read_in_linear_time(name: str) -> None:
    check(repeats, PATTERNS[name])


def test_a_name_twice_is_told_and_so_is_where_a_string_does_not_end() -> None:
    with pytest.raises(UsageError, match="the key 'b' twice"):
        json_schema.enforceable('{"properties": {"a": {}, "b": {}, "b": {}}}')
    for text in ('start: "a', 'start: "a\nb"', 'start: "a\\"', "start: /a", "start: /a\\/"):
        with pytest.raises(UsageError, match="without an end"):
            lark.enforceable(text, lambda schema: {})
    text = 'start: /"\n/ "/" %json {"a": 1} /\\/"/ // "\n# "\n'
    seen: list[str] = []
    lark.enforceable(text, lambda schema: seen.append(schema) or {})
    assert seen == ['{"a": 1}']


def test_a_long_place_is_told_in_short() -> None:
    with pytest.raises(UsageError) as found:
        json_schema.enforceable(json.dumps({"properties": {"k" * 30_000: {"properties": {"end": 3}}}}))
    assert len(str(found.value)) < 600
    assert "kkk/properties/end: got integer" in str(found.value)
