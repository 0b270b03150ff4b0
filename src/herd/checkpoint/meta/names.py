"""The names of Llama 4's tensors in Meta's consolidated files, and the axis along which each is cut into files.

Canonical names (left) are those of `weights.build`. Rows of q and k stand in adjacent pairs, as in Herd: nothing is
permuted. Source: the state dictionaries of llama-models 0.3 (load hooks of its attention, feed-forward and vision).
"""

import re
from dataclasses import dataclass

from herd.config import Llama4Config
from herd.errors import BadCheckpoint, fail

DROPPED = ("_extra_state", "rope.freqs", "global_gate_stats_3E", "expert_activation_DE", "running_gate_stats_3E")
"""Ends of names: state of the trainer, statistics, and a table that follows from the config."""

EXPERTS = ("moe_w_in_eD_F", "moe_w_swiglu_eD_F", "moe_w_out_eF_D")
"""Gate, up and down of the routed experts, [E * D, F] and [E * F, D]."""
SCALES = ("w1", "w3", "w2")
"""Gate, up and down in the files with scales."""

_LAYER = re.compile(r"model\.layers\.([0-9]{1,4}+)\.(.+)")
_VISION_LAYER = re.compile(r"vision_model\.model\.layers\.([0-9]{1,4}+)\.(.+)")
_ENCODER = "vision_embeddings.vision_encoder."

Where = tuple[str, int | None]
_TOP: dict[str, Where] = {
    "model.embed_tokens.weight": ("tok_embeddings.weight", 0),
    "lm_head.weight": ("output.weight", 0),
    "model.norm.weight": ("norm.weight", None),
    "vision_model.patch_embedding.linear.weight": (_ENCODER + "conv1._linear.weight", 0),
    "vision_model.class_embedding": (_ENCODER + "class_embedding", None),
    "vision_model.positional_embedding_vlm": (_ENCODER + "positional_embedding_vlm", None),
    "vision_model.layernorm_pre.weight": (_ENCODER + "ln_pre.weight", None),
    "vision_model.layernorm_pre.bias": (_ENCODER + "ln_pre.bias", None),
    "vision_model.layernorm_post.weight": (_ENCODER + "ln_post.weight", None),
    "vision_model.layernorm_post.bias": (_ENCODER + "ln_post.bias", None),
    "vision_model.vision_adapter.mlp.fc1.weight": ("vision_embeddings.vision_adapter.mlp.c_fc.weight", 0),
    "vision_model.vision_adapter.mlp.fc2.weight": ("vision_embeddings.vision_adapter.mlp.c_proj.weight", 1),
    "multi_modal_projector.linear_1.weight": ("vision_projection.weight", 0),
}
_IN_LAYER: dict[str, Where] = {
    "input_layernorm.weight": ("attention.wqkv.layer_norm_weight", None),
    "self_attn.q_proj.weight": ("attention.wqkv.weight", 0),
    "self_attn.k_proj.weight": ("attention.wqkv.weight", 0),
    "self_attn.v_proj.weight": ("attention.wqkv.weight", 0),
    "self_attn.o_proj.weight": ("attention.wo.weight", 1),
    "feed_forward.router.weight": ("feed_forward.router_DE", None),
    "feed_forward.shared_expert.gate_proj.weight": ("feed_forward.w_in_shared_FD.weight", 0),
    "feed_forward.shared_expert.up_proj.weight": ("feed_forward.w_swiglu_FD.weight", 0),
    "feed_forward.shared_expert.down_proj.weight": ("feed_forward.w_out_shared_DF.weight", 1),
    "feed_forward.gate_proj.weight": ("feed_forward.mlp.fc1_weight", 0),
    "feed_forward.up_proj.weight": ("feed_forward.mlp.fc1_weight", 0),
    "feed_forward.down_proj.weight": ("feed_forward.mlp.fc2_weight", 1),
}
_IN_VISION_LAYER: dict[str, Where] = {
    "input_layernorm.weight": ("ln_1.weight", None),
    "input_layernorm.bias": ("ln_1.bias", None),
    "post_attention_layernorm.weight": ("ln_2.weight", None),
    "post_attention_layernorm.bias": ("ln_2.bias", None),
    **{
        f"self_attn.{x}_proj.{part}": (f"attn.w{x}.{part}", axis)
        for x in "qkvo"
        for part, axis in (("weight", 1 if x == "o" else 0), ("bias", None if x == "o" else 0))
    },
    "mlp.fc1.weight": ("mlp.c_fc.weight", 0),
    "mlp.fc1.bias": ("mlp.c_fc.bias", 0),
    "mlp.fc2.weight": ("mlp.c_proj.weight", 1),
    "mlp.fc2.bias": ("mlp.c_proj.bias", None),
}


@dataclass(frozen=True)
class TensorPlace:
    """The place of a tensor: in each of `files` files the rows `part` of the tensor `name`, joined along `axis` (None:
    the same in every file)."""

    name: str
    axis: int | None
    stored_rows: int | None = None
    """Rows of the tensor in all files together, where a tensor holds several of ours."""
    part: tuple[int, int] | None = None
    """The rows of the tensor in each file; None: all."""
    is_transposed: bool = False


def place_of(config: Llama4Config, name: str, files: int) -> TensorPlace:
    """The place of the canonical tensor `name` (no expert stack). Raises BadCheckpoint for one that has no name
    there."""
    if name in _TOP:
        return TensorPlace(*_TOP[name])
    if match := _VISION_LAYER.fullmatch(name):
        stored, axis = _IN_VISION_LAYER[match[2]]
        return TensorPlace(f"{_ENCODER}transformer.resblocks.{match[1]}.{stored}", axis)
    match = _LAYER.fullmatch(name)
    if match is None:
        fail(BadCheckpoint, "Meta's files have no name for the tensor", got=name)
    i, rest = int(match[1]), match[2]
    if rest == "post_attention_layernorm.weight":
        inner = "norm.weight" if config.layer(i).moe else "mlp.layer_norm_weight"
        return TensorPlace(f"layers.{i}.feed_forward.{inner}", None)
    stored, axis = _IN_LAYER[rest]
    parts = _parts(config, rest)
    if parts is None:
        return TensorPlace(f"layers.{i}.{stored}", axis, is_transposed=stored.endswith("router_DE"))
    before, rows = parts[0] // files, parts[1] // files
    return TensorPlace(f"layers.{i}.{stored}", axis, parts[2], (before, before + rows))


def _parts(config: Llama4Config, rest: str) -> tuple[int, int, int] | None:
    """Rows before ours, our rows and all rows of a tensor that holds several of ours one after the other."""
    H, N, K, F = config.head_size, config.num_heads, config.num_kv_heads, config.dense_width
    return {
        "self_attn.q_proj.weight": (0, N * H, (N + 2 * K) * H),
        "self_attn.k_proj.weight": (N * H, K * H, (N + 2 * K) * H),
        "self_attn.v_proj.weight": ((N + K) * H, K * H, (N + 2 * K) * H),
        "feed_forward.gate_proj.weight": (0, F, 2 * F),
        "feed_forward.up_proj.weight": (F, F, 2 * F),
    }.get(rest)
