"""The KV cache of each layer: its type, its pool, and how many bytes a position takes.

Runner, plan and bench go by this one rule. What it is not: how many pages there are (`pools`).
"""

from dataclasses import dataclass

from herd.config import Llama4Config

KV_DTYPES = ("f32", "f16", "bf16", "int8", "int4")
"""Numbers that a cache may hold keys and values as."""


@dataclass(frozen=True)
class LayerCache:
    """The KV cache of one layer."""

    dtype: str
    """One of KV_DTYPES. Where a cache is int4, chunked layers are int8: they never grow beyond a chunk."""
    chunked: bool
    """Whether its pages are of the chunked layers' pool."""
    rope: bool
    """Whether its keys carry positions."""

    @property
    def exact(self) -> bool:
        """Whether it also has pages of the exact pool: bf16 pages, until they are full."""
        return self.dtype == "int4"

    def slot_bytes(self, head_size: int) -> float:
        """Bytes of key and value of one position and KV head."""
        return head_bytes(self.dtype, head_size, self.rope)


def layer_caches(config: Llama4Config, kv_dtype: str) -> tuple[LayerCache, ...]:
    """The KV cache of every layer of a model whose cache has this type."""
    return tuple(
        LayerCache("int8" if kv_dtype == "int4" and layer.chunked else kv_dtype, layer.chunked, layer.rope)
        for layer in config.layers
    )


def head_bytes(kv_dtype: str, head_size: int, rope: bool = True) -> float:
    """Bytes of key and value of one position and KV head in the cache (docs/kv.md): native/kernels/kv.h in one
    expression each.

    rope: whether the layer's keys carry positions; int4 keys that do not have their scales per channel and 64 slots.
    """
    quads, wide, groups = -(-head_size // 4) * 4, -(-head_size // 16) * 16, -(-head_size // 64)
    if kv_dtype == "int4":
        return (quads + wide) / 2 + 4 * groups + (4 * groups if rope else 4 * wide / 64)
    return {
        "f32": 8 * head_size,
        "f16": 4 * head_size,
        "bf16": 2 * (head_size + head_size % 2 + wide),
        "int8": quads + wide + 8,
    }[kv_dtype]
