"""The cache of the reference op set, and what a coarse type makes of a key: docs/kv.md in a few lines of PyTorch.

int8 and int4 hold here the values that their codes stand for, as floats: the meaning, not the memory.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from herd.errors import UsageError, fail

PAGE = 256
"""int4: slots of a page."""
KEY_GROUP, DIM_GROUP = 64, 64
KV_DTYPES = {
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "int8": torch.float32,
    "int4": torch.float32,
}


class TorchKV(NamedTuple):
    """Keys and values of one layer: [slots, K, H] each."""

    keys: Tensor
    values: Tensor


class TorchInt8(TorchKV):
    """Keys and values that are rounded to int8 as they are written."""


class TorchInt4(NamedTuple):
    """Coarse pages and the pool of exact ones. rope: the keys carry positions, and share scales per slot."""

    coarse: TorchKV
    exact: TorchKV
    rope: bool


def new_kv(
    slots: int, heads: int, head_size: int, dtype: str, exact_slots: int, rope: bool, device: Any, plain: torch.dtype
) -> Any:
    """A zeroed cache; `plain` is the element type of f32."""
    if dtype not in KV_DTYPES:
        fail(UsageError, "cache dtype", got=dtype, expected=", ".join(KV_DTYPES))

    def pool(n: int, kind: torch.dtype) -> TorchKV:
        return TorchKV(*(torch.zeros((n, heads, head_size), dtype=kind, device=device) for _ in range(2)))

    if dtype == "int4":
        if slots % PAGE or exact_slots % PAGE or not exact_slots:
            fail(UsageError, "cache slots, exact slots", got=[slots, exact_slots], expected="multiples of 256")
        return TorchInt4(pool(slots, torch.float32), pool(exact_slots, torch.bfloat16), rope)
    made = pool(slots, plain if dtype == "f32" else KV_DTYPES[dtype])
    return TorchInt8(*made) if dtype == "int8" else made


def write(kv: Any, slots: Tensor, keys: Tensor, values: Tensor) -> None:
    """Rows [n, K, H] to their slots; of int4, of the exact pool."""
    if isinstance(kv, TorchInt8):
        keys, values = int8(keys), int8(values)
    held = kv.exact if isinstance(kv, TorchInt4) else kv
    held.keys.index_copy_(0, slots, keys.to(held.keys.dtype))
    held.values.index_copy_(0, slots, values.to(held.values.dtype))


def read(kv: Any, slots: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of these slots; of int4 the exact pool's come first, then the coarse ones."""
    if not isinstance(kv, TorchInt4):
        return kv.keys[slots], kv.values[slots]
    keys, values = (torch.cat([kv.exact[i].float(), kv.coarse[i]]) for i in range(2))
    return keys[slots], values[slots]


def copy_pages(kv: Any, source: Tensor, target: Tensor, page_size: int, exact: bool = False) -> None:
    """Whole pages, all of `source` read before any is written."""
    pool = kv if not isinstance(kv, TorchInt4) else kv.exact if exact else kv.coarse
    for t in pool:
        paged = t.view(-1, page_size, *t.shape[1:])
        paged[target] = paged[source]


def close_pages(kv: TorchInt4, exact: Tensor, pages: Tensor) -> None:
    """Exact pages to coarse ones."""
    (keys, values), (to_keys, to_values) = (
        [x.view(-1, PAGE, *x.shape[1:]) for x in pool] for pool in (kv.exact, kv.coarse)
    )
    held = keys[exact].float()
    to_keys[pages] = per_slot(held) if kv.rope else per_channel(held)
    to_values[pages] = per_slot(values[exact].float())


def int8(x: Tensor) -> Tensor:
    """scale * round(x / scale) with scale = max |x| / 127 over the last axis."""
    x = x.float()
    scale = x.abs().amax(-1, keepdim=True) / 127
    return torch.where(scale > 0, scale * (x / scale).round(), x * 0)


def per_channel(x_SKH: Tensor) -> Tensor:
    """Codes of 4 bits with a scale and minimum for each channel and 64 slots; any axes before those."""
    return torch.cat([four_bits(group, -3) for group in torch.split(x_SKH, KEY_GROUP, -3)], -3)


def per_slot(x_SKH: Tensor) -> Tensor:
    """Codes of 4 bits with a scale and minimum for each slot and 64 dims; any axes before those."""
    return torch.cat([four_bits(group, -1) for group in torch.split(x_SKH, DIM_GROUP, -1)], -1)


def four_bits(x: Tensor, axis: int) -> Tensor:
    """minimum + scale * code, code from 0 to 15, both float16."""
    low, high = x.amin(axis, keepdim=True), x.amax(axis, keepdim=True)
    scale, minimum = ((high - low) / 15).half().float(), low.half().float()
    codes = torch.where(scale > 0, ((x - minimum) / scale).round().clamp(0, 15), x * 0)
    return minimum + scale * codes
