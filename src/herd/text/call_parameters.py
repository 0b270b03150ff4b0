"""Arguments of calls that are written one by one (`herd.text.call_form.Parameters`): a tool's schema as a grammar.

    each of a tool's properties in its order, the optional ones or not: open, its name, middle, a value, close

A text that is written as it is ends where `close` begins, so it is held to its schema by regular expressions here, and
never holds a `close`; other values are JSON, held as any (`%json`). Where texts and others are allowed, a text never
looks like one of the others. What can be held to a schema in no such way is refused by name. What it is not: a reader
of calls (`herd.text.own_calls`).
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from herd.errors import UsageError, fail
from herd.grammars import PATTERNS
from herd.text.call_form import CallForm, Parameters, is_token, literal, rule
from herd.text.call_values import SPACE
from herd.text.own_calls import ALL_TYPES, Types, reads_as_text

MOST_REFERENCES = 32
"""References that follow one another."""
MOST_OPTIONS = 256
"""Ways to write the values of a tool that are told apart here."""
_NOTES = frozenset(
    (
        *("title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly", "$schema"),
        *("$id", "id", "$comment", "$defs", "definitions", "nullable", "strict", "contentEncoding", "contentMediaType"),
    )
)
"""Keywords that ask for nothing."""
_ASKING = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "$ref", "$dynamicRef", "$recursiveRef")
"""Keywords that may ask something of texts which is not held here."""
_OF_CALLS = frozenset(
    ("type", "properties", "required", "additionalProperties", "minProperties", "maxProperties", "propertyNames")
)
_KINDS: dict[type, str] = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}
_ANY = "(?s:.*)"
_WORDS = r"([Tt]rue|[Ff]alse|[Nn]one|null)\s*"
_LIKE_OTHERS = rf"(?s:\s*([\[{{].*|[-+.0-9][-+.0-9eE_]*\s*|{_WORDS}))"
"""What may be read as a value that is no text."""
_BEGUN_LIKE_OTHERS = rf"(?s:\s*([-+.0-9\[{{].*|{_WORDS}))"
"""And what begins like a number."""
_NUMBERS = {"integer": "-?(0|[1-9][0-9]*)", "number": r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]{1,2})?"}
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "anyOf", "oneOf", "allOf")
"""Keywords with which numbers are left to `%json`."""
_PIECES = re.compile(r"\\.|\[\^?+\]?+(?:\\.|[^\]\\])*+\]?+|.", re.DOTALL)
_FREE_NAME = "[A-Za-z_][A-Za-z0-9_]{0,63}"


def types_of(tools: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Types]]:
    """Tool -> its parameters -> what they may be, as far as their schemas say."""
    found: dict[str, dict[str, Types]] = {}
    for tool in tools:
        root = tool.get("parameters")
        properties = _resolved(root, root).get("properties")
        listed = properties.items() if isinstance(properties, Mapping) else ()
        found[tool["name"]] = {name: _types(schema, root) for name, schema in listed}
    return found


def one_by_one(name: str, tool: str, schema: Mapping[str, Any], form: CallForm) -> list[str]:
    """Rules of a grammar for the arguments of a tool, the first of this name. Raises UsageError for what cannot be
    written so."""
    return list(_Rules(name, tool, schema, form).all())


class _Rules:
    def __init__(self, name: str, tool: str, root: Mapping[str, Any], form: CallForm) -> None:
        assert form.parameters is not None
        self._name, self._tool, self._root, self._form = name, tool, root, form
        self._parameters: Parameters = form.parameters
        self._terminals: dict[str, str] = {}
        """Regular expression -> the name of its rule."""
        self._left = MOST_OPTIONS
        close = form.parameters.close
        at = next((i for i, char in enumerate(close) if is_token(char)), None)
        self._shut, self._behind = (close, "") if at is None else (close[:at], close[at:])
        """What a text is followed by, up to the first control token, and the rest."""
        core = close.strip(SPACE)
        self._without = None if at is not None else f"{_ANY}{_escaped(core)}{_ANY}"
        self._core = None if at is not None else core

    def all(self) -> Iterator[str]:
        """The rules."""
        schema = _resolved(self._root, self._root)
        wrong = [key for key in schema if key not in _NOTES | _OF_CALLS and not _asks_nothing(key, schema[key])]
        if wrong:
            self._refuse("parameters", wrong[0], "one list of properties")
        properties, required = schema.get("properties") or {}, list(filter(_is_text, _list(schema.get("required"))))
        if not isinstance(properties, Mapping):
            self._refuse("properties", type(properties).__name__, "an object of schemas")
        names = [*properties, *(name for name in required if name not in properties)]
        more = schema.get("additionalProperties", not properties)
        rules, parts = [], []
        for i, key in enumerate(names):
            values = self._values(key, properties[key]) if key in properties else self._values(key, more, ALL_TYPES)
            if values:
                rules.append(f"{self._name}_{i}: {self._opened(key)} ({' | '.join(values)})")
                parts.append(f"{self._name}_{i}" + ("" if key in required else "?"))
            elif key in required:
                self._refuse(key, "a schema of which no value can be written", "a value without " + repr(self._core))
        if more not in (False, None) and not properties:
            rules += self._free(names, more)
            parts.append(f"{self._name}_more*")
        self._check_counts(schema, len(names), len(required), f"{self._name}_more*" in parts)
        yield f"{self._name}: {' '.join(parts) or literal('')}"
        yield from rules
        yield from (f"{name}: {held}" for held, name in self._terminals.items())
        yield f"{self._name}_whole: %json {json.dumps(self._root)}"  # nothing leads there: it is checked as any schema

    def _check_counts(self, schema: Mapping[str, Any], most: int, least: int, free: bool) -> None:
        """Counts of properties that what is written may miss are refused."""
        low, high = (int(_count(schema.get(name)) or -1) for name in ("minProperties", "maxProperties"))
        if low > least:
            self._refuse("parameters", f"minProperties {low}", "required properties instead")
        if high >= 0 and (free or high < most):
            self._refuse("parameters", f"maxProperties {high}", "fewer properties instead")

    def _opened(self, key: str) -> str:
        """What stands before a value."""
        form = self._parameters
        if form.middle.strip(SPACE)[0] in key or key != key.strip() or any(map(is_token, key)) or not key:
            self._refuse(key, "this name", "one without signs")
        tokens = self._form.tokens
        return f"{rule(form.open, tokens)} {literal(key)} {rule(form.middle, tokens)}"

    def _free(self, names: Sequence[str], schema: Any) -> list[str]:
        """Rules for parameters that are not listed."""
        form, tokens = self._parameters, self._form.tokens
        apart = f" & ~/({'|'.join(map(_escaped, names))})/" if names else ""
        name = self._name.upper()
        opened = f"{rule(form.open, tokens)} {name}_KEY {rule(form.middle, tokens)}"
        return [
            f"{name}_KEY: /{_FREE_NAME}/{apart}",
            f"{self._name}_more: {opened} ({' | '.join(self._values('more', schema, ALL_TYPES))})",
        ]

    def _values(self, key: str, schema: Any, types: Types | None = None) -> list[str]:
        """Each way to write a value, with what closes it. types: as which it is read; None: as its own."""
        found: list[str] = []
        types, options = types or _types(schema, self._root), list(self._options(key, schema))
        numbers = [one for one in options if not _types(one, self._root).isdisjoint(_NUMBERS)]
        is_bounded = any(name in one for one in numbers for name in _BOUNDS)
        apart = "" if types == {"string"} else _BEGUN_LIKE_OTHERS if is_bounded else _LIKE_OTHERS
        has_texts = any("string" in _types(one, self._root) and _listed(one) is None for one in options)
        for option in options:
            found += self._texts(key, option, types, apart)
            found += self._others(option, beside=has_texts and self._parameters.raw and not is_bounded)
        return list(dict.fromkeys(found))

    def _options(self, key: str, schema: Any) -> Iterator[Mapping[str, Any]]:
        """The schemas one of which a value fits, without references and choices, unless they are of no texts."""
        self._left -= 1
        if self._left < 0:
            self._refuse(key, f"more than {MOST_OPTIONS} ways to write the values", "fewer")
        if schema is False:
            return
        schema = _resolved(schema, self._root)
        choices = next((name for name in ("anyOf", "oneOf") if name in schema), None)
        if "string" not in _types(schema, self._root):
            yield schema
        elif choices is not None:
            rest = {name: said for name, said in schema.items() if name != choices}
            options = [_resolved(option, self._root) for option in _list(schema[choices]) if option is not False]
            if any(_differ(rest, option) for option in options):
                self._refuse(key, f"{choices} beside other keywords", "either of them")
            if choices == "oneOf" and not _are_apart([_types(one, self._root) for one in options]):
                self._refuse(key, "oneOf whose options share a type", "anyOf")
            for option in options:
                yield from self._options(key, {**rest, **option})
        else:
            yield schema

    def _texts(self, key: str, schema: Mapping[str, Any], types: Types, apart: str) -> list[str]:
        """Ways to write a text. types: as which it is read; apart: an expression of what it must not look like."""
        if "string" not in _types(schema, self._root):
            return []
        wrong = [name for name in schema if name in _ASKING]
        if wrong:
            self._refuse(key, wrong[0], "type, enum, pattern, format and lengths")
        if not self._parameters.raw:
            return [f"%json {self._json({**schema, 'type': 'string'})} {self._closing()}"]
        listed = _listed(schema)
        if listed is not None:
            texts = [one for one in listed if isinstance(one, str) and self._can_say(one, types)]
            return [self._literally(text) for text in texts]
        parts = [f"/{_slashed(part)}/" for part in self._patterns(key, schema)]
        parts += [f"~/{_slashed(no)}/" for no in (apart, self._without) if no]
        return [self._closed(" & ".join(parts))]

    def _literally(self, text: str) -> str:
        """A value with what closes it."""
        return self._and_behind(literal(text + self._shut))

    def _closed(self, held: str) -> str:
        """A regular expression with what closes a value, as one terminal: where several may go on, the longest does."""
        whole = f"({held}) {literal(self._shut)}" if self._shut else held
        name = self._terminals.setdefault(whole, f"{self._name.upper()}_VALUE_{len(self._terminals)}")
        return self._and_behind(name)

    def _and_behind(self, rules: str) -> str:
        return f"{rules} {rule(self._behind, self._form.tokens)}" if self._behind else rules

    def _others(self, schema: Mapping[str, Any], *, beside: bool) -> list[str]:
        """Ways to write a value that is no text. beside: whether texts may begin like a number."""
        types = _types(schema, self._root) - {"string"}
        listed = _listed(schema)
        if listed is not None:
            found = [one for one in listed if not isinstance(one, str) and _KINDS[type(one)] in types]
            said = (self._parameters.value(one) for one in found if self._word(one) is not None)
            return [self._literally(text) for text in said]
        words = [self._word(value) for value in (True, False, None) if _KINDS[type(value)] in types]
        written = [self._literally(word) for word in words if word is not None]
        rest = sorted(types - {"boolean", "null"} - (set(_NUMBERS) if beside else set()))
        if beside:
            written += [self._closed(f"/{_NUMBERS[name]}/") for name in ("number", "integer") if name in types][:1]
        if not rest:
            return written
        asked = {**schema, "type": rest} if "anyOf" not in schema and "oneOf" not in schema else schema
        return [*written, f"%json {self._json(asked)} {self._closing()}"]

    def _word(self, value: Any) -> str | None:
        """How a value is written that the form may have a word for."""
        words = zip(self._parameters.words, (True, False, None), strict=True)
        return next((word for word, meant in words if value is meant), "") if value in (True, False, None) else ""

    def _json(self, schema: Mapping[str, Any]) -> str:
        tables = {name: self._root[name] for name in ("$defs", "definitions") if name in self._root}
        return json.dumps({**schema, **tables})

    def _closing(self) -> str:
        return rule(self._parameters.close, self._form.tokens)

    def _can_say(self, text: str, types: Types) -> bool:
        """Whether a text is read as itself."""
        return (self._core is None or self._core not in text) and (types == {"string"} or reads_as_text(text, types))

    def _patterns(self, key: str, schema: Mapping[str, Any]) -> Iterator[str]:
        """Regular expressions each of which a whole text matches."""
        yield _ANY
        least, most = (_count(schema.get(name)) for name in ("minLength", "maxLength"))
        if least or most:
            yield f"(?s:.{{{least or 0},{most}}})"
        if isinstance(schema.get("pattern"), str):
            if self._core is not None and self._core in schema["pattern"].replace("\\", ""):
                self._refuse(key, f"a pattern with {self._core}, which ends a value", "another pattern")
            yield self._whole(key, schema["pattern"])
        pattern = PATTERNS.get(str(schema.get("format")))
        if pattern is not None:
            yield self._whole(key, pattern)

    def _whole(self, key: str, pattern: str) -> str:
        """A pattern that is looked for anywhere as one that the whole text matches."""
        branches = [""]
        depth = 0
        for piece in _PIECES.findall(pattern):
            depth += {"(": 1, ")": -1}.get(piece, 0)
            if piece == "|" and depth == 0:
                branches.append("")
            else:
                branches[-1] += piece
        return "|".join(f"({self._anchored(key, branch)})" for branch in branches)

    def _anchored(self, key: str, branch: str) -> str:
        begins, ends = branch.startswith("^"), branch.endswith("$") and not branch.endswith("\\$")
        inner = branch[begins : len(branch) - ends]
        if any(piece in ("^", "$", r"\b", r"\B", r"\A", r"\Z") for piece in _PIECES.findall(inner)):
            self._refuse(key, "a pattern with ^ or $ inside", "them at its ends alone")
        return f"{'' if begins else _ANY}({inner}){'' if ends else _ANY}"

    def _refuse(self, key: str, got: str, expected: str) -> NoReturn:
        what = f"tool {self._tool}: {key}: this model writes calls parameter by parameter"
        fail(UsageError, what, got=got, expected=expected, do="change the schema, or leave the call to the model")


def _types(schema: Any, root: Any, known: dict[int, Types] | None = None) -> Types:
    """What a value may be, at the most. known: of schemas that were looked at, or are being looked at."""
    known = {} if known is None else known
    if schema is False or id(schema) in known:
        return known.get(id(schema), Types())
    known[id(schema)] = Types()
    node = _resolved(schema, root)
    found, listed, said = ALL_TYPES, _listed(node), node.get("type")
    if listed is not None:
        found = Types(_KINDS.get(type(one), "") for one in listed)
    if isinstance(said, str | list):
        given = {said} if isinstance(said, str) else set(map(str, said))
        found &= given | ({"integer"} if "number" in given else set())
    for name in ("anyOf", "oneOf"):
        if isinstance(node.get(name), list):
            found &= Types().union(*(_types(one, root, known) for one in node[name]))
    for one in node["allOf"] if isinstance(node.get("allOf"), list) else ():
        found &= _types(one, root, known)
    known[id(schema)] = found
    return found


def _resolved(schema: Any, root: Any) -> dict[str, Any]:
    """A schema with what its reference leads to, and a list of one put in its place."""
    found = dict(schema) if isinstance(schema, Mapping) else {}
    for _ in range(MOST_REFERENCES):
        if isinstance(found.get("$ref"), str):
            found = {**_at(root, found["$ref"]), **{k: v for k, v in found.items() if k != "$ref"}}
        elif isinstance(found.get("allOf"), list) and len(found["allOf"]) == 1:
            only = found.pop("allOf")[0]
            found = {**(only if isinstance(only, Mapping) else {}), **found}
        else:
            break
    return found


def _at(root: Any, pointer: str) -> Mapping[str, Any]:
    """What a reference within a schema leads to; nothing where it leads nowhere, which is told elsewhere."""
    found: Any = root
    for step in pointer.removeprefix("#").strip("/").split("/") if pointer not in ("#", "") else ():
        step = step.replace("~1", "/").replace("~0", "~")
        found = found.get(step) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _listed(schema: Mapping[str, Any]) -> list[Any] | None:
    """The values that a schema lists."""
    if "const" in schema:
        return [schema["const"]]
    return schema["enum"] if isinstance(schema.get("enum"), list) else None


def _list(said: Any) -> list[Any]:
    """What should be a list; that it is none is told elsewhere."""
    return said if isinstance(said, list) else []


def _is_text(said: Any) -> bool:
    return isinstance(said, str)


def _count(said: Any) -> str:
    """What should be a whole number, or nothing."""
    return f"{said:.0f}" if type(said) in (int, float) and 0 <= said <= 1e9 else ""


def _asks_nothing(key: str, said: Any) -> bool:
    """Whether a keyword beside properties asks for nothing that is not so anyway: no other properties are written."""
    return key not in (*_ASKING, "patternProperties", "enum", "const") or said in (None, {}, [], True)


def _differ(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two schemas ask different things by one keyword."""
    return any(name in other and other[name] != one[name] for name in one if name not in _NOTES)


def _are_apart(types: Sequence[Types]) -> bool:
    return sum(map(len, types)) == len(Types().union(*types))


def _escaped(text: str) -> str:
    """A text as a regular expression."""
    return "".join(char if char.isalnum() or char in "_<>" or char > "\x7f" else f"\\x{ord(char):02x}" for char in text)


def _slashed(pattern: str) -> str:
    """A regular expression between slashes."""
    found = (
        piece if len(piece) > 1 and piece[0] == "\\" else piece.replace("/", "\\/")
        for piece in _PIECES.findall(pattern)
    )
    return "".join(found).replace("\n", "\\n")
