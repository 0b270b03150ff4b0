"""The KV cache as the engine sees it: a pager and the prefix tree over it, as counts of pages.

`KVCacheManager` is what scheduler and runner share: the scheduler asks what fits and lets cached prefixes go, the
runner asks where rows lie. What it is not: an owner of pages (`pages` is), an array of keys.
"""

from collections.abc import Sequence
from typing import Any

from herd.batch import Context
from herd.cache import Lease, PageCounts, Pager
from herd.cache.audit import check_blocks, check_pages
from herd.cache.prefixes import PrefixTree

Copies = Sequence[tuple[str, int, int]]
"""(pool, source page, target page), in order."""


class KVCacheManager:
    """A pager and, unless nothing is shared, its prefix tree."""

    def __init__(self, pager: Pager, tree: PrefixTree | None = None) -> None:
        self.pager = pager
        self.tree = tree

    # -- sequences ---------------------------------------------------------------------------------------------------

    def lease(self) -> Lease:
        """A new, empty sequence."""
        return self.pager.lease()

    def drop(self, lease: Lease) -> None:
        """Free the pages of a sequence that has ended."""
        self.pager.drop(lease)

    def fork(self, lease: Lease) -> Lease:
        """A new sequence with the same past; pages are shared until one of the two writes into them."""
        return self.pager.fork(lease)

    def share(self, lease: Lease, length: int) -> Lease:
        """A new sequence with the first `length` positions of another, or as many of them as that one's pages still
        hold (`Pager.reach`)."""
        other = self.fork(lease)
        self.rollback(other, length)
        return other

    def adopt(self, lease: Lease, keys: Sequence[Any], salt: bytes, most: int) -> int:
        """Give an empty lease the longest cached prefix of `keys`, of at most `most` positions; returns its length."""
        return 0 if self.tree is None or most <= 0 else self.tree.adopt(lease, keys, salt, most)

    def insert(self, lease: Lease, keys: Sequence[Any], salt: bytes, *, over: bool) -> None:
        """Put what this lease holds into the prefix cache. over: it writes no more, so that the last, unfinished page
        is shared, too."""
        if self.tree is not None and lease.length:
            self.tree.insert(lease, keys, salt, tail=over)

    # -- passes ------------------------------------------------------------------------------------------------------

    def step(self, work: Sequence[tuple[Lease, int]], rows: Sequence[int]) -> tuple[Context, Copies]:
        """Allot pages to new rows. Returns where the rows go, and the pages that must be copied before they are
        written."""
        context = self.pager.step(work, rows)
        return context, self.pager.take_copies()

    def commit(self, lease: Lease, accepted: int | None = None) -> None:
        """Keep the first `accepted` rows of the pass (None: all)."""
        self.pager.commit(lease, accepted)

    def rollback(self, lease: Lease, length: int) -> int:
        """Shorten a sequence to the longest possible length of at most `length`; returns that length."""
        return self.pager.rollback(lease, length)

    def go_back(self, lease: Lease, keys: Sequence[Any], salt: bytes, length: int) -> Lease:
        """The lease of a sequence that goes on from its first `length` positions, or from as many of them as its pages
        or cached prefixes still hold: the same one, or another in its place."""
        if (reached := self.pager.reach(lease, length)) < length:
            other = self.lease()
            if self.adopt(other, keys, salt, length) > reached:
                self.drop(lease)
                return other
            self.drop(other)
        self.rollback(lease, length)
        return lease

    # -- counts ------------------------------------------------------------------------------------------------------

    def needs(self, lease: Lease, rows: int) -> PageCounts:
        """Number of free pages of each pool that a pass over so many new rows takes."""
        return self.pager.needs(lease, rows)

    def pages_for_prompt(self, lease: Lease, rows: int, step: int) -> PageCounts:
        """Number of pages of each pool that a prompt of so many rows takes, at most `step` rows a pass.

        Chunked layers give a chunk back when it is over, and a pass does not cross its edge (`most_rows`): they never
        hold more than one.
        """
        full, chunk, exact = self.pager.needs(lease, rows)
        size = self.pager.page_size
        if self.pager.chunk is not None:
            held = sum(len(table) for table in lease.chunk_pages.values())
            chunk = min(chunk, max(0, self.pager.chunk // size - held) + 1)  # one may be a copy
        if self.pager.exact:
            exact = min(exact, -(-step // size) + 2)
        return PageCounts(full, chunk, exact)

    def free(self) -> PageCounts:
        """Number of pages of each pool that nobody holds."""
        return self.pager.free

    def total(self) -> PageCounts:
        """Number of pages of each pool, free or not."""
        return PageCounts(*(pool.size for pool in self.pager.pools.values()))

    def evict_until(self, pages: PageCounts) -> bool:
        """Evict cached prefixes, least recently used first, until so many pages are free; returns whether they are."""
        if all(have >= want for have, want in zip(self.free(), pages, strict=True)):
            return True
        return self.tree is not None and self.tree.evict(*pages)

    @property
    def evicted_pages(self) -> int:
        """Pages of cached prefixes, of all pools, that were given up for others since its start."""
        return 0 if self.tree is None else sum(self.tree.evicted)

    def clear(self) -> None:
        """Evict all cached prefixes."""
        if self.tree is not None:
            self.tree.clear()

    def most_rows(self, lease: Lease) -> int:
        """Rows up to the end of the chunk: a pass that stops there never holds two chunks of one sequence."""
        chunk = self.pager.chunk
        return chunk - lease.length % chunk if chunk is not None else 1 << 40

    def check(self) -> None:
        """Assert that pages and prefixes are consistent, see `audit`."""
        check_pages(self.pager)
        if self.tree is not None:
            check_blocks(self.tree)
