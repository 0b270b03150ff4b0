"""JSON schemas before they become masks: each keyword is enforced, says nothing about a text, or is refused by name.

    text -> JSON (limits) -> every node (KEYWORDS) -> a schema of the same meaning, in the words that masks enforce

A refusal names the place as a JSON pointer (RFC 6901) into the schema as it was given. What is rewritten: references
become those of one table, `$defs`; lists of `items` become `prefixItems` (2020-12); `format` becomes a pattern where
llguidance's own is wider than the format; `oneOf` becomes `anyOf` where no two of its options share a value. Unknown
keywords and formats are annotations, as the standard says (2020-12 core, 6.5; validation, 7.2.1). `unheld` names what a
schema asks and masks do not hold. What it is not: a validator of instances, a compiler; nothing is ever fetched.

Sources: JSON Schema 2020-12 (core, validation); llguidance 1.9 (its own docs/json_schema.md), whose real behaviour
tests/grammar/test_json_schema.py holds each row of KEYWORDS against.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NoReturn, TypeAlias
from urllib.parse import unquote

from herd.errors import UsageError, fail
from herd.grammar.regexes import MAX_REPEATS, repeats
from herd.grammars import PATTERNS
from herd.strict_json import excess, unique

MAX_DEPTH = 64
MAX_COUNT = 10_000
"""The largest value of minItems, maxItems, minLength and their kind."""
MAX_NUMBER = 2**53 - 1
"""The largest bound of numbers: above it, neighbouring whole numbers are no longer told apart by every reader of JSON.
zod's `int()` writes these bounds."""
MAX_WORK = 200_000
"""Nodes looked at to find out whether every text comes to an end, and which options of `oneOf` share values."""
MAX_OPTIONAL = 400
"""Members of one object that may be left out."""
LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
TABLES = ("properties", "patternProperties")
SINGLE = ("additionalProperties", "items")
"""Keywords that hold schemas, once rewritten: in a list, by name, one."""
TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")

Node = dict[str, Any]
Place: TypeAlias = "tuple[Place, str | int] | None"
"""Where a node stands: its parent's place and its key there; None: the whole schema. Spelt only when it is told: the
names above many small nodes may be long."""

ANNOTATIONS = (
    *("$schema", "$id", "id", "$anchor", "$comment", "$defs", "definitions", "$vocabulary", "$dynamicAnchor"),
    *("title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly"),
    *("contentEncoding", "contentMediaType", "contentSchema", "discriminator", "nullable", "strict"),
)
"""Known, and nothing that a text must obey. `nullable` (OpenAPI 3.0) would allow more than is written."""

REFUSED = {
    "$dynamicRef": "write a $ref",
    "$recursiveRef": "write a $ref",
    "not": "say what is wanted",
    "if": "write the cases as anyOf",
    "then": "write the cases as anyOf",
    "else": "write the cases as anyOf",
    "contains": "give items, or leave it out and check the answer",
    "minContains": "give minItems, or leave it out and check the answer",
    "maxContains": "give maxItems, or leave it out and check the answer",
    "dependentRequired": "write the cases as anyOf",
    "dependentSchemas": "write the cases as anyOf",
    "dependencies": "write the cases as anyOf",
    "unevaluatedItems": "give items false",
    "unevaluatedProperties": "give additionalProperties false",
    "x-guidance": "leave it out: how JSON is spaced is not for a schema to say",
}
"""What a mask cannot hold a text to, and what to do instead."""
VACUOUS: dict[str, tuple[Any, ...]] = {
    "unevaluatedItems": (True, {}),
    "unevaluatedProperties": (True, {}),
}
"""Values of refused keywords that ask for nothing."""

FORMATS: dict[str, str | None] = {
    **{name: PATTERNS[name] for name in ("date", "time", "date-time")},
    **dict.fromkeys(("duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"), None),
}
"""Enforced formats: the pattern, or None where llguidance's own is exact. RFC 3339 without its leap seconds, which
few readers take, and without years before 1."""
FREE_FORMATS = ("password", "binary", "byte", "int32", "int64", "float", "double", "decimal")
"""Formats of OpenAPI that any text or number of the right type is."""


def enforceable(text: str) -> "Checked":
    """The schema to compile. Raises UsageError with the place and what to do."""
    return _Rewriter(parsed(text)).whole()


