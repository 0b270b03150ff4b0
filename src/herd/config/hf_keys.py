"""What Herd knows of the keys of a config.json: read, changing the arithmetic but not computed, harmless.

A key that changes the arithmetic and is not computed is an error with its name, unless its value is one under which it
changes nothing. A key that is on no list is told, since nobody here knows what it does. Sources: transformers'
LlamaConfig and Llama4Config, and what its other decoders have.
"""

from collections.abc import Mapping
from typing import Any

from herd.config.checks import MAX_CONTEXT, OFF, ONE, Values, check_keys, whole
from herd.config.hf_rope import LAYER_TYPES, rope_object
from herd.errors import BadConfig, fail


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


READ = _words("""
    attention_bias attention_chunk_size attn_scale attn_temperature_tuning bos_token_id compression_config eos_token_id
    floor_scale head_dim hidden_act hidden_size interleave_moe_layer_step intermediate_size intermediate_size_mlp
    layer_types max_position_embeddings mlp_bias model_type moe_layers no_rope_layer_interval no_rope_layers
    num_attention_heads num_experts_per_tok num_hidden_layers num_key_value_heads num_local_experts
    original_max_position_embeddings pad_token_id partial_rotary_factor quantization quantization_config rms_norm_eps
    rope_parameters rope_scaling rope_theta tie_word_embeddings use_qk_norm vocab_size
""")
"""Keys of the object of a text model. A dense Llama has some of them neutral only (`DENSE`)."""

READ_TOP = _words("""
    boi_token_id boi_token_index bos_token_id compression_config eoi_token_id eoi_token_index eos_token_id
    image_token_id image_token_index model_type quantization quantization_config text_config tie_word_embeddings
    vision_config
""")
"""Keys of the object around text_config."""

READ_VISION = _words("""
    hidden_act hidden_size image_size intermediate_size model_type multi_modal_projector_bias norm_eps
    num_attention_heads num_channels num_hidden_layers patch_size pixel_shuffle_ratio projector_input_dim
    projector_output_dim rope_parameters rope_theta vision_output_dim
""")

READ_ROPE = _words("""
    attention_factor beta_fast beta_slow factor high_freq_factor long_factor low_freq_factor mscale mscale_all_dim
    original_max_position_embeddings rope_theta rope_type short_factor truncate type
""")
"""Keys of rope_scaling and rope_parameters."""

HARMLESS = _words("""
    activation_dropout add_bos_token add_eos_token architectures attention_dropout attn_implementation
    _attn_implementation _attn_implementation_autoset auto_map bad_words_ids begin_suppress_tokens
    chunk_size_feed_forward _commit_hash cross_attention_hidden_size custom_pipelines decoder_start_token_id
    diversity_penalty do_sample dropout dtype early_stopping embd_pdrop encoder_no_repeat_ngram_size
    _experts_implementation exponential_decay_length_penalty ffn_dim_multiplier finetuning_task _flash_attn_2_enabled
    for_llm_compressor forced_bos_token_id forced_eos_token_id gradient_checkpointing hidden_dropout hidden_dropout_prob
    id2label initializer_range is_llama_config label2id layer_norm_eps length_penalty lora_alpha max_length
    max_sequence_length max_window_layers min_length model_max_length mtp_loss_weight multiple_of name_or_path
    _name_or_path neftune_noise_alpha no_repeat_ngram_size norm_eps num_beam_groups num_beams num_labels
    num_return_sequences output_attentions output_hidden_states output_router_logits output_scores pad_token prefix
    pretraining_tp problem_type projector_dropout remove_invalid_values repetition_penalty resid_pdrop residual_dropout
    return_dict return_dict_in_generate router_aux_loss_coef router_jitter_noise sep_token_id suppress_tokens
    task_specific_params temperature tf_legacy_loss tokenizer_class tokenizer_model_max_length tokenizer_padding_side
    top_k top_p torch_dtype torchscript transformers.js_config transformers_version typical_p unk_token_id unsloth_fixed
    unsloth_version use_bfloat16 use_cache use_flash_attn use_unsloth_gradient_checkpointing vision_feature_layer
    vision_feature_select_strategy
""")
"""Bookkeeping, training, losses, defaults of sampling that generation_config.json holds today."""

HARMLESS_ROPE = frozenset({"finetuned", *LAYER_TYPES})

