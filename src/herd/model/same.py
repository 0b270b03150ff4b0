"""Whether one tree of weights can stand in for another: the same names, shapes and kinds, part by part."""

import dataclasses
from typing import Any

from herd.errors import UsageError, fail
from herd.weights import WeightNode


def check_same(given: Any, held: Any, *, numbers: bool = False) -> None:
    """Raise UsageError naming the first part of `given` that differs from `held` in more than its values.

    numbers: the arrays' number formats must agree, too (of trees that one op set holds).
    """
    _compare(given, held, "the model", numbers)


def _compare(given: Any, held: Any, where: str, numbers: bool) -> None:
    if hasattr(held, "dtype"):
        _compare_arrays(given, held, where, numbers)
    elif type(given) is not type(held):
        _differs(where, _kind(given), _kind(held))
    elif isinstance(held, WeightNode) and dataclasses.is_dataclass(held):
        if _kind(given) != _kind(held):
            _differs(where, _kind(given), _kind(held))
        where = getattr(held, "name", "") or where
        for field in dataclasses.fields(held):
            _compare(getattr(given, field.name), getattr(held, field.name), _part(where, field.name), numbers)
    elif isinstance(held, tuple) and held and isinstance(held[0], WeightNode):
        if len(given) != len(held):
            _differs(where, len(given), len(held))
        for i, (one, other) in enumerate(zip(given, held, strict=True)):
            _compare(one, other, f"{where}[{i}]", numbers)
    elif given != held:
        _differs(where, given, held)


def _compare_arrays(given: Any, held: Any, where: str, numbers: bool) -> None:
    if not hasattr(given, "dtype"):
        _differs(where, _kind(given), "an array")
    if tuple(given.shape) != tuple(held.shape):
        _differs(where, tuple(given.shape), tuple(held.shape))
    if numbers and given.dtype != held.dtype:
        _differs(where, str(given.dtype), str(held.dtype))


def _part(where: str, name: str) -> str:
    return name if where == "the model" else f"{where} {name}"


def _kind(x: Any) -> str:
    name = getattr(x, "name", "")
    kind = getattr(x, "kind", type(x).__name__)
    return f"{kind} {name}".rstrip() if isinstance(name, str) else str(kind)


def _differs(where: str, got: object, expected: object) -> None:
    fail(UsageError, f"new weights: {where}", got=got, expected=expected, do="give a tree of the model that is loaded")
