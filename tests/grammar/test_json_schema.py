"""Every keyword of a schema: enforced by the masks as the standard says, an annotation, or refused with its place."""

import datetime
import itertools
import json
import re
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from herd.errors import GrammarStuck, UsageError
from herd.grammar import json_schema
from herd.grammar.masks import MAX_COMPILED, Grammars
from herd.grammars import MAX_TEXT_BYTES, Grammar
from herd.text.tokenizer import Tokenizer
from random_schemas import RandomSchema, random_text
from schemas import CASES

BYTES = Tokenizer.bytes_only()
GRAMMARS = Grammars(BYTES, BYTES.eos_ids)
DOCS = Path(__file__).parents[2] / "docs" / "structured.md"


def allows(schema: Any, text: str) -> bool:
    """Whether the masks let this text be said, to its end."""
    matcher = GRAMMARS.matcher(Grammar("schema", json.dumps(schema)))
    for byte in text.encode():
        if byte not in matcher.allowed():
            return False
        matcher.accept(byte)
    return bool(BYTES.eos_ids & set(matcher.allowed().tolist()))


@pytest.mark.parametrize("name", CASES)
def test_masks_allow_what_the_schema_allows_and_nothing_else(name: str) -> None:
    schema, right, wrong = CASES[name]
    judge = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
    if "draft" not in name and "format" not in json.dumps(schema):
        assert judge.is_valid(right)
        assert not judge.is_valid(wrong)
    for separators in ((",", ":"), (", ", ": ")):
        assert allows(schema, json.dumps(right, ensure_ascii=False, separators=separators))
        assert not allows(schema, json.dumps(wrong, ensure_ascii=False, separators=separators))


def test_cases_hold_every_keyword_and_format() -> None:
    text = json.dumps([schema for schema, _, _ in CASES.values()])
    for keyword in json_schema.KEYWORDS:
        assert f'"{keyword}": ' in text, keyword
    for name in json_schema.FORMATS:
        assert f'"format": "{name}"' in text, name


NAMED = (
    *(True, False, {}, {"type": "string"}, {"type": "integer"}, {"enum": ["a", "bb"]}, {"const": "ccc"}),
    *({"enum": [1]}, {"pattern": "^b"}, {"minLength": 2}, {"maxLength": 2}, {"$ref": "#/$defs/Name"}),
)
OTHERS: tuple[dict[str, Any], ...] = (
    *({}, {"additionalProperties": False}, {"additionalProperties": {"type": "integer"}}),
    *({"properties": {"a": {"type": "null"}, "ccc": {"type": "integer"}}}, {"required": ["a"]}),
    {"properties": {"a": {"type": "null"}}, "additionalProperties": {"type": "integer"}},
    {"allOf": [{"additionalProperties": {"type": "integer"}}]},
    {"allOf": [{"properties": {"bb": {"type": "integer"}}}]},
    {"anyOf": [{"required": ["a"]}, {"required": ["bb"]}]},
)
VALUES: tuple[Any, ...] = ({}, *({name: value} for name in ("a", "bb", "ccc", "bc") for value in (1, None, "x")))
VALUES += ({"a": None, "bb": 1}, {"a": 1, "bb": 1}, {"a": None, "ccc": 1}, {"bb": 1, "bc": 1}, {"bb": "x", "bc": 1})


def test_names_of_members_are_held_to_their_schema_whatever_stands_beside_it() -> None:
    allowed = refused = 0
    for names, others in itertools.product(NAMED, OTHERS):
        node = {"type": "object", "propertyNames": names, **others}
        inner = {"type": "object", "properties": {"v": node}, "required": ["v"], "additionalProperties": False}
        for schema in (
            node,
            inner,
            {"allOf": [node, {"type": "object"}]},
            {"allOf": [{"maxProperties": 9}, {**others}, node]},
        ):
            whole = {**schema, "$defs": {"Name": {"type": "string", "enum": ["a", "bb"]}}}
            judge = jsonschema.Draft202012Validator(whole)
            for value in VALUES:
                said = {"v": value} if schema is inner else value
                try:
                    taken = allows(whole, json.dumps(said))
                except UsageError:
                    refused += 1
                    break
                allowed += taken
                assert judge.is_valid(said) or not taken, (whole, said)
    assert allowed > 1000
    assert refused < 200


