"""What the prefix tree finds, what it keeps apart, and who gives way."""

from collections.abc import Sequence as Items
from typing import Any

import pytest
from histories import Sequence, World

from herd.cache import PageCounts, nodes
from herd.cache.keys import encode, shared

Z, C = 4, 16


def world(chunk: int | None = C, exact: int | None = None, full: int = 64, chunked: int = 32) -> World:
    return World(chunk, Z, (full, chunked, exact))


def run(w: World, keys: Items[Any], salt: bytes = b"a", piece: int = 100, each: bool = False) -> Sequence:
    """A sequence over these keys, whatever is known of it adopted; `each`: remembered after each pass."""
    s = w.start(salt, list(keys), len(keys) - 1)
    while s.lease.length < len(keys):
        assert w.step([(s, min(piece, len(keys) - s.lease.length))], 999)
        if each:
            w.insert(s, tail=False)
        w.check()
    return s


def finish(w: World, s: Sequence) -> None:
    w.insert(s, tail=True)
    w.drop(s)
    w.check()


def found(w: World, keys: Items[Any], salt: bytes = b"a", most: int | None = None) -> int:
    """How much an adoption finds."""
    s = w.start(salt, list(keys), len(keys) if most is None else most)
    length = s.lease.length
    w.check()
    w.drop(s)
    return length


def held(w: World) -> PageCounts:
    """Pages that the tree holds, alone or with sequences."""
    return PageCounts(*(len(list(w.tree.held(pool))) for pool in nodes.POOLS))


@pytest.mark.parametrize("chunk", [None, C])
@pytest.mark.parametrize("exact", [None, 16])
def test_the_next_turn_of_a_chat_computes_only_what_is_new(chunk: int | None, exact: int | None) -> None:
    w = world(chunk, exact)
    chat: list[Any] = []
    for turn in range(6):
        chat += [turn * 10 + i for i in range(7)]
        s = w.start(b"a", list(chat), len(chat) - 1)
        assert s.lease.length == len(chat) - 7
        w.step([(s, 7)], 999)
        finish(w, s)


def test_the_head_of_a_longer_block_is_reused_and_copied() -> None:
    w = world(None)
    finish(w, run(w, range(12)))
    s = w.start(b"a", [0, 1, 2, 3, 4, 5, 99, 98], 7)
    assert s.lease.length == 6
    assert w.pager.needs(s.lease, 2).full == 1
    w.step([(s, 2)], 999)
    w.check()
    assert found(w, range(12)) == 12, "the longer block is as it was"


def test_most_cuts_a_hit_token_exact() -> None:
    w = world(None)
    finish(w, run(w, range(12)))
    assert [found(w, range(12), most=m) for m in range(14)] == [*range(13), 12]


def test_chunk_edges_are_reused_without_chunk_pages() -> None:
    w = world()
    finish(w, run(w, range(2 * C + 6)))
    assert (held(w).chunk, held(w).full) == (2, 10), "chunk pages of the last chunk alone"
    assert found(w, range(2 * C + 6)) == 2 * C + 6
    assert found(w, range(2 * C - 1)) == C
    assert found(w, range(C - 1)) == 0
    s = w.start(b"a", list(range(2 * C)), 2 * C)
    assert s.lease.length == 2 * C and not s.lease.chunk_pages


def test_a_prompt_remembered_after_each_pass_is_reused_inside_its_chunks() -> None:
    w = world()
    finish(w, run(w, range(2 * C + 6), piece=8, each=True))
    assert [found(w, range(n)) for n in (C - 1, C, C + 3, C + 8, 2 * C - 1)] == [8, C, C + 3, C + 8, C + 8]


def test_chunk_pages_go_alone_and_then_edges_remain() -> None:
    w = world(chunked=8)
    finish(w, run(w, range(C + 10)))
    assert found(w, range(C + 10)) == C + 10
    assert w.tree.evict(chunk=6)
    w.check()
    assert found(w, range(C + 10)) == C + 8, "the tail is of no use without its chunk page"
    assert w.tree.evict(chunk=8)
    w.check()
    assert found(w, range(C + 10)) == C
    assert held(w).full == 6
    finish(w, run(w, range(C + 10)))
    assert found(w, range(C + 10)) == C + 10, "the pages come back where they are computed again"


def test_exact_pages_of_the_first_block_and_of_tails() -> None:
    w = world(None, exact=16)
    finish(w, run(w, range(14)))
    assert (held(w).full, held(w).exact) == (2, 2)
    assert [found(w, range(n)) for n in (3, 7, 8, 13, 14)] == [3, 4, 8, 13, 14]


def test_a_lease_that_went_back_is_remembered_by_what_it_holds_now() -> None:
    w = world(None)
    s = run(w, range(16))
    w.insert(s, tail=False)
    w.rollback(s, 6)
    s.keys[6:] = range(100, 114)
    w.step([(s, 14)], 999)
    finish(w, s)
    assert found(w, [*range(6), *range(100, 114)]) == 20
    assert found(w, [*range(16), *range(110, 114)]) == 16, "not the new block behind the old ones"


# -- isolation ---------------------------------------------------------------------------------------------------------


