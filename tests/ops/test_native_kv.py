"""Every type of the KV cache: a query's result is a function of its own keys, bit for bit, however it was computed."""

import numpy as np
import pytest
from native_plain import array

from herd.batch import Segments
from herd.ops.native import NativeOps

CHUNK = 64
LENGTHS = [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 1, 1100]
TYPES = ["f32", "f16", "bf16", "int8"]


class Sequence:
    """Keys and values of one sequence, and the pages it lies in."""

    def __init__(self, rng, length, heads, pages, page_size):
        N, K, H = heads
        self.length, self.pages, self.page_size = length, pages, page_size
        self.q = array(rng, (length, N, H)) * 2
        self.k, self.v = array(rng, (length, K, H)), array(rng, (length, K, H))

    def slots(self, start, stop):
        at = np.arange(start, stop)
        return self.pages[at // self.page_size] * self.page_size + at % self.page_size

    def rows(self, start, stop):
        return self.q[start:stop], self.k[start:stop], self.v[start:stop]


def joined(pieces):
    """Segments of (sequence, start, stop), one after another, and their rows."""
    widest = max(len(s.pages) for s, _, _ in pieces)
    pages = np.stack([np.pad(s.pages, (0, widest - len(s.pages))) for s, _, _ in pieces])
    starts = np.cumsum([0, *(stop - start for _, start, stop in pieces)])
    slots = np.concatenate([s.slots(start, stop) for s, start, stop in pieces])
    rows = [np.concatenate(x) for x in zip(*(s.rows(a, b) for s, a, b in pieces), strict=True)]
    return Segments(starts, np.array([b for _, _, b in pieces]), pages, slots, pieces[0][0].page_size), rows


def sequences(rng, lengths, heads, page_size):
    counts = [-(-n // page_size) for n in lengths]
    order = rng.permutation(sum(counts) + 2)
    ends = np.cumsum(counts)
    found = [
        Sequence(rng, n, heads, order[end - count : end], page_size)
        for n, count, end in zip(lengths, counts, ends, strict=True)
    ]
    return found, len(order) * page_size


def prefilled(ops, dtype, all_, slots, heads):
    """All sequences in one pass each, whole."""
    kv = ops.new_kv(slots, heads[1], heads[2], dtype)
    out = []
    for s in all_:
        seg, rows = joined([(s, 0, s.length)])
        out.append(ops.attend(*rows, seg, kv))
    return out


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("page_size", "heads"), [(16, (5, 1, 32)), (64, (4, 2, 64)), (256, (10, 2, 128)), (4, (3, 3, 20))]
)
def test_pieces_batches_and_pages_change_nothing(ops, dtype, page_size, heads):
    """Random pieces of several sequences together, on other pages and threads, ending in single rows."""
    rng = np.random.default_rng(page_size)
    all_, slots = sequences(rng, LENGTHS, heads, page_size)
    expected = prefilled(ops, dtype, all_, slots, heads)
    for threads in (1, 3):
        ops = NativeOps(threads)
        order = rng.permutation(slots // page_size)
        for s in all_:
            s.pages = order[s.pages]
        kv = ops.new_kv(slots, heads[1], heads[2], dtype)
        ops.kv_write(kv, np.arange(slots), *np.full((2, slots, *heads[1:]), np.nan, np.float32))  # nobody's, not ours
        done = [0] * len(all_)
        while any(d < s.length for d, s in zip(done, all_, strict=True)):
            work = []
            for i, s in enumerate(all_):
                left = s.length - done[i]
                n = min(left, int(rng.choice([1, 1, 2, 7, 33, 150, 400])))
                if left and (rng.random() < 0.8 or not work):
                    work.append((i, done[i], done[i] + n))
                    done[i] += n
            seg, rows = joined([(all_[i], a, b) for i, a, b in work])
            o = ops.attend(*rows, seg, kv)
            for (i, a, b), start in zip(work, seg.starts, strict=False):
                np.testing.assert_array_equal(o[start : start + b - a], expected[i][a:b])


@pytest.mark.parametrize("dtype", TYPES)
def test_deep_decode_is_prefill(ops, dtype):
    """Past a group of ranges (8,192 keys), cut along the keys or not, alone or beside fifteen others."""
    rng = np.random.default_rng(3)
    heads, n = (4, 1, 16), 8192 + 700
    (s,), slots = sequences(rng, [n], heads, 256)
    kv = ops.new_kv(slots, *heads[1:], dtype)
    ops.kv_write(kv, s.slots(0, n), s.k, s.v)
    seg, rows = joined([(s, n - 300, n)])
    expected = ops.attend(*rows, seg, kv)
    alone, rows = joined([(s, n - 1, n)])
    many, all_rows = joined([(s, n - 16 + i, n - 15 + i) for i in range(16)])
    for threads in (1, 2, 5):
        ops = NativeOps(threads)
        np.testing.assert_array_equal(ops.attend(*rows, alone, kv), expected[-1:])
        np.testing.assert_array_equal(ops.attend(*all_rows, many, kv), expected[-16:])


@pytest.mark.parametrize("dtype", TYPES)
def test_keys_that_are_not_numbers_are_not_hidden(ops, dtype):
    """NaN or infinity in a key or value that is seen shows; other heads never see it."""
    rng = np.random.default_rng(4)
    heads = (4, 2, 32)
    (s,), slots = sequences(rng, [700], heads, 16)
    clean = prefilled(ops, dtype, [s], slots, heads)[0]
    for side, bad in (("k", np.nan), ("v", np.nan), ("v", np.inf)):
        (other,), _ = sequences(np.random.default_rng(4), [700], heads, 16)
        getattr(other, side)[600, 1, 3] = bad
        o = prefilled(ops, dtype, [other], slots, heads)[0]
        np.testing.assert_array_equal(o[:, :2], clean[:, :2])
        assert not np.isfinite(o[600:, 2:]).all(-1).any()
