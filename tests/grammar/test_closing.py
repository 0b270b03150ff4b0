"""Members that no list names: none come where `properties` stand and nothing is said of others.

jsonschema is the judge: of the schema as it was given, and with `unevaluatedProperties` (a keyword that masks do not
know) of what closing means through `allOf` and `$ref`.
"""

import json
from collections.abc import Mapping
from typing import Any

import jsonschema
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from herd.errors import UsageError
from herd.grammar import closing, json_schema
from herd.grammar.masks import Grammars
from herd.grammars import Grammar
from herd.text.tokenizer import Tokenizer
from random_schemas import RandomSchema, random_text

BYTES = Tokenizer.bytes_only()
GRAMMARS = Grammars(BYTES, BYTES.eos_ids)
INT, TEXT = {"type": "integer"}, {"type": "string"}
DEFS = {
    "A": {"type": "object", "properties": {"a": INT}},
    "B": {"type": "object", "properties": {"b": INT}, "required": ["b"]},
    "Open": {"type": "object", "properties": {"o": INT}, "additionalProperties": True},
    "Shut": {"type": "object", "properties": {"s": INT}, "additionalProperties": False},
    "Tree": {"type": "object", "properties": {"v": INT, "kids": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}}},
    "Either": {"anyOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}]},
}


def ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}


def listed(*names: str, **more: Any) -> dict[str, Any]:
    return {"properties": dict.fromkeys(names, INT), **more}


def closed(schema: Any) -> Any:
    """What masks are made of."""
    return closing.closed(json_schema.enforceable(json.dumps(schema))).schema


def allows(schema: Any, value: Any) -> bool:
    """Whether the masks let this value be said, to its end."""
    matcher = GRAMMARS.matcher(Grammar("schema", json.dumps(schema)))
    for byte in json.dumps(value).encode():
        if byte not in matcher.allowed():
            return False
        matcher.accept(byte)
    return bool(BYTES.eos_ids & set(matcher.allowed().tolist()))