def test_two_salts_share_nothing() -> None:
    w = world()
    finish(w, run(w, range(C + 10), b"model\0tenant a"))
    for other in (b"model\0tenant b", b"model\0tenant a\0adapter", b"", b"model\0tenant a "):
        assert found(w, range(C + 10), other) == 0
    finish(w, run(w, range(C + 10), b"model\0tenant b"))
    names = set(w.tree.blocks)
    assert len(names) == len(w.tree.blocks) == 14, "not even the names of equal blocks are equal"


def test_probes_of_another_tenants_prefix_change_nothing_that_the_prober_sees() -> None:
    secret = [3, 1, 4, 1, 5, 9, 2, 6, 5]
    seen = []
    for victim in (secret, secret[::-1]):
        w = world()
        finish(w, run(w, victim, b"victim"))
        trace = []
        for end in range(1, len(secret)):
            for token in range(10):
                probe = [*secret[:end], token]
                s = w.start(b"prober", probe, len(probe) - 1)
                trace.append((s.lease.length, w.pager.needs(s.lease, 1), len(w.tree.trees)))
                w.drop(s)
        seen.append(trace)
    assert seen[0] == seen[1]
    assert all(length == 0 for length, _, _ in seen[0])


def test_the_same_rows_of_another_image_or_shape_are_no_hit() -> None:
    w = world(None)
    tile = [(b"digest of 336 x 672", i) for i in range(8)]
    finish(w, run(w, [1, *tile, 2]))
    assert found(w, [1, *tile, 2]) == 10
    assert found(w, [1, *[(b"digest of 672 x 336", i) for i in range(8)], 2]) == 1
    assert found(w, [1, *[("digest of 336 x 672", i) for i in range(8)], 2]) == 1, "text is not bytes"
    assert found(w, [1, *tile[1:], 2]) == 1, "the same tile at another place"


def test_a_name_that_collides_is_no_hit(monkeypatch: pytest.MonkeyPatch) -> None:
    w = world(None)
    real = nodes.child_digest
    monkeypatch.setattr("herd.cache.prefixes.child_digest", lambda p, c: real(p, c)[:0] + b"same")
    finish(w, run(w, range(9)))
    assert found(w, [7] * 9) == 0, "keys are compared, not only names"
    finish(w, run(w, [7] * 9))
    w.check()
    assert len(w.tree.blocks) == 1


def test_a_tenant_that_fills_the_cache_pushes_out_its_own() -> None:
    w = world(None, full=32)
    finish(w, run(w, range(1000, 1024), b"small"))
    for i in range(40):
        w.tree.evict(full=7)
        finish(w, run(w, range(100 * i, 100 * i + 26), b"big"))
    assert found(w, range(1000, 1024), b"small") == 24
    assert w.tree.evicted.full > 100


def test_the_least_recently_used_leaf_goes_first() -> None:
    w = world(None, full=16)
    for i in range(3):
        finish(w, run(w, [50, 51, 52, 53, *range(100 * i, 100 * i + 8)]))
    assert found(w, [50, 51, 52, 53, *range(8)]) == 12
    assert w.tree.evict(full=11)
    w.check()
    assert [found(w, [50, 51, 52, 53, *range(100 * i, 100 * i + 8)]) for i in range(3)] == [12, 4, 12]


def test_what_a_lease_holds_is_not_evicted() -> None:
    w = world(None, full=16)
    s = run(w, range(16))
    w.insert(s, tail=False)
    assert not w.tree.evict(full=13)
    assert found(w, range(16)) == 16
    w.drop(s)
    assert w.tree.evict(full=16)
    assert not w.tree.trees and not w.tree.blocks
    w.check()


def test_clear_frees_the_page_of_a_copy() -> None:
    w = world(None, full=3)
    finish(w, run(w, range(10)))
    s = w.start(b"a", list(range(12)), 10)
    assert s.lease.length == 10
    assert not w.step([(s, 1)], 1) and not w.tree.evict(full=1)
    w.tree.clear()
    assert w.step([(s, 2)], 2)
    w.check()


def test_pages_are_held_by_the_tree_and_by_leases() -> None:
    w = world(None, full=16)
    finish(w, run(w, range(10)))
    s = w.start(b"a", list(range(10)), 9)
    w.start(b"b", list(range(10)), 9)
    assert (s.lease.length, len(w.tree.blocks), len(w.tree.trees)) == (9, 3, 1)
    assert (w.pager.free.full, held(w).full) == (13, 3), "none is a lease's alone"
    w.step([(s, 1)], 1)
    assert (w.pager.free.full, held(w).full) == (12, 3)


def test_keys_are_told_apart_and_counted() -> None:
    tile = (b"x" * 32, 5)
    assert encode([1, tile, 2]) == encode([1]) + encode([tile]) + encode([2])
    assert shared(encode([1, 2, tile, 9]), encode([1, 2, tile, 8])) == 3
    assert shared(encode([1, 2, tile]), encode([1, 2, (b"x" * 32, 6)])) == 2
    assert shared(encode([256]), encode([257])) == 0
    assert shared(b"", encode([1])) == 0
    for bad in (-1, 1 << 31, "text", (1, 2), (b"x", "1"), 1.5):
        with pytest.raises(TypeError, match="a key is a token id"):
            encode([1, bad])  # type: ignore[list-item]
