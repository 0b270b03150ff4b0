"""Presets: each fits on a screen; TINY is every test's model."""

from dataclasses import replace

from herd.config.rope import RopeScaling
from herd.config.shape import Llama4Config, VisionConfig

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
