"""Random JSON schemas of every keyword, and random texts that masks let through."""

import random
from typing import Any

import numpy as np

from herd.grammar.masks import Matcher

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
NAMES = ("a", "b", "c", "x y", "é", 'q"uote')
PATTERNS = (
    "^a+$",
    "b",
    "^[a-c]{1,3}$",
    "\\d{2}",
    "^(x|yz)*$",
    "^\\w+@\\w+\\.com$",
    "a.c",
    "[^a]$",
    "a|^b$",
    "^\\S+$",
    "\\/",
)
FORMATS = ("date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
VALUES = (
    None,
    True,
    False,
    0,
    -7,
    0.5,
    1e3,
    "",
    "abc",
    "x\ny",
    "é",
    '"',
    "\\",
    "\u2028",
    "😀",
    "\x01",
    "<|eot|>",
    [],
    [1],
    {"a": 1},
)


class RandomSchema:
    """One schema a seed: up to three levels, references into up to two definitions."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        names = [f"t{i}" for i in range(self._random.randrange(3))]
        self._references = [f"#/$defs/{name}" for name in names]
        whole = self._schema(3)
        self.schema: dict[str, Any] = whole if isinstance(whole, dict) else {"anyOf": [whole]}
        if names:
            self.schema = {**self.schema, "$defs": {name: self._schema(2) for name in names}}

    def _chance(self, p: float) -> bool:
        return self._random.random() < p

    def _schema(self, depth: int) -> Any:
        if self._chance(0.05):
            return self._random.choice((True, False))
        if depth == 0:
            return self._leaf()
        makers = [self._object, self._object, self._array, self._several, lambda _: self._leaf()]
        if self._references:
            makers.append(lambda _: {"$ref": self._random.choice(self._references)})
        found = self._random.choice(makers)(depth - 1)
        if self._chance(0.15):
            beside = self._schema(depth - 1)
            found = {**found, **beside} if isinstance(beside, dict) else found
        return found

    def _several(self, depth: int) -> dict[str, Any]:
        keyword = self._random.choice(("anyOf", "anyOf", "allOf", "oneOf"))
        return {keyword: [self._schema(depth) for _ in range(self._random.randint(1, 3))]}

    def _leaf(self) -> dict[str, Any]:
        pick = self._random
        number = {"type": pick.choice(("integer", "number"))}
        for keyword in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
            if self._chance(0.3):
                number[keyword] = pick.choice((pick.randint(-200, 200), pick.randint(-90, 90) / 8))
        if self._chance(0.2):
            number["multipleOf"] = pick.choice((1, 2, 5, 7, 12, 0.5, 0.25))
        text = {"type": "string"}
        text |= {"minLength": pick.randint(0, 4)} if self._chance(0.4) else {}
        text |= {"maxLength": pick.randint(0, 8)} if self._chance(0.4) else {}
        text |= {"pattern": pick.choice(PATTERNS)} if self._chance(0.4) else {}
        return pick.choice(
            (
                number,
                text,
                {"type": "string", "format": pick.choice(FORMATS)},
                {"type": pick.sample(TYPES, pick.randint(1, 3))},
                {"enum": pick.sample(VALUES, pick.randint(1, 4))},
                {"const": pick.choice(VALUES)},
            )
        )

    def _object(self, depth: int) -> dict[str, Any]:
        pick, found = self._random, {"type": "object"} if self._chance(0.8) else {}
        names = pick.sample(NAMES, pick.randint(0, 4))
        found["properties"] = {name: self._schema(depth) for name in names}
        if self._chance(0.6):
            found["required"] = [n for n in names if self._chance(0.6)] or pick.sample(NAMES, pick.randrange(2))
        if self._chance(0.6):
            found["additionalProperties"] = pick.choice((False, False, True, self._schema(depth)))
        if self._chance(0.2):
            found["patternProperties"] = {pick.choice(("^a", "^x", "b$", ".")): self._schema(depth)}
        for keyword in ("minProperties", "maxProperties"):
            if self._chance(0.15):
                found[keyword] = pick.randint(0, 3)
        return dict(pick.sample(list(found.items()), len(found)))

    def _array(self, depth: int) -> dict[str, Any]:
        pick, found = self._random, {"type": "array"} if self._chance(0.8) else {}
        found |= {"items": self._schema(depth)} if self._chance(0.7) else {}
        found |= {"prefixItems": [self._schema(depth)]} if self._chance(0.3) else {}
        found |= {"minItems": pick.randint(0, 3)} if self._chance(0.3) else {}
        found |= {"maxItems": pick.randint(0, 4)} if self._chance(0.3) else {}
        return found


def random_text(matcher: Matcher, ends: frozenset[int], seed: int, most: int = 400) -> str | None:
    """What a model of bytes that says anything allowed would say, in a hurry to close; None: it did not end."""
    pick, said = random.Random(seed), bytearray()
    while len(said) < most:
        ids = matcher.allowed()
        if ends & set(ids.tolist()) and (pick.random() < 0.5 or len(ids) <= len(ends)):
            return said.decode()
        closing = ids[np.isin(ids, list(b'"}]'))]
        plain = ids[ids < 256]
        hurry = min(0.9, 0.15 + len(said) / 200)
        chosen = int(pick.choice(closing if len(closing) and pick.random() < hurry else plain))
        said.append(chosen)
        matcher.accept(chosen)
        if matcher.is_over:
            return said.decode()
    return None


PRIMES = (7, 97, 997, 9_973, 99_991, 1_299_709)


class HostileSchema:
    """One schema a seed that asks much of a compiler: numbers, counts, names and choices that multiply."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        kinds = (self._divided, self._repeated, self._counted, self._members, self._web, self._patterns, self._long)
        hard = [self._random.choice(kinds)() for _ in range(self._random.randint(1, 3))]
        around = RandomSchema(seed).schema
        self.schema: dict[str, Any] = {
            "type": "object",
            "properties": {"easy": {k: v for k, v in around.items() if k != "$defs"}}
            | {f"hard{i}": schema for i, schema in enumerate(hard)},
            "required": [f"hard{i}" for i in range(len(hard))],
            "$defs": {**around.get("$defs", {}), "d": {"multipleOf": self._random.choice(PRIMES)}},
        }

    def _number(self) -> float:
        return self._random.choice(PRIMES) / self._random.choice((1, 1, 1, 10, 1000))

    def _divided(self) -> dict[str, Any]:
        pick = self._random
        found: dict[str, Any] = {"type": pick.choice(("integer", "number")), "multipleOf": self._number()}
        for keyword in pick.sample(("allOf", "anyOf", "oneOf"), pick.randint(0, 2)):
            found[keyword] = [{"multipleOf": self._number()} for _ in range(pick.randint(1, 4))]
        found |= {"$ref": "#/$defs/d"} if pick.random() < 0.3 else {}
        found |= {"minimum": pick.randint(-99, 10**9)} if pick.random() < 0.3 else {}
        return found

    def _pattern(self) -> str:
        pick, found = self._random, self._random.choice(("a", "[ab]", "(a|b)*a", ".", "\\d", "\\w|é"))
        for _ in range(pick.randint(1, 5)):
            found = f"({found}){pick.choice(('{99}', '{0,99}', '{1,9}', '*', '+', '{50,}', '?'))}"
        return f"^{found}$" if pick.random() < 0.7 else found

    def _repeated(self) -> dict[str, Any]:
        found: dict[str, Any] = {"type": "string", "pattern": self._pattern()}
        found |= {"minLength": self._random.choice((1, 999, 9999))} if self._random.random() < 0.3 else {}
        return found | ({"allOf": [{"pattern": self._pattern()}]} if self._random.random() < 0.3 else {})

    def _counted(self) -> dict[str, Any]:
        found: dict[str, Any] = {"enum": [1, "a"]}
        for _ in range(self._random.randint(1, 6)):
            least = self._random.choice((0, 99, 9999))
            found = {"type": "array", "items": found, "minItems": least, "maxItems": max(least, 99)}
        return found

    def _members(self) -> dict[str, Any]:
        count, pick = self._random.choice((100, 390, 500, 1200)), self._random
        found: dict[str, Any] = {"type": "object", "properties": {f"p{i}": {"type": "null"} for i in range(count)}}
        found |= {"additionalProperties": False} if pick.random() < 0.5 else {}
        return found if pick.random() < 0.5 else {"anyOf": [found, {"type": "object", "required": ["q"]}]}

    def _web(self) -> dict[str, Any]:
        many = range(self._random.randint(2, 8))
        return {
            self._random.choice(("allOf", "anyOf")): [
                {"anyOf": [{"properties": {f"k{i}{j}": self._divided()}} for j in many]} for i in many
            ]
        }

    def _patterns(self) -> dict[str, Any]:
        count = self._random.choice((3, 30, 100))
        table = {f"^{chr(97 + i % 26)}{i}.*z{{{i}}}$": {"type": "string"} for i in range(count)}
        return {"type": "object", "patternProperties": table, "additionalProperties": False}

    def _long(self) -> dict[str, Any]:
        pick = self._random
        return pick.choice(
            ({"const": "a" * 9_000}, {"enum": list(range(4_000))}, {"enum": ["a" * i for i in range(150)]})
        )
