"""How many pages the KV cache of a load has: three pools (herd.cache.pages), as arithmetic on a config.

    pool    layers                     positions, before each further sequence adds a page
    full    that see all before them   the context
    chunk   chunked layers             a chunk and the rows of a pass that crosses its end; never more than the context
    exact   that see all before them,  pages: two for each sequence (its first, its own), those that a pass goes through
            when they are int4

Sequences share the context. The page that each further one adds is the one it has begun: so one that fills the context
does not keep the others out. `engine.runner.Runner` takes these pools, and `memory.need` counts them before anything
is taken.
"""

import math
from typing import NamedTuple

from herd.config import Llama4Config

MAX_PAGE = 256
"""Positions a page: big enough that tables stay short, small enough that a short chat wastes little."""


class Pools(NamedTuple):
    """Number of pages of each pool."""

    page_size: int
    """Positions."""
    full: int
    chunk: int
    """0 when no layer is chunked."""
    exact: int
    """0 when layers that see everything hold keys as they are."""


def page_size_for(chunk: int | None) -> int:
    """The page size: the largest power of two up to MAX_PAGE that divides the chunk."""
    return math.gcd(chunk, MAX_PAGE) if chunk else MAX_PAGE


def chunk_of(config: Llama4Config) -> int | None:
    """Positions of a chunk; None when no layer is chunked, whatever the config says of chunks."""
    return config.chunk if any(layer.chunked for layer in config.layers) else None


def pools_for(
    config: Llama4Config,
    context: int,
    kv_dtype: str,
    piece: int = 512,
    sequences: int = 1,
    page_size: int | None = None,
) -> Pools:
    """The pools for `context` positions that `sequences` share, when a pass has at most `piece` rows.

    page_size: positions of a page; None chooses.
    """
    chunk = chunk_of(config)
    size = page_size_for(chunk) if page_size is None else page_size
    further = sequences - 1
    in_chunks = -(-min(chunk - 1 + piece, context) // size) + further if chunk else 0
    exact = 2 * sequences + -(-piece // size) + 1 if kv_dtype == "int4" else 0
    return Pools(size, -(-context // size) + further, in_chunks, exact)
