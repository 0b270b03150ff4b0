"""Random JSON schemas of every keyword, and random texts that masks let through."""

import random
from typing import Any

import numpy as np

from herd.engine.matcher import Matcher

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
