"""`FakeModel`: a ModelRunner without weights, so that the engine is tested in milliseconds.

Its cache is real pages over simulated memory: a slot holds the id that was written there. Each pass writes its new rows
where the context says and then reads every visible position back through the pages, the global layers' and the chunked
layers', so that a page owned twice, a copy left out or a stale slot shows as a wrong id. What the model answers is a
function of what it read, not of what it was told.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from herd.batch import Context, Segments
from herd.cache import Lease, Pager
from herd.cache.prefixes import PrefixTree
from herd.engine.room import Room
from herd.engine.runner import Logits, Piece, rows_wanted
from herd.engine.trace import Traced

Next = Callable[[list[int]], Sequence[float] | int]
"""All ids so far -> logits of the next, or the one id that is certain. The id of an image row holds what was seen
there, shifted by 32 bits."""


class FakeModel:
    """next_logits decides. `passes` records ids by pass and piece, `features` the image rows of each piece.

    page_size, num_pages, num_chunk_pages: of the simulated pools; None: one position a page, and a context's worth.
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
        self.pager = Pager(chunk, page_size, whole, chunked)
        self.room = Room(self.pager, PrefixTree(self.pager))
        self.memory = {
            "whole": np.full(whole * page_size, -1, np.int64),
            "chunk": np.full(chunked * page_size, -1, np.int64),
        }
        self.bad = dict(bad or {})
        self.cost = cost
        self.now_s = 0.0
        self.passes: list[list[list[int]]] = []
        self.features: list[list[int]] = []
        self.seen_tiles = 0

    def clock(self) -> float:
        """Virtual seconds."""
        return self.now_s

    def see(self, pixels_I3SS: Any) -> Any:
        """One number a row: what is in its tile, and its place there."""
        self.seen_tiles += len(pixels_I3SS)
        tiles = [zlib.crc32(np.ascontiguousarray(tile).tobytes()) >> 4 for tile in pixels_I3SS]
        return np.asarray([[t * self.tokens_per_tile + n] for t in tiles for n in range(self.tokens_per_tile)])

    def compute(self, pieces: Sequence[Piece], routing: Traced | None = None) -> Logits:
        """One pass; see ModelRunner."""
        context, copies = self.room.step([(p.lease, len(p.ids)) for p in pieces], rows_wanted(pieces))
        for pool, source, target in copies:
            pages = self.memory[pool].reshape(-1, self.pager.page_size)
            pages[target] = pages[source]
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
                    self.room.commit(piece.lease, 0)
        return logits

    def run(self, pieces: Sequence[Piece], routing: Traced | None = None) -> Logits:
        """One pass that stands."""
        logits = self.compute(pieces, routing)
        for piece in pieces:
            self.room.commit(piece.lease)
        return logits

    def first_not_finite(self, piece: Piece) -> str | None:
        """Layer 1, when a bad id is to blame."""
        return "layer 1" if "nan" in self.bad.values() else None

    # -- what a lease holds, as the memory has it ----------------------------------------------------------------------

    def lease(self) -> Lease:
        """A new, empty sequence."""
        return self.room.lease()

    def drop(self, lease: Lease) -> None:
        """The sequence is over."""
        self.room.drop(lease)

    def _pass(self, pieces: Sequence[Piece], context: Context) -> Logits:
        values: list[int] = []
        for piece in pieces:
            values += self._values(piece)
        new_T = np.asarray(values, np.int64)
        self._write("whole", context.whole, new_T)
        if context.chunk is not context.whole:
            self._write("chunk", context.chunk, new_T)
        out: list[Sequence[float]] = []
        chunk_at = 0
        for s, piece in enumerate(pieces):
            end = int(context.whole.kv_lens[s])
            ids = self._read("whole", context.whole, s)
            n = len(piece.ids)
            assert ids[end - n :] == values[int(context.whole.starts[s]) : int(context.whole.starts[s + 1])]
            assert -1 not in ids, "a position that was never written"
            if context.chunk is not context.whole:
                chunk_at = self._check_chunks(context.chunk, chunk_at, ids, n)
            wanted = (n - 1,) if piece.rows is None else piece.rows
            out += [self._logits(ids[: end - n + 1 + r]) for r in wanted]
        return np.asarray(out, np.float32).reshape(-1, self.vocab_size)

    def _values(self, piece: Piece) -> list[int]:
        seen = [int(x) for part in piece.features for x in part[:, 0]]
        if seen:
            self.features.append(seen)
        rows = iter(seen)
        values = [i | next(rows) << 32 if i == self.patch_id else i for i in piece.ids]
        assert next(rows, None) is None, "more image rows than patch ids"
        return values

    def _write(self, pool: str, segments: Segments, new_T: Any) -> None:
        assert segments.slots_T is not None
        self.memory[pool][segments.slots_T] = new_T

    def _read(self, pool: str, segments: Segments, s: int) -> list[int]:
        """The visible positions of a segment, through its pages."""
        assert segments.pages is not None
        size = segments.page_size
        length = int(segments.kv_lens[s])
        pages = segments.pages[s, : -(-length // size)]
        found: list[int] = self.memory[pool].reshape(-1, size)[pages].reshape(-1)[:length].tolist()
        return found

    def _check_chunks(self, segments: Segments, at: int, ids: list[int], rows: int) -> int:
        """The segments of one piece in the chunked layers hold the same ids; the number of the next piece's first."""
        chunk = self.pager.chunk
        assert chunk is not None
        start = len(ids) - rows
        while start < len(ids):
            base = start // chunk * chunk
            stop = min(base + chunk, len(ids))
            assert int(segments.kv_lens[at]) == stop - base
            assert self._read("chunk", segments, at) == ids[base:stop], "chunked layers hold other ids"
            start, at = stop, at + 1
        return at

    def _logits(self, ids: list[int]) -> Sequence[float]:
        if self.bad and any(self.bad.get(i) == "nan" for i in ids):
            return [float("nan")] * self.vocab_size
        found = self.next_logits(ids)
        if isinstance(found, int):
            logits = [0.0] * self.vocab_size
            logits[found] = 20.0
            return logits
        return found
