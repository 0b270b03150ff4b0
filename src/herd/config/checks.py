"""Numbers that a config may hold, checked with one line each; and the limits before any allocation."""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from herd.errors import BadConfig, fail

MAX_LAYERS = 1024
MAX_WIDTH = 1 << 20
MAX_VOCAB = 1 << 24
MAX_EXPERTS = 4096
MAX_CONTEXT = 1 << 40


def whole(name: str, value: object, low: int, high: int) -> int:
    """A whole number in a range; true and false are not numbers."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        fail(BadConfig, name, got=value, expected=f"a whole number from {low} to {high}")
    return value


def positive(name: str, value: object) -> float:
    """A finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        fail(BadConfig, name, got=value, expected="a finite number above 0")
    try:
        return float(value)
    except OverflowError:  # a whole number of over 308 digits
        fail(BadConfig, name, got="a number too large", expected="a finite number above 0")


def eps(name: str, value: object) -> float:
    """A norm's epsilon."""
    if positive(name, value) > 1:
        fail(BadConfig, name, got=value, expected="a small number, 1e-5 as a rule")
    return float(value)  # type: ignore[arg-type]


def divides(name: str, part: int, total_name: str, total: int) -> None:
    """`total` is a multiple of `part`."""
    if part < 1 or total % part:
        fail(BadConfig, f"{total_name} ({total}) must be a multiple of {name} ({part})")


Values = tuple[object, ...]
OFF: Values = (None, False, 0)
ONE: Values = (None, 1)


def check_keys(
    data: Mapping[str, Any],
    read: Collection[str],
    neutral: Mapping[str, Values],
    harmless: Collection[str],
    where: str = "",
) -> list[str]:
    """The keys of a file that are neither read nor harmless nor in `neutral`, which names the values under which a key
    changes nothing. Raises BadConfig for a key of `neutral` with another value; where: what stands before its name."""
    for key in data.keys() & neutral.keys():
        if not _is_one_of(data[key], neutral[key]):
            shown = ", ".join("null" if value is None else str(value).lower() for value in neutral[key])
            fail(BadConfig, f"{where}{key}, which Herd does not compute,", got=data[key], expected=shown)
    return [key for key in data if key not in read and key not in harmless and key not in neutral]


def _is_one_of(value: object, values: Values) -> bool:
    """Whether a value, or everything in a list of values (one a layer, as a rule), is among `values`."""
    if isinstance(value, Mapping):
        return not value
    if isinstance(value, Iterable) and not isinstance(value, str):
        return all(_is_one_of(one, values) for one in value)
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in values)
