"""A pool of pages with reference counts, and the growing table in which a sequence lists its pages. Plain integers."""

from collections.abc import Iterable

import numpy as np

from herd.batch import Ints


class Pool:
    """Pages 0 .. size - 1; a page is free when nobody holds it. `refs[p]` counts the holders of page p."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.refs = [0] * size
        # popped from the end, so the lowest page goes first
        self.free = list(range(size - 1, -1, -1))

    def take(self) -> int:
        """Take a free page, which then has one holder. The caller has checked that there is one."""
        page = self.free.pop()
        self.refs[page] = 1
        return page

    def share(self, pages: Iterable[int]) -> None:
        """Add a holder to each of these pages."""
        refs = self.refs
        for page in pages:
            assert refs[page] > 0, f"page {page} is free"
            refs[page] += 1

    def release(self, pages: Iterable[int]) -> None:
        """Remove a holder from each of these pages; one without holders becomes free."""
        refs = self.refs
        for page in pages:
            assert refs[page] > 0, f"page {page} is free"
            refs[page] -= 1
            if not refs[page]:
                self.free.append(page)

    def check(self, name: str, holders: Iterable[int]) -> None:
        """Assert that the counts agree with `holders`, which has one entry for each hold on a page."""
        counts = [0] * self.size
        for page in holders:
            counts[page] += 1
        wrong = [p for p in range(self.size) if counts[p] != self.refs[p]]
        assert not wrong, f"{name} pages with wrong counts: {[(p, counts[p], self.refs[p]) for p in wrong[:8]]}"
        unheld = [p for p in range(self.size) if not counts[p]]
        assert sorted(self.free) == unheld, f"{name} pages lost, or free and held: {sorted(self.free)} != {unheld}"


class PageTable:
    """The pages of a sequence, by place: an int64 array that doubles, so a step never copies it from a list."""

    __slots__ = ("array", "count")

    def __init__(self, pages: Iterable[int] = ()) -> None:
        self.array: Ints = np.fromiter(pages, np.int64)
        self.count = len(self.array)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> int:
        assert 0 <= place < self.count, (place, self.count)
        return int(self.array[place])

    def __setitem__(self, place: int, page: int) -> None:
        assert 0 <= place < self.count, (place, self.count)
        self.array[place] = page

    def append(self, page: int) -> None:
        """Add a page at the next place."""
        if self.count == len(self.array):
            longer = np.zeros(max(4, 2 * self.count), np.int64)
            longer[: self.count] = self.array
            self.array = longer
        self.array[self.count] = page
        self.count += 1

    def cut(self, count: int) -> list[int]:
        """Keep the first `count` places; returns the pages of the others, last first."""
        gone: list[int] = self.array[count : self.count].tolist()
        self.count = min(self.count, count)
        return gone[::-1]

    def ids(self) -> list[int]:
        """All pages, in order."""
        pages: list[int] = self.array[: self.count].tolist()
        return pages
