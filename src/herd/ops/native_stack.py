"""All layers of a text model as one native handle, kept with the model for as long as its nodes are what they were.

What it is not: arithmetic; which layer is of which kind (config).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any

from herd import _native
from herd.config import LayerKind, Llama4Config
from herd.ops import native_weights as handles
from herd.weights import Block, Dense, Experts, LoRA, Mlp, Model, Moe, Node, Norm, Packed, Pair


@dataclass
class _Kept(handles.Kept):
    """`arrays` are what the attributes `names` of `nodes` were: the layers' nodes and all their arrays. handles None:
    one of the weights is no native matrix (LoRA)."""

    nodes: tuple[Any, ...]
    names: tuple[str, ...]
    blocks: tuple[Block, ...]
    config: Llama4Config
    changes: int
    """Of `Node.changes`, when all of this was last looked at."""


def of(w: Model, c: Llama4Config) -> Any | None:
    """The handle; None when one of the weights is of a kind that is not one native matrix."""
    kept = w.__dict__.get("_native_stack")
    if kept is None or kept.config is not c or not _same(kept.blocks, w.blocks):
        kept = _make(w, c)
    elif kept.changes != Node.changes:
        if _same(kept.arrays, list(map(getattr, kept.nodes, kept.names))):
            kept.changes = Node.changes
        else:
            kept = _make(w, c)
    return kept.handles


def _same(kept: Sequence[Any], now: Sequence[Any]) -> bool:
    """Whether they are the same objects."""
    return len(kept) == len(now) and all(map(is_, kept, now))


def _make(w: Model, c: Llama4Config) -> _Kept:
    changes = Node.changes
    parts: list[tuple[Any, str]] = []
    known = all(_walk(b, parts) for b in w.blocks)  # what comes after one that is not does not matter
    nodes, names = zip(*parts, strict=True)
    stack = _native.stack([_layer(b, k, c) for b, k in zip(w.blocks, c.layers, strict=True)]) if known else None
    arrays = tuple(map(getattr, nodes, names))
    kept = w.__dict__["_native_stack"] = _Kept(arrays, stack, nodes, names, tuple(w.blocks), c, changes)
    return kept


FIELDS: dict[type, tuple[str, ...]] = {
    Norm: ("w", "bias", "eps"),
    Dense: ("w", "bias"),
    Packed: ("codes", "bias"),
    Experts: ("w",),
    Pair: ("gate", "up"),
    Mlp: ("gate", "up", "down"),
    Moe: ("router", "gate_up", "down", "shared"),
    Block: ("norm1", "q", "k", "v", "o", "norm2", "ffn"),
    LoRA: (),
}
"""What a node's handle depends on."""


def _walk(node: Any, parts: list[tuple[Any, str]]) -> bool:
    """(node, attribute) of everything below this node to `parts`; whether all of it is known to `handles.weight`."""
    known = type(node) is not LoRA
    for name in FIELDS[type(node)]:
        parts.append((node, name))
        value = getattr(node, name)
        if type(value) in FIELDS:
            known &= _walk(value, parts)
    return known


def _layer(b: Block, kind: LayerKind, c: Llama4Config) -> tuple[Any, ...]:
    """As native/ops_stack.cpp takes it."""
    weight = handles.weight
    ffn: Any = b.ffn
    experts = None
    if isinstance(ffn, Moe):
        stacks = (weight(ffn.router), *handles.halves(ffn.gate_up), weight(ffn.down))
        experts, ffn = (*stacks, c.num_experts, c.experts_per_token), ffn.shared
    mlp = (None if ffn.gate is None else weight(ffn.gate), weight(ffn.up), weight(ffn.down))
    norms = handles.norm_weight(b.norm1), handles.norm_weight(b.norm2)
    qk_eps = c.norm_eps if kind.qk_norm else None
    attention = (weight(b.q), weight(b.k), weight(b.v), weight(b.o), c.head_size, qk_eps)
    return norms, attention, experts, mlp, (kind.rope, kind.chunked, kind.tuned)
