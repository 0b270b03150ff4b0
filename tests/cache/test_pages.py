"""Page ownership under random histories, against a model that keeps every position of every sequence."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from herd.batch import Segments
from herd.cache import Lease, Pager
from herd.errors import DoesNotFit, UsageError

CHUNK = 16


def seen(segments: Segments, row: int) -> list[int]:
    """Slots that a row sees, as ops.contract reads the segments."""
    s = int(np.searchsorted(segments.starts, row, side="right")) - 1
    n = int(segments.starts[s + 1] - segments.starts[s])
    count = int(segments.kv_lens[s]) - n + 1 + row - int(segments.starts[s])
    assert segments.pages is not None
    Z = segments.page_size
    return [int(segments.pages[s, i // Z]) * Z + i % Z for i in range(count)]


class Store:
    """What a cache of one layer would hold: slot -> (sequence, position). Every row must see exactly its past."""

    def __init__(self, chunk: int | None) -> None:
        self.chunk = chunk
        self.slots: dict[int, tuple[int, int]] = {}

    def run(self, segments: Segments, rows: list[tuple[int, int]]) -> None:
        assert segments.slots_T is not None
        assert len(set(segments.slots_T.tolist())) == len(rows), "two rows in one slot"
        for slot, row in zip(segments.slots_T.tolist(), rows, strict=True):
            self.slots[slot] = row
        for i, (sequence, t) in enumerate(rows):
            first = t // self.chunk * self.chunk if self.chunk else 0
            assert [self.slots[s] for s in seen(segments, i)] == [(sequence, p) for p in range(first, t + 1)]


actions = st.lists(
    st.one_of(
        st.tuples(
            st.just("step"),
            st.lists(st.tuples(st.integers(0, 2), st.integers(1, 40)), min_size=1, max_size=3),
            st.integers(0, 40),
        ),
        st.tuples(st.just("rollback"), st.integers(0, 2), st.integers(0, 100)),
        st.tuples(st.just("drop"), st.integers(0, 2), st.just(0)),
    ),
    max_size=30,
)


@pytest.mark.parametrize("page_size", [1, 4, 16])
@pytest.mark.parametrize("chunk", [None, CHUNK])
@settings(max_examples=60, deadline=None)
@given(history=actions)
def test_every_row_sees_exactly_its_past_and_no_page_is_lost(chunk: int | None, page_size: int, history: list) -> None:
    pager = Pager(chunk, page_size, num_pages=160 // page_size, num_chunk_pages=96 // page_size)
    leases = [pager.lease() for _ in range(3)]
    whole, chunked = Store(None), Store(chunk)
    for action, a, b in history:
        if action == "step":
            work = [(i, n) for i, n in dict(a).items()]
            before = (list(pager.free), list(pager.free_chunk))
            try:
                context = pager.step([(leases[i], n) for i, n in work])
            except DoesNotFit:
                assert before == (pager.free, pager.free_chunk), "a refused step took pages"
                pager.check()
                continue
            pager.check()
            rows = [(i, leases[i].length + j) for i, n in work for j in range(n)]
            assert context.positions_T.tolist() == [t for _, t in rows]
            assert context.rows is not None
            assert [rows[r] for r in context.rows] == [(i, leases[i].length + n - 1) for i, n in work]
            whole.run(context.whole, rows)
            if chunk:
                chunked.run(context.chunk, rows)
            else:
                assert context.chunk is context.whole
            for i, n in work:
                pager.commit(leases[i], max(n - b, 0))
        elif action == "rollback":
            wanted = min(b, leases[a].length)
            old = leases[a].length
            got = pager.rollback(leases[a], wanted)
            same_chunk = chunk is None or wanted // chunk == old // chunk
            assert got == (wanted if same_chunk else wanted // CHUNK * CHUNK) == leases[a].length
        else:
            pager.drop(leases[a])
            leases[a] = pager.lease()
        pager.check()
        for lease in leases:
            assert len(lease.pages) == -(-lease.length // page_size)
            held = sum(map(len, lease.chunk_pages.values()))
            assert held == (-(-(lease.length % chunk) // page_size) if chunk else 0)
    for lease in leases:
        pager.drop(lease)
    assert sorted(pager.free) == list(range(pager.num_pages))
    assert sorted(pager.free_chunk) == list(range(pager.num_chunk_pages))


def test_speculation_steps_back_over_a_chunk_edge() -> None:
    pager = Pager(CHUNK, 4, 16, 8)
    lease = pager.lease()
    pager.step([(lease, 14)])
    pager.commit(lease)
    first = list(lease.chunk_pages[0])
    pager.step([(lease, 5)])
    assert set(lease.chunk_pages) == {0, 1}
    pager.commit(lease, 1)
    assert lease.length == 15
    assert lease.chunk_pages == {0: first}, "the old chunk's pages, in their order"
    pager.check()


def test_a_finished_chunk_holds_no_pages() -> None:
    pager = Pager(CHUNK, 4, 16, 8)
    lease = pager.lease()
    pager.step([(lease, CHUNK)])
    assert len(pager.free_chunk) == 4
    pager.commit(lease)
    assert len(pager.free_chunk) == 8
    assert lease.chunk_pages == {}


def test_needs_is_what_a_step_takes() -> None:
    pager = Pager(CHUNK, 4, 32, 16)
    lease = pager.lease()
    for n in (1, 14, 3, 40, 5):
        whole, chunk = pager.needs(lease, n)
        free = (len(pager.free), len(pager.free_chunk))
        pager.step([(lease, n)])
        assert (free[0] - len(pager.free), free[1] - len(pager.free_chunk)) == (whole, chunk)
        pager.commit(lease)


def test_audit_finds_a_page_owned_twice_and_a_lost_one() -> None:
    pager = Pager(CHUNK, 4, 8, 8)
    a, b = pager.lease(), pager.lease()
    pager.step([(a, 3), (b, 3)])
    b.pages[0], old = a.pages[0], b.pages[0]
    with pytest.raises(AssertionError, match="owned twice"):
        pager.check()
    b.pages[0] = old
    pager.check()
    pager.free_chunk.pop()
    with pytest.raises(AssertionError, match="chunk pages"):
        pager.check()


@pytest.mark.parametrize("page_size", [3, 32, 5])
def test_page_size_must_divide_the_chunk(page_size: int) -> None:
    with pytest.raises(UsageError, match=f"page size: got {page_size}, expected a divisor of the attention chunk, 16"):
        Pager(CHUNK, page_size, 8, 8)


def test_page_size_zero_is_refused() -> None:
    with pytest.raises(UsageError, match="page size"):
        Pager(None, 0, 8)


def test_a_full_pool_says_what_is_free_and_needed() -> None:
    pager = Pager(None, 4, 2)
    lease: Lease = pager.lease()
    with pytest.raises(DoesNotFit, match="KV pages: got 2 free, expected 3"):
        pager.step([(lease, 9)])
    assert not lease.pages
