"""Hugging Face's config.json, read and written: Llama 4 (full or text-only, published or v5 keys) and dense Llama.

The traps of these files (lists that mean other things when empty, ints that mean true) are each named where they lie.
"""

import math
from collections.abc import Mapping
from typing import Any

from herd.config.checks import MAX_CONTEXT, MAX_EXPERTS, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH, eps, positive, whole
from herd.config.shape import Llama4Config, RopeDivisors, RopeScaling, VisionConfig, is_dense_llama
from herd.errors import BadConfig, fail

_IMAGE_IDS = {
    ("boi_token_index", "boi_token_id"): 200080,
    ("eoi_token_index", "eoi_token_id"): 200081,
    ("image_token_index", "image_token_id"): 200092,
}


def from_hf(data: Mapping[str, Any]) -> Llama4Config:
    """Read the content of a config.json: Llama 4 (full or text-only, published or v5 keys), or dense Llama.

    Raises BadConfig for another architecture or for numbers that describe no model.
    """
    kind = data.get("model_type")
    text = data.get("text_config", data)
    if not isinstance(text, Mapping):
        fail(BadConfig, "config.json text_config", got=type(text).__name__, expected="an object")
    if kind in ("llama4", "llama4_text"):
        return _from_llama4(data, text)
    if kind == "llama":
        return _from_llama(data)
    return fail(
        BadConfig,
        "config.json model_type",
        got=kind,
        expected="llama4, llama4_text or llama",
        do="Herd runs the Llama family only",
    )


def _need(data: Mapping[str, Any], key: str) -> Any:
    if data.get(key) is None:
        fail(BadConfig, f"config.json has no {key}", do="the file is not a whole Llama config")
    return data[key]


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


def _rope_from_hf(text: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    rope = _object(text, "rope_parameters")
    if rope is None:
        rope = {**(_object(text, "rope_scaling") or {}), "rope_theta": text.get("rope_theta")}
    theta = rope.get("rope_theta")
    if theta is None:
        theta = text.get("rope_theta", 500000.0 if "llama4" in str(text.get("model_type")) else 10000.0)
    theta = positive("rope_theta", 10000.0 if theta is None else theta)
    kind = rope.get("rope_type", rope.get("type")) or "default"
    if kind == "default":
        return theta, None
    if kind != "llama3":
        fail(BadConfig, "rope type", got=kind, expected="default or llama3")
    return theta, RopeScaling(
        positive("rope factor", rope.get("factor")),
        positive("rope low_freq_factor", rope.get("low_freq_factor")),
        positive("rope high_freq_factor", rope.get("high_freq_factor")),
        whole("rope original_max_position_embeddings", rope.get("original_max_position_embeddings"), 1, MAX_CONTEXT),
    )


def _ids(value: object, name: str) -> tuple[int, ...]:
    if value is None:
        return ()
    items = value if isinstance(value, list) else [value]
    return tuple(whole(name, x, 0, MAX_VOCAB) for x in items)


def _one_id(value: object, name: str) -> int | None:
    ids = () if value == -1 else _ids(value, name)  # old Llama files write -1 for none
    return ids[0] if ids else None


def _activation(data: Mapping[str, Any]) -> None:
    if data.get("partial_rotary_factor") not in (None, 1, 1.0):
        fail(BadConfig, "partial_rotary_factor", got=data["partial_rotary_factor"], expected=1)
    if data.get("hidden_act", "silu") != "silu":
        fail(BadConfig, "hidden_act", got=data["hidden_act"], expected="silu")
    if data.get("attention_bias") or data.get("mlp_bias"):
        fail(BadConfig, "attention_bias or mlp_bias", got=True, expected="false: no Llama of Meta's has them")


def _from_llama4(top: Mapping[str, Any], text: Mapping[str, Any]) -> Llama4Config:
    _activation(text)
    n = whole("num_hidden_layers", _need(text, "num_hidden_layers"), 1, MAX_LAYERS)
    heads = whole("num_attention_heads", _need(text, "num_attention_heads"), 1, MAX_WIDTH)
    width = whole("hidden_size", _need(text, "hidden_size"), 1, MAX_WIDTH)
    theta, scaling = _rope_from_hf(text)
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
        if v.get("hidden_act", "gelu") != "gelu":
            fail(BadConfig, "vision hidden_act", got=v["hidden_act"], expected="gelu")
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
        num_kv_heads=_need(text, "num_key_value_heads"),
        head_size=text.get("head_dim") or width // heads,
        vocab_size=_need(text, "vocab_size"),
        dense_width=text.get("intermediate_size_mlp") or expert_width,
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
        max_context=text.get("max_position_embeddings", 8192),
        bos_id=_one_id(text.get("bos_token_id", top.get("bos_token_id")), "bos_token_id"),
        eos_ids=_ids(text.get("eos_token_id", top.get("eos_token_id")), "eos_token_id"),
        pad_id=_one_id(text.get("pad_token_id"), "pad_token_id"),
        vision=vision,
        image_start_id=image_ids[0],
        image_end_id=image_ids[1],
        patch_id=image_ids[2],
    )


