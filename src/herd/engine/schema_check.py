"""JSON schemas before they become masks: what masks cannot enforce is refused, with its place as a JSON pointer."""

import json
from typing import Any

from herd.errors import UsageError, fail

REFUSED = (
    *("$dynamicRef", "$recursiveRef", "not", "if", "then", "else", "contains", "minContains", "maxContains"),
    *("uniqueItems", "propertyNames", "patternProperties", "dependentRequired", "dependentSchemas", "dependencies"),
    *("unevaluatedItems", "unevaluatedProperties", "x-guidance"),
)


def enforceable(text: str) -> str:
    """The schema to compile. Raises UsageError with the place."""
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        fail(UsageError, "schema", got=f"no JSON ({error})", expected="a JSON schema")
    if not isinstance(schema, dict):
        fail(UsageError, "schema", got=type(schema).__name__, expected="an object")
    _check(schema, "#")
    return json.dumps(schema)


def _check(schema: Any, place: str) -> None:
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key in REFUSED:
                fail(UsageError, f"schema {place}/{key}: {key} cannot be enforced", do="leave it out")
            _check(value, f"{place}/{key}")
    elif isinstance(schema, list):
        for i, value in enumerate(schema):
            _check(value, f"{place}/{i}")
