"""Move a weight tree to an op set: the same nodes, holding that set's arrays."""

import dataclasses
from typing import Any, TypeVar

from herd.ops.contract import Ops

Node = TypeVar("Node")


def place_weights(ops: Ops, node: Node) -> Node:
    """A copy of the tree in which every array went through `ops.array`; a node met twice (tied head) stays one."""
    return _place(ops, node, {})  # type: ignore[no-any-return]


def _place(ops: Ops, node: Any, seen: dict[int, Any]) -> Any:
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        if id(node) not in seen:
            fields = {f.name: _place(ops, getattr(node, f.name), seen) for f in dataclasses.fields(node)}
            seen[id(node)] = type(node)(**fields)
        return seen[id(node)]
    if isinstance(node, list):
        return [_place(ops, x, seen) for x in node]
    return ops.array(node) if hasattr(node, "dtype") else node
