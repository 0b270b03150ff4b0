"""From weight nodes (`herd.weights`) to what the native module holds: made once per node, when an op set binds it (or
at its first use, where none did), and kept with it.

A handle keeps the node's array alive and checks its bytes against its shape once; kernels then run straight over the
array, which may be a read-only, unaligned view of a mapped file.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from herd import _native, formats
from herd.errors import UsageError, fail
from herd.formats.strips import ROWS, num_strips
from herd.weights import Array, Dense, Experts, Linear, Norm, Packed, Pair

FLOAT_NAMES = {"float32": "f32", "float16": "f16", "uint16": "bf16"}


def bind(node: Any) -> None:
    """Make the handle of a Dense, Packed, Experts or Norm node, whose arrays and shapes are checked on the way; other
    nodes are made of such. Raises UsageError (an array of another element type), ValueError (bytes, shapes)."""
    if isinstance(node, Norm):
        norm_weight(node)
    elif isinstance(node, Dense | Packed | Experts):
        weight(node)


def float_format(array: Array, name: str) -> str:
    """The format name of a float array; raises UsageError for another element type."""
    kind = FLOAT_NAMES.get(str(getattr(array, "dtype", type(array).__name__)))
    if kind is None:
        fail(
            UsageError,
            f"weight {name}",
            got=str(getattr(array, "dtype", type(array).__name__)),
            expected="float32, float16 or uint16 (bfloat16)",
        )
    return kind


def from_array(array: Array, name: str = "") -> Any:
    """A handle for a float matrix [O, I], or a stack of them."""
    array = np.ascontiguousarray(array)
    return _native.weight(array, float_format(array, name), list(array.shape))


def pair(made_of: Any) -> tuple[Any, Any]:
    """The handles of a `LowRank`'s down and up, made once: float matrices, or stacks of them [E, O, I]."""
    made: tuple[Any, Any] | None = made_of.__dict__.get("_native")
    if made is None:
        made = made_of.__dict__["_native"] = from_array(made_of.down), from_array(made_of.up)
    return made


def weight(node: Linear) -> Any:
    """The handle of a Dense, Packed or Experts node (LoRA and Pair are not one matrix)."""
    made = node.__dict__.get("_native")
    if made is None:
        make = _MAKERS.get(type(node))
        if make is None:
            raise NotImplementedError(f"one native matrix of weight kind {node.kind!r}")
        made = node.__dict__["_native"] = make(node)
    return made


def _dense(node: Dense) -> Any:
    w = np.ascontiguousarray(node.w)
    return _native.weight(w, float_format(w, node.name), list(w.shape), False, _bias(node.bias))


def _packed(node: Packed) -> Any:
    codes = np.ascontiguousarray(node.codes)
    return _native.weight(codes, node.format, list(node.shape), False, _bias(node.bias), node.layout == "strips")


def to_strips(node: Packed) -> Packed:
    """A weight in strips, in memory, with the values of this one; a node in strips is returned as it is."""
    if node.layout == "strips":
        return node
    *front, outputs, inputs = node.shape
    size = ROWS * formats.row_bytes(node.format, inputs)
    out = np.empty((*front, num_strips(outputs), size), np.uint8)
    _native.pack(node.format, np.ascontiguousarray(node.codes), list(node.shape), out)
    return Packed(node.format, out, node.shape, node.bias, node.name, "strips")


def _experts(node: Experts) -> Any:
    w = np.ascontiguousarray(node.w)
    return _native.weight(w, float_format(w, node.name), list(w.shape), True)


_MAKERS: dict[type, Callable[[Any], Any]] = {Dense: _dense, Packed: _packed, Experts: _experts}


def _bias(bias: Array | None) -> Any:
    return None if bias is None else np.ascontiguousarray(bias)


def halves(node: Linear) -> tuple[Any, Any]:
    """Handles of the gate and the up stack of a gate_up node."""
    if isinstance(node, Pair):
        return weight(node.gate), weight(node.up)
    made: tuple[Any, Any] | None = node.__dict__.get("_native_halves")
    if made is None:
        whole = weight(node)
        if whole.num_outputs % 2:
            fail(UsageError, f"gate and up of {node.name}", got=whole.num_outputs, expected="an even number of outputs")
        half = whole.num_outputs // 2
        made = node.__dict__["_native_halves"] = whole.outputs(0, half), whole.outputs(half, 2 * half)
    return made


def norm_weight(node: Norm) -> Any:
    """The handle of a Norm node."""
    made = node.__dict__.get("_native")
    if made is None:
        made = _native.norm_weight(np.ascontiguousarray(node.w), _bias(node.bias), node.eps)
        node.__dict__["_native"] = made
    return made