def _from_llama(data: Mapping[str, Any]) -> Llama4Config:
    _activation(data)
    heads = whole("num_attention_heads", _need(data, "num_attention_heads"), 1, MAX_WIDTH)
    width = whole("hidden_size", _need(data, "hidden_size"), 1, MAX_WIDTH)
    theta, scaling = _rope_from_hf(data)
    return Llama4Config(
        num_layers=_need(data, "num_hidden_layers"),
        width=width,
        num_heads=heads,
        num_kv_heads=data.get("num_key_value_heads") or heads,
        head_size=data.get("head_dim") or width // heads,
        vocab_size=_need(data, "vocab_size"),
        dense_width=_need(data, "intermediate_size"),
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=data.get("rms_norm_eps", 1e-6),
        tied_embeddings=_flag(data, "tie_word_embeddings", False),
        max_context=data.get("max_position_embeddings", 2048),
        bos_id=_one_id(data.get("bos_token_id"), "bos_token_id"),
        eos_ids=_ids(data.get("eos_token_id"), "eos_token_id"),
        pad_id=_one_id(data.get("pad_token_id"), "pad_token_id"),
    )


def _scaling_to_hf(c: Llama4Config) -> dict[str, Any] | None:
    s = c.rope_scaling
    if isinstance(s, RopeDivisors):
        s = llama3_from_divisors(s, c.rope_theta, c.head_size)
    if s is None:
        return None
    return {
        "rope_type": "llama3",
        "factor": s.factor,
        "low_freq_factor": s.low_freq_factor,
        "high_freq_factor": s.high_freq_factor,
        "original_max_position_embeddings": s.original_context,
    }


def llama3_from_divisors(divisors: RopeDivisors, theta: float, head_size: int) -> RopeScaling | None:
    """The "llama3" parameters that give these divisors to 1e-5; None when all are 1. Raises BadConfig when none do."""
    if all(d == 1.0 for d in divisors.values):
        return None
    factor = max(divisors.values)
    freqs = [theta ** (-2.0 * m / head_size) for m in range(head_size // 2)]
    # Where a step lies, any original context between two wavelengths says the same; published models use powers of two.
    kept = [f for f, d in zip(freqs, divisors.values, strict=True) if d == 1.0]
    stretched = [f for f, d in zip(freqs, divisors.values, strict=True) if d == factor]
    border = 2.0 * math.pi / math.sqrt((kept or [max(freqs)])[-1] * stretched[0])
    for original in (8192, *(1 << k for k in range(5, 21)), max(1, round(border))):
        for low, high in ((1.0, 1.0), (1.0, 4.0)):
            s = RopeScaling(factor, low, high, original)
            probe = Llama4Config(1, head_size, 1, 1, head_size, 1, 1, rope_theta=theta, rope_scaling=s)
            wanted = (f / d for f, d in zip(freqs, divisors.values, strict=True))
            if all(math.isclose(a, b, rel_tol=1e-5) for a, b in zip(probe.rope_freqs(), wanted, strict=True)):
                return s
    return fail(BadConfig, "rope_freqs fit no llama3 scaling", got=divisors.values, do="keep the GGUF form")


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
        "rope_scaling": _scaling_to_hf(c),
        "max_position_embeddings": c.max_context,
        "attention_bias": False,
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
            "mlp_bias": False,
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
