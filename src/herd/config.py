"""The shape of a model: one frozen `Llama4Config`, its vision part, and presets.

What it is: numbers, their rules, and the layer pattern computed once (`config.layer(i)`); reading and writing of
Hugging Face's config.json and GGUF's keys. What it is not: weights, devices, files.

One family, by config: a dense Llama 2/3-style checkpoint is a Llama 4 whose layers are all dense, all with RoPE,
without QK norm, temperature or chunks. Sources: the published config.json files of Llama 4 (April 2025), the
`llama4` architecture of GGUF, Meta's params.json.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from herd.errors import BadConfig, fail

MAX_LAYERS = 1024
MAX_WIDTH = 1 << 20
MAX_VOCAB = 1 << 24
MAX_EXPERTS = 4096
MAX_CONTEXT = 1 << 40


@dataclass(frozen=True)
class LayerKind:
    """What is special about one layer of the text model."""

    moe: bool
    rope: bool
    chunked: bool
    qk_norm: bool
    tuned: bool
    """Temperature on the query (NoPE layers only)."""


@dataclass(frozen=True)
class RopeScaling:
    """The "llama3" rule: long wavelengths are stretched by `factor`, short ones kept, those between blended."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int

    def __post_init__(self) -> None:
        for name in ("factor", "low_freq_factor", "high_freq_factor", "original_context"):
            _positive(f"rope scaling {name}", getattr(self, name))
        if self.high_freq_factor < self.low_freq_factor:
            fail(BadConfig, "rope scaling", got=f"high {self.high_freq_factor} < low {self.low_freq_factor}")


@dataclass(frozen=True)
class RopeDivisors:
    """One divisor a frequency, as GGUF's `rope_freqs.weight` holds them."""

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        for value in self.values:
            _positive("rope divisor", value)


