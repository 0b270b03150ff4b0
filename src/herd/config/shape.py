"""`Llama4Config` and its vision part: numbers, their rules, and the layer pattern computed once (`config.layer(i)`).

One family, by config: a dense Llama 2/3-style checkpoint is a Llama 4 whose layers are all dense, all with RoPE,
without QK norm, temperature or chunks. Sources: the published config.json files of Llama 4 (April 2025), the
`llama4` architecture of GGUF, Meta's params.json.
"""

from dataclasses import dataclass
from functools import cached_property

from herd.config.checks import MAX_CONTEXT, MAX_EXPERTS, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH, divides, eps, positive, whole
from herd.config.rope import RopeDivisors, RopeRule, attention_of, plain_freqs
from herd.errors import BadConfig, fail


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
            whole(f"vision {name}", getattr(self, name), 1, MAX_WIDTH)
        whole("vision num_layers", self.num_layers, 1, MAX_LAYERS)
        positive("vision rope_theta", self.rope_theta)
        eps("vision norm_eps", self.norm_eps)
        divides("vision patch_size", self.patch_size, "image_size", self.image_size)
        divides("vision num_heads", self.num_heads, "width", self.width)
        divides("pixel_shuffle", self.pixel_shuffle, "patches a side", self.grid)
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
    rope_scaling: RopeRule | None = None
    temperature_tuning: bool = False
    floor_scale: int = 8192
    attn_scale: float = 0.1
    norm_eps: float = 1e-5
    tied_embeddings: bool = False
    attention_bias: bool = False
    """Whether q, k, v and o have biases."""
    mlp_bias: bool = False
    """Whether gate, up and down have biases; in a dense Llama alone."""
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
        whole("num_layers", self.num_layers, 1, MAX_LAYERS)
        for name in ("width", "num_heads", "num_kv_heads", "head_size", "dense_width"):
            whole(name, getattr(self, name), 1, MAX_WIDTH)
        whole("expert_width", self.expert_width, 0, MAX_WIDTH)
        whole("vocab_size", self.vocab_size, 1, MAX_VOCAB)
        whole("num_experts", self.num_experts, 0, MAX_EXPERTS)
        whole("max_context", self.max_context, 1, MAX_CONTEXT)
        whole("floor_scale", self.floor_scale, 1, MAX_CONTEXT)
        whole("moe_interleave", self.moe_interleave, 0, MAX_LAYERS)
        whole("nope_interval", self.nope_interval, 0, MAX_LAYERS)
        positive("rope_theta", self.rope_theta)
        eps("norm_eps", self.norm_eps)
        if self.attn_scale != 0:
            positive("attn_scale", self.attn_scale)
        if self.chunk is not None:
            whole("attention chunk", self.chunk, 1, MAX_CONTEXT)
        if self.vision is not None:
            for name in ("image_start_id", "image_end_id", "patch_id"):
                whole(name, getattr(self, name), 0, self.vocab_size - 1)
        if self.num_heads % self.num_kv_heads:
            fail(BadConfig, f"num_heads ({self.num_heads}) must be a multiple of num_kv_heads ({self.num_kv_heads})")
        if self.head_size % 2:
            fail(BadConfig, "head_size", got=self.head_size, expected="an even number (rotary pairs)")
        for name in ("moe_pattern", "rope_pattern", "chunk_pattern"):
            pattern = getattr(self, name)
            if pattern is not None and len(pattern) != self.num_layers:
                fail(BadConfig, name, got=f"{len(pattern)} layers", expected=f"{self.num_layers}")
        if any(layer.moe for layer in self.layers):
            whole("num_experts", self.num_experts, 1, MAX_EXPERTS)
            whole("experts_per_token", self.experts_per_token, 1, self.num_experts)
            whole("expert_width", self.expert_width, 1, MAX_WIDTH)
        if self.mlp_bias and not is_dense_llama(self):
            fail(BadConfig, "mlp_bias", got=True, expected="false: Llama 4's MLPs have none")
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

    @cached_property
    def layers(self) -> tuple[LayerKind, ...]:
        """The kinds of all layers."""
        return tuple(self.layer(i) for i in range(self.num_layers))

    @property
    def tokens_per_tile(self) -> int:
        """Text positions of one image tile; 0 without vision."""
        return self.vision.tokens_per_tile if self.vision else 0

    def rope_freqs(self) -> tuple[float, ...]:
        """H/2 angular frequencies in radians a position, scaled as the config says (float64)."""
        freqs = plain_freqs(self.rope_theta, self.head_size)
        return freqs if self.rope_scaling is None else self.rope_scaling.scaled(freqs, self.rope_theta)

    @property
    def rope_attention(self) -> float:
        """What the cosines and sines of every angle are multiplied by."""
        return attention_of(self.rope_scaling)


def is_dense_llama(config: Llama4Config) -> bool:
    """Whether a dense Llama 2/3 implementation computes the same function."""
    return config.vision is None and all(
        not layer.moe and layer.rope and not layer.chunked and not layer.qk_norm for layer in config.layers
    )
