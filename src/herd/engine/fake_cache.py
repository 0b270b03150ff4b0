"""The memory behind the pages of `FakeModel`: a slot holds the id that was written there, so that a page owned twice, a
copy left out or a stale slot shows as a wrong id.

With an exact pool (int4) a page that closes is written to its coarse page in another form, and a row must find that
form where it is to read coarsely, and the ids themselves where it is to read exactly. What it is not: an owner of
pages (`herd.cache`).
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from herd.batch import Context, Segments
from herd.cache import Pager

NEVER = -1
"""The content of a slot that was never written."""


def coarse(ids: Any) -> Any:
    """The coarse form of an id in a closed page, and back (its own inverse); never equal to an id or NEVER."""
    return -2 - ids


class FakeCache:
    """Slots of all pools of a pager, as [pages, positions of a page]."""

    def __init__(self, pager: Pager) -> None:
        self.pager = pager
        self.pools = {name: np.full((pool.size, pager.page_size), NEVER) for name, pool in pager.pools.items()}
        self.copied = dict.fromkeys(self.pools, 0)
        """Pages, by pool."""

    def copy(self, copies: Sequence[tuple[str, int, int]]) -> None:
        """Copy pages before a pass: (pool, source page, target page), in order."""
        for name, source, target in copies:
            self.copied[name] += 1
            self.pools[name][target] = self.pools[name][source]

    def write(self, context: Context, ids_T: Any) -> None:
        """Write the ids of a pass to the slots that its context names, then the coarse form of pages that are full."""
        full, chunk = context.full, context.chunk
        exact = full.exact_pages is not None
        self.pools["exact" if exact else "full"].reshape(-1)[full.slots_T] = ids_T
        if chunk is not full:
            self.pools["chunk"].reshape(-1)[chunk.slots_T] = ids_T
        if full.closing is not None and len(full.closing):
            self.pools["full"][full.closing[:, 1]] = coarse(self.pools["exact"][full.closing[:, 0]])

    def read(self, context: Context, counts: Sequence[int]) -> list[list[int]]:
        """All ids that the last row of each piece of a pass (with so many new rows) sees in the full-attention layers.
        Asserts that its other rows and the chunked layers see the same."""
        full, chunk = context.full, context.chunk
        read = self._full(full, counts) if full.exact_pages is None else self._exact(full, counts)
        if chunk is not full:
            self._check_chunks(chunk, read, counts)
        return read

    def _full(self, full: Segments, counts: Sequence[int]) -> list[list[int]]:
        starts, lengths = full.starts.tolist(), full.kv_lens.tolist()
        assert starts == list(accumulate(counts, initial=0)), "a segment a piece"
        return [self._positions("full", full, s, length) for s, length in enumerate(lengths)]

    def _exact(self, full: Segments, counts: Sequence[int]) -> list[list[int]]:
        """A segment for each page of positions: the sequence's first page and the row's own page exactly, those between
        coarsely."""
        assert full.exact_pages is not None and full.pages is not None
        Z, exact = self.pager.page_size, self.pools["exact"]
        starts, lengths = full.starts.tolist(), full.kv_lens.tolist()
        firsts, owns = full.exact_pages.T.tolist()
        found, s = [], 0
        for count in counts:
            ids: list[int] = []
            left = count
            while left:
                rows = starts[s + 1] - starts[s]
                place, start = (lengths[s] - 1) // Z, lengths[s] - rows
                assert place * Z <= start, "a segment over the border of a page"
                assert not ids or (ids[: place * Z] == ids and start == len(ids)), "rows are missing between segments"
                own = exact[owns[s]].tolist()[: lengths[s] - place * Z]
                if place:
                    between = coarse(self.pools["full"][full.pages[s, 1:place]]).reshape(-1).tolist()
                    seen = exact[firsts[s]].tolist() + between + own
                else:
                    assert firsts[s] == owns[s], "two first pages"
                    seen = own
                assert seen[: len(ids)] == ids, "rows of one pass see different ids"
                ids = seen
                left -= rows
                s += 1
            found.append(ids)
        assert s == len(lengths), "segments of nobody"
        return found

    def _check_chunks(self, chunk: Segments, read: Sequence[list[int]], counts: Sequence[int]) -> None:
        C, s = self.pager.chunk, 0
        assert C is not None
        lengths = chunk.kv_lens.tolist()
        for ids, count in zip(read, counts, strict=True):
            start = len(ids) - count
            while start < len(ids):
                base = start // C * C
                stop = min(base + C, len(ids))
                assert lengths[s] == stop - base
                assert self._positions("chunk", chunk, s, stop - base) == ids[base:stop], "chunked layers: other ids"
                start, s = stop, s + 1
        assert s == len(lengths), "segments of nobody"

    def _positions(self, pool: str, segments: Segments, s: int, length: int) -> list[int]:
        """What the slots of a segment hold, read through its pages."""
        assert segments.pages is not None
        pages = segments.pages[s, : -(-length // segments.page_size)]
        found: list[int] = self.pools[pool][pages].reshape(-1)[:length].tolist()
        return found
