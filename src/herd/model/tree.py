"""Move a weight tree to an op set, or its parts to several: the same nodes, holding those sets' arrays, bound once."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from herd.ops.contract import Ops
from herd.weights import CLASS_NAME, PLACES_NAME, WeightNode, name_of

N = TypeVar("N", bound=WeightNode)

Where = Callable[[str], Ops]
"""A rule from the canonical name of a weight (`weights.build`, without `.weight` or `.bias`) to the op set that holds
it. What a pair or an adapter is made of goes by its own name; an adapter without one, by that of its base."""

_ARRAYS = {"class_U": CLASS_NAME, "places_MU": PLACES_NAME}
"""Arrays that hang in a node without a name."""


def place_weights(ops: Ops, node: N, where: Where | None = None) -> N:
    """A copy of the tree in which every array went through `array` of its op set, and every node through `bind`.

    A node met twice (tied head) stays one. where: parts of the tree on other op sets than `ops`, which computes with
    the whole (see `ops.hybrid`); None: all on `ops`. Raises UsageError and ValueError for arrays that the op set cannot
    compute with.
    """
    return _place(node, "", where or (lambda name: ops), {})  # type: ignore[no-any-return]


def _place(x: Any, name: str, where: Where, seen: dict[int, Any]) -> Any:
    if isinstance(x, WeightNode):
        if id(x) not in seen:
            seen[id(x)] = _placed_node(x, where, seen)
        return seen[id(x)]
    if isinstance(x, tuple):
        return tuple(_place(part, name, where, seen) for part in x)
    return where(name).array(x) if hasattr(x, "dtype") else x


def _placed_node(node: Any, where: Where, seen: dict[int, Any]) -> Any:
    name = _name(node)
    values = {
        f.name: _place(getattr(node, f.name), _ARRAYS.get(f.name, name), where, seen) for f in dataclasses.fields(node)
    }
    placed = type(node)(**values)
    if hasattr(node, "name"):
        where(name).bind(placed)
    return placed


def _name(node: Any) -> str:
    return name_of(node) if hasattr(node, "name") else ""