def parsed(text: str) -> Any:
    """JSON within limits. Raises UsageError."""
    if excess(text.encode("utf-8", "surrogatepass"), depth=MAX_DEPTH, values=len(text)):
        fail(UsageError, "schema", got=f"more than {MAX_DEPTH} levels", expected=f"at most {MAX_DEPTH}")
    try:
        found = json.loads(text, object_pairs_hook=unique(_twice), parse_constant=_constant, parse_float=_finite)
        json.dumps(found, ensure_ascii=False).encode()  # a lone surrogate is no text
        return found
    except (ValueError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        fail(UsageError, "schema", got=f"no JSON ({error})", expected="a JSON schema")


def _twice(name: str) -> NoReturn:
    fail(UsageError, "schema", got=f"the key {name!r} twice in one object", expected="each key once")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _constant(text)


def _constant(name: str) -> NoReturn:
    fail(UsageError, "schema", got=name, expected="finite numbers")


@dataclass
class Checked:
    """A schema of the same meaning, in the words that masks enforce."""

    schema: Node
    places: dict[int, Place]
    """id of each node in it -> where it came from."""
    order: list[str]
    """Names of its definitions, each after those that it refers to for the same value."""


def blame(checked: Checked, why_not: Callable[[Node], str | None], why: str) -> NoReturn:
    """Refuse a schema that a compiler refuses, with the place of the smallest part that it refuses as well.

    why_not: what is wrong with a schema, or None. why: what is wrong with the whole.
    """
    defs = checked.schema.get("$defs", {})
    node, tries, seen = checked.schema, MAX_TRIES, set[int]()
    while id(node) not in seen:
        seen.add(id(node))
        inner = [defs[leads_to(node)]] if "$ref" in node else []
        for part in (*inner, *children(node)):
            if not isinstance(part, dict) or tries == 0:
                continue
            tries -= 1
            found = why_not(part | {"$defs": defs})
            if found is not None and found.startswith(UNSATISFIABLE) == why.startswith(UNSATISFIABLE):
                node, why = part, found
                break
    do = "write it another way"
    for beginning, (words, instead) in REASONS.items():
        if why.startswith(beginning):
            why, do = words + why.removeprefix(beginning), instead
    _refuse(checked.places.get(id(node)), why, do)


MAX_TRIES = 100
UNSATISFIABLE = "Unsatisfiable schema"
REASONS = {
    UNSATISFIABLE: ("no text matches it", "correct it"),
    "oneOf constraints are not supported. Enable 'coerce_one_of' option to approximate oneOf with anyOf": (
        "oneOf: a value might be two of its options at once",
        "write anyOf, or give each option a required property with another const",
    ),
}
"""How llguidance begins what it says -> in our words, and what to do."""


class _Rewriter:
    """One schema on its way: rewrites each node once, references into a table."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._places: dict[int, Place] = {}
        self._targets: list[tuple[Any, Place]] = []
        """What references lead to, in the order of their names in `$defs`."""
        self._names: dict[int, str] = {}
        """id of each of them -> its name: one node is one definition, however its pointer is spelt."""
        self._defs: dict[str, Any] = {}

    def whole(self) -> Checked:
        schema = self.node(self._root, None)
        if schema is False:
            _refuse(None, "the schema is false", "no text matches it")
        schema = {} if schema is True else schema
        for target, place in self._targets:  # which grows meanwhile
            self._defs[self._names[id(target)]] = self.node(target, place)
        inner_first = self._check_loops()
        _Ends(self._defs).check(schema, self._places)
        _split_one_of([schema, *self._defs.values()], self._defs)
        _Divisors(self._places).check({name: self._defs[name] for name in inner_first}, schema)
        if self._defs:
            schema["$defs"] = self._defs
        return Checked(schema, self._places, inner_first)

    def _check_loops(self) -> list[str]:
        """Refuse references that come back to where they began without a step into a value. Names of the definitions,
        each after those that it leads to."""
        over: dict[str, None] = {}
        under_way: dict[str, Iterator[str]] = {}
        for begin in self._defs:
            if begin not in over:
                under_way[begin] = _references(self._defs[begin])
            while under_way:
                name = next(reversed(under_way))
                target = next(under_way[name], None)
                if target is None:
                    del under_way[name]
                    over[name] = None
                elif target in under_way:
                    _refuse(self._places[id(self._defs[target])], "its references lead back to itself", "end the loop")
                elif target not in over:
                    under_way[target] = _references(self._defs[target])
        return list(over)

    def node(self, schema: Any, place: Place) -> Any:
        """A schema rewritten: true, false or an object."""
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            _refuse(place, f"got {_kind(schema)}", "a schema is an object or a boolean")
        new: Node = {}
        self._places[id(new)] = place
        for keyword, value in schema.items():
            here = place, keyword
            if keyword in REFUSED:
                if not any(value is v or (value == v and type(value) is type(v)) for v in VACUOUS.get(keyword, ())):
                    _refuse(here, f"{keyword} cannot be enforced", REFUSED[keyword])
                if keyword == "unevaluatedProperties":
                    new.setdefault("additionalProperties", True)  # it says as much: others may come
            elif keyword in KEYWORDS:
                KEYWORDS[keyword](self, new, value, here, schema)
            elif keyword == "uniqueItems" and not isinstance(value, bool):
                _refuse(here, f"got {_kind(value)}", "true or false")
            elif keyword == "$id" and place is not None:
                _refuse(here, "$id inside a schema changes what a $ref means", "leave it out")
        if schema.get("uniqueItems") is True:
            _bound_by_values(new)
        return new

    def reference(self, new: Node, value: Any, here: Place) -> None:
        """`$ref`."""
        target, place = self._target(value, here)
        if id(target) not in self._names:
            self._names[id(target)] = f"d{len(self._names)}"
            self._targets.append((target, place))
        new["$ref"] = f"#/$defs/{self._names[id(target)]}"

    def names(self, schema: Any, here: Place) -> "Names":
        """What a schema of names asks of one."""
        for _ in range(MAX_DEPTH):
            if not isinstance(schema, dict) or "$ref" not in schema:
                return _names_of(self.node(schema, here), here)
            beside = [keyword for keyword in schema if keyword in KEYWORDS and keyword != "$ref"]
            if beside:
                _refuse((here, beside[0]), "names of members are not held to it beside a $ref", "leave the $ref out")
            schema, here = self._target(schema["$ref"], (here, "$ref"))
        return _refuse(here, f"more than {MAX_DEPTH} references in a row", "name the definition itself")

    def _target(self, value: Any, here: Place) -> tuple[Any, Place]:
        """What a reference leads to, and where that is."""
        if not isinstance(value, str) or not (value == "#" or value.startswith("#/")):
            _refuse(here, f"got {json.dumps(value)[:80]}", "write a reference into this schema, like #/$defs/name")
        try:
            return _at(self._root, unquote(value[1:]))
        except LookupError:
            _refuse(here, f"{value[:80]} leads nowhere", "write a reference into this schema, like #/$defs/name")


# -- keywords: (the rewriter, the new node, the value, its place, the node as given) ----------------------------------


def _reference(to: _Rewriter, new: Node, value: Any, here: Place, _: Node) -> None:
    to.reference(new, value, here)


def _type(_: _Rewriter, new: Node, value: Any, here: Place, given: Node) -> None:
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(n, str) and n in TYPES for n in names):
        _refuse(here, f"got {json.dumps(value)[:80]}", "one of " + ", ".join(TYPES))
    new["type"] = list(dict.fromkeys(value)) if isinstance(value, list) else value


def _enum(_: _Rewriter, new: Node, value: Any, here: Place, given: Node) -> None:
    if not isinstance(value, list) or not value:
        _refuse(here, f"got {json.dumps(value)[:80]}", "a list of one or more values")
    for i, one in enumerate(value):
        _check_value(one, (here, i))
    new["enum"] = value


def _const(_: _Rewriter, new: Node, value: Any, here: Place, given: Node) -> None:
    _check_value(value, here)
    new["const"] = value


def _check_value(value: Any, here: Place) -> None:
    """A value that may be written as it stands."""
    if isinstance(value, dict | list):
        for name, one in value.items() if isinstance(value, dict) else enumerate(value):
            _check_value(one, (here, name))
    elif isinstance(value, int | float) and abs(value) > MAX_NUMBER:
        _refuse(here, f"got {str(value)[:40]}", f"a number from -{MAX_NUMBER} to {MAX_NUMBER}")


def _schemas(keyword: str) -> "Keyword":
    def read(to: _Rewriter, new: Node, value: Any, here: Place, given: Node) -> None:
        if not isinstance(value, list) or not value:
            _refuse(here, f"got {_kind(value)}", "a list of one or more schemas")
        new.setdefault(keyword, []).extend(to.node(s, (here, i)) for i, s in enumerate(value))

    return read


def _by_name(keyword: str) -> "Keyword":
    def read(to: _Rewriter, new: Node, value: Any, here: Place, given: Node) -> None:
        if not isinstance(value, dict):
            _refuse(here, f"got {_kind(value)}", "an object of schemas")
        if keyword == "patternProperties":
            for pattern in value:
                _check_pattern(pattern, (here, pattern))
        else:
            _check_optional(value, given.get("required"), here)
        new[keyword] = {name: to.node(s, (here, name)) for name, s in value.items()}

    return read


def _check_optional(names: Mapping[str, Any], required: Any, here: Place) -> None:
    """Any of them may come next, and a mask has a bound for what may."""
    listed = {n for n in required if isinstance(n, str)} if isinstance(required, list) else set[str]()
    optional = sum(name not in listed for name in names)
    if optional > MAX_OPTIONAL:
        _refuse(here, f"{optional} members that may be left out", f"at most {MAX_OPTIONAL}; list others in `required`")


Names: TypeAlias = "list[str] | str | None"
"""What names of members there may be: these, those of a pattern, or any."""


def _property_names(to: _Rewriter, new: Node, value: Any, here: Place, given: Node) -> None:
    """`propertyNames`, as `Names`; `herd.grammar.closing` makes members of them."""
    names = to.names(value, here)
    if names is None:
        return
    if "patternProperties" in given:
        _refuse(here, "names are not held to it beside patternProperties", "give one of them")
    if isinstance(names, list):
        _check_optional(dict.fromkeys(names), given.get("required"), here)
    elif not _stands_alone(given):
        _refuse(here, "names are not held to a pattern beside other members", "list them as its enum, or leave it out")
    new["propertyNames"] = names


def _stands_alone(given: Node) -> bool:
    """Whether nothing else in a node says which members there are."""
    return not given.get("properties") and not any(keyword in given for keyword in ("$ref", "allOf", "anyOf", "oneOf"))


def _names_of(schema: Any, here: Place) -> Names:
    """What a rewritten schema allows, of texts alone."""
    if isinstance(schema, bool):
        return None if schema else []
    for keyword in ("allOf", "anyOf", "oneOf", "format"):
        if keyword in schema:
            _refuse((here, keyword), f"names of members are not held to {keyword}", "give an enum or a pattern")
    types = schema.get("type", "string")
    if "string" not in ([types] if isinstance(types, str) else types):
        return []
    patterns = [schema["pattern"]] if "pattern" in schema else []
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    if least or most is not None:
        patterns.append(f"^[\\s\\S]{{{least},{'' if most is None else most}}}$")
    listed = schema["enum"] if "enum" in schema else [schema["const"]] if "const" in schema else None
    if len(patterns) + (listed is not None) > 1:
        _refuse(here, "names of members are held to one of enum, pattern and lengths", "give one of them")
    return patterns[0] if patterns else None if listed is None else [v for v in listed if isinstance(v, str)]


def _schema(keyword: str) -> "Keyword":
    def read(to: _Rewriter, new: Node, value: Any, here: Place, given: Node) -> None:
        new[keyword] = to.node(value, here)

    return read


def _items(to: _Rewriter, new: Node, value: Any, here: Place, given: Node) -> None:
    if isinstance(value, list):  # before 2020-12: one schema a place
        new["prefixItems"] = [to.node(s, (here, i)) for i, s in enumerate(value)]
    else:
        new["items"] = to.node(value, here)


def _additional_items(to: _Rewriter, new: Node, value: Any, here: Place, given: Node) -> None:
    if isinstance(given.get("items"), list):
        new["items"] = to.node(value, here)


def _required(_: _Rewriter, new: Node, value: Any, here: Place, given: Node) -> None:
    if not isinstance(value, list) or not all(isinstance(n, str) for n in value):
        _refuse(here, f"got {_kind(value)}", "a list of names")
    new["required"] = list(dict.fromkeys(value))


def _count(keyword: str) -> "Keyword":
    def read(_: _Rewriter, new: Node, value: Any, here: Place, given: Node) -> None:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
            _refuse(here, f"got {json.dumps(value)[:40]}", f"a whole number from 0 to {MAX_COUNT}")
        if keyword == "minProperties" and value > len(given.get("required", ())) + 1:
            _refuse(here, "names beyond the required ones may repeat each other", "list the names in `required`")
        new[keyword] = value

    return read


def _bound(keyword: str) -> "Keyword":
    def read(_: _Rewriter, new: Node, value: Any, here: Place, given: Node) -> None:
        if isinstance(value, bool) and keyword.startswith("exclusive"):  # draft 4: makes the bound beside it exclusive
            plain = "m" + keyword.removeprefix("exclusiveM")
            if value and plain in given:
                new[keyword] = given[plain]
            return
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_NUMBER:
            _refuse(here, f"got {json.dumps(value)[:40]}", f"a number from -{MAX_NUMBER} to {MAX_NUMBER}")
        if keyword == "multipleOf" and value <= 0:
            _refuse(here, f"got {value}", "a number above 0")
        new[keyword] = value

    return read


def _pattern(_: _Rewriter, new: Node, value: Any, here: Place, given: Node) -> None:
    if not isinstance(value, str):
        _refuse(here, f"got {_kind(value)}", "a regular expression")
    _check_pattern(value, here)
    new["pattern"] = value


def _check_pattern(pattern: str, here: Place) -> None:
    if _UNLIKE.search(re.sub(r"\\.", "", pattern, flags=re.DOTALL)):
        _refuse(here, "[], [^], and [, &&, -- and ~~ inside [...] mean other things to other readers", "escape them")
    if repeats(pattern) > MAX_REPEATS:
        _refuse(here, f"counts inside counts multiply to more than {MAX_REPEATS}", "write smaller ones")


_UNLIKE = re.compile(r"\[\^?+(?:\]|[^\]]*?(?:\[|&&|--|~~))")
"""What ECMA 262, which patterns are written in, and llguidance read differently, once escapes are gone."""


def _bound_by_values(new: Node) -> None:
    """Bound a list of unlike elements, which masks do not tell apart, by how many unlike ones there are."""
    items = new.get("items")
    if not isinstance(items, dict) or "prefixItems" in new:
        return
    values = [items["const"]] if "const" in items else items.get("enum")
    if values is None and items.get("type") in ("boolean", "null"):
        values = [True, False] if items["type"] == "boolean" else [None]
    if values is not None:
        unlike = len({json.dumps(value, sort_keys=True) for value in values})
        new["maxItems"] = min(new.get("maxItems", unlike), unlike)


def _format(to: _Rewriter, new: Node, value: Any, here: Place, given: Node) -> None:
    if not isinstance(value, str):
        _refuse(here, f"got {_kind(value)}", "the name of a format")
    if value not in FORMATS:
        return
    pattern = FORMATS[value]
    if pattern is None:
        new["format"] = value
    elif "pattern" not in given:
        new["pattern"] = pattern
    else:
        also: Node = {"pattern": pattern} | ({"type": given["type"]} if "type" in given else {})
        to._places[id(also)] = here
        new.setdefault("allOf", []).append(also)


Keyword = Callable[[_Rewriter, Node, Any, Place, Node], None]

KEYWORDS: dict[str, Keyword] = {
    "type": _type,
    "enum": _enum,
    "const": _const,
    "$ref": _reference,
    "allOf": _schemas("allOf"),
    "anyOf": _schemas("anyOf"),
    "oneOf": _schemas("oneOf"),
    "properties": _by_name("properties"),
    "patternProperties": _by_name("patternProperties"),
    "additionalProperties": _schema("additionalProperties"),
    "propertyNames": _property_names,
    "required": _required,
    "minProperties": _count("minProperties"),
    "maxProperties": _count("maxProperties"),
    "items": _items,
    "prefixItems": _schemas("prefixItems"),
    "additionalItems": _additional_items,
    "minItems": _count("minItems"),
    "maxItems": _count("maxItems"),
    "minLength": _count("minLength"),
    "maxLength": _count("maxLength"),
    "pattern": _pattern,
    "format": _format,
    "minimum": _bound("minimum"),
    "maximum": _bound("maximum"),
    "exclusiveMinimum": _bound("exclusiveMinimum"),
    "exclusiveMaximum": _bound("exclusiveMaximum"),
    "multipleOf": _bound("multipleOf"),
}
"""Enforced: how each is read."""


def unheld(schema: Any) -> Iterator[str]:
    """Places of what a schema asks and masks do not hold a text to, as JSON pointers: `uniqueItems`, and formats that
    are neither enforced nor free."""
    waiting: list[tuple[Any, Place]] = [(schema, None)]
    while waiting:
        node, place = waiting.pop()
        if not isinstance(node, dict):
            continue
        if node.get("uniqueItems") is True and node.get("maxItems") not in (0, 1):
            yield _pointer((place, "uniqueItems"))
        form = node.get("format")
        if isinstance(form, str) and form not in FORMATS and form not in FREE_FORMATS:
            yield _pointer((place, "format"))
        waiting += reversed([*_given_children(node, place)])


def _given_children(node: Node, place: Place) -> Iterator[tuple[Any, Place]]:
    """The schemas right inside one as it was given, with their places."""
    for keyword in (*LISTS, *TABLES, "$defs", "definitions"):
        inner = node.get(keyword)
        members = inner.items() if isinstance(inner, dict) else enumerate(inner) if isinstance(inner, list) else ()
        yield from ((one, ((place, keyword), key)) for key, one in members)
    for keyword in (*SINGLE, "additionalItems"):
        inner = node.get(keyword)
        if isinstance(inner, list):  # items before 2020-12
            yield from ((one, ((place, keyword), i)) for i, one in enumerate(inner))
        else:
            yield inner, (place, keyword)


def _references(schema: Any) -> Iterator[str]:
    """Names in `$defs` to which the references of a schema lead that are for the same value as itself."""
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if "$ref" in node:
                yield leads_to(node)
            for keyword in ("allOf", "anyOf", "oneOf"):
                waiting += node.get(keyword, ())


def leads_to(node: Node) -> str:
    """Name of the definition that a node's reference leads to."""
    reference: str = node["$ref"]
    return reference.removeprefix("#/$defs/")


class Work:
    """Counts steps that references may multiply."""

    def __init__(self) -> None:
        self.steps = 0

    def add(self, steps: int = 1) -> None:
        """Refuse what takes too many: raises UsageError."""
        self.steps += steps
        if self.steps > MAX_WORK:
            _refuse(None, "its references are too entangled", "write it with fewer of them")


class _Ends:
    """Which schemas some finite text matches: the least fixed point over references."""

    def __init__(self, defs: Mapping[str, Any]) -> None:
        self._defs = defs
        self._ending: set[str] = set()
        self._work = Work()

    def check(self, root: Node, places: Mapping[int, Place]) -> None:
        used_by: dict[str, list[str]] = {}
        for name, schema in self._defs.items():
            for inner in {leads_to(node) for node in nodes([schema]) if "$ref" in node}:
                used_by.setdefault(inner, []).append(name)
        waiting = list(self._defs)
        while waiting:
            name = waiting.pop()
            if name not in self._ending and self._ends(self._defs[name]):
                self._ending.add(name)
                waiting += used_by.get(name, ())
        if not self._ends(root):
            endless = [s for n, s in self._defs.items() if n not in self._ending and isinstance(s, dict)]
            place = places[id(endless[0])] if endless else None
            _refuse(place, "no text that matches it ever ends", "let what refers to itself be left out, or be null")
        for node in nodes([root, *self._defs.values()]):
            self._prune(node)

    def _prune(self, node: Node) -> None:
        """Make what never ends false, so that no text begins it."""
        for keyword, value in node.items():
            if keyword in LISTS:
                node[keyword] = [self._ends(s) and s for s in value]
            elif keyword in TABLES:
                node[keyword] = {name: self._ends(s) and s for name, s in value.items()}
            elif keyword in SINGLE:
                node[keyword] = self._ends(value) and value

    def _ends(self, schema: Any) -> bool:
        self._work.add()
        if isinstance(schema, bool):
            return schema
        if "$ref" in schema and leads_to(schema) not in self._ending:
            return False
        if not all(self._ends(s) for s in schema.get("allOf", ())):
            return False
        if any(k in schema and not any(self._ends(s) for s in schema[k]) for k in ("anyOf", "oneOf")):
            return False
        types = schema.get("type", TYPES)
        types = [types] if isinstance(types, str) else types
        return any(self._type_ends(t, schema) for t in types)

    def _type_ends(self, name: str, schema: Node) -> bool:
        if name == "object":
            properties, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
            patterns, required = schema.get("patternProperties", {}), schema.get("required", ())
            if schema.get("minProperties", 0) > len(required):
                listed = set(required)
                others = [s for n, s in properties.items() if n not in listed]
                if not any(self._ends(s) for s in (*others, *patterns.values(), rest)):
                    return False
            return all(self._ends(properties.get(n, True if patterns else rest)) for n in required)
        if name == "array":
            first, rest = schema.get("prefixItems", ()), schema.get("items", True)
            least = schema.get("minItems", 0)
            return all(self._ends(s) for s in first[:least]) and (least <= len(first) or self._ends(rest))
        return True


class _Divisors:
    """What each value has to be divided by. A lexer has about as many states as there are remainders, fewer where the
    number ends with zeros, and several `multipleOf` of one value are one of their least common multiple."""

    def __init__(self, places: Mapping[int, Place]) -> None:
        self._places = places
        self._defs: dict[str, int] = {}
        self._states: dict[int, int] = {}

    def check(self, defs: Mapping[str, Any], root: Any) -> None:
        """Refuse one that is too large, and too many. defs: each after those that it refers to for the same value."""
        for name, schema in defs.items():
            self._defs[name] = self._of(schema)
        self._of(root)
        for node in nodes([*defs.values(), root]):
            for inner in (*node.get("prefixItems", ()), *_values(node)):
                self._of(inner)
        if sum(self._states.values()) > 2 * MAX_REMAINDERS:
            _refuse(None, f"its multipleOf have more than {2 * MAX_REMAINDERS} remainders", "use fewer or smaller ones")

    def _of(self, schema: Any) -> int:
        """The least common multiple of all that one value has to be divided by; of alternatives, the largest."""
        if not isinstance(schema, dict):
            return 1
        found = _divisor(schema["multipleOf"], schema.get("type") == "integer") if "multipleOf" in schema else 1
        for one in schema.get("allOf", ()):
            found = self._both(schema, found, self._of(one))
        if "$ref" in schema:
            found = self._both(schema, found, self._defs[leads_to(schema)])
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                found = max(self._both(schema, found, self._of(one)) for one in schema[keyword])
        return self._both(schema, found, 1)

    def _both(self, schema: Node, one: int, other: int) -> int:
        found = math.lcm(one, other)
        states = min(found, ZEROS * int(str(found).rstrip("0")))
        if states > MAX_REMAINDERS:
            _refuse(
                self._places[id(schema)], f"multipleOf: {found} has too many remainders", f"at most {MAX_REMAINDERS}"
            )
        if found > 1:
            self._states[found] = states
        return found


MAX_REMAINDERS = 100_000
ZEROS = 1_000
"""States that zeros at the end of a number come to, at most, for each remainder of what is before them."""


def _divisor(value: float, whole: bool) -> int:
    """How many remainders there are to tell apart, about: of whole numbers, digits of a fraction count as well."""
    number = Decimal(repr(value))
    return number.as_integer_ratio()[0] if whole or number == number.to_integral_value() else math.ceil(value)


def _values(node: Node) -> Iterator[Any]:
    """The schemas inside one that are of other values than its own, by name or for the rest."""
    for keyword in TABLES:
        yield from node.get(keyword, {}).values()
    for keyword in SINGLE:
        if keyword in node:
            yield node[keyword]


def _split_one_of(schemas: Sequence[Any], defs: Mapping[str, Any]) -> None:
    """Turn `oneOf` into `anyOf` wherever no value matches two of its options."""
    work = Work()
    for node in nodes(schemas):
        options = node.get("oneOf")
        if options and len(options) <= MAX_OPTIONS and "anyOf" not in node:
            known = [_Values.of(s, defs, work) for s in options]
            if all(a.apart(b, work) for i, a in enumerate(known) for b in known[:i]):
                renamed = {"anyOf" if k == "oneOf" else k: v for k, v in node.items()}
                node.clear()
                node.update(renamed)


MAX_OPTIONS = 200


def nodes(schemas: Sequence[Any]) -> Iterator[Node]:
    """All nodes of rewritten schemas."""
    waiting = [s for s in schemas if isinstance(s, dict)]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += [s for s in children(node) if isinstance(s, dict)]


def children(node: Node) -> Iterator[Any]:
    """The schemas right inside one."""
    for keyword in LISTS:
        yield from node.get(keyword, ())
    for keyword in TABLES:
        yield from node.get(keyword, {}).values()
    for keyword in SINGLE:
        if keyword in node:
            yield node[keyword]


@dataclass(frozen=True)
class _Values:
    """What is surely known of the values that a schema allows."""

    types: frozenset[str]
    exact: frozenset[str] | None = None
    """All values, as JSON, when they are listed."""
    parts: Mapping[str, "_Values"] = field(default_factory=dict)
    """The values of an object's required members, by name."""

    @classmethod
    def of(cls, schema: Any, defs: Mapping[str, Any], work: "Work", depth: int = 0) -> "_Values":
        """As far as references and required members go, a few levels deep."""
        work.add()
        if not isinstance(schema, dict) or depth > 4:
            return cls(frozenset(TYPES))
        if "$ref" in schema and len(schema) == 1:
            return cls.of(defs[leads_to(schema)], defs, work, depth + 1)
        listed = [schema["const"]] if "const" in schema else schema.get("enum")
        exact = None if listed is None else frozenset(json.dumps(v, sort_keys=True) for v in listed)
        types = schema.get("type", TYPES if listed is None else [_type_of(v) for v in listed])
        found = {types} if isinstance(types, str) else set(types)
        if "number" in found:
            found.add("integer")
        properties = schema.get("properties", {})
        parts = {n: cls.of(properties.get(n), defs, work, depth + 1) for n in schema.get("required", ())}
        return cls(frozenset(found), exact, parts)

    def apart(self, other: "_Values", work: "Work") -> bool:
        """Whether no value is in both."""
        work.add()
        if not self.types & other.types:
            return True
        if self.exact is not None and other.exact is not None:
            # 1 and 1.0 are one value: told apart only where no number is in play
            numbers = {"integer", "number"}
            return not (self.exact & other.exact) and not (numbers & self.types and numbers & other.types)
        if self.types & other.types != {"object"}:
            return False
        return any(n in other.parts and part.apart(other.parts[n], work) for n, part in self.parts.items())


def _type_of(value: Any) -> str:
    return _KINDS[type(value)]


_KINDS: dict[type, str] = {
    **{type(None): "null", bool: "boolean", int: "integer", float: "number"},
    **{str: "string", list: "array", dict: "object"},
}


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), type(value).__name__)


def _at(root: Any, pointer: str) -> tuple[Any, Place]:
    """What a JSON pointer leads to, and where that is. Raises LookupError."""
    place: Place = None
    for part in pointer.split("/")[1:]:
        name: str | int = part.replace("~1", "/").replace("~0", "~")
        if isinstance(root, list):
            if not (part.isascii() and part.isdecimal() and len(part) < 7):
                raise LookupError(part)
            name = int(part)
        elif not isinstance(root, dict):
            raise LookupError(part)
        root, place = root[name], (place, name)
    return root, place


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _refuse(place: Place, why: str, do: str) -> NoReturn:
    fail(UsageError, f"schema {_pointer(place)}: {why}", do=do)


def _pointer(place: Place) -> str:
    """A place as a JSON pointer, cut where it is long."""
    parts: list[str] = []
    while place is not None:
        place, key = place
        parts.append("/" + _escaped(str(key)))
    pointer = "".join(reversed(parts))
    if len(pointer) > MAX_POINTER:
        pointer = f"{pointer[: MAX_POINTER // 2]}...{pointer[-MAX_POINTER // 2 :]}"
    return f"#{pointer}"


MAX_POINTER = 400
"""Characters of a place that are told."""
