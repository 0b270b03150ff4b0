"""How much memory a model takes, as arithmetic on a config. No torch, no model.

Pages of files (they are shared, and can be given back and read again):

    weights    what the files hold, or parameters times bits / 8

Anonymous, which nothing but the end of the process gives back:

    cache      K * LayerCache.slot_bytes for a token and layer (planning.layers); layers that see everything
               before them keep all tokens, chunked layers at most C of them; a load holds it in pages (planning.pools)
    work       the arrays of one pass over `piece` rows, logits for each sequence (planning.buffers)
    images     a pass of tiles through the vision tower, and images that wait
    adapters   LoRA pairs (planning.adapters)
    runtime    the programs and the vocabulary (planning.runtime)

Scout at 131,072 tokens in bf16: 12 * 4,096 * 131,072 + 36 * 4,096 * 8,192 bytes = 7.65 GB of cache.
`benchmarks/plan.py memory` compares it with what processes hold.
"""

from dataclasses import dataclass

from herd.config import Llama4Config
from herd.errors import DoesNotFit
from herd.planning.buffers import image_bytes, logits_bytes, pass_bytes, tiles_bytes
from herd.planning.layers import head_bytes, layer_caches
from herd.planning.pools import MAX_PAGE, Pools, pools_for
from herd.planning.runtime import runtime_bytes
from herd.weights import count

FORMAT_BITS = {"bf16": 16.0, "q8_0": 8.5, "q6_k": 6.5625, "q4_k": 4.5}
"""Bits a weight of forms that a model can be converted to, largest first."""
LOGIT_ROWS = 9
"""Most rows of a sequence that decodes, each with logits: the next, and ids that were guessed to follow it."""
ROOM = 1 << 28
"""256 MiB: Python, numpy, code, tokenizer and a little air, where nothing else of a program is counted."""
AIR = 1 << 26
"""64 MiB that a load leaves free beside what is counted."""


@dataclass(frozen=True)
class MemoryNeed:
    """The memory that a model takes, in bytes, by use."""

    weights_bytes: int
    """Pages of its files, once all of it was used; with ops torch on the processor, arrays."""
    cache_bytes: int
    """Keys and values, with the cache full."""
    work_bytes: int
    runtime_bytes: int
    guesses_bytes: int = 0
    """Logits of ids that were guessed, at the most: there while all sequences guess."""
    images_bytes: int = 0
    adapters_bytes: int = 0

    @property
    def anonymous_bytes(self) -> int:
        """What the processes hold beside pages of files when the cache is full."""
        return self.cache_bytes + self.work_bytes + self.runtime_bytes + self.images_bytes + self.adapters_bytes

    @property
    def total_bytes(self) -> int:
        """Bytes of all uses at the most, and AIR beside them."""
        return self.weights_bytes + self.anonymous_bytes + self.guesses_bytes + AIR


def weights_bytes(config: Llama4Config, bits: float) -> int:
    """Bytes of all parameters, vision included, at so many bits each."""
    return round(count(config).total * bits / 8)


def cache_bytes(config: Llama4Config, tokens: int, kv_dtype: str = "bf16") -> int:
    """Bytes of keys and values of one sequence of `tokens` tokens; with int4 its first page and its last one in bf16,
    too."""
    total = 0.0
    for layer in layer_caches(config, kv_dtype):
        kept = min(tokens, config.chunk or tokens) if layer.chunked else tokens
        total += kept * layer.slot_bytes(config.head_size)
        if layer.exact:
            total += 2 * MAX_PAGE * head_bytes("bf16", config.head_size)
    return round(total * config.num_kv_heads)


def pool_bytes(config: Llama4Config, pools: Pools, kv_dtype: str) -> int:
    """Bytes that a load takes for its cache, full or not."""
    total = 0.0
    for layer in layer_caches(config, kv_dtype):
        total += (pools.chunk if layer.chunked else pools.full) * layer.slot_bytes(config.head_size)
        if layer.exact:
            total += pools.exact * head_bytes("bf16", config.head_size)
    return round(total * config.num_kv_heads * pools.page_size)


def work_bytes(config: Llama4Config, piece: int = 512, sequences: int = 1) -> int:
    """Bytes of a pass over `piece` rows, and of its logits when `sequences` decode, a row each."""
    return pass_bytes(config, piece) + logits_bytes(config, min(piece, sequences))


def guesses_bytes(config: Llama4Config, piece: int = 512, sequences: int = 1) -> int:
    """Bytes of further logits while all sequences have guessed as many ids as they may."""
    return 4 * config.vocab_size * (min(piece, LOGIT_ROWS * sequences) - min(piece, sequences))


