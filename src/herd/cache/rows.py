"""From page tables to the arrays of a pass: where each new row is written and what it attends to."""

import numpy as np

from herd.batch import Ints, Segments
from herd.cache.pool import PageTable


def ranges(firsts: Ints, counts: Ints) -> Ints:
    """counts[0] integers from firsts[0] on, then counts[1] from firsts[1] on, and so on."""
    ends = np.cumsum(counts)
    at: Ints = np.arange(int(ends[-1]), dtype=np.int64)
    at += np.repeat(firsts - (ends - counts), counts)
    return at


class RowTables:
    """Segments of a pass under construction. exact: segments carry exact pages and the rows are written to those."""

    def __init__(self, page_size: int, exact: bool = False) -> None:
        self.page_size, self.exact = page_size, exact
        self.firsts: list[int] = []
        self.kv_lens: list[int] = []
        self.tables: list[tuple[Ints, int]] = []
        self.exact_pages: list[tuple[int, int]] = []
        self.closing: list[tuple[int, int]] = []

    def add(self, table: PageTable, start: int, end: int) -> None:
        """Add rows for positions start .. end of a table whose first page holds position 0."""
        self.firsts.append(start)
        self.kv_lens.append(end)
        self.tables.append((table.array, -(-end // self.page_size)))

    def add_exact(self, table: PageTable, start: int, end: int, first: int, own: int) -> None:
        """Add rows start to end, within one page of positions: `first` and `own` are the exact pages of the sequence's
        first page and of this one; of the table only the places before this one have a meaning."""
        self.firsts.append(start)
        self.kv_lens.append(end)
        self.tables.append((table.array, start // self.page_size))
        self.exact_pages.append((first, own))

    def segments(self) -> Segments:
        """The finished arrays. They are the pass's own: later steps do not change them."""
        Z = self.page_size
        firsts, kv_lens = np.array(self.firsts, np.int64), np.array(self.kv_lens, np.int64)
        counts = kv_lens - firsts
        starts = np.zeros(len(counts) + 1, np.int64)
        np.cumsum(counts, out=starts[1:])
        # wide enough for every key that is counted, those that come from exact pages included
        widest = max(max(count for _, count in self.tables), -(-max(self.kv_lens) // Z))
        pages = np.zeros((len(counts), widest), np.int64)
        for row, (array, count) in zip(pages, self.tables, strict=True):
            row[:count] = array[:count]
        t = ranges(firsts, counts)
        if self.exact:
            exact_pages = np.array(self.exact_pages, np.int64)
            slots = np.repeat(exact_pages[:, 1], counts) * Z + t % Z
            closing = np.array(self.closing, np.int64).reshape(-1, 2)
            return Segments(starts, kv_lens, pages, slots, Z, exact_pages, closing)
        slots = pages[np.repeat(np.arange(len(counts)), counts), t // Z] * Z + t % Z
        return Segments(starts, kv_lens, pages, slots, Z)
