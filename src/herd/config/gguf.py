"""GGUF's metadata (architectures `llama4`, `llama`) as a config. Source: gguf's key constants, llama.cpp's loader."""

from collections.abc import Mapping, Sequence
from typing import Any

from herd.config.checks import MAX_CONTEXT, MAX_EXPERTS, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH, eps, positive, whole
from herd.config.gguf_keys import check_gguf
from herd.config.gguf_rope import rope_from_gguf
from herd.config.shape import Llama4Config
from herd.errors import BadConfig, fail


def from_gguf(
    keys: Mapping[str, Any],
    *,
    vocab_size: int,
    tied: bool,
    rope_divisors: Sequence[float] | None = None,
    attention_bias: bool = False,
    mlp_bias: bool = False,
) -> Llama4Config:
    """Read GGUF metadata of the architectures `llama4` and `llama`.

    `vocab_size` is the row count of token_embd, `tied` whether output.weight is absent, `rope_divisors` the content of
    rope_freqs.weight, `attention_bias` and `mlp_bias` whether a `llama` has such tensors (no key says it). Raises
    BadConfig.
    """
    arch = keys.get("general.architecture")
    if arch not in ("llama", "llama4"):
        fail(
            BadConfig,
            "general.architecture",
            got=arch,
            expected="llama4 or llama",
            do="Herd runs the Llama family only",
        )

    check_gguf(keys, arch)

    def need(name: str) -> Any:
        if keys.get(f"{arch}.{name}") is None:
            fail(BadConfig, f"GGUF has no key {arch}.{name}")
        return keys[f"{arch}.{name}"]

    def get(name: str, default: Any) -> Any:
        value = keys.get(f"{arch}.{name}")
        return default if value is None else value

    n = whole(f"{arch}.block_count", need("block_count"), 1, MAX_LAYERS)
    width = whole(f"{arch}.embedding_length", need("embedding_length"), 1, MAX_WIDTH)
    heads = whole(f"{arch}.attention.head_count", need("attention.head_count"), 1, MAX_WIDTH)
    head_size = whole(f"{arch}.attention.key_length", get("attention.key_length", width // heads), 1, MAX_WIDTH)
    for name in ("attention.value_length", "rope.dimension_count"):
        if get(name, head_size) != head_size:
            fail(BadConfig, f"{arch}.{name}", got=get(name, 0), expected=head_size)
    context = whole(f"{arch}.context_length", need("context_length"), 1, MAX_CONTEXT)
    theta = positive(f"{arch}.rope.freq_base", float(get("rope.freq_base", 10000.0)))
    experts = whole(f"{arch}.expert_count", get("expert_count", 0), 0, MAX_EXPERTS)
    eos = [keys.get(f"tokenizer.ggml.{k}_token_id") for k in ("eos", "eot", "eom")]
    common: dict[str, Any] = {
        "num_layers": n,
        "width": width,
        "num_heads": heads,
        "num_kv_heads": get("attention.head_count_kv", heads),
        "head_size": head_size,
        "vocab_size": vocab_size,
        "dense_width": need("feed_forward_length"),
        "rope_theta": theta,
        "rope_scaling": rope_from_gguf(
            keys, arch, theta=theta, head_size=head_size, context=context, divisors=rope_divisors
        ),
        "norm_eps": _tidy(need("attention.layer_norm_rms_epsilon")),
        "tied_embeddings": tied,
        "max_context": context,
        "bos_id": keys.get("tokenizer.ggml.bos_token_id"),
        "eos_ids": tuple(dict.fromkeys(whole("eos id", x, 0, MAX_VOCAB) for x in eos if x is not None)),
        "pad_id": keys.get("tokenizer.ggml.padding_token_id"),
    }
    if arch == "llama":
        if experts:
            fail(BadConfig, "llama.expert_count", got=experts, expected="0: experts are run for llama4 only")
        return Llama4Config(**common, attention_bias=attention_bias, mlp_bias=mlp_bias)
    if not experts:
        fail(BadConfig, "llama4.expert_count", got=0, expected="1 or more, as llama.cpp demands")
    period = whole("llama4.attention.sliding_window_pattern", get("attention.sliding_window_pattern", 4), 1, MAX_LAYERS)
    # Written, as 0, when every layer attends in full; chunk, temperature and period are otherwise fixed by the format.
    full = get("attention.sliding_window", None) == 0
    return Llama4Config(
        **common,
        expert_width=need("expert_feed_forward_length"),
        num_experts=experts,
        experts_per_token=get("expert_used_count", 1),
        moe_interleave=get("interleave_moe_layer_step", 1),
        nope_interval=0 if full else period,
        chunk=None if full else whole("llama4.attention.chunk_size", get("attention.chunk_size", 8192), 1, MAX_CONTEXT),
        use_qk_norm=experts != 128,
        temperature_tuning=True,
        floor_scale=get("attention.temperature_length", 8192),
        attn_scale=float(get("attention.temperature_scale", 0.1)),
    )


def _tidy(value: Any) -> float:
    """GGUF keeps eps as float32; 1e-5 comes back as 9.9999997e-06. The nearest short decimal is what was meant."""
    return float(f"{eps('layer_norm_rms_epsilon', float(value)):.6g}")