def test_what_masks_do_not_hold_a_text_to_is_named_with_its_place() -> None:
    schema = {
        "properties": {"a/b": {"items": {"format": "uri-reference"}, "uniqueItems": True}, "c": {"format": "date"}},
        "prefixItems": [{"format": "int32"}, {"items": [{"uniqueItems": True}], "uniqueItems": False}],
        "$defs": {"d": {"additionalProperties": {"format": "zip"}}},
        "const": {"uniqueItems": True, "format": "zip"},
        "uniqueItems": True,
        "maxItems": 1,
    }
    assert {*json_schema.unheld(schema)} == {
        *("#/properties/a~1b/uniqueItems", "#/properties/a~1b/items/format", "#/prefixItems/1/items/0/uniqueItems"),
        "#/$defs/d/additionalProperties/format",
    }
    for none in (True, False, 3, [], {}, {"properties": 3, "allOf": {"a": 1}, "items": 2}, None):
        assert [*json_schema.unheld(none)] == []


def test_days_are_those_of_the_calendar() -> None:
    pattern = re.compile(json_schema.FORMATS["date"] or "")
    for year, month, day in itertools.product((0, 1, 4, 96, 100, 400, 1900, 2000, 2023, 9996), range(14), range(33)):
        text = f"{year:04}-{month:02}-{day:02}"
        try:
            datetime.date.fromisoformat(text)
        except ValueError:
            assert not pattern.match(text), text
        else:
            assert pattern.match(text), text
    assert not re.match(json_schema.FORMATS["date-time"] or "", "0000-01-01T00:00:00Z")


@pytest.mark.parametrize("keyword", json_schema.REFUSED)
def test_what_cannot_be_enforced_is_refused_with_its_place(keyword: str) -> None:
    schema = {"type": "object", "properties": {"a/b": {"items": [{keyword: {"minimum": 3}}]}}}
    with pytest.raises(UsageError, match=re.escape(f"schema #/properties/a~1b/items/0/{keyword}: ")):
        json_schema.enforceable(json.dumps(schema))


# schema: place, and what is said
WRONG: dict[str, tuple[str, str]] = {
    '{"$ref": "https://example.org/s.json"}': ("/$ref", "write a reference into this schema"),
    '{"$ref": "other.json#/a"}': ("/$ref", "write a reference into this schema"),
    '{"$ref": "#/$defs/missing"}': ("/$ref", "leads nowhere"),
    '{"$ref": "#anchor"}': ("/$ref", "write a reference into this schema"),
    '{"$ref": "#"}': ("", "lead back to itself"),
    '{"anyOf": [{"type": "null"}, {"$ref": "#"}]}': ("", "lead back to itself"),
    '{"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}': (
        "/$defs/",
        "back to itself",
    ),
    '{"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}': ("", "ever ends"),
    '{"type": "array", "items": {"$ref": "#"}, "minItems": 1}': ("", "ever ends"),
    '{"type": "array", "minItems": 1000000000}': ("/minItems", "from 0 to 10000"),
    '{"type": "string", "maxLength": -1}': ("/maxLength", "from 0 to 10000"),
    '{"type": "integer", "minimum": "3"}': ("/minimum", "a number"),
    '{"type": "integer", "maximum": 1e300}': ("/maximum", "a number from"),
    '{"type": "number", "multipleOf": 0}': ("/multipleOf", "above 0"),
    '{"enum": []}': ("/enum", "one or more"),
    '{"enum": [12345678901234567890]}': ("/enum/0", "a number from"),
    '{"type": "text"}': ("/type", "one of null, boolean"),
    '{"properties": {"a": 3}}': ("/properties/a", "an object or a boolean"),
    '{"anyOf": {}}': ("/anyOf", "a list"),
    '{"type": "string", "format": 3}': ("/format", "the name of a format"),
    '{"type": "array", "uniqueItems": 1}': ("/uniqueItems", "true or false"),
    '{"type": "array", "items": {"type": "boolean"}, "uniqueItems": true, "minItems": 3}': ("", "no text matches it"),
    '{"propertyNames": 3}': ("/propertyNames", "an object or a boolean"),
    '{"propertyNames": {"anyOf": [{"const": "a"}]}}': ("/propertyNames/anyOf", "an enum or a pattern"),
    '{"propertyNames": {"format": "email"}}': ("/propertyNames/format", "an enum or a pattern"),
    '{"propertyNames": {"pattern": "a", "maxLength": 3}}': ("/propertyNames", "give one of them"),
    '{"propertyNames": {"pattern": "a"}, "properties": {"a": true}}': ("/propertyNames", "list them as its enum"),
    '{"propertyNames": {"enum": ["a"]}, "patternProperties": {"a": true}}': ("/propertyNames", "give one of them"),
    '{"propertyNames": {"$ref": "#/$defs/a"}, "$defs": {"a": {"$ref": "#/$defs/a"}}}': ("/$defs/a", "in a row"),
    '{"propertyNames": {"$ref": "#/$defs/a", "pattern": "b"}, "$defs": {"a": {}}}': ("/propertyNames/pattern", "$ref"),
    '{"type": "string", "pattern": "(?=a)b"}': ("", "look-around"),
    '{"type": "string", "pattern": "[a&&b]"}': ("/pattern", "escape them"),
    '{"patternProperties": {"[^]": true}}': ("/patternProperties/[^]", "escape them"),
    '{"type": "object", "minProperties": 3}': ("/minProperties", "may repeat each other"),
    '{"properties": {"a": {"oneOf": [{"type": "integer"}, {"type": "number"}]}}}': ("/properties/a", "write anyOf"),
    '{"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 2, "maximum": 1}}': ("/items", "no text"),
    '{"properties": {"a": {"$id": "x"}}}': ("/properties/a/$id", "leave it out"),
    "false": ("", "no text matches it"),
    "3": ("", "an object or a boolean"),
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_schema_is_refused_with_its_place(text: str) -> None:
    place, said = WRONG[text]
    with pytest.raises(UsageError) as found:
        GRAMMARS.matcher(Grammar("schema", text))
    assert str(found.value).startswith(f"schema #{place}")
    assert said in str(found.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 10_000, "more than 64 levels"),
        ('{"items":' * 10_000, "more than 64 levels"),
        ("{", "no JSON"),
        ('{"minimum": NaN}', "got NaN"),
        ('{"minimum": 1e999}', "got 1e999"),
        ('{"const": ' + "9" * 5000 + "}", "no JSON"),
        ('{"type": "null", "type": "integer"}', "the key 'type' twice"),
        ('{"const": "\\ud800"}', "surrogates not allowed"),
    ],
)
def test_what_is_no_schema_at_all_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        json_schema.enforceable(text)


