"""Adapters (LoRA) by name: low-rank terms beside a model's weights, another one for each request if need be.

    y = W x + scale * up (down x)        down [r, I], up [O, r]; of an expert stack [E, r, I] and [E, O, r]

    ready              checked against the model's weights, copied and placed, on any thread
    AdapterRegistry    those that requests may name, bounded in number and bytes; changed between two steps
    row_map            the rows of a pass -> what `ops` adds to each

An adapter that is dropped, or replaced by another of its name, stays whole for whoever runs with it. Keys and values
that were computed with one are found by requests with the same one alone: it is part of their salt. What it is not: a
file format, training.
"""

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from herd import formats
from herd.errors import DoesNotFit, NotFound, UsageError, fail
from herd.ops.contract import Adapters, LowRank, Ops
from herd.value_checks import nearest, number, text
from herd.weights import Linear, Model, WeightNode, name_of, shape_of

MAX_NAME = 256
MAX_RANK = 1024
MAX_SCALE = 1e6
MOST = 64
"""Adapters that requests may name at a time."""
MOST_BYTES = 2 << 30
"""Most bytes of all adapters together, in float32 (rank 16 on the attention of Scout: 0.1 GB)."""

_serials = itertools.count(1)


@dataclass(frozen=True, eq=False)
class Adapter:
    """A LoRA adapter that is ready to be used; it never changes."""

    name: str
    pairs: Mapping[str, LowRank]
    """Name of a weight -> its low-rank pair, as arrays of the op set."""
    num_bytes: int
    serial: int
    """No other adapter of this process has it, whatever its name."""

    @classmethod
    def of(cls, name: str, pairs: Mapping[str, LowRank], num_bytes: int = 0) -> "Adapter":
        """Make an adapter with a salt of its own. Raises UsageError for a name that is not allowed."""
        check_name(name)
        return cls(name, pairs, num_bytes, next(_serials))

    def salt(self, salt: bytes) -> bytes:
        """The salt of a request that uses this adapter: cached positions are found under it by such requests alone."""
        return hashlib.sha256(b"adapter %d " % self.serial + salt).digest()


def check_name(name: object) -> None:
    """Raise UsageError for a name that is not allowed for an adapter."""
    text("adapter", name)
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME:
        fail(UsageError, "adapter", got=name, expected=f"a name of 1 to {MAX_NAME} characters")


def ready(name: str, tensors: Mapping[str, LowRank], weights: Model, ops: Ops) -> Adapter:
    """Check an adapter against a model's weights, and place a copy of it in float32.

    tensors: by the canonical name of any matrix or expert stack of the text layers. Raises UsageError naming the first
    that is of no weight, of another shape or type, or not finite.
    """
    known = dict(_matrices(weights.blocks))
    where = getattr(ops, "where", lambda weight: ops)  # a pair lies where its weight does
    pairs: dict[str, LowRank] = {}
    num_bytes = 0
    for weight, pair in copied(name, tensors).items():
        what = f"adapter {name}: {weight}"
        if weight not in known:
            fail(UsageError, what, got="it", expected="a weight of a layer of the model")
        *front, outputs, inputs = shape_of(known[weight])
        _check_shapes(what, pair.down, pair.up, (tuple(front), outputs, inputs))
        num_bytes += pair.down.nbytes + pair.up.nbytes
        home = where(weight)
        pairs[weight] = LowRank(home.array(pair.down), home.array(pair.up), pair.scale)
    return Adapter.of(name, pairs, num_bytes)


def copied(name: str, tensors: Mapping[str, LowRank]) -> dict[str, LowRank]:
    """The pairs as float32 arrays in memory of their own. Raises UsageError naming the first that is no pair."""
    check_name(name)
    if not isinstance(tensors, Mapping) or not tensors:
        got = "nothing" if isinstance(tensors, Mapping) else type(tensors).__name__
        fail(UsageError, f"adapter {name}", got=got, expected="low-rank pairs by the name of a weight")
    found = {}
    for weight, pair in tensors.items():
        text(f"adapter {name}: a weight", weight)
        what = f"adapter {name}: {weight}"
        if not isinstance(pair, LowRank):
            fail(UsageError, what, got=type(pair).__name__, expected="a LowRank")
        number(f"{what} scale", pair.scale, -MAX_SCALE, MAX_SCALE)
        down, up = _array(f"{what} down", pair.down), _array(f"{what} up", pair.up)
        found[weight] = LowRank(down, up, float(pair.scale))
    return found


