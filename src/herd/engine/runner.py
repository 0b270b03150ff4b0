"""Ids in, logits out: one pass of the model over pieces of sequences, with its cache.

    pieces -> pager.step -> ops.place -> model.forward -> pager.commit -> logits of the wanted rows

`ModelRunner` is the seam: the engine needs no more than this, and `fake.FakeModel` has the same without weights.
What it is not: a sampler, a schedule, a tokenizer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from herd.cache import Lease, Pager
from herd.config import Llama4Config
from herd.engine.trace import RoutingLog
from herd.errors import UsageError, fail
from herd.model import forward, hidden, see
from herd.ops.contract import Ops
from herd.plan.memory import TILES_PER_PASS
from herd.weights import Model

Logits = npt.NDArray[np.float32]

MAX_PAGE = 256
"""Positions a page: big enough that tables stay short, small enough that a short chat wastes little."""


@dataclass(frozen=True)
class Piece:
    """The next ids of one sequence."""

    lease: Lease
    ids: Sequence[int]
    features_RD: Any | None = None
    """A row of image features for each patch id among `ids`, as `see` made them."""
    rows: Sequence[int] | None = None
    """Which of `ids` want logits; None: the last; empty: none."""


class ModelRunner(Protocol):
    """A model with a cache, whatever computes it."""

    vocab_size: int
    context: int
    """Positions a sequence may have in the cache."""
    patch_id: int | None
    """The id whose rows are image features; None: a text model."""
    tokens_per_tile: int

    def lease(self) -> Lease:
        """A new, empty sequence."""

    def see(self, pixels_I3SS: Any) -> Any:
        """Image features [I * tokens_per_tile, D] of these tiles, sliceable by row."""

    def run(self, pieces: Sequence[Piece], routing: RoutingLog | None = None) -> Logits:
        """One pass. Logits of the wanted rows, piece after piece: [R, V]. A pass that raises leaves every sequence as
        it was."""

    def rollback(self, lease: Lease, length: int) -> int:
        """See Pager.rollback."""

    def drop(self, lease: Lease) -> None:
        """The sequence is over."""


def page_size_for(chunk: int | None) -> int:
    """The largest power of two up to MAX_PAGE that divides the chunk."""
    return math.gcd(chunk, MAX_PAGE) if chunk else MAX_PAGE


class Runner:
    """The real one: weights over an op set.

    context: positions in the cache, for all sequences together. piece: the most new rows of a pass that cross a chunk
    edge; it sizes the chunked layers' pool. sequences: how many of them it is sized for. page_size: None chooses.
    """

    def __init__(
        self,
        config: Llama4Config,
        weights: Model,
        ops: Ops,
        *,
        context: int,
        kv_dtype: str = "f32",
        piece: int = 512,
        sequences: int = 1,
        page_size: int | None = None,
    ) -> None:
        self.config = config
        self.weights, self.ops = weights, ops
        self.vocab_size = config.vocab_size
        self.context = context
        self.patch_id = config.patch_id if config.vision is not None else None
        self.tokens_per_tile = config.tokens_per_tile
        chunk = config.chunk if any(layer.chunked for layer in config.layers) else None
        size = page_size_for(chunk) if page_size is None else page_size
        num_pages = -(-context // size) + sequences - 1
        num_chunk_pages = -(-min(chunk - 1 + piece, context + chunk) // size) * sequences if chunk else 0
        self.pager = Pager(chunk, size, num_pages, num_chunk_pages)
        self.kv = [
            ops.new_kv(
                (num_chunk_pages if layer.chunked else num_pages) * size,
                config.num_kv_heads,
                config.head_size,
                kv_dtype,
            )
            for layer in config.layers
        ]

    def lease(self) -> Lease:
        """A new, empty sequence."""
        return self.pager.lease()

    def see(self, pixels_I3SS: Any) -> Any:
        """Image features, a few tiles a pass; raises UsageError on a text model."""
        if self.config.vision is None or self.weights.vision is None:
            fail(UsageError, "an image was given to a text model", do="choose a model with vision")
        vision, weights, step = self.config.vision, self.weights.vision, TILES_PER_PASS
        parts = [
            see(self.ops, vision, weights, self.ops.array(pixels_I3SS[i : i + step]))
            for i in range(0, len(pixels_I3SS), step)
        ]
        return parts[0] if len(parts) == 1 else self.ops.array(np.concatenate([self.ops.numpy(x) for x in parts]))

    def run(self, pieces: Sequence[Piece], routing: RoutingLog | None = None) -> Logits:
        """One pass; see ModelRunner."""
        rows: list[int] = []
        start = 0
        for piece in pieces:
            wanted = (len(piece.ids) - 1,) if piece.rows is None else piece.rows
            rows += [start + r for r in wanted]
            start += len(piece.ids)
        context = self.pager.step([(p.lease, len(p.ids)) for p in pieces], rows)
        done = False
        try:
            logits = self._forward(pieces, context, bool(rows), routing)
            done = True
        finally:
            for piece in pieces:
                self.pager.commit(piece.lease, None if done else 0)
        return logits

    def _forward(self, pieces: Sequence[Piece], context: Any, wanted: bool, routing: RoutingLog | None) -> Logits:
        ids_T = np.concatenate([np.asarray(p.ids, np.int64) for p in pieces])
        seen = [p.features_RD for p in pieces if p.features_RD is not None and len(p.features_RD)]
        if len(seen) > 1:
            seen = [self.ops.array(np.concatenate([self.ops.numpy(x) for x in seen]))]
        if routing is not None:
            routing.pass_over(context.positions_T)
        compute = forward if wanted else hidden
        out = compute(
            self.ops,
            self.config,
            self.weights,
            ids_T,
            self.ops.place(context),
            kv=self.kv,
            routing=routing,
            features_RD=seen[0] if seen else None,
        )
        if not wanted:
            return np.zeros((0, self.vocab_size), np.float32)
        return np.asarray(self.ops.numpy(out), np.float32)

    def rollback(self, lease: Lease, length: int) -> int:
        """See Pager.rollback."""
        return self.pager.rollback(lease, length)

    def drop(self, lease: Lease) -> None:
        """The sequence is over."""
        self.pager.drop(lease)