@dataclass(frozen=True)
class VisionConfig:
    """The vision tower and its adapter. Defaults are Llama 4's, the same in Scout, Maverick and Guard."""

    image_size: int = 336
    patch_size: int = 14
    width: int = 1408
    num_layers: int = 34
    num_heads: int = 16
    mlp_width: int = 5632
    adapter_width: int = 4096
    """Width between the two adapter layers (projector_input_dim)."""
    output_width: int = 4096
    """Width the adapter hands to the projector (projector_output_dim)."""
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    pixel_shuffle: int = 2
    """Patches a side that become one token."""

    def __post_init__(self) -> None:
        for name in ("image_size", "patch_size", "width", "num_heads", "mlp_width", "adapter_width", "output_width"):
            _whole(f"vision {name}", getattr(self, name), 1, MAX_WIDTH)
        _whole("vision num_layers", self.num_layers, 1, MAX_LAYERS)
        _positive("vision rope_theta", self.rope_theta)
        _eps("vision norm_eps", self.norm_eps)
        _divides("vision patch_size", self.patch_size, "image_size", self.image_size)
        _divides("vision num_heads", self.num_heads, "width", self.width)
        _divides("pixel_shuffle", self.pixel_shuffle, "patches a side", self.grid)
        if self.head_size % 4:
            fail(BadConfig, "vision head size", got=self.head_size, expected="a multiple of 4 (two-axis rotary pairs)")

    @property
    def grid(self) -> int:
        """Patches a side."""
        return self.image_size // self.patch_size

    @property
    def num_patches(self) -> int:
        """M: patches of a tile and the class token."""
        return self.grid**2 + 1

    @property
    def head_size(self) -> int:
        """H of the tower."""
        return self.width // self.num_heads

    @property
    def tokens_per_tile(self) -> int:
        """Text positions that one tile fills."""
        return (self.grid // self.pixel_shuffle) ** 2


@dataclass(frozen=True)
class Llama4Config:
    """A text model and, when `vision` is set, its tower. Letters are the project's legend of shapes."""

    num_layers: int
    width: int
    """D"""
    num_heads: int
    """N"""
    num_kv_heads: int
    """K"""
    head_size: int
    """H"""
    vocab_size: int
    """V"""
    dense_width: int
    """F of dense layers"""
    expert_width: int = 0
    """F of routed and shared experts"""
    num_experts: int = 0
    """E"""
    experts_per_token: int = 1
    """A"""
    moe_interleave: int = 0
    """Every how many layers one is a mixture of experts; 0: none."""
    nope_interval: int = 0
    """Every how many layers one has no RoPE; 0: none."""
    moe_pattern: tuple[bool, ...] | None = None
    rope_pattern: tuple[bool, ...] | None = None
    chunk_pattern: tuple[bool, ...] | None = None
    """Per layer, when a file says so layer by layer; otherwise the intervals decide."""
    chunk: int | None = None
    """C: attention chunk of RoPE layers; None: full causal."""
    use_qk_norm: bool = False
    rope_theta: float = 500000.0
    rope_scaling: RopeScaling | RopeDivisors | None = None
    temperature_tuning: bool = False
    floor_scale: int = 8192
    attn_scale: float = 0.1
    norm_eps: float = 1e-5
    tied_embeddings: bool = False
    max_context: int = 8192
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    pad_id: int | None = None
    vision: VisionConfig | None = None
    image_start_id: int = 200080
    image_end_id: int = 200081
    patch_id: int = 200092
    assumed: tuple[str, ...] = ()
    """Fields of a preset that are not public and stand here as an assumption."""

    def __post_init__(self) -> None:
        _whole("num_layers", self.num_layers, 1, MAX_LAYERS)
        for name in ("width", "num_heads", "num_kv_heads", "head_size", "dense_width"):
            _whole(name, getattr(self, name), 1, MAX_WIDTH)
        _whole("expert_width", self.expert_width, 0, MAX_WIDTH)
        _whole("vocab_size", self.vocab_size, 1, MAX_VOCAB)
        _whole("num_experts", self.num_experts, 0, MAX_EXPERTS)
        _whole("max_context", self.max_context, 1, MAX_CONTEXT)
        _whole("floor_scale", self.floor_scale, 1, MAX_CONTEXT)
        _whole("moe_interleave", self.moe_interleave, 0, MAX_LAYERS)
        _whole("nope_interval", self.nope_interval, 0, MAX_LAYERS)
        _positive("rope_theta", self.rope_theta)
        _eps("norm_eps", self.norm_eps)
        if not math.isfinite(self.attn_scale) or self.attn_scale < 0:
            fail(BadConfig, "attn_scale", got=self.attn_scale, expected="a finite number of 0 or more")
        if self.chunk is not None:
            _whole("attention chunk", self.chunk, 1, MAX_CONTEXT)
        if self.num_heads % self.num_kv_heads:
            fail(BadConfig, f"num_heads ({self.num_heads}) must be a multiple of num_kv_heads ({self.num_kv_heads})")
        if self.head_size % 2:
            fail(BadConfig, "head_size", got=self.head_size, expected="an even number (rotary pairs)")
        for name in ("moe_pattern", "rope_pattern", "chunk_pattern"):
            pattern = getattr(self, name)
            if pattern is not None and len(pattern) != self.num_layers:
                fail(BadConfig, name, got=f"{len(pattern)} layers", expected=f"{self.num_layers}")
        if any(layer.moe for layer in self.layers):
            _whole("num_experts", self.num_experts, 1, MAX_EXPERTS)
            _whole("experts_per_token", self.experts_per_token, 1, self.num_experts)
            _whole("expert_width", self.expert_width, 1, MAX_WIDTH)
        if isinstance(self.rope_scaling, RopeDivisors) and len(self.rope_scaling.values) != self.head_size // 2:
            fail(BadConfig, "rope divisors", got=len(self.rope_scaling.values), expected=self.head_size // 2)

    def layer(self, i: int) -> LayerKind:
        """The kind of layer `i`, from 0."""
        moe = (
            self.moe_pattern[i]
            if self.moe_pattern
            else bool(self.moe_interleave) and (i + 1) % self.moe_interleave == 0
        )
        rope = (
            self.rope_pattern[i] if self.rope_pattern else not self.nope_interval or (i + 1) % self.nope_interval != 0
        )
        chunked = rope and self.chunk is not None and (self.chunk_pattern is None or self.chunk_pattern[i])
        return LayerKind(
            moe=moe,
            rope=rope,
            chunked=chunked,
            qk_norm=rope and self.use_qk_norm,
            tuned=not rope and self.temperature_tuning,
        )

    @property
    def layers(self) -> tuple[LayerKind, ...]:
        """The kinds of all layers."""
        return tuple(self.layer(i) for i in range(self.num_layers))

    @property
    def tokens_per_tile(self) -> int:
        """Text positions of one image tile; 0 without vision."""
        return self.vision.tokens_per_tile if self.vision else 0

    def rope_freqs(self) -> tuple[float, ...]:
        """H/2 angular frequencies in radians a position, scaled as the config says (float64)."""
        freqs = [self.rope_theta ** (-2.0 * m / self.head_size) for m in range(self.head_size // 2)]
        scaling = self.rope_scaling
        if isinstance(scaling, RopeDivisors):
            return tuple(f / d for f, d in zip(freqs, scaling.values, strict=True))
        if scaling is None:
            return tuple(freqs)
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        scaled = []
        for f in freqs:
            turns = scaling.original_context * f / (2.0 * math.pi)
            if turns > high:
                scaled.append(f)
            elif turns < low or high == low:
                scaled.append(f / scaling.factor)
            else:
                blend = (turns - low) / (high - low)
                scaled.append(f * ((1.0 - blend) / scaling.factor + blend))
        return tuple(scaled)

    # -- Hugging Face ---------------------------------------------------------------------------------------------

    @classmethod
    def from_hf(cls, data: Mapping[str, Any]) -> "Llama4Config":
        """Read the content of a config.json: Llama 4 (full or text-only, published or v5 keys), or dense Llama.

        Raises BadConfig for another architecture or for numbers that describe no model.
        """
        kind = data.get("model_type")
        text = data.get("text_config", data)
        if not isinstance(text, Mapping):
            fail(BadConfig, "config.json text_config", got=type(text).__name__, expected="an object")
        if kind in ("llama4", "llama4_text"):
            return _from_hf_llama4(data, text)
        if kind == "llama":
            return _from_hf_llama(data)
        return fail(
            BadConfig,
            "config.json model_type",
            got=kind,
            expected="llama4, llama4_text or llama",
            do="Herd runs the Llama family only",
        )

    def to_hf(self, dtype: str = "bfloat16") -> dict[str, Any]:
        """The content of a config.json that transformers' Llama 4 (or, for a dense Llama, its Llama) reads."""
        return _to_hf(self, dtype)

    # -- GGUF -----------------------------------------------------------------------------------------------------

    @classmethod
    def from_gguf(
        cls, keys: Mapping[str, Any], *, vocab_size: int, tied: bool, rope_divisors: Sequence[float] | None = None
    ) -> "Llama4Config":
        """Read GGUF metadata of the architectures `llama4` and `llama`.

        `vocab_size` is the row count of token_embd, `tied` whether output.weight is absent, `rope_divisors` the
        content of rope_freqs.weight. Raises BadConfig.
        """
        return _from_gguf(keys, vocab_size, tied, rope_divisors)


# -- checks -------------------------------------------------------------------------------------------------------


def _whole(name: str, value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        fail(BadConfig, name, got=value, expected=f"a whole number from {low} to {high}")
    return value


def _positive(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        fail(BadConfig, name, got=value, expected="a finite number above 0")
    return float(value)


def _eps(name: str, value: object) -> float:
    if _positive(name, value) > 1:
        fail(BadConfig, name, got=value, expected="a small number, 1e-5 as a rule")
    return float(value)  # type: ignore[arg-type]


def _divides(name: str, part: int, whole_name: str, whole: int) -> None:
    if part < 1 or whole % part:
        fail(BadConfig, f"{whole_name} ({whole}) must be a multiple of {name} ({part})")


# -- Hugging Face -------------------------------------------------------------------------------------------------


def _need(data: Mapping[str, Any], key: str) -> Any:
    if data.get(key) is None:
        fail(BadConfig, f"config.json has no {key}", do="the file is not a whole Llama config")
    return data[key]


def _flags(name: str, value: object, num_layers: int) -> tuple[bool, ...]:
    if not isinstance(value, list) or len(value) != num_layers or not all(x in (0, 1) for x in value):
        fail(BadConfig, name, got=value, expected=f"a list of {num_layers} zeros and ones")
    return tuple(bool(x) for x in value)


def _rope_from_hf(text: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    rope = text.get("rope_parameters")
    if rope is None:
        rope = {**(text.get("rope_scaling") or {}), "rope_theta": text.get("rope_theta")}
    if not isinstance(rope, Mapping):
        fail(BadConfig, "rope_parameters", got=type(rope).__name__, expected="an object")
    theta = rope.get("rope_theta")
    if theta is None:
        theta = text.get("rope_theta", 500000.0 if "llama4" in str(text.get("model_type")) else 10000.0)
    theta = _positive("rope_theta", 10000.0 if theta is None else theta)
    kind = rope.get("rope_type", rope.get("type")) or "default"
    if kind == "default":
        return theta, None
    if kind != "llama3":
        fail(BadConfig, "rope type", got=kind, expected="default or llama3")
    return theta, RopeScaling(
        _positive("rope factor", rope.get("factor")),
        _positive("rope low_freq_factor", rope.get("low_freq_factor")),
        _positive("rope high_freq_factor", rope.get("high_freq_factor")),
        _whole("rope original_max_position_embeddings", rope.get("original_max_position_embeddings"), 1, MAX_CONTEXT),
    )


def _ids(value: object, name: str) -> tuple[int, ...]:
    if value is None:
        return ()
    items = value if isinstance(value, list) else [value]
    return tuple(_whole(name, x, 0, MAX_VOCAB) for x in items)


def _one_id(value: object, name: str) -> int | None:
    ids = _ids(value, name)
    return ids[0] if ids else None


def _activation(data: Mapping[str, Any]) -> None:
    if data.get("hidden_act", "silu") != "silu":
        fail(BadConfig, "hidden_act", got=data["hidden_act"], expected="silu")
    if data.get("attention_bias") or data.get("mlp_bias"):
        fail(BadConfig, "attention_bias or mlp_bias", got=True, expected="false: no Llama of Meta's has them")


def _from_hf_llama4(top: Mapping[str, Any], text: Mapping[str, Any]) -> Llama4Config:
    _activation(text)
    n = _whole("num_hidden_layers", _need(text, "num_hidden_layers"), 1, MAX_LAYERS)
    heads = _whole("num_attention_heads", _need(text, "num_attention_heads"), 1, MAX_WIDTH)
    width = _whole("hidden_size", _need(text, "hidden_size"), 1, MAX_WIDTH)
    theta, scaling = _rope_from_hf(text)
    chunk = text.get("attention_chunk_size", 8192)

    # `[]` or null means: derive from the interval; a null interval means rope everywhere.
    interval = text.get("no_rope_layer_interval", 4 if "no_rope_layers" not in text else None)
    rope_pattern = _flags("no_rope_layers", text["no_rope_layers"], n) if text.get("no_rope_layers") else None
    if rope_pattern is None and interval is None and "no_rope_layers" in text:
        interval = 4 if "no_rope_layer_interval" not in text else None
    # `[]` means none (other than no_rope_layers); null means: derive from the step.
    moe_pattern, step = None, text.get("interleave_moe_layer_step", 1)
    if text.get("moe_layers") is not None:
        listed = [_whole("moe_layers", x, 0, n - 1) for x in text["moe_layers"]]
        moe_pattern, step = tuple(i in set(listed) for i in range(n)), 0
    types = text.get("layer_types")
    chunk_pattern = None
    if types:
        if not isinstance(types, list) or len(types) != n or set(types) - {"chunked_attention", "full_attention"}:
            fail(BadConfig, "layer_types", got=types, expected=f"{n} of chunked_attention or full_attention")
        chunk_pattern = tuple(t == "chunked_attention" for t in types)

    vision = None
    v = top.get("vision_config")
    if v is not None and top.get("model_type") == "llama4":
        ratio = v.get("pixel_shuffle_ratio", 0.5)
        shuffle = round(1 / _positive("pixel_shuffle_ratio", ratio))
        if v.get("hidden_act", "gelu") != "gelu":
            fail(BadConfig, "vision hidden_act", got=v["hidden_act"], expected="gelu")
        vision_rope = v.get("rope_parameters") or {}
        vision = VisionConfig(
            image_size=_need(v, "image_size"),
            patch_size=_need(v, "patch_size"),
            width=_need(v, "hidden_size"),
            num_layers=_need(v, "num_hidden_layers"),
            num_heads=_need(v, "num_attention_heads"),
            mlp_width=_need(v, "intermediate_size"),
            adapter_width=_need(v, "projector_input_dim"),
            output_width=_need(v, "projector_output_dim"),
            rope_theta=_positive("vision rope_theta", vision_rope.get("rope_theta", v.get("rope_theta", 10000.0))),
            norm_eps=_eps("vision norm_eps", v.get("norm_eps", 1e-5)),
            pixel_shuffle=shuffle,
        )
    expert_width = _whole("intermediate_size", _need(text, "intermediate_size"), 1, MAX_WIDTH)
    experts = text.get("num_local_experts", 16)
    return Llama4Config(
        num_layers=n,
        width=width,
        num_heads=heads,
        num_kv_heads=_need(text, "num_key_value_heads"),
        head_size=text.get("head_dim") or width // heads,
        vocab_size=_need(text, "vocab_size"),
        dense_width=text.get("intermediate_size_mlp") or expert_width,
        expert_width=expert_width,
        num_experts=_whole("num_local_experts", experts, 0, MAX_EXPERTS),
        experts_per_token=text.get("num_experts_per_tok", 1),
        moe_interleave=_whole("interleave_moe_layer_step", step, 0, MAX_LAYERS),
        nope_interval=_whole("no_rope_layer_interval", interval or 0, 0, MAX_LAYERS),
        moe_pattern=moe_pattern,
        rope_pattern=rope_pattern,
        chunk_pattern=chunk_pattern,
        chunk=chunk,
        use_qk_norm=bool(text.get("use_qk_norm", True)),
        rope_theta=theta,
        rope_scaling=scaling,
        temperature_tuning=bool(text.get("attn_temperature_tuning", True)),
        floor_scale=_whole("floor_scale", int(text.get("floor_scale", 8192)), 1, MAX_CONTEXT),
        attn_scale=text.get("attn_scale", 0.1),
        norm_eps=text.get("rms_norm_eps", 1e-5),
        tied_embeddings=bool(text.get("tie_word_embeddings", False)),
        max_context=text.get("max_position_embeddings", 8192),
        bos_id=_one_id(text.get("bos_token_id", top.get("bos_token_id")), "bos_token_id"),
        eos_ids=_ids(text.get("eos_token_id", top.get("eos_token_id")), "eos_token_id"),
        pad_id=_one_id(text.get("pad_token_id"), "pad_token_id"),
        vision=vision,
        image_start_id=top.get("boi_token_index", 200080),
        image_end_id=top.get("eoi_token_index", 200081),
        patch_id=top.get("image_token_index", top.get("image_token_id", 200092)),
    )


def _from_hf_llama(data: Mapping[str, Any]) -> Llama4Config:
    _activation(data)
    heads = _whole("num_attention_heads", _need(data, "num_attention_heads"), 1, MAX_WIDTH)
    width = _whole("hidden_size", _need(data, "hidden_size"), 1, MAX_WIDTH)
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
        tied_embeddings=bool(data.get("tie_word_embeddings", False)),
        max_context=data.get("max_position_embeddings", 2048),
        bos_id=_one_id(data.get("bos_token_id"), "bos_token_id"),
        eos_ids=_ids(data.get("eos_token_id"), "eos_token_id"),
        pad_id=_one_id(data.get("pad_token_id"), "pad_token_id"),
    )


def is_dense_llama(config: Llama4Config) -> bool:
    """Whether a dense Llama 2/3 implementation computes the same function."""
    return config.vision is None and all(
        not layer.moe and layer.rope and not layer.chunked and not layer.qk_norm for layer in config.layers
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
    for original in (8192, 4096, 2048, 16384, 32768):
        for low, high in ((1.0, 1.0), (1.0, 4.0)):
            s = RopeScaling(factor, low, high, original)
            probe = Llama4Config(1, head_size, 1, 1, head_size, 1, 1, rope_theta=theta, rope_scaling=s)
            wanted = (f / d for f, d in zip(freqs, divisors.values, strict=True))
            if all(math.isclose(a, b, rel_tol=1e-5) for a, b in zip(probe.rope_freqs(), wanted, strict=True)):
                return s
    return fail(BadConfig, "rope_freqs fit no llama3 scaling", got=divisors.values, do="keep the GGUF form")


def _to_hf(c: Llama4Config, dtype: str) -> dict[str, Any]:
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


# -- GGUF ---------------------------------------------------------------------------------------------------------


def _from_gguf(
    keys: Mapping[str, Any], vocab_size: int, tied: bool, rope_divisors: Sequence[float] | None
) -> Llama4Config:
    arch = keys.get("general.architecture")
    if arch not in ("llama", "llama4"):
        fail(
            BadConfig,
            "general.architecture",
            got=arch,
            expected="llama4 or llama",
            do="Herd runs the Llama family only",
        )

    def need(name: str) -> Any:
        if keys.get(f"{arch}.{name}") is None:
            fail(BadConfig, f"GGUF has no key {arch}.{name}")
        return keys[f"{arch}.{name}"]

    def get(name: str, default: Any) -> Any:
        value = keys.get(f"{arch}.{name}")
        return default if value is None else value

    n = _whole(f"{arch}.block_count", need("block_count"), 1, MAX_LAYERS)
    width = _whole(f"{arch}.embedding_length", need("embedding_length"), 1, MAX_WIDTH)
    heads = _whole(f"{arch}.attention.head_count", need("attention.head_count"), 1, MAX_WIDTH)
    head_size = _whole(f"{arch}.attention.key_length", get("attention.key_length", width // heads), 1, MAX_WIDTH)
    for name in ("attention.value_length", "rope.dimension_count"):
        if get(name, head_size) != head_size:
            fail(BadConfig, f"{arch}.{name}", got=get(name, 0), expected=head_size)
    scaling_type = get("rope.scaling.type", "none")
    if scaling_type != "none":
        fail(BadConfig, f"{arch}.rope.scaling.type", got=scaling_type, expected="none (divisors are in rope_freqs)")
    experts = _whole(f"{arch}.expert_count", get("expert_count", 0), 0, MAX_EXPERTS)
    eos = [keys.get(f"tokenizer.ggml.{k}_token_id") for k in ("eos", "eot", "eom")]
    common: dict[str, Any] = {
        "num_layers": n,
        "width": width,
        "num_heads": heads,
        "num_kv_heads": get("attention.head_count_kv", heads),
        "head_size": head_size,
        "vocab_size": vocab_size,
        "dense_width": need("feed_forward_length"),
        "rope_theta": _positive(f"{arch}.rope.freq_base", float(get("rope.freq_base", 10000.0))),
        "rope_scaling": RopeDivisors(tuple(float(x) for x in rope_divisors)) if rope_divisors is not None else None,
        "norm_eps": _tidy(need("attention.layer_norm_rms_epsilon")),
        "tied_embeddings": tied,
        "max_context": need("context_length"),
        "bos_id": keys.get("tokenizer.ggml.bos_token_id"),
        "eos_ids": tuple(dict.fromkeys(_whole("eos id", x, 0, MAX_VOCAB) for x in eos if x is not None)),
        "pad_id": keys.get("tokenizer.ggml.padding_token_id"),
    }
    if arch == "llama":
        if experts:
            fail(BadConfig, "llama.expert_count", got=experts, expected="0: experts are run for llama4 only")
        return Llama4Config(**common)
    if not experts:
        fail(BadConfig, "llama4.expert_count", got=0, expected="1 or more, as llama.cpp demands")
    period = _whole(
        "llama4.attention.sliding_window_pattern", get("attention.sliding_window_pattern", 4), 1, MAX_LAYERS
    )
    # Written, as 0, when every layer attends in full; chunk, temperature and period are otherwise fixed by the format.
    full = get("attention.sliding_window", None) == 0
    return Llama4Config(
        **common,
        expert_width=need("expert_feed_forward_length"),
        num_experts=experts,
        experts_per_token=get("expert_used_count", 1),
        moe_interleave=get("interleave_moe_layer_step", 1),
        nope_interval=0 if full else period,
        chunk=None
        if full
        else _whole("llama4.attention.chunk_size", get("attention.chunk_size", 8192), 1, MAX_CONTEXT),
        use_qk_norm=experts != 128,
        temperature_tuning=True,
        floor_scale=get("attention.temperature_length", 8192),
        attn_scale=float(get("attention.temperature_scale", 0.1)),
    )


def _tidy(value: Any) -> float:
    """GGUF keeps eps as float32; 1e-5 comes back as 9.9999997e-06. The nearest short decimal is what was meant."""
    return float(f"{_eps('layer_norm_rms_epsilon', float(value)):.6g}")


# -- presets ------------------------------------------------------------------------------------------------------

SCOUT = Llama4Config(
    num_layers=48,
    width=5120,
    num_heads=40,
    num_kv_heads=8,
    head_size=128,
    vocab_size=202048,
    dense_width=16384,
    expert_width=8192,
    num_experts=16,
    moe_interleave=1,
    nope_interval=4,
    chunk=8192,
    use_qk_norm=True,
    rope_scaling=RopeScaling(16.0, 1.0, 1.0, 8192),
    temperature_tuning=True,
    max_context=10485760,
    bos_id=200000,
    eos_ids=(200001, 200007, 200008),
    pad_id=200018,
    vision=VisionConfig(),
)

MAVERICK = replace(SCOUT, num_experts=128, moe_interleave=2, use_qk_norm=False, rope_scaling=None, max_context=1048576)

BEHEMOTH = replace(
    # Public: 288B active, about 2T in all, 16 experts, multimodal. The shapes below are ours: they give 2.03T and
    # 293B active, keep the family's pattern, and serve planning only.
    SCOUT,
    num_layers=96,
    width=16384,
    num_heads=128,
    num_kv_heads=8,
    dense_width=65536,
    expert_width=24576,
    max_context=262144,
    assumed=(
        "num_layers",
        "width",
        "num_heads",
        "num_kv_heads",
        "dense_width",
        "expert_width",
        "moe_interleave",
        "use_qk_norm",
        "rope_scaling",
        "max_context",
        "vision",
    ),
)

GUARD = replace(
    SCOUT,
    dense_width=8192,
    expert_width=0,
    num_experts=0,
    moe_interleave=0,
    chunk=None,
    max_context=163840,
    assumed=("use_qk_norm", "rope_scaling", "nope_interval", "max_context"),
)

CRIA = Llama4Config(
    # Herd's own small model: SmolLM2-135M turned exactly into a Llama 4 with experts in every second layer.
    num_layers=30,
    width=576,
    num_heads=9,
    num_kv_heads=3,
    head_size=64,
    vocab_size=49152,
    dense_width=1536,
    expert_width=1536,
    num_experts=4,
    moe_interleave=2,
    chunk=8192,
    rope_theta=100000.0,
    temperature_tuning=True,
    tied_embeddings=True,
    max_context=8192,
    bos_id=1,
    eos_ids=(2,),
    pad_id=2,
)

TINY = Llama4Config(
    # Every test's model: all kinds of layer, an eps that is not 1e-5, chunks that a short text crosses.
    num_layers=4,
    width=64,
    num_heads=4,
    num_kv_heads=2,
    head_size=32,
    vocab_size=320,
    dense_width=160,
    expert_width=96,
    num_experts=4,
    moe_interleave=2,
    nope_interval=4,
    chunk=16,
    use_qk_norm=True,
    rope_theta=10000.0,
    rope_scaling=RopeScaling(4.0, 1.0, 1.0, 64),
    temperature_tuning=True,
    floor_scale=16,
    norm_eps=1e-3,
    max_context=4096,
    bos_id=256,
    eos_ids=(257,),
    vision=VisionConfig(
        image_size=28,
        patch_size=7,
        width=64,
        num_layers=2,
        num_heads=2,
        mlp_width=160,
        adapter_width=96,
        output_width=64,
        norm_eps=1e-3,
    ),
    image_start_id=260,
    image_end_id=261,
    patch_id=266,
)

PRESETS = {"scout": SCOUT, "maverick": MAVERICK, "behemoth": BEHEMOTH, "guard": GUARD, "cria": CRIA, "tiny": TINY}
