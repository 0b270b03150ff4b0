"""Hugging Face's config.json, read and written: Llama 4 (full or text-only, published or v5 keys), Llama, Mistral.

The traps of these files (lists that mean other things when empty, ints that mean true) are each named where they lie.
"""

from collections.abc import Mapping
from typing import Any

from herd.config.checks import MAX_CONTEXT, MAX_EXPERTS, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH, eps, positive, whole
from herd.config.hf_keys import DENSE_FAMILIES, check_hf, window_of
from herd.config.hf_rope import rope_from_hf, rope_to_hf
from herd.config.shape import Llama4Config, VisionConfig, is_dense_llama
from herd.errors import BadConfig, fail

_IMAGE_IDS = {
    ("boi_token_index", "boi_token_id"): 200080,
    ("eoi_token_index", "eoi_token_id"): 200081,
    ("image_token_index", "image_token_id"): 200092,
}


def from_hf(data: Mapping[str, Any]) -> Llama4Config:
    """Read the content of a config.json: Llama 4 (full or text-only, published or v5 keys), dense Llama, or Mistral,
    whose context ends with its attention window (up to there it changes nothing).

    Raises BadConfig for another architecture or for numbers that describe no model.
    """
    kind = data.get("model_type")
    text = data.get("text_config", data)
    if not isinstance(text, Mapping):
        fail(BadConfig, "config.json text_config", got=type(text).__name__, expected="an object")
    if kind in ("llama4", "llama4_text"):
        check_hf(data)
        return _from_llama4(data, text)
    if kind in DENSE_FAMILIES:
        check_hf(data)
        return _from_dense(data)
    return fail(
        BadConfig,
        "config.json model_type",
        got=kind,
        expected="llama4, llama4_text, llama or mistral",
        do="Herd runs the Llama family only",
    )


def _need(data: Mapping[str, Any], key: str) -> Any:
    if data.get(key) is None:
        fail(BadConfig, f"config.json has no {key}", do="the file is not a whole Llama config")
    return data[key]


def _kv_heads(data: Mapping[str, Any], default: int, heads: int) -> Any:
    """num_key_value_heads: a family's number where the key is not there, as many as heads where it is null."""
    value = data.get("num_key_value_heads", default)
    return heads if value is None else value


