"""Numbers that a config may hold, checked with one line each; and the limits before any allocation."""

import math

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