RANDOM_SCHEMAS, SHARDS = 3_000, 3


def check_random_schemas(seeds: range) -> int:
    """How many texts an independent validator took; none that it does not take."""
    valid = 0
    for seed in seeds:
        schema = RandomSchema(seed).schema
        judge = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
        try:
            matcher = GRAMMARS.matcher(Grammar("schema", json.dumps(schema)))
        except UsageError:
            continue
        for n in range(4):
            text = random_text(matcher.copy(), BYTES.eos_ids, 10 * seed + n)
            if text is not None:
                value = json.loads(text)
                json.dumps(value, ensure_ascii=False).encode()
                judge.validate(value)
                valid += 1
    return valid


def test_texts_of_random_schemas_are_valid() -> None:
    assert check_random_schemas(range(150)) > 200


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(SHARDS))
def test_texts_of_thousands_of_random_schemas_are_valid(shard: int) -> None:
    assert check_random_schemas(range(150 + shard, 150 + RANDOM_SCHEMAS, SHARDS)) > 1_000


@pytest.mark.parametrize("listed", [{"properties": {"a": {"type": "integer"}}}, {"patternProperties": {"^a": False}}])
def test_a_listed_name_is_not_said_in_another_spelling(listed: dict[str, Any]) -> None:
    for schema in (
        {**listed, "type": "object", "additionalProperties": True},
        {"type": "array", "items": {"allOf": [{**listed, "additionalProperties": {"type": "string"}}]}},
    ):
        spelt = r'{"\u0061": "x"}'
        assert not allows(schema, f"[{spelt}]" if schema["type"] == "array" else spelt)
    assert allows(
        {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": True},
        '{"a": "\\n", "é": 1}',
    )
    assert allows(
        {"type": "object", "properties": {"a": {"const": "\x1b"}}, "additionalProperties": True}, r'{"a": "\u001b"}'
    )
    assert allows({"type": "object", "properties": {"a": {"type": "string"}}}, r'{"a": "\u001b"}')


def test_what_never_ends_is_never_begun() -> None:
    endless = {"type": "object", "properties": {"x": {"$ref": "#/$defs/e"}}, "required": ["x"]}
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/e"}, "b": {"type": "null"}},
        "$defs": {"e": endless},
    }
    assert allows(schema, '{"b":null}')
    assert not allows(schema, '{"a":')


