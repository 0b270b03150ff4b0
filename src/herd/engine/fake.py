"""`FakeModel`: a ModelRunner without weights, so that the engine is tested in milliseconds.

It keeps the ids that went through each lease, checks that every step is a continuation, and asks a function of the ids
so far for the next logits.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from herd.cache import Lease, Pager
from herd.engine.runner import Logits, Piece
from herd.engine.trace import RoutingLog

Next = Callable[[list[int]], Sequence[float] | int]
"""All ids so far -> logits of the next, or the one id that is certain."""


class FakeModel:
    """next_logits decides. `passes` records ids by pass and piece, `features` the image rows of each piece."""

    def __init__(
        self,
        next_logits: Next,
        *,
        vocab_size: int = 320,
        context: int = 4096,
        chunk: int | None = 16,
        patch_id: int | None = None,
        tokens_per_tile: int = 4,
    ) -> None:
        self.next_logits = next_logits
        self.vocab_size = vocab_size
        self.context = context
        self.patch_id = patch_id
        self.tokens_per_tile = tokens_per_tile
        self.pager = Pager(chunk, 1, context, context)
        self.ids: dict[int, list[int]] = {}
        self.passes: list[list[list[int]]] = []
        self.features: list[list[int]] = []
        self.seen_tiles = 0

    def lease(self) -> Lease:
        """A new, empty sequence."""
        return self.pager.lease()

    def see(self, pixels_I3SS: Any) -> Any:
        """One number a row: its place among the rows of all tiles."""
        self.seen_tiles += len(pixels_I3SS)
        return np.arange(len(pixels_I3SS) * self.tokens_per_tile)[:, None]

    def run(self, pieces: Sequence[Piece], routing: RoutingLog | None = None) -> Logits:
        """One pass."""
        self.pager.step([(p.lease, len(p.ids)) for p in pieces])
        done = False
        try:
            out = [row for piece in pieces for row in self._piece(piece)]
            done = True
        finally:
            for piece in pieces:
                self.pager.commit(piece.lease, None if done else 0)
        self.passes.append([list(p.ids) for p in pieces])
        return np.asarray(out, np.float32).reshape(-1, self.vocab_size)

    def _piece(self, piece: Piece) -> list[Sequence[float]]:
        ids = self.ids.setdefault(id(piece.lease), [])
        del ids[piece.lease.length :]
        assert len(ids) == piece.lease.length, "a step over positions that were never written"
        if piece.features_RD is not None:
            self.features.append(piece.features_RD[:, 0].tolist())
        patches = sum(i == self.patch_id for i in piece.ids)
        assert patches == (0 if piece.features_RD is None else len(piece.features_RD))
        wanted = {len(piece.ids) - 1} if piece.rows is None else set(piece.rows)
        out: list[Sequence[float]] = []
        for r, token_id in enumerate(piece.ids):
            ids.append(token_id)
            if r in wanted:
                out.append(self._logits(ids))
        return out

    def _logits(self, ids: list[int]) -> Sequence[float]:
        found = self.next_logits(list(ids))
        if isinstance(found, int):
            return [20.0 * (i == found) for i in range(self.vocab_size)]
        return found

    def rollback(self, lease: Lease, length: int) -> int:
        """See Pager.rollback."""
        return self.pager.rollback(lease, length)

    def drop(self, lease: Lease) -> None:
        """The sequence is over."""
        self.ids.pop(id(lease), None)
        self.pager.drop(lease)
