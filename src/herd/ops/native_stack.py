"""All layers of a text model as one native handle, made at the first pass and kept with the model.

What it is not: arithmetic; which layer is of which kind (config).
"""

from typing import Any

from herd import _native
from herd.config import LayerKind, Llama4Config
from herd.ops import native_weights as handles
from herd.weights import Block, LoRA, Model, Moe, WeightNode


def of(w: Model, c: Llama4Config) -> Any | None:
    """The handle; None when one of the weights is of a kind that is not one native matrix (LoRA)."""
    made = w.__dict__.get("_native_stack")
    if made is None or made[0] is not c:
        layers = None if _any_lora(w.blocks) else [_layer(b, k, c) for b, k in zip(w.blocks, c.layers, strict=True)]
        made = w.__dict__["_native_stack"] = c, None if layers is None else _native.stack(layers)
    return made[1]


def _any_lora(node: Any) -> bool:
    """Whether there is one at or below a node or a tuple of nodes."""
    below = vars(node).values() if isinstance(node, WeightNode) else node if isinstance(node, tuple) else ()
    return isinstance(node, LoRA) or any(map(_any_lora, below))


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
