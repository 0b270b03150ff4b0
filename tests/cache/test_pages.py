"""Pages one case at a time; random histories are in test_histories."""

import pytest

from herd.cache import Lease, PageCounts, Pager, pages_of
from herd.cache.audit import check_pages
from herd.config import SCOUT
from herd.errors import DoesNotFit, UsageError
from herd.planning.memory import cache_bytes

CHUNK = 16


def test_speculation_steps_back_over_a_chunk_edge() -> None:
    pager = Pager(CHUNK, 4, 16, 8)
    lease = pager.lease()
    pager.step([(lease, 14)])
    pager.commit(lease)
    first = lease.chunk_pages[0].ids()
    pager.step([(lease, 5)])
    assert set(lease.chunk_pages) == {0, 1}
    pager.commit(lease, 1)
    assert lease.length == 15
    assert {n: t.ids() for n, t in lease.chunk_pages.items()} == {0: first}, "the old chunk's pages, in their order"
    check_pages(pager)


def test_a_finished_chunk_holds_no_pages() -> None:
    pager = Pager(CHUNK, 4, 16, 8)
    lease = pager.lease()
    pager.step([(lease, CHUNK)])
    assert pager.free.chunk == 4
    pager.commit(lease)
    assert pager.free.chunk == 8
    assert lease.chunk_pages == {}


def test_needs_is_what_a_step_takes() -> None:
    pager = Pager(CHUNK, 4, 32, 16)
    lease = pager.lease()
    for n in (1, 14, 3, 40, 5):
        needs, free = pager.needs(lease, n), pager.free
        pager.step([(lease, n)])
        assert tuple(a - b for a, b in zip(free, pager.free, strict=True)) == needs
        pager.commit(lease)


def test_audit_finds_a_page_owned_twice_and_a_lost_one() -> None:
    pager = Pager(CHUNK, 4, 8, 8)
    a, b = pager.lease(), pager.lease()
    pager.step([(a, 3), (b, 3)])
    b.pages[0], old = a.pages[0], b.pages[0]
    with pytest.raises(AssertionError, match="full pages with wrong counts"):
        check_pages(pager)
    b.pages[0] = old
    check_pages(pager)
    pager.pools["chunk"].free.pop()
    with pytest.raises(AssertionError, match="chunk pages lost"):
        check_pages(pager)


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
    assert not lease.pages.ids()


def test_a_fork_shares_all_and_the_first_write_copies_one_page() -> None:
    pager = Pager(CHUNK, 4, 16, 8)
    lease = pager.lease()
    pager.step([(lease, 6)])
    pager.commit(lease)
    free = pager.free
    forks = [pager.fork(lease) for _ in range(3)]
    assert pager.free == free
    assert pager.needs(forks[0], 1) == PageCounts(1, 1)
    shared = lease.pages[1]
    pager.step([(f, 1) for f in [lease, *forks]])
    copies = pager.take_copies()
    assert [c[0] for c in copies] == ["full", "chunk"] * 3, "the last of four writes in place"
    assert {source for pool, source, _ in copies if pool == "full"} == {shared}
    assert forks[-1].pages[1] == shared
    assert not pager.take_copies()
    check_pages(pager)


def test_a_fork_at_a_border_copies_nothing() -> None:
    pager = Pager(CHUNK, 4, 16, 8)
    lease = pager.lease()
    pager.step([(lease, 8)])
    pager.commit(lease)
    fork = pager.fork(lease)
    pager.step([(lease, 1), (fork, 1)])
    assert pager.take_copies() == []
    check_pages(pager)


def test_exact_pages_are_the_first_the_current_and_those_of_a_pass() -> None:
    pager = Pager(None, 4, 16, 0, 8)
    lease = pager.lease()
    context = pager.step([(lease, 14)])
    full = context.full
    assert sorted(lease.exact_pages) == [0, 1, 2, 3]
    assert full.exact_pages is not None and full.closing is not None and full.slots_T is not None
    assert full.starts.tolist() == [0, 4, 8, 12, 14], "cut at the borders of pages"
    assert full.kv_lens.tolist() == [4, 8, 12, 14]
    assert full.exact_pages.tolist() == [[lease.exact_pages[0], lease.exact_pages[i]] for i in range(4)]
    assert full.closing.tolist() == [[lease.exact_pages[i], lease.pages[i]] for i in (1, 2)], "never the first"
    assert context.chunk is full
    pager.commit(lease, 9)
    assert sorted(lease.exact_pages) == [0, 2], "back over a border within the pass, to exact keys"
    assert len(lease.pages) == 2 and pager.free == PageCounts(15, 0, 6)
    pager.step([(lease, 4)])
    pager.commit(lease)
    assert lease.length == 13
    assert pager.rollback(lease, 11) == 8, "a closed page has no exact keys any more"
    assert pager.rollback(lease, 3) == 3, "the first page has"
    check_pages(pager)


@pytest.mark.parametrize("exact", [False, True])
def test_pages_of_is_what_growing_sequences_hold(exact: bool) -> None:
    pager = Pager(CHUNK, 4, 32, 16, 16 if exact else None)
    lease = pager.lease()
    for n in [1] * 40 + [7, 13, 3, 5]:
        pager.step([(lease, n)])
        pager.commit(lease)
        free = PageCounts(*(pool.size for pool in pager.pools.values()))
        assert tuple(a - b for a, b in zip(free, pager.free, strict=True)) == pages_of(lease.length, CHUNK, 4, exact)


def test_bytes_of_scout_are_the_formula_within_two_percent() -> None:
    chunk, Z, row = SCOUT.chunk, 256, 2 * SCOUT.num_kv_heads * SCOUT.head_size * 2
    assert chunk is not None
    num_chunked = sum(layer.chunked for layer in SCOUT.layers)
    pager = Pager(chunk, Z, 131072 // Z, 2 * chunk // Z)
    lease, most = pager.lease(), 0
    for length in [8191, 8192, 8193, 16383, 20000, 32767, 65535, 100_000, 106_495, 131_071]:
        while lease.length < length:
            pager.step([(lease, min(509, length - lease.length))])
            pager.commit(lease)
            full, chunked = (len(pager.held_by(lease, pool)) for pool in ("full", "chunk"))
            held = Z * row * (full * (48 - num_chunked) + chunked * num_chunked)
            most = max(most, held)
            # the formula of planning/ keeps room for a whole chunk; what is held now is its remainder
            now = row * (lease.length * (48 - num_chunked) + lease.length % chunk * num_chunked)
            assert now <= held <= now + Z * row * 48
        assert most <= 1.02 * cache_bytes(SCOUT, length, "bf16")
        if length % chunk == chunk - 1:
            assert held == pytest.approx(cache_bytes(SCOUT, length, "bf16"), rel=0.02)
    assert most == pytest.approx(cache_bytes(SCOUT, 131_071, "bf16"), rel=0.02)