def row_map(parts: Sequence[tuple[Adapter | None, int]]) -> Adapters | None:
    """The adapters of a pass, by row, from (adapter, number of rows) of its pieces; None when no piece has one."""
    used = list(dict.fromkeys(adapter for adapter, _ in parts if adapter is not None))
    if not used:
        return None
    place: dict[Adapter | None, int] = {adapter: i for i, adapter in enumerate(used)}
    rows_T = np.repeat([place.get(adapter, -1) for adapter, _ in parts], [rows for _, rows in parts])
    names = dict.fromkeys(name for adapter in used for name in adapter.pairs)
    return Adapters({name: [adapter.pairs.get(name) for adapter in used] for name in names}, rows_T)


class AdapterRegistry:
    """The adapters that requests may name. most: how many; most_bytes: how large all of them together."""

    def __init__(self, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._found: dict[str, Adapter] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names in the order in which they were added."""
        return tuple(self._found)

    def put(self, adapter: Adapter) -> None:
        """Add an adapter, or replace the one of the same name. Raises DoesNotFit over a bound: nothing has changed
        then."""
        others = [one for one in self._found.values() if one.name != adapter.name]
        if len(others) >= self._most:
            fail(DoesNotFit, f"adapter {adapter.name}", got=f"{len(others)} others", expected=f"below {self._most}")
        total = adapter.num_bytes + sum(one.num_bytes for one in others)
        if total > self._most_bytes:
            what = f"adapter {adapter.name}"
            fail(DoesNotFit, what, got=f"{total} bytes with the others", expected=f"up to {self._most_bytes}")
        self._found = {**self._found, adapter.name: adapter}  # whoever reads the names meanwhile has the old ones

    def drop(self, name: str) -> None:
        """Remove an adapter: no new request may name it. Raises NotFound for an unknown name, UsageError for a bad
        one."""
        check_name(name)
        check_known(name, self._found)
        self._found = {other: one for other, one in self._found.items() if other != name}

    def get(self, name: str | None) -> Adapter | None:
        """The adapter of this name; None for the name None. Raises NotFound."""
        if name is None:
            return None
        check_known(name, self._found)
        return self._found[name]


def check_known(name: str | None, names: "Mapping[str, object] | Sequence[str]") -> None:
    """Raise NotFound for the name of an adapter that is not among these, with the nearest of them and all."""
    if name is not None and name not in names:
        near = nearest(name, list(names))
        expected = "one of " + ", ".join(names) if names else "none: the model has no adapters"
        fail(NotFound, "adapter", got=name, expected=expected, do=f"did you mean {near}?" if near else "")


def _matrices(node: Any) -> "Sequence[tuple[str, Linear]]":
    """Every matrix and expert stack below this node, by canonical name."""
    if isinstance(node, tuple):
        return [found for one in node for found in _matrices(one)]
    if not isinstance(node, WeightNode):
        return []
    if isinstance(node, Linear):
        return [(name_of(node), node)]
    return [found for one in vars(node).values() for found in _matrices(one)]


def _array(what: str, x: Any) -> Any:
    if not isinstance(x, np.ndarray) or not (x.dtype.kind == "f" or x.dtype == np.uint16):
        fail(
            UsageError,
            what,
            got=str(getattr(x, "dtype", type(x).__name__)),
            expected="an array of floating-point numbers",
        )
    found = np.array(formats.to_float32(x) if x.dtype == np.uint16 else x, np.float32)
    if not np.isfinite(found).all():
        fail(UsageError, what, got="a number that is not finite", expected="finite ones")
    return found


def _check_shapes(what: str, down: Any, up: Any, shape: tuple[tuple[int, ...], int, int]) -> None:
    front, outputs, inputs = shape
    rank = down.shape[-2] if down.ndim >= 2 else 0
    wanted = (*front, rank, inputs), (*front, outputs, rank)
    if not 1 <= rank <= MAX_RANK or (down.shape, up.shape) != wanted:
        sizes = math.prod(front) > 1 and f"[{front[0]}, r, {inputs}] and [{front[0]}, {outputs}, r]"
        expected = sizes or f"[r, {inputs}] and [{outputs}, r]"
        got = f"down {list(down.shape)}, up {list(up.shape)}"
        fail(UsageError, what, got=got, expected=f"{expected} with r from 1 to {MAX_RANK}")
