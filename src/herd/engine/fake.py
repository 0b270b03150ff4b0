"""`FakeModel`: a ModelRunner without weights, so that the engine is tested in milliseconds.

Its cache is real pages over simulated memory (`fake_cache.FakeCache`). Each pass writes its new rows where the context
says and then reads every visible position back through the pages, the global layers' and the chunked layers'. What the
model answers is a function of what it read, not of what it was told.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from herd.batch import Context
from herd.cache import Lease, Pager
from herd.cache.manager import KVCacheManager
from herd.cache.prefixes import PrefixTree
from herd.engine.adapters import Adapter, copied
from herd.engine.fake_cache import FakeCache
from herd.engine.runner import Chunk, Logits, NotFinite, read_blocks, rows_wanted
from herd.engine.trace import RoutingTrace
from herd.errors import UsageError, fail

BLOCK = 3
"""Rows whose logits a reader is given at once: few, so that a piece has several."""
Next = Callable[[list[int]], Sequence[float] | int]
"""All ids so far -> logits of the next, or the one id that is certain. The id of an image row holds what was seen
there, shifted by 32 bits."""


def adapted(token_id: int, adapter: Adapter) -> int:
    """The number that stands for an id whose row was computed with an adapter."""
    return token_id | adapter.serial << 16


class FakeModel:
    """A model whose logits the function `next_logits` decides. `passes` records the ids of each piece of each pass,
    `features` the image rows of each piece.

    page_size, num_pages, num_chunk_pages: of the simulated pools; None: one position a page, and a context's worth.
    num_exact_pages: None: the cache has no exact pool.
    bad: what happens to a pass with one of these ids among its new rows ("raise"), or where one is visible ("nan").
    cost: seconds of a pass of so many rows, added to `now_s`.
    """

    def __init__(
        self,
        next_logits: Next,
        *,
        vocab_size: int = 320,
        context: int = 4096,
        chunk: int | None = 16,
        patch_id: int | None = None,
        tokens_per_tile: int = 4,
        page_size: int = 1,
        num_pages: int | None = None,
        num_chunk_pages: int | None = None,
        num_exact_pages: int | None = None,
        bad: Mapping[int, Literal["raise", "nan"]] | None = None,
        cost: Callable[[int], float] = lambda rows: 0.0,
    ) -> None:
        self.next_logits = next_logits
        self.vocab_size = vocab_size
        self.context = context
        self.patch_id = patch_id
        self.tokens_per_tile = tokens_per_tile
        whole = -(-context // page_size) if num_pages is None else num_pages
        chunked = whole if num_chunk_pages is None else num_chunk_pages
        self.pager = Pager(chunk, page_size, whole, chunked, num_exact_pages)
        self.cache = KVCacheManager(self.pager, PrefixTree(self.pager))
        self.memory = FakeCache(self.pager)
        self.bad = dict(bad or {})
        self.cost = cost
        self.now_s = 0.0
        self.passes: list[list[list[int]]] = []
        self.features: list[list[int]] = []
        self.seen_tiles = 0

    def clock(self) -> float:
        """Virtual seconds."""
        return self.now_s

    def encode_images(self, pixels_I3SS: Any) -> Any:
        """Image features with one number a row, which holds the tile's content and the row's place in it."""
        self.seen_tiles += len(pixels_I3SS)
        tiles = [zlib.crc32(np.ascontiguousarray(tile).tobytes()) >> 4 for tile in pixels_I3SS]
        return np.asarray([[t * self.tokens_per_tile + n] for t in tiles for n in range(self.tokens_per_tile)])

    def compute(self, pieces: Sequence[Chunk], routing: RoutingTrace | None = None) -> Logits:
        """One pass; see ModelRunner."""
        context, copies = self.cache.step([(p.lease, len(p.ids)) for p in pieces], rows_wanted(pieces))
        self.memory.copy(copies)
        done = False
        try:
            self.passes.append([list(p.ids) for p in pieces])
            self.now_s += self.cost(sum(len(p.ids) for p in pieces))
            if self.bad:
                for piece in pieces:
                    if any(self.bad.get(i) == "raise" for i in piece.ids):
                        raise RuntimeError("an id that breaks")
            logits = self._pass(pieces, context)
            done = True
        finally:
            if not done:
                for piece in pieces:
                    self.cache.commit(piece.lease, 0)
        return logits

    def run(self, pieces: Sequence[Chunk], routing: RoutingTrace | None = None) -> Logits:
        """One pass whose rows are committed; see ModelRunner."""
        logits = self.compute(pieces, routing)
        for piece in pieces:
            self.cache.commit(piece.lease)
        return logits

    def ready_weights(self, weights: Any, check: Callable[[], None] | None = None) -> Callable[[], None]:
        """See ModelRunner. The weights are another `next_logits`."""
        if not callable(weights):
            fail(UsageError, "new weights", got=type(weights).__name__, expected="what decides on the next id")
        return lambda: setattr(self, "next_logits", weights)

    def ready_adapter(self, name: str, tensors: Mapping[str, Any]) -> Adapter:
        """See ModelRunner. Rows computed with an adapter are marked (`adapted`): no other request can use them."""
        nothing = isinstance(tensors, Mapping) and not tensors
        return Adapter.of(name, {} if nothing else copied(name, tensors))

    def first_not_finite(self, piece: Chunk) -> str | None:
        """The name of layer 1 when a bad id is among the ids of the piece, else None."""
        return "layer 1" if "nan" in self.bad.values() else None

    # -- what a lease holds, as the memory has it ----------------------------------------------------------------------

    def lease(self) -> Lease:
        """A new, empty sequence."""
        return self.cache.lease()

    def drop(self, lease: Lease) -> None:
        """Free the pages of a sequence that has ended."""
        self.cache.drop(lease)

    def _pass(self, pieces: Sequence[Chunk], context: Context) -> Logits:
        values = [self._values(piece) for piece in pieces]
        self.memory.write(context, np.asarray([v for part in values for v in part], np.int64))
        out: list[Sequence[float]] = []
        read = self.memory.read(context, [len(part) for part in values])
        for piece, new, ids in zip(pieces, values, read, strict=True):
            n = len(new)
            assert ids[-n:] == new, "other rows than were written"
            assert min(ids) >= 0, "a position that was never written, or not in the form that it is read in"
            if piece.reader is None:
                wanted = (n - 1,) if piece.rows is None else piece.rows
                out += [self._logits(ids[: len(ids) - n + 1 + r]) for r in wanted]
        for index, position, rows in read_blocks(pieces, BLOCK):
            reader = pieces[index].reader
            assert reader is not None
            of = self._state if reader.states else self._logits
            past = [read[index][: position + 1 + i] for i in range(len(rows))]
            reader.take(position, np.asarray([of(ids) for ids in past], np.float32))
        return np.asarray(out, np.float32).reshape(-1, self.vocab_size)

    def _state(self, ids: list[int]) -> Sequence[float]:
        """Sixteen numbers that depend on the ids alone, another vector for each text. Raises NotFinite where a bad id
        is visible."""
        if self.bad and any(self.bad.get(i) == "nan" for i in ids):
            raise NotFinite("activations are not finite")
        told = zlib.crc32(np.asarray(ids, np.int64).tobytes())
        return [1.0 + (told >> bit & 3) for bit in range(0, 32, 2)]

    def _values(self, piece: Chunk) -> list[int]:
        seen = [int(x) for part in piece.features for x in part[:, 0]]
        if seen:
            self.features.append(seen)
        rows = iter(seen)
        values = [i | next(rows) << 32 if i == self.patch_id else i for i in piece.ids]
        if piece.adapter is not None:
            values = [adapted(i, piece.adapter) for i in values]
        assert next(rows, None) is None, "more image rows than patch ids"
        return values

    def _logits(self, ids: list[int]) -> Sequence[float]:
        if self.bad and any(self.bad.get(i) == "nan" for i in ids):
            return [float("nan")] * self.vocab_size
        found = self.next_logits(ids)
        if isinstance(found, int):
            logits = [0.0] * self.vocab_size
            logits[found] = 20.0
            return logits
        return found