def images_bytes(config: Llama4Config, images: int = 1) -> int:
    """Bytes that images take: a pass of tiles, whose buffers are none that a pass of text can use, and so many images
    that wait at a time; 0 for a text model."""
    if config.vision is None or not images:
        return 0
    return tiles_bytes(config.vision) + images * image_bytes(config)


def need(
    config: Llama4Config,
    weights: int,
    context: int,
    kv_dtype: str = "bf16",
    piece: int = 512,
    sequences: int = 1,
    *,
    images: int = 1,
    adapters: int = 0,
    engine: str = "thread",
    service: bool = False,
    added: int = 0,
) -> MemoryNeed:
    """The memory of a model loaded with a context of so many tokens, shared by so many sequences.

    weights, adapters: bytes. images: how many wait to be read at a time, of a model with vision; 0: none are used.
    engine, service, added: see `planning.runtime.runtime_bytes`.
    """
    pools = pools_for(config, context, kv_dtype, piece, sequences)
    return MemoryNeed(
        weights_bytes=weights,
        cache_bytes=pool_bytes(config, pools, kv_dtype),
        work_bytes=work_bytes(config, piece, sequences),
        runtime_bytes=runtime_bytes(config.vocab_size, added=added, engine=engine, service=service),
        guesses_bytes=guesses_bytes(config, piece, sequences),
        images_bytes=images_bytes(config, images),
        adapters_bytes=adapters,
    )


def largest_context(
    config: Llama4Config,
    weights: int,
    available: int,
    kv_dtype: str = "bf16",
    piece: int = 512,
    sequences: int = 1,
    *,
    engine: str = "thread",
) -> int:
    """The most tokens of context that fit: the model's whole context, or a multiple of 256; 0 when not even 256 fit."""

    def fits(context: int) -> bool:
        return need(config, weights, context, kv_dtype, piece, sequences, engine=engine).total_bytes <= available

    if fits(config.max_context):
        return config.max_context
    low, high = 0, config.max_context // 256
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle * 256):
            low = middle
        else:
            high = middle - 1
    return low * 256


def check_fits(
    name: str,
    config: Llama4Config,
    weights: int,
    context: int,
    available: int,
    kv_dtype: str = "bf16",
    piece: int = 512,
    sequences: int = 1,
    *,
    engine: str = "thread",
) -> MemoryNeed:
    """Raise DoesNotFit when a model does not fit, before anything is allocated: with what it needs, what is there, and
    what would fit."""
    needed = need(config, weights, context, kv_dtype, piece, sequences, engine=engine)
    if needed.total_bytes > available:
        beside = needed.total_bytes - needed.weights_bytes - needed.cache_bytes
        raise DoesNotFit(
            f"{name} does not fit: it needs {gb(needed.total_bytes)} (weights {gb(needed.weights_bytes)}, "
            f"cache of {context} tokens {gb(needed.cache_bytes)}, work {gb(beside)}), "
            f"{gb(available)} are available; "
            + _what_would_fit(config, weights, context, available, kv_dtype, piece, sequences, engine)
        )
    return needed


def _what_would_fit(
    config: Llama4Config,
    weights: int,
    context: int,
    available: int,
    kv_dtype: str,
    piece: int,
    sequences: int,
    engine: str,
) -> str:
    """Less context, a smaller cache, smaller weights, fewer sequences: each that helps by itself."""

    def fits(size: int, tokens: int, kind: str, together: int = sequences) -> bool:
        return need(config, size, tokens, kind, piece, together, engine=engine).total_bytes <= available

    ways = []
    shorter = largest_context(config, weights, available, kv_dtype, piece, sequences, engine=engine)
    if 0 < shorter < context:
        ways.append(f"a context of {shorter}")
    for kind in ("int8", "int4"):
        smaller = head_bytes(kind, config.head_size) < head_bytes(kv_dtype, config.head_size)
        if smaller and fits(weights, context, kind):
            ways.append(f"a cache of {kind} (--kv {kind})")
            break
    for name, bits in FORMAT_BITS.items():
        size = weights_bytes(config, bits)
        if size < weights and fits(size, context if shorter else min(context, 2048), kv_dtype):
            ways.append(f"the same model as {name}, {gb(size)} of weights (herd quantize)")
            break
    fewer = sequences // 2
    while fewer and not fits(weights, context, kv_dtype, fewer):
        fewer //= 2
    if fewer:
        ways.append(f"at most {fewer} answers at once (parallel={fewer})")
    return "what would fit: " + "; ".join(ways) if ways else "no form of this model fits here: take a smaller model"


def gb(size: int) -> str:
    """A number of bytes as text in GB (10^9) or MB (10^6)."""
    return f"{size / 1e9:.1f} GB" if size >= 99_500_000 else f"{size / 1e6:.1f} MB"