def _object(data: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    value = data.get(key)
    if value is not None and not isinstance(value, Mapping):
        fail(BadConfig, f"config.json {key}", got=type(value).__name__, expected="an object")
    return value


def _flag(data: Mapping[str, Any], key: str, default: bool) -> bool:
    """true or false; whole numbers count as well (older files write attn_temperature_tuning: 4)."""
    value = data.get(key)
    if value is not None and not isinstance(value, int):
        fail(BadConfig, f"config.json {key}", got=value, expected="true or false")
    return default if value is None else bool(value)


def _flags(name: str, value: object, num_layers: int) -> tuple[bool, ...]:
    if (
        not isinstance(value, list)
        or len(value) != num_layers
        or any(type(x) not in (int, bool) or x not in (0, 1) for x in value)
    ):
        fail(BadConfig, name, got=value, expected=f"a list of {num_layers} zeros and ones")
    return tuple(bool(x) for x in value)


def _ids(value: object, name: str) -> tuple[int, ...]:
    if value is None:
        return ()
    items = value if isinstance(value, list) else [value]
    return tuple(whole(name, x, 0, MAX_VOCAB) for x in items)


def _one_id(value: object, name: str) -> int | None:
    ids = () if value == -1 else _ids(value, name)  # old Llama files write -1 for none
    return ids[0] if ids else None


def _from_llama4(top: Mapping[str, Any], text: Mapping[str, Any]) -> Llama4Config:
    n = whole("num_hidden_layers", _need(text, "num_hidden_layers"), 1, MAX_LAYERS)
    heads = whole("num_attention_heads", _need(text, "num_attention_heads"), 1, MAX_WIDTH)
    width = whole("hidden_size", _need(text, "hidden_size"), 1, MAX_WIDTH)
    head_size = whole("head_dim", text.get("head_dim", 128) or width // heads, 1, MAX_WIDTH)
    max_context = whole("max_position_embeddings", text.get("max_position_embeddings", 131072), 1, MAX_CONTEXT)
    theta, scaling = rope_from_hf(text, theta=500000.0, head_size=head_size, max_context=max_context)
    chunk = text.get("attention_chunk_size", 8192)

    # `[]`, null or nothing means: derive from the interval; a null interval means rope everywhere.
    rope_pattern = _flags("no_rope_layers", text["no_rope_layers"], n) if text.get("no_rope_layers") else None
    interval = text.get("no_rope_layer_interval", 4)
    # `[]` means none (other than no_rope_layers); null means: derive from the step.
    moe_pattern, step = None, text.get("interleave_moe_layer_step", 1)
    if text.get("moe_layers") is not None:
        if not isinstance(text["moe_layers"], list):
            fail(BadConfig, "moe_layers", got=text["moe_layers"], expected="a list of layers")
        listed = {whole("moe_layers", x, 0, n - 1) for x in text["moe_layers"]}
        moe_pattern, step = tuple(i in listed for i in range(n)), 0
    types = text.get("layer_types")
    chunk_pattern = None
    if types:
        kinds = ("chunked_attention", "full_attention")
        if not isinstance(types, list) or len(types) != n or any(t not in kinds for t in types):
            fail(BadConfig, "layer_types", got=types, expected=f"{n} of chunked_attention or full_attention")
        chunk_pattern = tuple(t == "chunked_attention" for t in types)

    vision = None
    v = _object(top, "vision_config")
    if v is not None and top.get("model_type") == "llama4":
        ratio = v.get("pixel_shuffle_ratio", 0.5)
        shuffle = round(min(1 / positive("pixel_shuffle_ratio", ratio), MAX_WIDTH))
        vision_rope = _object(v, "rope_parameters") or {}
        vision = VisionConfig(
            image_size=_need(v, "image_size"),
            patch_size=_need(v, "patch_size"),
            width=_need(v, "hidden_size"),
            num_layers=_need(v, "num_hidden_layers"),
            num_heads=_need(v, "num_attention_heads"),
            mlp_width=_need(v, "intermediate_size"),
            adapter_width=_need(v, "projector_input_dim"),
            output_width=_need(v, "projector_output_dim"),
            rope_theta=positive("vision rope_theta", vision_rope.get("rope_theta", v.get("rope_theta", 10000.0))),
            norm_eps=eps("vision norm_eps", v.get("norm_eps", 1e-5)),
            pixel_shuffle=shuffle,
        )
    expert_width = whole("intermediate_size", _need(text, "intermediate_size"), 1, MAX_WIDTH)
    experts = text.get("num_local_experts", 16)
    floor_scale = positive("floor_scale", text.get("floor_scale", 8192))  # 8192.0 in some files
    image_ids = [
        whole(names[0], next((top[name] for name in names if top.get(name) is not None), default), 0, MAX_VOCAB)
        for names, default in _IMAGE_IDS.items()
    ]
    return Llama4Config(
        num_layers=n,
        width=width,
        num_heads=heads,
        num_kv_heads=_kv_heads(text, 8, heads),
        head_size=head_size,
        vocab_size=_need(text, "vocab_size"),
        dense_width=text.get("intermediate_size_mlp", 16384) or expert_width,
        expert_width=expert_width,
        num_experts=whole("num_local_experts", experts, 0, MAX_EXPERTS),
        experts_per_token=text.get("num_experts_per_tok", 1),
        moe_interleave=whole("interleave_moe_layer_step", step, 0, MAX_LAYERS),
        nope_interval=whole("no_rope_layer_interval", interval or 0, 0, MAX_LAYERS),
        moe_pattern=moe_pattern,
        rope_pattern=rope_pattern,
        chunk_pattern=chunk_pattern,
        chunk=chunk,
        use_qk_norm=_flag(text, "use_qk_norm", True),
        rope_theta=theta,
        rope_scaling=scaling,
        temperature_tuning=_flag(text, "attn_temperature_tuning", True),
        floor_scale=whole("floor_scale", int(floor_scale), 1, MAX_CONTEXT),
        attn_scale=text.get("attn_scale", 0.1),
        norm_eps=text.get("rms_norm_eps", 1e-5),
        tied_embeddings=_flag(text, "tie_word_embeddings", False),
        attention_bias=_flag(text, "attention_bias", False),
        max_context=max_context,
        bos_id=_one_id(text.get("bos_token_id", top.get("bos_token_id")), "bos_token_id"),
        eos_ids=_ids(text.get("eos_token_id", top.get("eos_token_id")), "eos_token_id"),
        pad_id=_one_id(text.get("pad_token_id"), "pad_token_id"),
        vision=vision,
        image_start_id=image_ids[0],
        image_end_id=image_ids[1],
        patch_id=image_ids[2],
    )


def _from_dense(data: Mapping[str, Any]) -> Llama4Config:
    """Llama, and Mistral with the defaults of its own."""
    mistral = data["model_type"] == "mistral"
    heads = whole("num_attention_heads", _need(data, "num_attention_heads"), 1, MAX_WIDTH)
    width = whole("hidden_size", _need(data, "hidden_size"), 1, MAX_WIDTH)
    head_size = whole("head_dim", data.get("head_dim") or width // heads, 1, MAX_WIDTH)
    default = 131072 if mistral else 2048
    max_context = whole("max_position_embeddings", data.get("max_position_embeddings", default), 1, MAX_CONTEXT)
    theta, scaling = rope_from_hf(data, theta=10000.0, head_size=head_size, max_context=max_context)
    window = window_of(data) if mistral else None
    return Llama4Config(
        num_layers=_need(data, "num_hidden_layers"),
        width=width,
        num_heads=heads,
        num_kv_heads=_kv_heads(data, 8 if mistral else heads, heads),
        head_size=head_size,
        vocab_size=_need(data, "vocab_size"),
        dense_width=_need(data, "intermediate_size"),
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=data.get("rms_norm_eps", 1e-6),
        tied_embeddings=_flag(data, "tie_word_embeddings", False),
        attention_bias=_flag(data, "attention_bias", False),
        mlp_bias=_flag(data, "mlp_bias", False),
        max_context=max_context if window is None else min(max_context, window),
        bos_id=_one_id(data.get("bos_token_id"), "bos_token_id"),
        eos_ids=_ids(data.get("eos_token_id"), "eos_token_id"),
        pad_id=_one_id(data.get("pad_token_id"), "pad_token_id"),
    )


def hf_notes(data: Mapping[str, Any], config: Llama4Config) -> list[str]:
    """What a person should know of how a config.json was read as `config`."""
    window = window_of(data) if data.get("model_type") == "mistral" else None
    if window is None or config.max_context < window or data.get("max_position_embeddings", window + 1) <= window:
        return []
    return [f"its attention looks back over {window} tokens: it is run up to that length, where this changes nothing"]


def to_hf(c: Llama4Config, dtype: str = "bfloat16") -> dict[str, Any]:
    """The content of a config.json that transformers' Llama 4 (or, for a dense Llama, its Llama) reads."""
    eos: Any = list(c.eos_ids) if len(c.eos_ids) > 1 else (c.eos_ids[0] if c.eos_ids else None)
    common: dict[str, Any] = {
        "hidden_size": c.width,
        "num_hidden_layers": c.num_layers,
        "num_attention_heads": c.num_heads,
        "num_key_value_heads": c.num_kv_heads,
        "head_dim": c.head_size,
        "vocab_size": c.vocab_size,
        "hidden_act": "silu",
        "rms_norm_eps": c.norm_eps,
        "rope_theta": c.rope_theta,
        "rope_scaling": rope_to_hf(
            c.rope_scaling, theta=c.rope_theta, head_size=c.head_size, max_context=c.max_context
        ),
        "max_position_embeddings": c.max_context,
        "attention_bias": c.attention_bias,
        "tie_word_embeddings": c.tied_embeddings,
        "bos_token_id": c.bos_id,
        "eos_token_id": eos,
        "pad_token_id": c.pad_id,
        "torch_dtype": dtype,
    }
    if is_dense_llama(c):
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "intermediate_size": c.dense_width,
            "mlp_bias": c.mlp_bias,
            **common,
        }
    layers = c.layers
    text = {
        "model_type": "llama4_text",
        **common,
        "intermediate_size": c.expert_width or c.dense_width,
        "intermediate_size_mlp": c.dense_width,
        "num_local_experts": c.num_experts,
        "num_experts_per_tok": c.experts_per_token,
        "interleave_moe_layer_step": c.moe_interleave or 1,
        "moe_layers": [i for i, layer in enumerate(layers) if layer.moe],
        "no_rope_layers": [int(layer.rope) for layer in layers],
        "layer_types": ["chunked_attention" if layer.chunked else "full_attention" for layer in layers],
        # transformers refuses null even when no layer is chunked: a chunk longer than any sequence says the same
        "attention_chunk_size": c.chunk if c.chunk is not None else c.max_context,
        "use_qk_norm": c.use_qk_norm,
        "attn_temperature_tuning": c.temperature_tuning,
        "floor_scale": c.floor_scale,
        "attn_scale": c.attn_scale,
    }
    if c.vision is None:
        return {"architectures": ["Llama4ForCausalLM"], **text}
    v = c.vision
    return {
        "architectures": ["Llama4ForConditionalGeneration"],
        "model_type": "llama4",
        "boi_token_index": c.image_start_id,
        "eoi_token_index": c.image_end_id,
        "image_token_index": c.patch_id,
        "tie_word_embeddings": c.tied_embeddings,
        "torch_dtype": dtype,
        "text_config": text,
        "vision_config": {
            "model_type": "llama4_vision_model",
            "image_size": v.image_size,
            "patch_size": v.patch_size,
            "num_channels": 3,
            "hidden_act": "gelu",
            "hidden_size": v.width,
            "num_hidden_layers": v.num_layers,
            "num_attention_heads": v.num_heads,
            "intermediate_size": v.mlp_width,
            "projector_input_dim": v.adapter_width,
            "projector_output_dim": v.output_width,
            "vision_output_dim": v.output_width,
            "pixel_shuffle_ratio": 1 / v.pixel_shuffle,
            "rope_theta": v.rope_theta,
            "norm_eps": v.norm_eps,
        },
    }
