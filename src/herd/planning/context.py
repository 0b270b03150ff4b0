"""The length of context that a model gets when it may be as long as memory allows.

What is left beside the weights is cache, all but a reserve for other programs and for what no plan counts. A model
whose whole context takes less gets its whole context. Where little is left, a context of USUAL tokens may use up the
reserve: less than that is no use to a conversation.
"""

from herd.config import Llama4Config
from herd.planning.memory import largest_context

USUAL = 8192
"""Tokens of a load that nobody gave a context."""
RESERVE = 8
"""1 / RESERVE of what is available is left alone, ..."""
LEAST_RESERVE_BYTES = 1 << 30
"""... and at least this."""


def auto_context(
    config: Llama4Config,
    weights: int,
    available: int,
    kv_dtype: str = "bf16",
    piece: int = 512,
    sequences: int = 1,
    *,
    promised: int = 0,
    engine: str = "thread",
) -> int:
    """The largest context, in tokens, that fits in `available` bytes beside `weights` and the reserve.

    promised: bytes that models loaded before may still take; a cache takes memory as it fills, so the machine does not
    count them yet. The result may not fit: then no context does, and `memory.check_fits` says so.
    """
    reserve = max(available // RESERVE, LEAST_RESERVE_BYTES)

    def largest(room: int) -> int:
        return largest_context(config, weights, room, kv_dtype, piece, sequences, engine=engine)

    usual = min(config.max_context, USUAL)
    return max(largest(available - promised - reserve), min(largest(available), usual)) or usual
