"""Who owns which page of the KV cache: two pools, plain integers. No arrays of keys, no device, no text.

    pool     layers                    a sequence of length t holds              given back
    whole    that see all before them  ceil(t / Z) pages, position i in page     drop, rollback
                                       i // Z of its list
    chunk    chunked (RoPE) layers     ceil((t mod C) / Z) pages, of the chunk   when the commit passes the chunk's
                                       that t lies in; none at a multiple of C   end; drop, rollback

A pass goes step -> (the model runs) -> commit. Between the two a sequence holds the pages of every chunk the pass
touches, so that a commit of fewer rows than were run (speculation) may step back over a chunk edge. Page size Z divides
the chunk C: a page never holds two chunks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from herd.batch import Context, Ints, Segments
from herd.errors import DoesNotFit, UsageError, fail


@dataclass(eq=False)
class Lease:
    """The pages of one sequence. Only a Pager changes it."""

    length: int = 0
    """Committed tokens."""
    pending: int = 0
    """Rows of a step that is not committed yet."""
    pages: list[int] = field(default_factory=list)
    chunk_pages: dict[int, list[int]] = field(default_factory=dict)
    """By chunk number; committed sequences have at most one, the chunk that `length` lies in."""


class Pager:
    """Both pools, and the leases on them.

    chunk: C, or None when no layer is chunked (then there is no chunk pool). num_pages, num_chunk_pages: sizes of the
    pools. Raises UsageError when the page size does not divide the chunk.
    """

    def __init__(self, chunk: int | None, page_size: int, num_pages: int, num_chunk_pages: int = 0) -> None:
        if page_size < 1:
            fail(UsageError, "page size", got=page_size, expected="1 or more")
        if chunk is not None and chunk % page_size:
            fail(UsageError, "page size", got=page_size, expected=f"a divisor of the attention chunk, {chunk}")
        self.chunk = chunk
        self.page_size = page_size
        self.num_pages = num_pages
        self.num_chunk_pages = num_chunk_pages if chunk is not None else 0
        # popped from the end, so the lowest page goes first
        self.free = list(range(num_pages - 1, -1, -1))
        self.free_chunk = list(range(self.num_chunk_pages - 1, -1, -1))
        self.leases: list[Lease] = []

    def lease(self) -> Lease:
        """A new sequence, without pages."""
        new = Lease()
        self.leases.append(new)
        return new

    def needs(self, lease: Lease, rows: int) -> tuple[int, int]:
        """Pages (whole, chunk) that a step of so many rows would take from the pools."""
        end = lease.length + rows
        whole = max(0, self._pages(end) - len(lease.pages))
        if self.chunk is None:
            return whole, 0
        held = sum(len(p) for p in lease.chunk_pages.values())
        return whole, max(0, self._pages(end - lease.length // self.chunk * self.chunk) - held)

    def step(self, work: Sequence[tuple[Lease, int]], rows: Sequence[int] | None = None) -> Context:
        """Take the pages for these new rows and say where each row goes and what it sees.

        work: (lease, number of new rows), each lease once, each number 1 or more, nothing pending. rows: flat rows of
        the pass whose logits are wanted; None: the last row of each lease. Raises DoesNotFit, and takes nothing, when
        a pool has too few pages.
        """
        for lease, n in work:
            assert n > 0, n
            assert not lease.pending, "commit the last step first"
        needs = [self.needs(lease, n) for lease, n in work]
        for name, need, free in (
            ("KV pages", sum(a for a, _ in needs), len(self.free)),
            ("KV pages of chunked layers", sum(b for _, b in needs), len(self.free_chunk)),
        ):
            if need > free:
                fail(DoesNotFit, name, got=f"{free} free", expected=f"{need}", do="wait, or give the cache more memory")
        positions: list[Ints] = []
        whole, chunk = _Rows(self.page_size), _Rows(self.page_size)
        for lease, n in work:
            start, end = lease.length, lease.length + n
            positions.append(np.arange(start, end, dtype=np.int64))
            self._grow(lease.pages, self.free, end)
            whole.add(lease.pages, start, end)
            if self.chunk is not None:
                self._step_chunks(lease, start, end, chunk)
            lease.pending = n
        wanted = whole.starts[1:] if rows is None else rows
        all_rows = whole.segments()
        last = np.asarray(wanted, np.int64) - (1 if rows is None else 0)
        return Context(np.concatenate(positions), all_rows, all_rows if self.chunk is None else chunk.segments(), last)

    def commit(self, lease: Lease, accepted: int | None = None) -> None:
        """The pass has run; keep its first `accepted` rows (None: all) and give back what nobody sees again."""
        accepted = lease.pending if accepted is None else accepted
        assert 0 <= accepted <= lease.pending, (accepted, lease.pending)
        lease.pending = 0
        self._cut(lease, lease.length + accepted)

    def rollback(self, lease: Lease, length: int) -> int:
        """Go back to the longest length of at most `length` tokens whose keys are still here, and return it.

        A length in the current chunk is reached exactly; before it the chunked layers' keys are gone, so only
        multiples of the chunk remain, where those layers need none.
        """
        assert not lease.pending, "commit the last step first"
        assert 0 <= length <= lease.length, (length, lease.length)
        if self.chunk is not None and length // self.chunk != lease.length // self.chunk:
            length -= length % self.chunk
        self._cut(lease, length)
        return length

    def drop(self, lease: Lease) -> None:
        """Give everything back; the lease is over."""
        lease.pending = 0
        self._cut(lease, 0)
        self.leases.remove(lease)

    def check(self) -> None:
        """Audit: every page is free or owned exactly once, and each lease owns what its length needs."""
        owned = [p for lease in self.leases for p in lease.pages]
        chunk_owned = [p for lease in self.leases for pages in lease.chunk_pages.values() for p in pages]
        assert sorted(owned + self.free) == list(range(self.num_pages)), "whole pages lost or owned twice"
        assert sorted(chunk_owned + self.free_chunk) == list(range(self.num_chunk_pages)), "chunk pages lost or twice"
        for lease in self.leases:
            end = lease.length + lease.pending
            assert len(lease.pages) == self._pages(end), (len(lease.pages), end)
            if self.chunk is None:
                assert not lease.chunk_pages
                continue
            for number, pages in lease.chunk_pages.items():
                begin = number * self.chunk
                assert lease.length - self.chunk < begin < end, (number, lease.length, end)
                assert len(pages) == self._pages(min(self.chunk, end - begin)), (number, len(pages), end)
            held = sum(len(p) for p in lease.chunk_pages.values())
            assert held == self._pages(end - lease.length // self.chunk * self.chunk), (held, lease.length, end)

    def _pages(self, length: int) -> int:
        return -(-length // self.page_size)

    def _grow(self, pages: list[int], free: list[int], length: int) -> None:
        while len(pages) * self.page_size < length:
            pages.append(free.pop())

    def _step_chunks(self, lease: Lease, start: int, end: int, out: "_Rows") -> None:
        assert self.chunk is not None
        while start < end:
            number = start // self.chunk
            base = number * self.chunk
            stop = min(base + self.chunk, end)
            pages = lease.chunk_pages.setdefault(number, [])
            self._grow(pages, self.free_chunk, stop - base)
            out.add(pages, start - base, stop - base)
            start = stop

    def _cut(self, lease: Lease, length: int) -> None:
        """Set the length; pages past it, and of chunks that it does not lie in, come free (highest first)."""
        lease.length = length
        keep = self._pages(length)
        self.free += reversed(lease.pages[keep:])
        del lease.pages[keep:]
        if self.chunk is None:
            return
        for number in sorted(lease.chunk_pages, reverse=True):
            here = number == length // self.chunk
            keep = self._pages(length % self.chunk) if here else 0
            pages = lease.chunk_pages[number]
            self.free_chunk += reversed(pages[keep:])
            del pages[keep:]
            if not pages:
                del lease.chunk_pages[number]


class _Rows:
    """Segments in the making."""

    def __init__(self, page_size: int) -> None:
        self.page_size = page_size
        self.starts = [0]
        self.kv_lens: list[int] = []
        self.pages: list[list[int]] = []
        self.slots: list[Ints] = []

    def add(self, pages: list[int], start: int, end: int) -> None:
        """Rows for positions start..end of a list of pages whose first holds position 0."""
        Z = self.page_size
        self.starts.append(self.starts[-1] + end - start)
        self.kv_lens.append(end)
        self.pages.append(pages[: -(-end // Z)])
        first = start // Z
        t = np.arange(start, end, dtype=np.int64)
        self.slots.append(np.asarray(pages[first : -(-end // Z)], np.int64)[t // Z - first] * Z + t % Z)

    def segments(self) -> Segments:
        """The finished arrays."""
        table = np.zeros((len(self.pages), max(map(len, self.pages))), np.int64)
        for row, pages in zip(table, self.pages, strict=True):
            row[: len(pages)] = pages
        return Segments(
            np.asarray(self.starts, np.int64),
            np.asarray(self.kv_lens, np.int64),
            table,
            np.concatenate(self.slots),
            self.page_size,
        )