# name: (schema, values that are said, values that the schema allows and nobody gets)
CASES: dict[str, tuple[dict[str, Any], list[Any], list[Any]]] = {
    "properties": (listed("a"), [{}, {"a": 1}, 3], [{"b": 1}, {"a": 1, "b": 1}]),
    "no properties": (listed(type="object"), [{}], [{"b": 1}]),
    "no list of them": ({"type": "object"}, [{}, {"b": 1}], []),
    "true": (listed("a", additionalProperties=True), [{"a": 1, "b": "x"}], []),
    "a schema": (listed("a", additionalProperties=TEXT), [{"a": 1, "b": "x"}], []),
    "unevaluatedProperties": (listed("a", unevaluatedProperties=True), [{"a": 1, "b": "x"}], []),
    "required alone": (listed("a", required=["z"]), [{"a": 1, "z": "x"}], [{"z": "x", "b": 1}]),
    "required without properties": ({"type": "object", "required": ["z"]}, [{"z": 1, "b": 1}], []),
    "patterns": (listed("a", patternProperties={"^x": INT}), [{"a": 1, "x1": 2}], [{"b": 1}]),
    "patterns of another": (
        {"allOf": [listed("a"), {"patternProperties": {"^x": INT}}]},
        [{"a": 1, "x1": 2}],
        [{"b": 1}],
    ),
    "patterns alone": ({"type": "object", "patternProperties": {"^x": INT}}, [{"x": 1, "b": "c"}], []),
    "allOf": ({"allOf": [listed("a"), listed("b")]}, [{"a": 1, "b": 2}, {"b": 2}], [{"c": 1}]),
    "allOf of references": (
        {"allOf": [ref("A"), ref("B"), listed("c")], "$defs": DEFS},
        [{"a": 1, "b": 2, "c": 3}, {"b": 2}],
        [{"b": 2, "d": 1}],
    ),
    "a reference and siblings": ({**ref("A"), **listed("n"), "$defs": DEFS}, [{"a": 2, "n": 1}], [{"b": 1}]),
    "one reference": ({"allOf": [ref("A")], "$defs": DEFS}, [{"a": 2}], [{"b": 1}]),
    "a definition both alone and as a part": (
        {"type": "array", "prefixItems": [ref("A"), {"allOf": [ref("A"), listed("b")]}], "items": False, "$defs": DEFS},
        [[{"a": 1}, {"a": 1, "b": 2}]],
        [[{"b": 1}], [{"a": 1}, {"c": 1}]],
    ),
    "recursion": ({**ref("Tree"), "$defs": DEFS}, [{"v": 1, "kids": [{"v": 2, "kids": []}]}], [{"kids": [{"x": 1}]}]),
    "itself": (listed("a", properties={"a": INT, "n": {"$ref": "#"}}), [{"a": 1, "n": {"a": 2}}], [{"n": {"b": 1}}]),
    "allOf with an open one": ({"allOf": [ref("Open"), listed("b")], "$defs": DEFS}, [{"o": 1, "b": 2, "c": "x"}], []),
    "allOf with a shut one": ({"allOf": [ref("Shut"), {"required": ["s"]}], "$defs": DEFS}, [{"s": 1}], []),
    "anyOf": (
        {"anyOf": [ref("A"), ref("B"), ref("Open"), {"type": "null"}], "$defs": DEFS},
        [{"a": 1}, {"b": 1}, {"o": 1, "z": "x"}, None],
        [],
    ),
    "anyOf, each its own": (
        {"anyOf": [listed("a", type="object"), listed("b", type="object")]},
        [{"a": 1}, {"b": 1}],
        [{"a": 1, "b": 1}, {"c": 1}],
    ),
    "anyOf beside properties": (
        listed("k", type="object", required=["k"], anyOf=[listed("a"), listed("b"), {"required": ["q"]}]),
        [{"k": 1, "a": 1}, {"k": 1, "b": 1}, {"k": 1, "q": "x"}],
        [{"k": 1, "a": 1, "b": 1}, {"k": 1, "c": 1}],
    ),
    "anyOf that asks for members": (
        listed("a", "b", type="object", anyOf=[{"required": ["a"]}, {"required": ["b"]}]),
        [{"a": 1}, {"b": 1}, {"a": 1, "b": 2}],
        [{"a": 1, "c": 2}],
    ),
    "two anyOf": (
        {
            "type": "object",
            "allOf": [{"anyOf": [listed("a"), listed("b")]}, {"anyOf": [listed("c"), listed("d")]}],
        },
        [{"a": 1, "c": 1}, {"b": 1, "d": 1}],
        [{"a": 1, "e": 1}, {"a": 1, "b": 1}, {"c": 1, "d": 1}],
    ),
    "a part of which either is one": (
        {"type": "object", "allOf": [ref("Either"), listed("n")], "$defs": DEFS},
        [{"a": 1, "n": 1}, {"b": 1, "n": 2}],
        [{"b": 1, "c": 1}],
    ),
    "oneOf told apart": (
        {
            "oneOf": [
                {"type": "object", "properties": {"kind": {"const": "cat"}, "c": INT}, "required": ["kind"]},
                {"type": "object", "properties": {"kind": {"const": "dog"}, "d": INT}, "required": ["kind"]},
            ]
        },
        [{"kind": "cat", "c": 1}, {"kind": "dog", "d": 1}],
        [{"kind": "cat", "d": 1}, {"kind": "dog", "e": 1}],
    ),
    "listed values": (listed("a", const={"a": 1, "z": 2}), [{"a": 1, "z": 2}], []),
    "more members than names": (listed("a", type="object", required=["a"], minProperties=2), [{"a": 1, "z": 2}], []),
    "inside": (
        {"type": "array", "items": {"type": "object", "additionalProperties": listed("a")}, "maxItems": 2},
        [[{"any": {"a": 1}}]],
        [[{"any": {"b": 1}}]],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_only_listed_members_come(name: str) -> None:
    schema, said, others = CASES[name]
    judge = jsonschema.Draft202012Validator(schema)
    for value in (*said, *others):
        assert judge.is_valid(value), value
    for value in said:
        assert allows(schema, value), value
    for value in others:
        assert not allows(schema, value), value


def test_members_come_in_the_order_in_which_they_are_listed() -> None:
    schema = {"required": ["z"], **listed("d"), "allOf": [listed("b"), ref("A"), listed("c")], "$defs": DEFS}
    assert allows(schema, {"d": 1, "b": 2, "a": 3, "c": 4, "z": 5})


def test_options_of_which_a_value_may_be_both_stay_as_they_are() -> None:
    """Closed, these two would share no value; as they are given, {"a": 1} is both."""
    with pytest.raises(UsageError, match="oneOf: a value might be two of its options at once"):
        allows({"oneOf": [listed("a", type="object", required=["a"]), listed("b", type="object")]}, {"a": 1})


# -- any schema ------------------------------------------------------------------------------------------------------

NAMES = ("a", "b", "c", "x1")
LEAVES = st.sampled_from([INT, TEXT, {"type": ["integer", "null"]}, {"const": 1}, True, {}])


def _objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {"properties": st.dictionaries(st.sampled_from(NAMES), inner, max_size=3)},
        optional={
            "type": st.just("object"),
            "required": st.lists(st.sampled_from(NAMES), max_size=1),
            "additionalProperties": st.one_of(st.booleans(), inner),
            "patternProperties": st.dictionaries(st.just("^x"), inner, max_size=1),
            "maxProperties": st.integers(1, 3),
        },
    )


def _several(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    some = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        st.fixed_dictionaries({"allOf": some}, optional={"properties": st.dictionaries(st.sampled_from(NAMES), inner)}),
        st.fixed_dictionaries({"anyOf": some}, optional={"required": st.lists(st.sampled_from(NAMES), max_size=1)}),
        st.fixed_dictionaries({"oneOf": some}),
        st.fixed_dictionaries({"items": inner}),
    )


REFERENCES = st.sampled_from([ref(name) for name in ("d", "e")])
PARTS = st.recursive(
    st.one_of(LEAVES, _objects(LEAVES), REFERENCES, st.just({"required": ["a"]})),
    lambda inner: st.one_of(_objects(inner), _several(inner)),
    max_leaves=8,
)
SCHEMAS = st.builds(
    lambda root, d, e: {"allOf": [root], "$defs": {"d": d, "e": e}}, PARTS, PARTS, st.one_of(_objects(PARTS), PARTS)
)
VALUES = st.recursive(
    st.one_of(st.integers(0, 2), st.just("t"), st.none()),
    lambda inner: st.one_of(st.dictionaries(st.sampled_from((*NAMES, "other")), inner), st.lists(inner, max_size=1)),
    max_leaves=6,
)


def valid(schema: Any, value: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(schema).is_valid(value))


def picked(schema: Any, pick: Any) -> Any:
    """A schema with one of each of its alternatives."""
    if isinstance(schema, list):
        return [picked(one, pick) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: picked(one, pick) for key, one in schema.items() if key not in ("anyOf", "oneOf")}
    for key in ("anyOf", "oneOf"):
        if key in schema:
            found["allOf"] = [*found.get("allOf", ()), picked(pick(schema[key]), pick)]
    return found


def in_place(schema: Any, defs: Mapping[str, Any]) -> list[Any]:
    """A schema without alternatives, and all that it refers to for the same value."""
    found, waiting, seen = [], [schema], set()
    for one in waiting:  # which grows meanwhile
        if isinstance(one, dict):
            found.append(one)
            waiting += one.get("allOf", ())
            name = one.get("$ref", "").removeprefix("#/$defs/")
            if name and name not in seen:
                seen.add(name)
                waiting.append(defs[name])
    return found


def told(schema: Any, defs: Mapping[str, Any], part: bool = False) -> Any:
    """A schema without alternatives that closes with `unevaluatedProperties`, for a judge that knows it."""
    if not isinstance(schema, dict):
        return schema
    found = dict(schema)
    for key, one in schema.items():
        if key in ("properties", "patternProperties"):
            found[key] = {name: told(inner, defs) for name, inner in one.items()}
        elif key in ("additionalProperties", "items"):
            found[key] = told(one, defs)
        elif key == "allOf":
            found[key] = [told(inner, defs, True) for inner in one]
    parts = [] if part else in_place(schema, defs)
    if any("properties" in one for one in parts):
        needed = {name: True for one in parts for name in one.get("required", ())}
        return {"allOf": [found, {"properties": needed}], "unevaluatedProperties": False}
    return found


def meant(schema: Any, pick: Any) -> Any:
    """What closing means, with one of each of its alternatives."""
    one = picked({key: value for key, value in schema.items() if key != "$defs"}, pick)
    defs = {name: picked(value, pick) for name, value in schema["$defs"].items()}
    return {"allOf": [told(one, defs)], "$defs": {name: told(value, defs, True) for name, value in defs.items()}}


def has_alternatives(schema: Any) -> bool:
    text = json.dumps(schema)
    return '"anyOf"' in text or '"oneOf"' in text


@settings(max_examples=250, deadline=None, derandomize=True, phases=[Phase.generate])
@given(SCHEMAS, st.lists(VALUES, min_size=8, max_size=8), st.data())
def test_closing_allows_no_more_than_the_schema_and_all_that_is_listed(schema: Any, values: Any, data: Any) -> None:
    try:
        made = closed(schema)
    except UsageError:
        return
    judge, ours = jsonschema.Draft202012Validator(schema), jsonschema.Draft202012Validator(made)
    least = jsonschema.Draft202012Validator(meant(schema, lambda options: data.draw(st.sampled_from(options))))
    for value in values:
        mine, its = ours.is_valid(value), judge.is_valid(value)
        assert its or not mine, f"more than the schema: {schema} {value}"
        assert mine or not (its and least.is_valid(value)), f"less than what is listed: {schema} {value}"
        if not has_alternatives(schema):
            assert not mine or least.is_valid(value), f"more than what is listed: {schema} {value}"


def check_texts_of_masks(seeds: range) -> int:
    """How many texts were valid by the schema as it is given and closed."""
    count = 0
    for seed in seeds:
        schema = RandomSchema(seed).schema
        try:
            matcher, made = GRAMMARS.matcher(Grammar("schema", json.dumps(schema))), closed(schema)
        except UsageError:
            continue
        for n in range(3):
            text = random_text(matcher.copy(), BYTES.eos_ids, 10 * seed + n)
            if text is not None:
                for judged in (schema, made):
                    jsonschema.Draft202012Validator(judged).validate(json.loads(text))
                count += 1
    return count


def test_texts_of_masks_are_valid_by_both() -> None:
    assert check_texts_of_masks(range(20_000, 20_080)) > 80


# -- work ------------------------------------------------------------------------------------------------------------


def chain(n: int) -> dict[str, Any]:
    """Each is all of the next and one member more."""
    links = {f"d{i}": {"allOf": [ref(f"d{i + 1}"), listed(f"p{i}")]} for i in range(n)}
    return {**ref("d0"), "$defs": {**links, f"d{n}": listed("end")}}


def web(n: int) -> dict[str, Any]:
    """Each is the next, twice."""
    links = {f"d{i}": {"allOf": [ref(f"d{i + 1}"), ref(f"d{i + 1}")]} for i in range(n)}
    return {**ref("d0"), "$defs": {**links, f"d{n}": listed("end")}}


SHAPES = {
    "members": lambda n: listed(*(f"p{i}" for i in range(n)), required=[f"p{i}" for i in range(n)]),
    "objects": lambda n: {"properties": {f"p{i}": listed("a", required=["a"]) for i in range(min(n, 400))}},
    "alternatives": lambda n: {"anyOf": [listed(f"p{i}", "k") for i in range(n)]},
    "parts": lambda n: {"allOf": [listed(f"p{i}") for i in range(n)]},
    "references": lambda n: {
        **ref("d0"),
        "$defs": {f"d{i}": {"properties": {"n": ref(f"d{i + 1}")}} for i in range(n)} | {f"d{n}": listed("end")},
    },
    "the same one": lambda n: {"prefixItems": [ref("A")] * n, "$defs": DEFS},
    "the same one as a part": lambda n: {"prefixItems": [{"allOf": [ref("A"), listed("b")]}] * n, "$defs": DEFS},
    "a web": web,
}


def steps(schema: Any) -> int:
    found = closing._Closer(json_schema.enforceable(json.dumps(schema)))
    found.whole()
    return found._work.steps


@pytest.mark.parametrize("shape", SHAPES)
def test_closing_takes_steps_in_proportion_to_the_schema(shape: str) -> None:
    assert steps(SHAPES[shape](400)) < 5 * steps(SHAPES[shape](100)) + 100


@pytest.mark.parametrize(
    "schema",
    [
        chain(700),
        listed(*(f"p{i}" for i in range(390)), anyOf=[listed(f"q{i}") for i in range(800)]),
    ],
)
def test_names_that_multiply_are_refused(schema: Any) -> None:
    with pytest.raises(UsageError, match="its references are too entangled"):
        closed(schema)
