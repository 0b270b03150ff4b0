"""Whether an answer is JSON that is valid against its item's schema: run as a checker in `checker_process.py`.

It has no way to fetch a schema that another one refers to. What it is not: a grammar (`herd.grammar`).
"""

import json
from typing import Any


def check(reply: dict[str, Any], item: dict[str, Any]) -> bool:
    """As JSON Schema says, by the draft that the schema names, 2020-12 unless it does."""
    from jsonschema import validators
    from referencing import Registry

    try:
        said = json.loads(reply["text"])
    except (ValueError, RecursionError):
        return False
    kind = validators.validator_for(item["schema"], default=validators.Draft202012Validator)
    kind.check_schema(item["schema"])
    return bool(kind(item["schema"], registry=Registry()).is_valid(said))
