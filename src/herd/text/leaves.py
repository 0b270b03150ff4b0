"""The texts inside JSON values: names and values, in their order, to be read and to be written anew.

What it is not: JSON as text. An escaped character counts as what it stands for, because that is what whoever reads the
value gets.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

from herd.errors import UsageError, fail

Kind: TypeAlias = Literal["key", "value", "number"]


class Leaf(NamedTuple):
    """One text. key: the name of the member that it is the value of, or stands in a list of; of a key, its own."""

    text: str
    kind: Kind
    key: str


def changed(value: Any, change: Callable[[Leaf], str]) -> Any:
    """The value with every text as `change` has it, asked for in order. A number that changes becomes a text; true,
    false and null hold no text. Raises UsageError for what nests too deep."""
    try:
        return _changed(value, change, "")
    except RecursionError:
        return fail(UsageError, "tool arguments or definitions", got="a value that nests too deep")


def leaves(value: Any) -> list[Leaf]:
    """All texts of a value, in order. Raises UsageError for what nests too deep."""
    found: list[Leaf] = []

    def keep(leaf: Leaf) -> str:
        found.append(leaf)
        return leaf.text

    changed(value, keep)
    return found


def _changed(value: Any, change: Callable[[Leaf], str], key: str) -> Any:
    match value:
        case str():
            return change(Leaf(value, "value", key))
        case bool() | None:
            return value
        case int() | float():
            text = json.dumps(value)
            now = change(Leaf(text, "number", key))
            return value if now == text else now
        case Mapping():
            return {
                change(Leaf(str(name), "key", str(name))): _changed(member, change, str(name))
                for name, member in value.items()
            }
        case list() | tuple():
            return [_changed(element, change, key) for element in value]
    return value
