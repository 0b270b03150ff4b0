"""A world of sequences over one Pager and one PrefixTree that simulates what every page holds.

Position p of a sequence holds its name: SHA-256 over the salt and all keys up to p (which is what a KV cache holds:
keys and values depend on everything before). Each pass copies pages as asked, writes its rows, closes pages; then each
row must see exactly its past, and after each action every lease must read back every position through its own pages.
"""

import hashlib
from typing import Any

import numpy as np

from herd.batch import Context, Segments
from herd.cache import Lease, Pager, PrefixTree, pages_of
from herd.cache.audit import check_blocks, check_pages
from herd.errors import DoesNotFit

Key = Any


class Sequence:
    def __init__(self, lease: Lease, salt: bytes, keys: list[Key]) -> None:
        self.lease, self.salt, self.keys = lease, salt, keys
        self.names: list[bytes] = []

    def name(self, count: int) -> list[bytes]:
        """Names of the first `count` positions."""
        del self.names[count:]
        while len(self.names) < count:
            before = self.names[-1] if self.names else self.salt
            self.names.append(hashlib.sha256(before + repr(self.keys[len(self.names)]).encode()).digest())
        return self.names[:count]


class World:
    def __init__(self, chunk: int | None, page_size: int, sizes: tuple[int, int, int | None]) -> None:
        self.chunk, self.Z = chunk, page_size
        self.pager = Pager(chunk, page_size, *sizes)
        self.tree = PrefixTree(self.pager)
        self.sequences: list[Sequence] = []
        self.past: list[list[Key]] = []
        """Keys of what was remembered."""
        self.slots: dict[str, dict[int, bytes]] = {"full": {}, "chunk": {}, "exact": {}}

    def start(self, salt: bytes, keys: list[Key], most: int, adopt: bool = True) -> Sequence:
        sequence = Sequence(self.pager.lease(), salt, keys)
        self.sequences.append(sequence)
        if adopt:
            got = self.tree.adopt(sequence.lease, keys, salt, most)
            assert got == sequence.lease.length <= max(0, min(most, len(keys)))
        return sequence

    def fork(self, sequence: Sequence) -> Sequence:
        new = Sequence(self.pager.fork(sequence.lease), sequence.salt, list(sequence.keys))
        self.sequences.append(new)
        return new

    def step(self, work: list[tuple[Sequence, int]], accept: int) -> bool:
        """One pass; the first `accept` rows of each sequence are kept. False: it did not fit, and nothing changed."""
        before = [list(pool.free) for pool in self.pager.pools.values()]
        try:
            context = self.pager.step([(s.lease, n) for s, n in work])
        except DoesNotFit:
            assert before == [pool.free for pool in self.pager.pools.values()], "a refused step took pages"
            assert not self.pager.take_copies()
            return False
        for pool, source, target in self.pager.take_copies():
            for i in range(self.Z):
                self.slots[pool][target * self.Z + i] = self.slots[pool].get(source * self.Z + i, b"")
        self._pass(context, work)
        check_pages(self.pager)
        for sequence, n in work:
            self.pager.commit(sequence.lease, min(accept, n))
            sequence.name(sequence.lease.length)
        return True

    def _pass(self, context: Context, work: list[tuple[Sequence, int]]) -> None:
        rows = [(s, s.lease.length + j) for s, n in work for j in range(n)]
        assert context.positions_T.tolist() == [t for _, t in rows]
        ends = np.cumsum([n for _, n in work]) - 1
        assert context.rows is not None and context.rows.tolist() == ends.tolist()
        for sequence, n in work:
            sequence.name(sequence.lease.length + n)
        names = [s.names[t] for s, t in rows]
        self._attend(context.full, "exact" if self.pager.exact else "full", rows, names, None)
        if self.chunk:
            self._attend(context.chunk, "chunk", rows, names, self.chunk)
        else:
            assert context.chunk is context.full

    def _attend(
        self, seg: Segments, pool: str, rows: list[tuple[Sequence, int]], names: list[bytes], chunk: int | None
    ) -> None:
        """Write the rows, close what closes, then see, as batch.Segments says."""
        assert seg.slots_T is not None and seg.pages is not None and seg.page_size == self.Z
        slots, Z = self.slots[pool], self.Z
        written = seg.slots_T.tolist()
        assert len(set(written)) == len(rows) == seg.starts[-1], "two rows in one slot"
        slots.update(zip(written, names, strict=True))
        if seg.closing is not None:
            for exact, coarse in seg.closing.tolist():
                for i in range(Z):
                    self.slots["full"][coarse * Z + i] = b"~" + slots[exact * Z + i]
        for s in range(len(seg)):
            a, b, end = int(seg.starts[s]), int(seg.starts[s + 1]), int(seg.kv_lens[s])
            first = rows[b - 1][1] + 1 - end
            assert first == (rows[b - 1][1] // chunk * chunk if chunk else 0)
            sequence = rows[a][0]
            seen = [self._key(seg, s, pool, i) for i in range(end)]
            assert seen == self._expected(sequence, first, end, (end - 1) // Z if pool == "exact" else None)
            assert [t for _, t in rows[a:b]] == list(range(first + end - (b - a), first + end))
            if pool == "exact":
                assert (end - (b - a)) // Z == (end - 1) // Z, "a segment over a page's border"

    def _key(self, seg: Segments, s: int, pool: str, i: int) -> bytes:
        assert seg.pages is not None
        place = i // self.Z
        if seg.exact_pages is None:
            return self.slots[pool][int(seg.pages[s, place]) * self.Z + i % self.Z]
        if place in (0, (int(seg.kv_lens[s]) - 1) // self.Z):
            return self.slots["exact"][int(seg.exact_pages[s, int(place > 0)]) * self.Z + i % self.Z]
        return self.slots["full"][int(seg.pages[s, place]) * self.Z + i % self.Z]

    def _expected(self, sequence: Sequence, first: int, count: int, own: int | None) -> list[bytes]:
        names = sequence.names[first : first + count]
        if own is None:
            return names
        return [n if i // self.Z in (0, own) else b"~" + n for i, n in enumerate(names)]

    def rollback(self, sequence: Sequence, wanted: int) -> None:
        lease, old = sequence.lease, sequence.lease.length
        got = self.pager.rollback(lease, wanted)
        expected = wanted
        if self.chunk and wanted // self.chunk != old // self.chunk:
            expected = wanted // self.chunk * self.chunk
        if self.pager.exact and expected >= self.Z and expected // self.Z != old // self.Z:
            expected = expected // self.Z * self.Z
        assert got == expected == lease.length
        sequence.name(got)

    def insert(self, sequence: Sequence, tail: bool) -> None:
        if sequence.lease.length:
            self.past.append(sequence.keys[: sequence.lease.length])
        self.tree.insert(sequence.lease, sequence.keys, sequence.salt, tail)

    def drop(self, sequence: Sequence) -> None:
        self.pager.drop(sequence.lease)
        self.sequences.remove(sequence)

    def evict(self, full: int, chunk: int, exact: int) -> None:
        if self.tree.evict(full, chunk, exact):
            assert all(f >= w for f, w in zip(self.pager.free, (full, chunk, exact), strict=True))

    def check(self) -> None:
        """The audit, what each lease holds in number, and every position of every lease through its own pages."""
        check_pages(self.pager)
        check_blocks(self.tree)
        for sequence in self.sequences:
            lease, Z, t = sequence.lease, self.Z, sequence.lease.length
            held = [len(self.pager.held_by(lease, pool)) for pool in ("full", "chunk", "exact")]
            assert tuple(held) == pages_of(t, self.chunk, Z, self.pager.exact)
            names = sequence.name(t)
            full, exact = self.slots["full"], self.slots["exact"]
            for i in range(t):
                place = i // Z
                if not self.pager.exact:
                    assert full[lease.pages[place] * Z + i % Z] == names[i]
                elif place in lease.exact_pages:
                    assert exact[lease.exact_pages[place] * Z + i % Z] == names[i]
                else:
                    assert full[lease.pages[place] * Z + i % Z] == b"~" + names[i]
            if self.chunk:
                base = t // self.chunk * self.chunk
                for i in range(base, t):
                    page = lease.chunk_pages[t // self.chunk][(i - base) // Z]
                    assert self.slots["chunk"][page * Z + i % Z] == names[i]
