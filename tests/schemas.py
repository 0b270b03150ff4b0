"""Schemas of every enforced keyword, with a value that each allows and one that it does not."""

from typing import Any

TEXT, INT, BOOL = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}


def obj(required: list[str] | None = None, **properties: Any) -> dict[str, Any]:
    needs = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": needs, "additionalProperties": False}


LIST = {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}
PETS = {
    "$defs": {
        "Cat": obj(kind={"const": "cat"}, lives={"type": "integer", "maximum": 9, "minimum": 1}),
        "Dog": obj(kind={"const": "dog"}, good=BOOL),
    },
    "discriminator": {"propertyName": "kind"},
    "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
}

# name: (schema, a value that it allows, one that it does not)
CASES: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "null": ({"type": "null"}, None, 0),
    "boolean": (BOOL, True, 1),
    "integer": (INT, -12, 1.5),
    "number": ({"type": "number"}, 1.5, "1.5"),
    "string": (TEXT, 'a "b" \\ \n é 😀', 1),
    "array": ({"type": "array", "maxItems": 2, "items": INT}, [1], {}),
    "object": ({"type": "object", "maxProperties": 1, "additionalProperties": INT}, {"a": 1}, []),
    "types": ({"type": ["integer", "null"]}, None, "x"),
    "anything": ({"enum": [1, "a", None, [1], {"a": 1}]}, {"a": 1}, {"a": 2}),
    "enum of texts": ({"enum": ["red", "green", "red wine"]}, "red wine", "blue"),
    "enum with a type": ({"type": "string", "enum": ["a", "b"]}, "b", "c"),
    "const": ({"const": "x\ny"}, "x\ny", "x"),
    "const of a number": ({"const": 2.5}, 2.5, 2),
    "const of an object": ({"const": {"a": [True, None]}}, {"a": [True, None]}, {"a": [True]}),
    "const like a control token": ({"const": "<|eot|></s>"}, "<|eot|></s>", "<|eot|>"),
    "minimum": ({"type": "integer", "minimum": 7, "maximum": 99}, 7, 6),
    "maximum": ({"type": "integer", "maximum": 3, "minimum": -5}, 3, 4),
    "widest bounds": ({"type": "integer", "minimum": 1 - 2**53, "maximum": 2**53 - 1}, 2**53 - 1, 2**53),
    "exclusiveMinimum": ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, 0.5, 0),
    "exclusiveMaximum": ({"type": "number", "minimum": 0, "exclusiveMaximum": 1}, 0, 1),
    "exclusiveMaximum of draft 4": ({"type": "integer", "minimum": 0, "maximum": 9, "exclusiveMaximum": True}, 8, 9),
    "multipleOf": ({"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 500}, 49, 50),
    "multipleOf a part": ({"type": "number", "multipleOf": 0.25, "minimum": 0, "maximum": 9}, 0.75, 0.7),
    "bounds on any number": ({"type": "number", "minimum": -1.5, "maximum": 2.25}, -1.5, 2.3),
    "minLength": ({"type": "string", "minLength": 3, "maxLength": 9}, "abc", "ab"),
    "maxLength": ({"type": "string", "maxLength": 4}, "é😀ab", "abcde"),
    "pattern": ({"type": "string", "pattern": "^[A-Z]{2}-\\d{3}$"}, "AB-123", "AB-12"),
    "pattern anywhere": ({"type": "string", "pattern": "b", "maxLength": 6}, "abc", "acd"),
    "pattern at the end": ({"type": "string", "pattern": "ly$", "maxLength": 6}, "early", "lyre"),
    "pattern and length": ({"type": "string", "pattern": "^a*$", "minLength": 2, "maxLength": 3}, "aaa", "aaaa"),
    "pattern of nested repeats": ({"type": "string", "pattern": "^(a+)+b$", "maxLength": 9}, "aaab", "aaa"),
    "date": ({"type": "string", "format": "date"}, "2024-02-29", "2023-02-29"),
    "time": ({"type": "string", "format": "time"}, "23:59:59.5+01:00", "24:00:00Z"),
    "date-time": ({"type": "string", "format": "date-time"}, "2026-11-28T20:30:00Z", "2026-11-28 20:30:00Z"),
    "date and pattern": ({"type": "string", "format": "date", "pattern": "^20"}, "2031-01-01", "1999-01-01"),
    "duration": ({"type": "string", "format": "duration"}, "P3DT4H", "3 days"),
    "email": ({"type": "string", "format": "email", "maxLength": 20}, "a.b@c.de", "a.b"),
    "hostname": ({"type": "string", "format": "hostname", "maxLength": 12}, "a-b.example", "-a"),
    "ipv4": ({"type": "string", "format": "ipv4"}, "10.0.255.1", "10.0.256.1"),
    "ipv6": ({"type": "string", "format": "ipv6"}, "fe80::1", "fe80:::1"),
    "uuid": ({"type": "string", "format": "uuid"}, "123e4567-e89b-12d3-a456-426614174000", "123e4567"),
    "uri": ({"type": "string", "format": "uri", "maxLength": 24}, "https://a.de/b?c#d", "a b"),
    "a free format": ({"type": "integer", "format": "int32", "minimum": 0, "maximum": 9}, 4, "4"),
    "items": ({"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 4}, ["a", "b"], ["c"]),
    "prefixItems": (
        {"type": "array", "prefixItems": [INT, BOOL], "items": False, "minItems": 2},
        [1, True],
        [1, True, 2],
    ),
    "items of draft 7": (
        {"type": "array", "items": [INT, BOOL], "additionalItems": False, "minItems": 2},
        [1, True],
        [1, 2],
    ),
    "minItems": ({"type": "array", "items": INT, "minItems": 2, "maxItems": 3}, [1, 2], [1]),
    "maxItems": ({"type": "array", "items": INT, "maxItems": 2}, [1, 2], [1, 2, 3]),
    "properties": (obj(a=INT, b=BOOL), {"a": 1, "b": False}, {"a": 1, "b": 2}),
    "required": (obj(["b"], a=INT, b=BOOL), {"b": True}, {"a": 1}),
    "additionalProperties": ({"type": "object", "additionalProperties": INT, "maxProperties": 2}, {"x": 1}, {"x": "1"}),
    "names to escape": (obj(**{'a"b': INT, "c\\d": INT, "é/~": INT}), {'a"b': 1, "c\\d": 2, "é/~": 3}, {'a"b': 1}),
    "patternProperties": (
        {
            "type": "object",
            "patternProperties": {"^n": INT, "^s": TEXT},
            "additionalProperties": False,
            "maxProperties": 1,
        },
        {"nine": 9},
        {"other": 9},
    ),
    "patternProperties and properties": (  # llguidance issue 265
        obj(
            score={"type": "integer", "multipleOf": 5, "maximum": 100},
            tags={"type": "array", "items": BOOL, "maxItems": 2},
        )
        | {"patternProperties": {"^score$": {"type": "integer", "minimum": 0}}},
        {"score": 5, "tags": [True]},
        {"score": -5, "tags": []},
    ),
    "minProperties": (
        {"type": "object", "additionalProperties": INT, "minProperties": 1, "maxProperties": 1},
        {"a": 1},
        {},
    ),
    "maxProperties": ({"type": "object", "additionalProperties": INT, "maxProperties": 1}, {"a": 1}, {"a": 1, "b": 2}),
    "anyOf": ({"anyOf": [INT, {"type": "string", "maxLength": 3}]}, "abc", True),
    "anyOf beside others": (
        {
            "type": "object",
            "required": ["a"],
            "additionalProperties": False,
            "properties": {"a": INT, "b": INT},
            "anyOf": [{"required": ["b"]}, {"properties": {"a": {"minimum": 5, "maximum": 8}}}],
        },
        {"a": 6},
        {"a": 1},
    ),
    "oneOf": ({"oneOf": [INT, {"type": "string", "maxLength": 2}]}, 3, None),
    "oneOf by a property": (PETS, {"kind": "dog", "good": True}, {"kind": "dog", "lives": 3}),
    "allOf": ({"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 5}]}, 4, 6),
    "allOf of objects": (
        {
            "allOf": [
                {"type": "object", "properties": {"a": INT}, "required": ["a"]},
                {"properties": {"b": BOOL}, "required": ["b"]},
            ],
            "maxProperties": 2,
        },
        {"a": 1, "b": True},
        {"a": 1},
    ),
    "$ref": ({"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer", "minimum": 0, "maximum": 9}}}, 3, 12),
    "$ref with siblings": (
        {"$ref": "#/$defs/n", "maximum": 5, "$defs": {"n": {"type": "integer", "minimum": 0}}},
        3,
        12,
    ),
    "$ref to a member": (
        {
            "type": "object",
            "properties": {"a": INT, "b": {"$ref": "#/properties/a"}},
            "required": ["b"],
            "additionalProperties": False,
        },
        {"b": 1},
        {"b": "1"},
    ),
    "$ref of OpenAPI": ({"$ref": "#/components/schemas/A~1B", "components": {"schemas": {"A/B": BOOL}}}, True, 0),
    "a list of itself": (LIST, [[], [[]]], [1]),
    "a chain": (obj(v=INT, next={"anyOf": [{"$ref": "#"}, {"type": "null"}]}), {"v": 1, "next": None}, {"v": 1}),
    "annotations": (
        INT | {"title": "t", "description": "d", "default": 3, "examples": [1], "$schema": "x", "x-y": {"not": 1}},
        5,
        "5",
    ),
    "a format that nobody knows": ({"type": "string", "format": "zip", "maxLength": 9}, "anything", 3),
    "propertyNames of an enum": (
        {"type": "object", "propertyNames": {"enum": ["a", "b", 3]}, "additionalProperties": INT},
        {"a": 1, "b": 2},
        {"c": 1},
    ),
    "propertyNames and what they hold": (
        {"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": obj(n=INT)},
        {"a": {"n": 1}, "b": {"n": 2}},
        {"a": {"n": 1}, "b": {}},
    ),
    "propertyNames by reference": (
        {
            "type": "object",
            "propertyNames": {"$ref": "#/$defs/Colour"},
            "additionalProperties": BOOL,
            "$defs": {"Colour": {"$ref": "#/$defs/Red"}, "Red": {"const": "red", "type": "string", "title": "Red"}},
        },
        {"red": True},
        {"blue": True},
    ),
    "propertyNames of a pattern": (
        {"type": "object", "propertyNames": {"pattern": "^[a-z]{2}$"}, "additionalProperties": INT, "maxProperties": 1},
        {"de": 1},
        {"DE": 1},
    ),
    "propertyNames of a format": (
        {"type": "object", "propertyNames": {"format": "date"}, "additionalProperties": INT, "maxProperties": 1},
        {"2026-02-28": 1},
        {"2026-02-29": 1},
    ),
    "propertyNames of a length": (
        {
            "type": "object",
            "propertyNames": {"type": "string", "minLength": 2, "maxLength": 3},
            "additionalProperties": INT,
            "maxProperties": 1,
        },
        {"\u00e9\u00e9\u00e9": 1},
        {"a": 1},
    ),
    "propertyNames beside properties": (
        {
            "type": "object",
            "properties": {"a": INT, "b": INT},
            "propertyNames": {"enum": ["a", "c"]},
            "required": ["a"],
        },
        {"a": 1},
        {"a": 1, "b": 2},
    ),
    "propertyNames of none": ({"type": "object", "propertyNames": False}, {}, {"a": 1}),
    "propertyNames that ask nothing": (
        {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": INT, "maxProperties": 2},
        {"any one": 1},
        {"any one": "1"},
    ),
    "uniqueItems of a few values": (
        {"type": "array", "items": {"enum": ["a", "b"]}, "uniqueItems": True},
        ["b", "a"],
        ["a", "b", "a"],
    ),
    "uniqueItems that asks nothing": (
        {"type": "array", "items": BOOL, "uniqueItems": False, "maxItems": 2},
        [True, True],
        [1],
    ),
}
