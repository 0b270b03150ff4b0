"""The text model: embedding, 4 calls a layer, head. Source: llama4 checkpoints' own mathematics (transformers, Meta).

h = embed[ids], image features in their rows
h += attend(qkv(norm h)) wo;   h += mlp or experts (norm h)     per layer
logits = head(norm h)
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from herd.config import LayerKind, Llama4Config
from herd.errors import UsageError, fail
from herd.model.vision import encode_images
from herd.ops.contract import Extras, Ops, Routing
from herd.weights import Array, Block, Model

Call = Callable[..., Array]
"""How a block is run: `block` itself, or a module's __call__ so that hooks (FSDP, checkpointing) see it."""


def block(
    ops: Ops,
    x_TD: Array,
    w: Block,
    layer: LayerKind,
    c: Llama4Config,
    rope: Any,
    temperature_T: Array | None,
    segments: Any,
    kv: Any | None,
    extras: Extras | None = None,
    routing: Any | None = None,
) -> Array:
    """One layer."""
    q, k, v = ops.qkv(
        x_TD,
        w.norm1,
        w.q,
        w.k,
        w.v,
        c.head_size,
        rope if layer.rope else None,
        c.norm_eps if layer.qk_norm else None,
        temperature_T if layer.tuned else None,
        extras,
    )
    x_TD = ops.out_add(x_TD, ops.attend(q, k, v, segments, kv), w.o, extras)
    if w.ffn.kind == "moe":
        return ops.moe_add(x_TD, w.norm2, w.ffn, c.num_experts, c.experts_per_token, extras, routing=routing)
    return ops.mlp_add(x_TD, w.norm2, w.ffn, extras)


def hidden(
    ops: Ops,
    c: Llama4Config,
    w: Model,
    ids_T: Any,
    context: Any,
    pixels_I3SS: Any | None = None,
    kv: list[Any] | None = None,
    extras: Extras | None = None,
    routing: Routing | None = None,
    features_RD: Array | None = None,
    call: Call = block,
) -> Array:
    """x_TD after the last layer, before the final norm.

    context: what `ops.place` returned. kv: one cache a layer, or None when the keys are the rows of this pass. Images
    come as pixels, or as `features_RD` that `encode_images` has made (a prompt is prefilled in pieces, its images
    once); either way one row of features for each patch id among ids_T. Raises UsageError when their numbers differ.
    """
    x_TD = ops.embed(ids_T, w.embed)
    if pixels_I3SS is not None and len(pixels_I3SS):
        if c.vision is None or w.vision is None:
            fail(UsageError, "an image was given to a text model", do="choose a model with vision")
        observe = None if extras is None else extras.observe
        features_RD = encode_images(ops, c.vision, w.vision, pixels_I3SS, observe)
    if features_RD is not None:
        rows_R = np.flatnonzero(np.asarray(ids_T) == c.patch_id)
        if len(rows_R) != len(features_RD):
            fail(UsageError, "image features", got=len(features_RD), expected=f"{len(rows_R)}, one a patch token")
        x_TD = ops.put_rows(x_TD, rows_R, features_RD)

    freqs, factor = c.rope_freqs(), c.rope_attention
    # Chunked layers see t - s < C only, so t mod C is the same rotation from one small table, exact however far out.
    far = ops.angles(context.positions_T, freqs, factor) if _needs_far_angles(c) else None
    near = ops.angles(context.positions_T % c.chunk, freqs, factor) if c.chunk is not None else None
    temperature_T = ops.temperature(context.positions_T, c.floor_scale, c.attn_scale) if c.temperature_tuning else None
    if call is block and kv is not None and (extras is None or extras.observe is None):
        adapters = None if extras is None else extras.adapters
        done = ops.layers(x_TD, w, c, far, near, temperature_T, context, kv, routing, adapters)
        if done is not None:
            return done
    for i, layer in enumerate(c.layers):
        x_TD = call(
            ops,
            x_TD,
            w.blocks[i],
            layer,
            c,
            near if layer.chunked else far,
            temperature_T,
            context.chunk if layer.chunked else context.full,
            None if kv is None else kv[i],
            extras,
            partial(routing, i) if routing is not None and layer.moe else None,
        )
    return x_TD


def _needs_far_angles(c: Llama4Config) -> bool:
    return any(layer.rope and not layer.chunked for layer in c.layers)


def forward(
    ops: Ops,
    c: Llama4Config,
    w: Model,
    ids_T: Any,
    context: Any,
    pixels_I3SS: Any | None = None,
    kv: list[Any] | None = None,
    extras: Extras | None = None,
    routing: Routing | None = None,
    features_RD: Array | None = None,
    call: Call = block,
) -> Array:
    """Logits [R or T, V] in float32 of the rows that `context.rows` asks for (None: all). See `hidden`."""
    x_TD = hidden(ops, c, w, ids_T, context, pixels_I3SS, kv, extras, routing, features_RD, call)
    return ops.head(x_TD, w.norm, w.head, context.rows, extras)