NEUTRAL: dict[str, Values] = {
    **dict.fromkeys(
        # windows, other norms and attentions, biases of other names, experts of other families, caps
        _words("""
            add_cross_attention alibi attention_k_eq_v attention_multiplier attention_out_bias
            attention_output_gate attention_sink attn_logit_softcap attn_logit_softcapping attn_output_gate bias
            clip_qkv cross_attention_layers draft_vocab_size final_logit_softcap final_logit_softcapping
            first_k_dense_replace global_attn_every_n_layers hidden_size_per_layer_input is_encoder_decoder kv_lora_rank
            layernorm_post llama_4_scaling lm_head_bias logit_softcapping logits_soft_cap moe_intermediate_size
            moe_num_experts mrope_section multi_query mup_base_width n_group n_routed_experts n_shared_experts
            norm_after norm_topk_prob num_experts num_nextn_predict_layers o_bias parallel_attn position_embedding_type
            post_norm prefix_lm pruned_heads q_lora_rank qk_head_dim qk_layernorm qk_nope_head_dim qk_norm
            qk_rope_head_dim qkv_bias query_pre_attn_scalar rope_dim rope_freq_constant rope_interleave rope_interleaved
            rope_local_base_freq rope_ratio rotary_dim rotary_emb_base scale_attn_by_inverse_layer_idx scale_depth
            sliding_window sliding_window_pattern swiglu_alpha swiglu_limit topk_group use_alibi use_bias
            use_bidirectional_attention use_bidirectional_attn use_learned_position_embeddings use_mup
            use_parallel_residual use_post_norm use_qkv_bias use_sliding_window v_head_dim
        """),
        OFF,
    ),
    **dict.fromkeys(
        _words("""
            embedding_multiplier embedding_scale lm_head_multiplier logit_scale logits_scaling mup_scale_emb
            partial_rotary_factor residual_multiplier residual_scale rope_pct rotary_pct routed_scaling_factor scale_emb
        """),
        ONE,
    ),
    "hidden_act": (None, "silu", "swish"),
    "hidden_activation": (None, "silu", "swish"),
    "is_causal": (None, True),
    "is_decoder": (None, False, True),  # of a model without an encoder both are one
    "position_embedding_type": (None, "rope", "rotary"),
    "pre_norm": (None, True),
    "use_rmsnorm": (None, True),
    "use_rope": (None, True),
}
"""Keys that change the arithmetic -> the values under which they do not. Every other value is refused."""

DENSE: dict[str, Values] = {
    **dict.fromkeys(_words("attention_chunk_size attn_temperature_tuning num_local_experts use_qk_norm"), OFF),
    "moe_layers": (None,),
    "no_rope_layers": ONE,
}
"""Keys of what Llama 4 computes and a dense Llama has not -> the values under which they change nothing."""

FAMILY: dict[str, dict[str, Values]] = {
    "llama": DENSE,
    "mistral": {**DENSE, "attention_bias": OFF, "mlp_bias": OFF},
    "llama4": {"mlp_bias": OFF},
    "llama4_text": {"mlp_bias": OFF},
}
"""model_type -> what its family has not, and another has."""

DENSE_FAMILIES = ("llama", "mistral")

MISTRAL_WINDOW = 4096
"""The attention window of a Mistral whose file says none, as transformers has it; null is no window."""

NEUTRAL_VISION: dict[str, Values] = {
    "hidden_act": (None, "gelu"),
    "is_encoder_decoder": OFF,
    "multi_modal_projector_bias": (None, False),
    "num_channels": (None, 3),
}

NEUTRAL_ROPE: dict[str, Values] = {
    "alpha": (None,),
    "attn_factor": ONE,
    "extrapolation_factor": ONE,
    "llama_4_scaling_beta": OFF,
    "mrope_interleaved": OFF,
    "mrope_section": (None,),
    "partial_rotary_factor": ONE,
}


def check_hf(data: Mapping[str, Any]) -> list[str]:
    """The keys of a config.json that are on no list. Raises BadConfig naming a key that changes the arithmetic and is
    not computed."""
    text, top = data.get("text_config", data), data if "text_config" in data else {}
    kind = str(data.get("model_type"))
    neutral = {**NEUTRAL, **FAMILY.get(kind, {})}
    unknown = check_keys(_without_harmless_window(kind, text), READ, neutral, HARMLESS)
    unknown += check_keys(top, READ_TOP, NEUTRAL, READ | HARMLESS)
    vision = data.get("vision_config") if data.get("model_type") == "llama4" else None
    if isinstance(vision, Mapping):
        found = check_keys(vision, READ_VISION, NEUTRAL_VISION, HARMLESS, "vision_config ")
        unknown += [f"vision_config {key}" for key in found]
    name, rope = rope_object(text)
    unknown += [f"{name} {key}" for key in check_keys(rope, READ_ROPE, NEUTRAL_ROPE, HARMLESS_ROPE, f"{name} ")]
    types = text.get("layer_types")
    if kind in DENSE_FAMILIES and types:
        # Mistral's layers all have its window, whatever this says
        known = ("full_attention", "sliding_attention") if kind == "mistral" else ("full_attention",)
        if not isinstance(types, list) or any(one not in known for one in types):
            fail(BadConfig, "config.json layer_types", got=types, expected=" or ".join(known))
    return unknown


def window_of(data: Mapping[str, Any]) -> int | None:
    """How many tokens back a Mistral looks, its own included; None: as far as there are any. Raises BadConfig."""
    window = data.get("sliding_window", MISTRAL_WINDOW)
    return None if window is None else whole("sliding_window", window, 1, MAX_CONTEXT)


def _without_harmless_window(kind: str, text: Mapping[str, Any]) -> Mapping[str, Any]:
    """The keys but for a sliding window that no text of the model's context can leave: a Mistral's context ends with
    it."""
    window, context = text.get("sliding_window"), text.get("max_position_embeddings")
    if kind == "mistral" or (type(window) is int and type(context) is int and window >= context):
        return {key: value for key, value in text.items() if key != "sliding_window"}
    return text
