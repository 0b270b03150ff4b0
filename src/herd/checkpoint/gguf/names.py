"""The names of a model's tensors in GGUF files: one table for the reader and the writer.

Canonical names (left) are those of `weights.build` without `.weight` and `.bias`; `{}` is the layer. GGUF keeps rows of
q and k in adjacent rotary pairs for `llama` and `llama4` alike, as Herd does: nothing is permuted. Experts stand
output-major, and gate and up apart. Sources: the `llama4`, `llama` and `clip` architectures of GGUF.
"""

from herd.errors import BadCheckpoint, fail

TABLE = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers.{}.input_layernorm": "blk.{}.attn_norm",
    "model.layers.{}.self_attn.q_proj": "blk.{}.attn_q",
    "model.layers.{}.self_attn.k_proj": "blk.{}.attn_k",
    "model.layers.{}.self_attn.v_proj": "blk.{}.attn_v",
    "model.layers.{}.self_attn.o_proj": "blk.{}.attn_output",
    "model.layers.{}.post_attention_layernorm": "blk.{}.ffn_norm",
    "model.layers.{}.feed_forward.gate_proj": "blk.{}.ffn_gate",
    "model.layers.{}.feed_forward.up_proj": "blk.{}.ffn_up",
    "model.layers.{}.feed_forward.down_proj": "blk.{}.ffn_down",
    "model.layers.{}.feed_forward.router": "blk.{}.ffn_gate_inp",
    "model.layers.{}.feed_forward.experts.down_proj": "blk.{}.ffn_down_exps",
    "model.layers.{}.feed_forward.shared_expert.gate_proj": "blk.{}.ffn_gate_shexp",
    "model.layers.{}.feed_forward.shared_expert.up_proj": "blk.{}.ffn_up_shexp",
    "model.layers.{}.feed_forward.shared_expert.down_proj": "blk.{}.ffn_down_shexp",
    "vision_model.patch_embedding.linear": "v.patch_embd",
    "vision_model.class_embedding": "v.class_embd",
    "vision_model.positional_embedding_vlm": "v.position_embd",
    "vision_model.layernorm_pre": "v.pre_ln",
    "vision_model.layernorm_post": "v.post_ln",
    "vision_model.model.layers.{}.input_layernorm": "v.blk.{}.ln1",
    "vision_model.model.layers.{}.self_attn.q_proj": "v.blk.{}.attn_q",
    "vision_model.model.layers.{}.self_attn.k_proj": "v.blk.{}.attn_k",
    "vision_model.model.layers.{}.self_attn.v_proj": "v.blk.{}.attn_v",
    "vision_model.model.layers.{}.self_attn.o_proj": "v.blk.{}.attn_out",
    "vision_model.model.layers.{}.post_attention_layernorm": "v.blk.{}.ln2",
    "vision_model.model.layers.{}.mlp.fc1": "v.blk.{}.ffn_up",
    "vision_model.model.layers.{}.mlp.fc2": "v.blk.{}.ffn_down",
    "vision_model.vision_adapter.mlp.fc1": "mm.model.mlp.1",
    "vision_model.vision_adapter.mlp.fc2": "mm.model.mlp.2",
    "multi_modal_projector.linear_1": "mm.model.fc",
}

GATE_UP = "model.layers.{}.feed_forward.experts.gate_up_proj"
"""The one tensor that is two in GGUF: blk.{}.ffn_gate_exps and blk.{}.ffn_up_exps."""

ALIASES = {"v.blk.{}.ln2": "v.blk.{}.attn_post_norm"}
"""Second names that converters have written; the writer never does."""

ATTENTION_BIASES = frozenset({"attn_q.bias", "attn_k.bias", "attn_v.bias", "attn_output.bias"})
MLP_BIASES = frozenset({"ffn_gate.bias", "ffn_up.bias", "ffn_down.bias"})
"""What a layer of a `llama` may have beside its matrices. A kind that no layer has is zero."""

ROPE_FREQS = "rope_freqs.weight"
"""Divisors of the rotary frequencies: part of the config, not a weight."""

_NO_SUFFIX_IN_GGUF = {"v.class_embd"}


def gguf_names(name: str) -> tuple[str, ...]:
    """The GGUF names of a full canonical tensor name: one, or those of gate and up for a gate_up_proj.

    Raises BadCheckpoint for a name that no model of ours has.
    """
    stem, suffix = name, ".weight"
    for ending in (".weight", ".bias"):
        if name.endswith(ending):
            stem, suffix = name.removesuffix(ending), ending
    pattern, layer = _pattern(stem)
    if pattern == GATE_UP:
        return f"blk.{layer}.ffn_gate_exps.weight", f"blk.{layer}.ffn_up_exps.weight"
    if pattern not in TABLE:
        fail(BadCheckpoint, "GGUF has no name for the tensor", got=name)
    target = TABLE[pattern]
    return (target.format(layer) + ("" if target in _NO_SUFFIX_IN_GGUF else suffix),)


def other_name(name: str) -> str | None:
    """The second name of a GGUF tensor, or None."""
    stem, _, suffix = name.rpartition(".")
    pattern, layer = _pattern(stem)
    return f"{ALIASES[pattern].format(layer)}.{suffix}" if pattern in ALIASES else None


def _pattern(stem: str) -> tuple[str, str]:
    """A name with its layer number replaced by `{}`, and the number ("" when it has none)."""
    parts = stem.split(".")
    for i, part in enumerate(parts):
        # `mlp.1` of the adapter is a name, not a layer.
        if part.isdecimal() and parts[i - 1] in ("layers", "blk"):
            return ".".join([*parts[:i], "{}", *parts[i + 1 :]]), part
    return stem, ""
