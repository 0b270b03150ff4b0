"""Attention and the cache of the native op set against float64."""

import numpy as np
import pytest
from native_plain import EPS, array, attend

from herd import _native
from herd.batch import Segments, packed, segments
from herd.ops.native import NativeOps

ROUNDING = {"f32": 0.0, "f16": 2.0**-11, "bf16": 2.0**-8}


def close(o, expected, values, dtype="f32"):
    """Weights p sum to one, so an output errs by the error of p times |v|: scores of a few units in float32, each
    perturbed by about sqrt(H) * eps * |q| |k| / sqrt(H), well under 100 eps here. The bfloat16 dot instruction takes
    queries and probabilities rounded to 8 bits: each score is perturbed by about |q| 2^-9, each p by a 2^-9 of it."""
    rounded = dtype == "bf16" and _native.isa_info()["chosen"] == "avx512bf16"
    step = 4 * 2.0**-9 if rounded else 100 * EPS
    np.testing.assert_allclose(o, expected, rtol=0, atol=step * np.abs(values).max())


def paged(rng, lengths, news, page_size, shuffle=True):
    """Segments with these numbers of keys and of new rows, their pages scattered; and the number of slots."""
    counts = [-(-n // page_size) for n in lengths]
    order = rng.permutation(sum(counts) + 3) if shuffle else np.arange(sum(counts) + 3)
    pages = np.zeros((len(lengths), max(counts)), np.int64)
    slots, start = [], 0
    for s, (n, new, count) in enumerate(zip(lengths, news, counts, strict=True)):
        pages[s, :count] = order[start : start + count]
        start += count
        at = np.arange(n - new, n)
        slots.append(pages[s, at // page_size] * page_size + at % page_size)
    starts = np.concatenate([[0], np.cumsum(news)])
    return (
        Segments(starts, np.asarray(lengths), pages, np.concatenate(slots), page_size),
        len(order) * page_size,
    )


def fill(ops, kv, seg, keys, values):
    """Put the earlier keys of every segment into their slots."""
    for s in range(len(seg)):
        n = seg.kv_lens[s] - (seg.starts[s + 1] - seg.starts[s])
        at = np.arange(n)
        slots = seg.pages[s, at // seg.page_size] * seg.page_size + at % seg.page_size
        ops.kv_write(kv, slots, keys[s][:n], values[s][:n])


@pytest.mark.parametrize("page_size", [1, 4, 16])
@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("heads", [(4, 2, 32), (5, 1, 88), (3, 3, 20)])
def test_paged_segments(ops, page_size, dtype, heads):
    N, K, H = heads
    rng = np.random.default_rng(1)
    lengths, news = [1, 15, 16, 17, 50, 97, 130], [1, 1, 3, 17, 2, 49, 70]
    seg, slots = paged(rng, lengths, news, page_size)
    kv = ops.new_kv(slots, K, H, dtype)
    keys, values = ([array(rng, (n, K, H)) for n in lengths] for _ in range(2))
    fill(ops, kv, seg, keys, values)
    T = sum(news)
    q = array(rng, (T, N, H)) * 2
    k, v = (np.concatenate([x[-new:] for x, new in zip(side, news, strict=True)]) for side in (keys, values))
    o = ops.attend(q, k, v, ops.place(packed([T], None)).full if seg is None else seg, kv)
    for s, (n, new) in enumerate(zip(lengths, news, strict=True)):
        a, b = seg.starts[s], seg.starts[s + 1]
        at = seg.pages[s, np.arange(n) // page_size] * page_size + np.arange(n) % page_size
        held_k, held_v = ops.kv_read(kv, at)  # as the cache rounds them
        rounding = ROUNDING[dtype]
        np.testing.assert_allclose(held_k, keys[s], rtol=rounding, atol=0)
        np.testing.assert_allclose(held_v, values[s], rtol=rounding, atol=0)
        close(o[a:b], attend(q[a:b], held_k, held_v, n - new + 1), held_v, dtype)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("lengths", [[1], [5, 1, 48, 49, 3], [0, 100, 0]])
def test_segments_without_a_cache(ops, causal, lengths):
    rng = np.random.default_rng(2)
    N, K, H = 6, 2, 24
    T = sum(lengths)
    q, k, v = array(rng, (T, N, H)), array(rng, (T, K, H)), array(rng, (T, K, H))
    o = ops.attend(q, k, v, segments(lengths), None, causal=causal)
    start = 0
    for n in lengths:
        if n:
            part = slice(start, start + n)
            close(o[part], attend(q[part], k[part], v[part], 1 if causal else None), v)
        start += n


def test_deep_decode_in_ranges_of_keys(ops):
    """Beyond a few thousand keys a short segment is cut along its keys and put together again."""
    rng = np.random.default_rng(3)
    N, K, H, n = 4, 1, 32, 5000
    for new in (1, 3):
        seg, slots = paged(rng, [n], [new], 16)
        kv = ops.new_kv(slots, K, H)
        keys, values = array(rng, (n, K, H)), array(rng, (n, K, H))
        keys[4321] *= 8  # a far key that weighs much
        fill(ops, kv, seg, [keys], [values])
        q = array(rng, (new, N, H)) * 3
        o = ops.attend(q, keys[-new:], values[-new:], seg, kv)
        close(o, attend(q, keys, values, n - new + 1), values)


def test_large_scores_do_not_overflow(ops):
    rng = np.random.default_rng(4)
    q, k, v = array(rng, (60, 1, 8)) * 100, array(rng, (60, 1, 8)) * 100, array(rng, (60, 1, 8))
    o = ops.attend(q, k, v, segments([60]), None)
    # Scores near 1e5 carry an error of 1e5 * eps; a row's best key wins by more than that or the test would be void.
    np.testing.assert_allclose(o, attend(q, k, v, 1), atol=0.05)
    assert np.isfinite(o).all()


def test_a_row_depends_on_its_own_keys_only(ops):
    """Bit for bit the same alone and in a batch, on one thread and on three."""
    rng = np.random.default_rng(5)
    N, K, H = 4, 2, 32
    lengths, news = [40, 2600, 75, 1], [3, 1, 75, 1]
    seg, slots = paged(rng, lengths, news, 4)
    keys, values = ([array(rng, (n, K, H)) for n in lengths] for _ in range(2))
    T = sum(news)
    q = array(rng, (T, N, H))
    k, v = (np.concatenate([x[-new:] for x, new in zip(side, news, strict=True)]) for side in (keys, values))
    found = []
    for threads in (1, 3, 2):
        ops = NativeOps(threads)
        kv = ops.new_kv(slots, K, H)
        fill(ops, kv, seg, keys, values)
        found.append(ops.attend(q, k, v, seg, kv))
    assert (found[0] == found[1]).all()
    assert (found[0] == found[2]).all()
    for s in range(len(lengths)):
        a, b = seg.starts[s], seg.starts[s + 1]
        alone = Segments(np.array([0, b - a]), seg.kv_lens[s : s + 1], seg.pages[s : s + 1], seg.slots_T[a:b], 4)
        assert (ops.attend(q[a:b], k[a:b], v[a:b], alone, kv) == found[0][a:b]).all()


def test_copied_pages_are_independent(ops):
    rng = np.random.default_rng(6)
    kv = ops.new_kv(12, 2, 8, "f16")
    x = array(rng, (12, 2, 8))
    ops.kv_write(kv, np.arange(12), x, -x)
    ops.copy_pages(kv, [0, 2], [2, 1], 4)
    keys, values = ops.kv_read(kv, np.arange(12))
    half = x.astype(np.float16).astype(np.float32)
    assert (keys[8:12] == half[0:4]).all()
    assert (keys[4:8] == half[0:4]).all()  # page 2 was already page 0's copy
    assert (values == -keys).all()
    ops.kv_write(kv, [8], x[11:12], x[11:12])
    assert (ops.kv_read(kv, [0])[0] == half[0:1]).all()


def test_cache_memory_is_as_large_as_it_says():
    """Whole blocks of 16 slots; values padded to 16 dims, which heads of 64 and 128 are already."""
    assert _native.cache(10, 2, 8, "f16").nbytes == 2 * 10 * 2 * 8 * 2
    assert _native.cache(32, 2, 64, "bf16").nbytes == 2 * 32 * 2 * 64 * 2
    assert _native.cache(10, 2, 8, "bf16").nbytes == 16 * 2 * (8 + 16) * 2
