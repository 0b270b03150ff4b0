"""How much memory a model takes: bytes of weights, cache and work, as arithmetic on a config. No torch, no model.

    weights   what the files hold, or parameters times bits / 8
    cache     2 * K * H * element bytes for a token and layer; layers that see everything before them keep all
              tokens, chunked layers at most C of them
    work      the widest arrays of one pass over `piece` rows, in float32

Scout at 131,072 tokens in bf16: 12 * 4,096 * 131,072 + 36 * 4,096 * 8,192 bytes = 7.65 GB of cache.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from herd.config import Llama4Config
from herd.errors import DoesNotFit
from herd.weights import count

ELEMENT_BYTES: dict[str, float] = {"f32": 4, "f16": 2, "bf16": 2, "int8": 1.0625, "int4": 0.625}
"""Of a key or value element; int8 and int4 with room for their scales. With int4 only the layers that see
everything hold it, chunked ones hold int8."""
FORMAT_BITS = {"bf16": 16.0, "q8_0": 8.5, "q6_k": 6.5625, "q4_k": 4.5}
"""Bits a weight of forms that a model can be converted to, largest first."""
TILES_PER_PASS = 4
"""Image tiles that go through the vision tower at once; they never see each other, so any number gives the same."""
ROOM = 1 << 28
"""256 MiB: Python, numpy, code, tokenizer and a little air."""


@dataclass(frozen=True)
class Need:
    """Bytes."""

    weights_bytes: int
    cache_bytes: int
    work_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it, and ROOM."""
        return self.weights_bytes + self.cache_bytes + self.work_bytes + ROOM


def weights_bytes(config: Llama4Config, bits: float) -> int:
    """All parameters, vision included, at so many bits each."""
    return round(count(config).total * bits / 8)


def cache_bytes(config: Llama4Config, tokens: int, kv_dtype: str = "f16", sequences: int = 1) -> int:
    """Keys and values of `sequences` sequences of `tokens` tokens."""
    row = 2 * config.num_kv_heads * config.head_size
    whole = ELEMENT_BYTES[kv_dtype]
    chunked = ELEMENT_BYTES["int8" if kv_dtype == "int4" else kv_dtype]
    kept = (
        chunked * min(tokens, config.chunk or tokens) if layer.chunked else whole * tokens for layer in config.layers
    )
    return round(row * sum(kept)) * sequences


def work_bytes(config: Llama4Config, piece: int = 512) -> int:
    """Activations of one pass over `piece` rows (float32), the logits of one row, one pass of tiles."""
    c = config
    heads = (c.num_heads + 2 * c.num_kv_heads) * c.head_size
    widest = max(c.dense_width, c.expert_width * (1 + c.experts_per_token))
    rows = piece * (4 * c.width + 2 * heads + 3 * widest)
    vision = 0
    if c.vision is not None:
        v = c.vision
        vision = TILES_PER_PASS * v.num_patches * (5 * v.width + v.mlp_width)
    return 4 * (max(rows, vision) + 2 * c.vocab_size)


def need(
    config: Llama4Config, weights: int, context: int, kv_dtype: str = "f16", piece: int = 512, sequences: int = 1
) -> Need:
    """What a loaded model takes with a context of so many tokens; `weights` in bytes."""
    # a pass holds the chunk it ends in beside the one it began in
    extra = cache_bytes(replace(config, chunk=None), piece, kv_dtype) if config.chunk else 0
    return Need(weights, cache_bytes(config, context, kv_dtype, sequences) + extra, work_bytes(config, piece))


def largest_context(config: Llama4Config, weights: int, available: int, kv_dtype: str = "f16", piece: int = 512) -> int:
    """Most tokens of context that fit, a multiple of 256, at most the model's own; 0 when not even 256 do."""
    low, high = 0, config.max_context // 256
    while low < high:
        middle = (low + high + 1) // 2
        if need(config, weights, middle * 256, kv_dtype, piece).total_bytes <= available:
            low = middle
        else:
            high = middle - 1
    return low * 256


def check_fits(
    name: str, config: Llama4Config, weights: int, context: int, available: int, kv_dtype: str = "f16", piece: int = 512
) -> Need:
    """Raise DoesNotFit, before anything is allocated: needed, have, and what would fit."""
    needed = need(config, weights, context, kv_dtype, piece)
    if needed.total_bytes > available:
        ways = "; ".join(_ways_out(config, weights, context, available, kv_dtype, piece))
        raise DoesNotFit(
            f"{name} does not fit: it needs {gb(needed.total_bytes)} (weights {gb(needed.weights_bytes)}, "
            f"cache of {context} tokens {gb(needed.cache_bytes)}, work {gb(needed.work_bytes + ROOM)}), "
            f"{gb(available)} are available; {ways}"
        )
    return needed


def _ways_out(
    config: Llama4Config, weights: int, context: int, available: int, kv_dtype: str, piece: int
) -> Iterator[str]:
    shorter = largest_context(config, weights, available, kv_dtype, piece)
    if 0 < shorter < context:
        yield f"what would fit: a context of {shorter}"
        return
    for name, bits in FORMAT_BITS.items():
        size = weights_bytes(config, bits)
        if size < weights and need(config, size, min(context, 2048), kv_dtype, piece).total_bytes <= available:
            yield f"what would fit: the same model as {name}, {gb(size)} of weights (herd convert)"
            return
    yield "no form of this model fits here: take a smaller model"


def gb(size: int) -> str:
    """Bytes for people: 10^9 or 10^6."""
    return f"{size / 1e9:.1f} GB" if size >= 99_500_000 else f"{size / 1e6:.1f} MB"