HOSTILE = {
    "60,000 values": Grammar("schema", json.dumps({"enum": list(range(9_000))})),
    "2,000 properties": Grammar(
        "schema", json.dumps({"properties": {f"p{i}": {"type": "integer"} for i in range(1_800)}})
    ),
    "entangled": Grammar(
        "schema",
        json.dumps(
            {
                "$ref": "#/$defs/d0",
                "$defs": {
                    f"d{i}": {
                        "type": "object",
                        "properties": {"a": {"$ref": f"#/$defs/d{i + 1}"}, "b": {"$ref": f"#/$defs/d{i + 1}"}},
                    }
                    for i in range(300)
                }
                | {"d300": {"type": "null"}},
            }
        ),
    ),
    "products of anyOf": Grammar(
        "schema",
        json.dumps(
            {
                "allOf": [
                    {"anyOf": [{"properties": {f"k{i}{j}": {"type": "integer"}}} for j in range(8)]} for i in range(8)
                ]
            }
        ),
    ),
    "a large remainder": Grammar("schema", json.dumps({"type": "integer", "multipleOf": 1_000_000_007})),
    "nested repeats": Grammar("regex", "(a+)+b"),
    "a billion": Grammar("regex", "a{1,1000000000}b"),
    "repeats of repeats": Grammar("regex", "((((a{1,1000}){1,1000}){1,1000}){1,1000})b"),
    "many states": Grammar("regex", "(.*a.{200}b.*c.{200})+"),
    "long": Grammar("regex", "ab" * (MAX_TEXT_BYTES // 2)),
    "look-around": Grammar("regex", "(?=a)b"),
    "back reference": Grammar("regex", r"(a)\1"),
    "deep": Grammar("regex", "(" * 30_000 + "a" + ")" * 30_000),
    "deep Lark": Grammar("lark", "start: " + "(" * 30_000),
    "Lark that repeats": Grammar("lark", 'start: x{1,1000000000}\nx: "a" | "b" x'),
    "left recursion": Grammar("lark", 'start: start "a" | "a"'),
    "no beginning": Grammar("lark", 'start: start "a"'),
    "many rules": Grammar(
        "lark", "start: r0\n" + "\n".join(f'r{i}: "a" r{i + 1} | r{i + 1}' for i in range(2_000)) + '\nr2000: "b"'
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_grammar_takes_long_to_compile_or_to_refuse(name: str) -> None:
    began_s = time.process_time()
    outcome = compiled_and_walked(HOSTILE[name])
    # a bound on work, not a measurement: without limits these take minutes
    assert time.process_time() - began_s < 20
    assert "\n" not in outcome
    assert ("refused" in outcome) == (name in REFUSED_HOSTILE), outcome


REFUSED_HOSTILE = (
    *(
        "2,000 properties",
        "products of anyOf",
        "a large remainder",
        "look-around",
        "back reference",
        "deep",
        "deep Lark",
        "no beginning",
    ),
)


def compiled_and_walked(grammar: Grammar) -> str:
    """What becomes of a grammar and of a text of 60 tokens in it."""
    try:
        matcher = GRAMMARS.matcher(grammar)
    except UsageError as error:
        return f"refused: {error}"
    try:
        for _ in range(60):
            ids = matcher.allowed()
            matcher.accept(int(ids[len(ids) // 2]))
            if matcher.is_over:
                return "over"
    except GrammarStuck as error:
        return f"stuck: {error}"
    return "goes on"


def test_many_grammars_are_not_kept() -> None:
    grammars = Grammars(BYTES, BYTES.eos_ids)
    for n in range(200):
        grammars.matcher(Grammar("regex", f"a{{{n + 1}}}"))
    assert len(grammars._compiled) == MAX_COMPILED


def test_a_long_text_is_refused_before_it_is_read() -> None:
    with pytest.raises(UsageError, match="at most 65536"):
        Grammar("regex", "a" * 1_000_000)
    with pytest.raises(UsageError, match="a lone surrogate"):
        Grammar("regex", "\ud800")


def test_schemas_inside_lark_are_checked_as_well() -> None:
    good = 'start: "f(" %json {"type": "integer", "minimum": 3, "maximum": 5} ")" // %json in a comment\n'
    matcher = GRAMMARS.matcher(Grammar("lark", good + 'other: "%json" | /%json [}]/'))
    for byte in b"f(4)":
        assert byte in matcher.allowed()
        matcher.accept(byte)
    for bad, said in (
        ('start: %json {"properties": {"a": {"not": true}}}', "schema #/properties/a/not: "),
        ('start: %json {"type": "object", "x-guidance": {"lenient": true}}', "schema #/x-guidance: "),
        ("start: %json oops", "%json without a schema"),
        (
            'start: %json {"items": {"oneOf": [{"type": "integer"}, {"type": "number"}]}}',
            "schema #/items: oneOf: a value",
        ),
        ('start: %lark { start: "a" }', "%lark inside a grammar"),
    ):
        with pytest.raises(UsageError, match=re.escape(said)):
            GRAMMARS.matcher(Grammar("lark", bad))


def test_the_documentation_names_every_keyword() -> None:
    text = DOCS.read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", text, re.MULTILINE))
    assert table == json_schema.REFUSED, "the table of refused keywords"
    for names, title in (
        (json_schema.KEYWORDS, "Enforced keywords"),
        (json_schema.FORMATS, "Enforced formats"),
        (json_schema.FREE_FORMATS, "Formats that ask nothing of a text"),
        (json_schema.ANNOTATIONS, "Annotations"),
    ):
        found = re.search(rf"^{title}: (.+)$", text, re.MULTILINE)
        assert found is not None, title
        assert re.findall(r"`([^`]+)`", found[1]) == list(names), title
