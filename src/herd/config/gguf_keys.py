"""What Herd knows of the keys of a GGUF file: read, changing the arithmetic but not computed, harmless.

The rule is that of `hf_keys`. Names are those behind the architecture's; keys of other beginnings describe the file,
its origin and its vocabulary. Sources: gguf's key constants, llama.cpp's loader.
"""

from collections.abc import Mapping
from typing import Any

from herd.config.checks import OFF, ONE, Values, check_keys


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


READ = _words("""
    attention.head_count attention.head_count_kv attention.key_length attention.layer_norm_rms_epsilon
    attention.value_length block_count context_length embedding_length expert_count feed_forward_length
    rope.dimension_count rope.freq_base rope.scale_linear rope.scaling.attn_factor rope.scaling.factor
    rope.scaling.original_context_length rope.scaling.type rope.scaling.yarn_attn_factor rope.scaling.yarn_beta_fast
    rope.scaling.yarn_beta_slow
""")

READ_LLAMA4 = _words("""
    attention.chunk_size attention.sliding_window attention.sliding_window_pattern attention.temperature_length
    attention.temperature_scale expert_feed_forward_length expert_used_count interleave_moe_layer_step
""")

HARMLESS = _words("""
    attention.group_norm_epsilon attention.group_norm_groups attention.layer_norm_epsilon decoder_start_token_id
    expert_gating_func expert_used_count interleave_moe_layer_step pooling_type rope.scaling.finetuned
    tensor_data_layout vocab_size
""")
"""Keys of the architecture that change nothing: the gating of experts is its own, whatever the key says."""

OTHER = (
    "general.",
    "tokenizer.",
    "split.",
    "quantize.",
    "imatrix.",
    "herd.",
    "adapter.",
    "clip.",
    "diffusion.",
    "GGUF.",
)
"""Beginnings of keys that do not belong to the architecture."""

NEUTRAL: dict[str, Values] = {
    **dict.fromkeys(
        _words("""
            activation_sparsity_scale altup.active_idx altup.num_inputs attention.clamp_kqv attention.decay_lora_rank
            attention.gate_lora_rank attention.iclr_lora_rank attention.indexer.head_count attention.indexer.key_length
            attention.indexer.top_k attention.key_length_mla attention.key_length_swa attention.kv_lora_rank
            attention.max_alibi_bias attention.output_scale attention.q_lora_rank attention.relative_buckets_count
            attention.scale attention.shared_kv_layers attention.value_length_mla attention.value_length_swa
            attention.value_residual_mix_lora_rank attn_logit_softcapping decoder_block_count
            embedding_length_out embedding_length_per_layer_input expert_chunk_feed_forward_length expert_group_count
            expert_group_scale expert_group_used_count expert_weights_norm experts_per_group features_length
            final_logit_softcapping full_attention_interval leading_dense_block_count moe_every_n_layers
            moe_latent_size n_deepstack_layers nextn_predict_layers rescale_every_n_layers rope.dimension_count_swa
            rope.dimension_sections rope.freq_base_swa rope.scaling.yarn_log_multiplier router_logit_softcapping
            swiglu_clamp_exp swiglu_clamp_shexp swin_norm time_decay_extra_dim time_mix_extra_dim token_shift_count
            use_parallel_residual
        """),
        OFF,
    ),
    **dict.fromkeys(
        _words("embedding_scale expert_weights_scale logit_scale residual_scale rope.scaling.alpha"), (*ONE, 0)
    ),
    "attention.causal": (None, True),
    "rope.scaling.yarn_ext_factor": (None, 1, -1),
}
"""Keys that change the arithmetic -> the values under which they do not. Every other value is refused."""

NEUTRAL_LLAMA: dict[str, Values] = dict.fromkeys([*(READ_LLAMA4 - HARMLESS), "expert_shared_count"], OFF)
"""Keys of what Llama 4 computes and a dense Llama has not -> the values under which they change nothing."""

NEUTRAL_LLAMA4: dict[str, Values] = {"expert_shared_count": (None, 0, 1)}


def check_gguf(keys: Mapping[str, Any], arch: str) -> list[str]:
    """The keys of a file that are on no list. Raises BadConfig naming a key that changes the arithmetic and is not
    computed."""
    own = {key.removeprefix(f"{arch}."): keys[key] for key in keys if key.startswith(f"{arch}.")}
    same = {  # said of some layers what is said of all
        "rope.freq_base_swa": own.get("rope.freq_base", 10000.0),
        "rope.dimension_count_swa": own.get("rope.dimension_count"),
        "expert_shared_feed_forward_length": own.get("expert_feed_forward_length"),
    }
    read = READ | (READ_LLAMA4 if arch == "llama4" else frozenset())
    neutral = {**NEUTRAL, **(NEUTRAL_LLAMA4 if arch == "llama4" else NEUTRAL_LLAMA)}
    neutral |= {key: (*OFF, value) for key, value in same.items()}
    unknown = check_keys(own, read, neutral, HARMLESS, f"{arch}.")
    others = [key for key in keys if not key.startswith((f"{arch}.", *OTHER))]
    return [*(f"{arch}.{key}" for key in unknown), *others]
