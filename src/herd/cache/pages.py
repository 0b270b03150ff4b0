"""Who owns which page of the KV cache: three pools, reference counts, plain integers. No keys, no device, no text.

Z positions a page, C positions a chunk (Z divides C: a page never holds two chunks), t positions a sequence:

    pool    layers                     a sequence of length t holds              given back
    full    that see all before them   ceil(t / Z) pages; position i lies in     drop, rollback
                                       page i // Z of its table
    chunk   chunked (RoPE) layers      ceil((t mod C) / Z) pages, of the chunk   when the commit passes the chunk's
                                       that t lies in; none at a multiple of C   end; drop, rollback
    exact   that see all before them,  the first page of positions, and the one  when a later page is begun (not the
            in a cache with an exact   that t lies in; none of its own at a      first); drop, rollback
            pool (int4)                multiple of Z

In a cache with an exact pool the full pool holds the coarse (int4) form of finished pages of positions, without the
first: max(0, t // Z - 1) pages. Rows are written to exact pages; a pass that fills a page lists it in `closing`, and
its coarse page is written from the exact one.

A pass goes step -> take_copies, run -> (the model runs) -> commit. Between step and commit a sequence also holds the
pages of every chunk that the pass touches, and the exact pages of every page of positions that it touches, so that a
commit of fewer rows than were run (speculation) may step back over a chunk's or a page's edge.

Any number of leases, and a prefix tree, may hold a page. A holder writes only behind its own length, and only into
pages that it holds alone: the first write into a page held by others copies it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from herd.batch import Context
from herd.cache.pool import PageTable, Pool
from herd.cache.rows import RowTables, ranges
from herd.errors import DoesNotFit, UsageError, fail


class PageCounts(NamedTuple):
    """Number of pages of each pool."""

    full: int = 0
    chunk: int = 0
    exact: int = 0


@dataclass(eq=False)
class Lease:
    """The pages of one sequence. Only a Pager changes it."""

    length: int = 0
    """Committed tokens."""
    pending: int = 0
    """Rows of a step that is not committed yet."""
    pages: PageTable = field(default_factory=PageTable)
    """Pages of the full pool. With an exact pool: of finished pages of positions; place 0 means nothing."""
    chunk_pages: dict[int, PageTable] = field(default_factory=dict)
    """Chunk number -> pages of the chunk pool; committed sequences have at most one chunk, the one that `length` lies
    in."""
    exact_pages: dict[int, int] = field(default_factory=dict)
    """Its pages of the exact pool, where there is one, by place."""
    unchanged: int = 0
    """Finished pages of positions that are as they were when the prefix tree last saw this lease."""


class PageHolder(Protocol):
    """An owner of pages beside the leases."""

    def held(self, pool: str) -> Iterable[int]:
        """Pages of this pool that it holds, one entry for each hold."""


class Pager:
    """The pools of pages, and the leases on them.

    chunk: C, or None when no layer is chunked (then there is no chunk pool). num_pages, num_chunk_pages,
    num_exact_pages: sizes of the pools; num_exact_pages None: no exact pool, the full pool holds everything as it is.
    Raises UsageError when the page size does not divide the chunk.
    """

    def __init__(
        self,
        chunk: int | None,
        page_size: int,
        num_pages: int,
        num_chunk_pages: int = 0,
        num_exact_pages: int | None = None,
    ) -> None:
        if page_size < 1:
            fail(UsageError, "page size", got=page_size, expected="1 or more")
        if chunk is not None and chunk % page_size:
            fail(UsageError, "page size", got=page_size, expected=f"a divisor of the attention chunk, {chunk}")
        self.chunk, self.page_size = chunk, page_size
        self.exact = num_exact_pages is not None
        self.pools = {
            "full": Pool(num_pages),
            "chunk": Pool(num_chunk_pages if chunk is not None else 0),
            "exact": Pool(num_exact_pages or 0),
        }
        self._full, self._chunk, self._exact = self.pools.values()
        self.leases: list[Lease] = []
        self.holders: list[PageHolder] = []
        """Prefix trees over these pools, for the audit."""
        self._copies: list[tuple[str, int, int]] = []

    @property
    def free(self) -> PageCounts:
        """Number of free pages of each pool."""
        return PageCounts(len(self._full.free), len(self._chunk.free), len(self._exact.free))

    def lease(self) -> Lease:
        """A new sequence, without pages."""
        new = Lease()
        self.leases.append(new)
        return new

    def fork(self, lease: Lease) -> Lease:
        """A second sequence with the same past; every page is shared, and copied only when one of the two writes into
        it."""
        assert not lease.pending, "commit the last step first"
        new = self.lease()
        chunk = next(iter(lease.chunk_pages.values()), PageTable())
        self.give(new, lease.length, lease.pages.ids(), chunk.ids(), lease.exact_pages)
        return new

    def give(self, lease: Lease, length: int, full: Sequence[int], chunk: Sequence[int], exact: dict[int, int]) -> None:
        """Let an empty lease share these pages, which hold `length` positions: `full` from position 0, `chunk` from
        the start of the chunk that `length` lies in, `exact` by place (full[0] then means nothing)."""
        assert not lease.length and not lease.pending, "the lease is not empty"
        self._full.share(full[1:] if self.exact else full)
        self._chunk.share(chunk)
        self._exact.share(exact.values())
        lease.length = length
        lease.pages = PageTable(full)
        if chunk:
            assert self.chunk is not None
            lease.chunk_pages = {length // self.chunk: PageTable(chunk)}
        lease.exact_pages = dict(exact)

    def needs(self, lease: Lease, rows: int) -> PageCounts:
        """Free pages that a step of so many rows takes from the pools, copies of shared pages included.

        Leases that share a page and step together may take fewer than the sum: the last of them need not copy.
        """
        Z, start = self.page_size, lease.length
        end = start + rows
        place = start // Z if start % Z else None
        begun = -(-end // Z) - -(-start // Z)
        if self.exact:
            full = max(0, end // Z - 1) - max(0, start // Z - 1)
            exact = begun + (place is not None and self._exact.refs[lease.exact_pages[place]] > 1)
        else:
            full, exact = begun + (place is not None and self._full.refs[lease.pages[place]] > 1), 0
        chunk = 0
        if self.chunk is not None:
            chunk = begun
            if place is not None:
                table = lease.chunk_pages[start // self.chunk]
                chunk += self._chunk.refs[table[start % self.chunk // Z]] > 1
        return PageCounts(full, chunk, exact)

    def step(self, work: Sequence[tuple[Lease, int]], rows: Sequence[int] | None = None) -> Context:
        """Take the pages for these new rows and say where each row goes and what it sees.

        work: (lease, number of new rows), each lease once, each number 1 or more, nothing pending. rows: flat rows of
        the pass whose logits are wanted; None: the last row of each lease. Raises DoesNotFit, and takes nothing, when
        a pool has too few pages. Afterwards `take_copies` has what must be copied before the pass.
        """
        for lease, n in work:
            assert n > 0, n
            assert not lease.pending, "commit the last step first"
        self._room([self.needs(lease, n) for lease, n in work])
        full, chunk = RowTables(self.page_size, self.exact), RowTables(self.page_size)
        for lease, n in work:
            start, end = lease.length, lease.length + n
            if self.exact:
                self._step_exact(lease, start, end, full)
            else:
                self._write(lease.pages, "full", start, end)
                full.add(lease.pages, start, end)
            if self.chunk is not None:
                self._step_chunks(lease, start, end, chunk)
            lease.pending = n
        counts = np.array([n for _, n in work], np.int64)
        positions = ranges(np.array([lease.length for lease, _ in work], np.int64), counts)
        all_rows = full.segments()
        wanted = np.cumsum(counts) - 1 if rows is None else np.asarray(rows, np.int64)
        return Context(positions, all_rows, all_rows if self.chunk is None else chunk.segments(), wanted)

    def take_copies(self) -> list[tuple[str, int, int]]:
        """(pool, source, target) of each page that must be copied before the pass of the last step, in this order.

        Run them even when the pass itself is given up: the leases hold the targets already.
        """
        copies, self._copies = self._copies, []
        return copies

    def commit(self, lease: Lease, accepted: int | None = None) -> None:
        """Keep the first `accepted` rows of the pass that has run (None: all), and free the pages that no later row
        sees."""
        accepted = lease.pending if accepted is None else accepted
        assert 0 <= accepted <= lease.pending, (accepted, lease.pending)
        lease.pending = 0
        self._cut(lease, lease.length + accepted)

    def rollback(self, lease: Lease, length: int) -> int:
        """Go back to the longest length of at most `length` tokens whose keys are still here, and return it.

        A length in the current chunk is reached exactly; before it the chunked layers' keys are gone, so only
        multiples of the chunk remain, where those layers need none. With an exact pool a length in the current page
        of positions, or in the first, is reached exactly; between them the exact keys are gone, so only multiples of
        the page remain.
        """
        length = self.reach(lease, length)
        self._cut(lease, length)
        return length

    def reach(self, lease: Lease, length: int) -> int:
        """The length that `rollback` would go back to."""
        assert not lease.pending, "commit the last step first"
        assert 0 <= length <= lease.length, (length, lease.length)
        if self.chunk is not None and length // self.chunk != lease.length // self.chunk:
            length -= length % self.chunk
        if self.exact and length // self.page_size not in lease.exact_pages:
            length -= length % self.page_size
        return length

    def drop(self, lease: Lease) -> None:
        """Free all pages of a sequence that has ended."""
        lease.pending = 0
        self._cut(lease, 0)
        self.leases.remove(lease)

    def held_by(self, lease: Lease, pool: str) -> list[int]:
        """Pages of one pool that a lease holds."""
        if pool == "full":
            return lease.pages.ids()[1 if self.exact else 0 :]
        if pool == "chunk":
            return [p for table in lease.chunk_pages.values() for p in table.ids()]
        return list(lease.exact_pages.values())

    def _room(self, needs: list[PageCounts]) -> None:
        for name, need, pool in (
            ("KV pages", sum(n.full for n in needs), self._full),
            ("KV pages of chunked layers", sum(n.chunk for n in needs), self._chunk),
            ("exact KV pages", sum(n.exact for n in needs), self._exact),
        ):
            if need > len(pool.free):
                fail(
                    DoesNotFit,
                    name,
                    got=f"{len(pool.free)} free",
                    expected=f"{need}",
                    do="wait, or give the cache more memory",
                )

    def _write(self, table: PageTable, name: str, start: int, end: int) -> None:
        """Make positions start .. end of a table writable: the page that start lies in is held alone, the rest new."""
        pool, place = self.pools[name], start // self.page_size
        if start % self.page_size and pool.refs[table[place]] > 1:
            table[place] = self._copy(name, table[place])
        while len(table) * self.page_size < end:
            table.append(pool.take())

    def _copy(self, name: str, source: int) -> int:
        pool = self.pools[name]
        target = pool.take()
        pool.release((source,))
        self._copies.append((name, source, target))
        return target

    def _step_chunks(self, lease: Lease, start: int, end: int, out: RowTables) -> None:
        assert self.chunk is not None
        while start < end:
            number = start // self.chunk
            base = number * self.chunk
            stop = min(base + self.chunk, end)
            table = lease.chunk_pages.get(number)
            if table is None:
                table = lease.chunk_pages[number] = PageTable()
            self._write(table, "chunk", start - base, stop - base)
            out.add(table, start - base, stop - base)
            start = stop

    def _step_exact(self, lease: Lease, start: int, end: int, out: RowTables) -> None:
        Z, exact = self.page_size, lease.exact_pages
        if start % Z and self._exact.refs[exact[start // Z]] > 1:
            exact[start // Z] = self._copy("exact", exact[start // Z])
        while start < end:
            place = start // Z
            stop = min((place + 1) * Z, end)
            if not start % Z:
                exact[place] = self._exact.take()
            out.add_exact(lease.pages, start, stop, exact[0], exact[place])
            if stop % Z == 0:
                lease.pages.append(self._full.take() if place else 0)
                if place:
                    out.closing.append((exact[place], lease.pages[place]))
            start = stop

    def _cut(self, lease: Lease, length: int) -> None:
        """Set the length; pages past it, and of chunks that it does not lie in, come free (highest first)."""
        lease.length = length
        Z = self.page_size
        lease.unchanged = min(lease.unchanged, length // Z)
        keep = length // Z if self.exact else -(-length // Z)
        if keep < len(lease.pages):
            gone = lease.pages.cut(keep)
            self._full.release(gone[:-1] if self.exact and not keep else gone)
        if self.exact:
            self._cut_exact(lease, length)
        if self.chunk is None:
            return
        for number in sorted(lease.chunk_pages, reverse=True):
            table = lease.chunk_pages[number]
            keep = -(-(length % self.chunk) // Z) if number == length // self.chunk else 0
            if keep < len(table):
                self._chunk.release(table.cut(keep))
                if not keep:
                    del lease.chunk_pages[number]

    def _cut_exact(self, lease: Lease, length: int) -> None:
        Z = self.page_size
        for place in sorted(lease.exact_pages, reverse=True):
            if not (place * Z < length and (place == 0 or place == length // Z)):
                self._exact.release((lease.exact_pages.pop(place),))


def pages_of(length: int, chunk: int | None, page_size: int, exact: bool = False) -> PageCounts:
    """Number of pages that a committed sequence of so many positions holds when it shares none; see the table above."""
    full, tail = -(-length // page_size), -(-(length % chunk) // page_size) if chunk else 0
    if not exact:
        return PageCounts(full, tail)
    first = length > 0
    own = length > page_size and length % page_size > 0
    return PageCounts(max(0, length // page_size - 1), tail, first + own)
