"""The work of one step of a model: bytes to read and operations to compute, from its weights and its config.

Counted of the weights as they are held. What it is not: a measurement, a plan (`memory` knows no weights).
"""

from math import prod
from typing import Any

from herd.config import Llama4Config
from herd.planning.layers import layer_caches
from herd.weights import Linear, Mlp, Model, fold, shape_of


def node_bytes(node: Any) -> int:
    """Bytes of one weight node of any kind; 0 for None."""
    if node is None:
        return 0
    return fold(
        node,
        packed=lambda w: int(w.codes.nbytes),
        pair=lambda w: node_bytes(w.gate) + node_bytes(w.up),
        lora=lambda w: node_bytes(w.base) + int(w.down.nbytes) + int(w.up.nbytes),
        other=lambda w: int(w.w.nbytes),
    )


def token_bytes(c: Llama4Config, w: Model, rows: int = 1) -> float:
    """Weight bytes that a step of `rows` rows reads: all but the embedding table, and of the E experts of a layer
    those that rows * A draws are expected to touch, E * (1 - (1 - A/E)^rows)."""
    fixed, routed = _parts(w)
    hit = 1 - (1 - c.experts_per_token / c.num_experts) ** rows if routed else 0.0
    return fixed + routed * hit


def token_ops(c: Llama4Config, w: Model, rows: int = 1, heads: int = 1) -> float:
    """Operations (a multiply and an add are two) of a step of `rows` rows of which `heads` want logits; attention's
    are left out."""
    per_row = 0.0
    for b in w.blocks:
        per_row += sum(_weights(x) for x in (b.q, b.k, b.v, b.o))
        if b.ffn.kind == "moe":
            per_row += _weights(b.ffn.router) + _mlp_weights(b.ffn.shared)
            routed = _weights(b.ffn.gate_up) + _weights(b.ffn.down)
            per_row += routed * c.experts_per_token / c.num_experts
        else:
            per_row += _mlp_weights(b.ffn)
    return 2 * (rows * per_row + heads * _weights(w.head))


def kv_bytes(c: Llama4Config, depth: int, kv_dtype: str) -> int:
    """Bytes of keys and values that the query at position `depth` reads, its own included."""
    total = 0.0
    for x in layer_caches(c, kv_dtype):
        seen = depth % c.chunk + 1 if x.chunked and c.chunk else depth + 1
        total += seen * x.slot_bytes(c.head_size)
    return round(total * c.num_kv_heads)


def attention_ops(c: Llama4Config, depth: int, rows: int) -> int:
    """Operations of scores and weighted values of `rows` queries from position `depth` on."""
    whole = rows * depth + rows * (rows + 1) // 2
    within = sum(p % c.chunk + 1 for p in range(depth, depth + rows)) if c.chunk else whole
    return 4 * c.num_heads * c.head_size * sum(within if x.chunked else whole for x in c.layers)


def _parts(w: Model) -> tuple[int, int]:
    fixed, routed = node_bytes(w.head), 0
    for b in w.blocks:
        fixed += sum(node_bytes(x) for x in (b.q, b.k, b.v, b.o))
        mlp: Mlp = b.ffn.shared if b.ffn.kind == "moe" else b.ffn
        fixed += sum(node_bytes(x) for x in (mlp.gate, mlp.up, mlp.down))
        if b.ffn.kind == "moe":
            fixed += node_bytes(b.ffn.router)
            routed += node_bytes(b.ffn.gate_up) + node_bytes(b.ffn.down)
    return fixed, routed


def _weights(node: Linear | None) -> int:
    """Number of elements of a node's matrices."""
    return 0 if node is None else prod(shape_of(node))


def _mlp_weights(mlp: Mlp) -> int:
    return sum(_weights(x) for x in (mlp.gate, mlp.up, mlp.down))
