"""int8 and int4 keys and values: what is held, what a query sees of it, and that nothing but positions decides it."""

import numpy as np
import pytest
from native_plain import array, attend

from herd import _native, formats
from herd.batch import Context, Segments
from herd.ops.native import NativeOps

PAGE = 256
HEADS = [(5, 1, 128), (4, 2, 64), (6, 2, 32), (3, 3, 20)]
ROUNDED = 4 * 2.0**-9
"""Of queries and probabilities by the bf16 dot instruction, as a share of max |v|."""


def bf16(x):
    return formats.to_float32(formats.bf16_from_float32(x))


class Pages:
    """A pager for one test: exact pages (first and own) and coarse ones, handed out at random."""

    def __init__(self, rng, num_pages, num_exact=40):
        self.coarse = list(rng.permutation(num_pages))
        self.exact = list(rng.permutation(num_exact))


class Sequence:
    def __init__(self, rng, length, heads):
        N, K, H = heads
        self.length, self.done = length, 0
        self.q = array(rng, (length, N, H)) * 2
        self.k, self.v = array(rng, (length, K, H)) + array(rng, (K, H)) * 2, array(rng, (length, K, H))
        self.pages, self.first, self.own = [], None, None

    def step(self, n, pool):
        """Segments (rows, length, pages, exact pages, slots), closing, and exact pages to give back afterwards."""
        out, closing, back = [], [], []
        while n:
            page, at = divmod(self.done, PAGE)
            m = min(n, PAGE - at)
            if at == 0:
                self.own = pool.exact.pop()
                self.pages.append(0 if page == 0 else pool.coarse.pop())
                if page == 0:
                    self.first = self.own
            out.append((self.done, m, list(self.pages), (self.first, self.own), self.own * PAGE + at + np.arange(m)))
            self.done += m
            n -= m
            if self.done % PAGE == 0 and page:
                closing.append((self.own, self.pages[page]))
                back.append(self.own)
        return out, closing, back


def run(ops, kv, pool, work):
    """One pass over (sequence, rows); the outputs in order."""
    parts, closing, back, rows = [], [], [], []
    for s, n in work:
        start = s.done
        a, b, c = s.step(n, pool)
        parts, closing, back = parts + a, closing + b, back + c
        rows.append((s.q[start : s.done], s.k[start : s.done], s.v[start : s.done]))
    widest = max(len(p[2]) for p in parts)
    seg = Segments(
        np.cumsum([0, *(m for _, m, *_ in parts)]),
        np.array([at + m for at, m, *_ in parts]),
        np.array([p[2] + [0] * (widest - len(p[2])) for p in parts]),
        np.concatenate([p[4] for p in parts]),
        PAGE,
        np.array([p[3] for p in parts]),
        np.array(closing) if closing else None,
    )
    q, k, v = (np.concatenate(x) for x in zip(*rows, strict=True))
    o = ops.attend(q, k, v, seg, kv)
    pool.exact += back
    ends = np.cumsum([n for _, n in work])
    return np.split(o, ends[:-1])


def seen(ops, kv, s, t):
    """Keys and values that row t sees: first page and own in bf16, coarse pages as they are read back."""
    page = t // PAGE
    keys, values = bf16(s.k[: t + 1]), bf16(s.v[: t + 1])
    num_exact = 40 * PAGE
    for p in range(1, page):
        at = num_exact + s.pages[p] * PAGE + np.arange(PAGE)
        keys[p * PAGE : (p + 1) * PAGE], values[p * PAGE : (p + 1) * PAGE] = ops.kv_read(kv, at)
    return keys, values


@pytest.mark.parametrize("rope", [False, True])
@pytest.mark.parametrize("heads", HEADS)
def test_int4_against_double_precision(ops, heads, rope):
    rng = np.random.default_rng(1)
    s, pool = Sequence(rng, 1500, heads), Pages(rng, 12)
    kv = ops.new_kv(12 * PAGE, *heads[1:], "int4", exact_slots=40 * PAGE, rope=rope)
    o = run(ops, kv, pool, [(s, s.length)])[0]
    dots = _native.isa_info()["chosen"] == "avx512bf16"
    for t in (0, 100, 255, 256, 511, 512, 700, 1023, 1024, 1300, 1499):
        keys, values = seen(ops, kv, s, t)
        expected = attend(s.q[t : t + 1], keys, values, t + 1)
        # int8 queries of the channel form: 1/254 of the largest term, on codes 4 steps from their middle, sqrt(H) of
        # them; bf16 rounding of the exact pages where the dot instruction is used.
        step = (ROUNDED if dots else 5e-4) + (2e-2 if not rope else 0)
        np.testing.assert_allclose(o[t], expected[0], rtol=0, atol=step * np.abs(values).max())


def grouped(x_SKH, axis, group):
    """Lowest value and range of the group of 64 that each value is coded in: slots of a channel (axis 0) or dims of a
    slot (axis 2), as bf16 pages give them."""
    S, K, H = x_SKH.shape
    split = (S // group, group, K, H) if axis == 0 else (S, K, H // group, group)
    values, along = bf16(x_SKH).astype(np.float64).reshape(split), axis + 1
    full = [np.broadcast_to(f(values, axis=along, keepdims=True), split) for f in (np.min, np.ptp)]
    return [x.reshape(S, K, H) for x in full]


def coarse_error(x_SKH, axis, coarse_S):
    """The most that int4 changes each value: bf16 (8 bits), then in coarse slots half a step of a
    fifteenth of the group's range; a scale and a minimum in float16 (11 bits) move the ends of the range."""
    low, span = grouped(x_SKH, axis, 64)
    step = (span / 30 + (span + np.abs(low)) * 2.0**-11) * (1 + 2.0**-11) + 2.0**-24
    return np.abs(x_SKH) * 2.0**-8 + np.where(coarse_S[:, None, None], step, 0)


def score_error(q_NH, k_SKH, coarse_S):
    """[N]: the most that any score of a query moves: by rounded keys, sum_d |q_d| dk_d / sqrt(H), and in coarse slots
    by the query, whose products with the channels' scales become int8 and meet codes at most 7.5 from their middle."""
    N, H = q_NH.shape
    head_N = np.arange(N) // (N // k_SKH.shape[1])
    scaled = np.abs(q_NH) * grouped(k_SKH, 0, 64)[1][:, head_N] / 15
    step = np.minimum(scaled.max(axis=2, keepdims=True) / 254, scaled) * 7.5
    keys = np.abs(q_NH) * coarse_error(k_SKH, 0, coarse_S)[:, head_N]
    return (keys + np.where(coarse_S[:, None, None], step, 0)).sum(axis=2).max(axis=0) / np.sqrt(H)


@pytest.mark.parametrize("heads", [(5, 1, 128), (4, 2, 64)])
def test_int4_nope_attention_is_near_that_of_unrounded_keys(ops, heads):
    """Float64 over keys and values as they came; all that int4 rounds lies inside a derived bound.

    Scores move by at most e. Some moved by e and the others by -e move the logit of their share of the probabilities
    by 2 e, so the share by at most tanh(e / 2) and the L1 norm by twice that. Their sum stays 1, so any constant c may
    be taken off the values: |do| <= 2 tanh(e / 2) max |v - c| + max dv, and the rounding of probabilities on top.
    Queries look at few channels (a quarter from one to the next), so that e is small while attention is not flat, and
    keys have an offset in each channel as those of NoPE layers do.
    """
    rng = np.random.default_rng(11)
    N, K, H = heads
    s, pool = Sequence(rng, 1280, heads), Pages(rng, 12)
    level_SK = rng.uniform(-1, 1, (s.length, K)).astype(np.float32)
    s.k[..., 0] = level_SK + 2
    s.v = level_SK[..., None] + np.float32(0.1) * s.v
    s.q = (np.sign(s.q) * 1.5 * np.sqrt(H) * 0.25 ** np.arange(H)).astype(np.float32)
    kv = ops.new_kv(12 * PAGE, K, H, "int4", exact_slots=40 * PAGE, rope=False)
    o_TNH = run(ops, kv, pool, [(s, s.length)])[0]
    bf16_p = _native.isa_info()["chosen"] == "avx512bf16"
    rounded_p = ROUNDED if bf16_p else 5e-4
    head_N = np.arange(N) // (N // K)
    largest = {}
    for t in (255, 511, 600, 767, 1024, 1279):
        page = np.arange(s.length) // PAGE
        coarse_S, seen_S = (page > 0) & (page < t // PAGE), slice(t + 1)
        v = s.v[seen_S]
        exact_NH = attend(s.q[t : t + 1], s.k[seen_S], v, t + 1)[0]
        e_N = score_error(s.q[t], s.k, coarse_S)
        assert e_N.max() < 0.3
        moved_NH = 2 * np.tanh(e_N / 2)[:, None] * np.ptp(v, axis=0)[head_N] / 2
        bound_NH = moved_NH + coarse_error(s.v, 2, coarse_S).max(axis=0)[head_N] + rounded_p * np.abs(v).max()
        error_NH = np.abs(o_TNH[t] - exact_NH)
        assert (error_NH <= bound_NH).all()
        flat_NH = np.abs(v.mean(axis=0)[head_N] - exact_NH)
        assert (flat_NH > bound_NH).all(), "the bound lets through what does not look at the keys"
        largest[t] = error_NH.max()
    exact, coarse = max(largest[255], largest[511]), min(largest[t] for t in largest if t > 511)
    assert coarse > 1e-3, "no coarse page was read"
    assert bf16_p or coarse > 2 * exact  # probabilities in bfloat16 are as coarse as codes of 4 bits


@pytest.mark.parametrize("rope", [False, True])
def test_what_int4_holds(ops, rope):
    """Codes of 4 bits of a scale and a minimum: per channel and 64 slots, or per slot and 64 dims."""
    rng = np.random.default_rng(2)
    K, H = 2, 128
    kv = ops.new_kv(2 * PAGE, K, H, "int4", exact_slots=PAGE, rope=rope)
    k, v = array(rng, (PAGE, K, H)) * np.exp(array(rng, (H,))), array(rng, (PAGE, K, H))
    ops.kv_write(kv, np.arange(PAGE), k, v)
    ops.close_pages(kv, [0], [1])
    held_k, held_v = ops.kv_read(kv, PAGE + PAGE + np.arange(PAGE))
    exact_k, exact_v = ops.kv_read(kv, np.arange(PAGE))
    np.testing.assert_array_equal(exact_k, bf16(k))
    for x, held, by_slot in ((exact_k, held_k, rope), (exact_v, held_v, True)):
        groups = x.reshape(PAGE, K, H // 64, 64) if by_slot else x.reshape(PAGE // 64, 64, K, H)
        axis = -1 if by_slot else 1
        low, high = groups.min(axis, keepdims=True), groups.max(axis, keepdims=True)
        scale, minimum = ((high - low) / np.float32(15)).astype(np.float16), low.astype(np.float16)
        codes = np.clip(np.rint((groups - minimum) / scale.astype(np.float32)), 0, 15)
        np.testing.assert_allclose(held, (minimum + scale.astype(np.float32) * codes).reshape(x.shape), atol=1e-4)
        assert (np.abs(held - x).reshape(groups.shape) <= 0.52 * (high - low) / 15 + 1e-3).all()
    elements = 2 * PAGE * K * H
    assert (kv.nbytes - 2 * elements) * 8 / (2 * elements) <= 4.6


def test_int4_is_a_function_of_positions_alone(ops):
    """In pieces, with others, on other pages and threads: the same bits."""
    heads = (4, 2, 64)
    lengths = [255, 256, 257, 513, 1300]
    kv = ops.new_kv(20 * PAGE, *heads[1:], "int4", exact_slots=40 * PAGE, rope=False)
    rng = np.random.default_rng(3)
    pool, expected = Pages(rng, 20), []
    for i, n in enumerate(lengths):
        expected.append(run(ops, kv, pool, [(Sequence(np.random.default_rng(i), n, heads), n)])[0])
    for threads in (1, 3):
        ops = NativeOps(threads)
        all_ = [Sequence(np.random.default_rng(i), n, heads) for i, n in enumerate(lengths)]
        kv = ops.new_kv(20 * PAGE, *heads[1:], "int4", exact_slots=40 * PAGE, rope=False)
        pool = Pages(rng, 20)
        while any(s.done < s.length for s in all_):
            work = []
            for s in all_:
                n = min(s.length - s.done, int(rng.choice([1, 2, 40, 255, 300])))
                if n and (rng.random() < 0.8 or not work):
                    work.append((s, n))
            at = [s.done for s, _ in work]
            for (s, n), start, o in zip(work, at, run(ops, kv, pool, work), strict=True):
                np.testing.assert_array_equal(o, expected[all_.index(s)][start : start + n])


def test_deep_int4_decode_is_prefill(ops):
    """Past a group of pages (8,192 keys), cut along the keys or not."""
    heads, n = (2, 1, 16), 8192 + 700
    s, rng = Sequence(np.random.default_rng(5), n, heads), np.random.default_rng(6)
    found = []
    for threads, rows in ((2, 300), (2, 1), (1, 1), (3, 1)):
        ops = NativeOps(threads)
        kv = ops.new_kv(40 * PAGE, *heads[1:], "int4", exact_slots=40 * PAGE)
        s.done, s.pages, pool = 0, [], Pages(rng, 40)
        run(ops, kv, pool, [(s, n - rows)])
        found.append(run(ops, kv, pool, [(s, rows)])[0][-1])
    for o in found[1:]:
        np.testing.assert_array_equal(o, found[0])


@pytest.mark.parametrize("rope", [False, True])
def test_int4_shows_keys_that_are_not_numbers(ops, rope):
    heads, n = (4, 2, 64), 800
    for side in ("k", "v"):
        rng = np.random.default_rng(7)
        s, pool = Sequence(rng, n, heads), Pages(rng, 5)
        getattr(s, side)[300, 1, 3] = np.nan  # in the second page, coarse for what follows
        kv = ops.new_kv(5 * PAGE, *heads[1:], "int4", exact_slots=40 * PAGE, rope=rope)
        o = run(ops, kv, pool, [(s, n)])[0]
        assert np.isfinite(o[:, :2]).all()
        assert np.isfinite(o[:256]).all()
        assert not np.isfinite(o[512:, 2:]).all(-1).any()


@pytest.mark.parametrize("heads", HEADS)
def test_int8_against_double_precision(ops, heads):
    rng = np.random.default_rng(8)
    N, K, H = heads
    n, new = 900, 130
    kv = ops.new_kv(1024, K, H, "int8")
    q, k, v = array(rng, (new, N, H)) * 2, array(rng, (n, K, H)), array(rng, (n, K, H))
    v[:, :, 0] += 100  # an outlier dim takes most of the scale
    ops.kv_write(kv, np.arange(n - new), k[:-new], v[:-new])
    seg = Segments(np.array([0, new]), np.array([n]), np.arange(4)[None], np.arange(n - new, n), PAGE)
    o = ops.attend(q, k[-new:], v[-new:], seg, kv)
    held_k, held_v = ops.kv_read(kv, np.arange(n))
    for x, held in ((k, held_k), (v, held_v)):
        assert (np.abs(held - x) <= np.abs(x).max(-1, keepdims=True) / 253).all()
    # q and p in whole numbers of 14 bits: half a step of 1 / 16256 of the largest, 512 of them at the very worst
    np.testing.assert_allclose(o, attend(q, held_k, held_v, n - new + 1), rtol=0, atol=2e-3 * np.abs(held_v).max())
    assert np.abs(o - attend(q, held_k, held_v, n - new + 1))[..., 1:].max() < 2e-3


def test_small_probabilities_are_not_lost(ops):
    """One key of weight 1 beside 511 of 1/2000 each: a coarse rounding of p would drop a fifth of the sum."""
    H = 64
    kv = ops.new_kv(512, 1, H, "int8")
    k, v = np.zeros((512, 1, H), np.float32), np.ones((512, 1, H), np.float32)
    k[7, 0, 0] = 1
    v[7] = -1
    ops.kv_write(kv, np.arange(512), k, v)
    q = np.zeros((1, 1, H), np.float32)
    q[0, 0, 0] = np.log(2000) * np.sqrt(H)
    seg = Segments(np.array([0, 1]), np.array([512]), np.arange(2)[None], np.array([511]), PAGE)
    o = ops.attend(q, k[-1:], v[-1:], seg, kv)
    np.testing.assert_allclose(o[0, 0], attend(q, k, v, 512)[0, 0], atol=5e-3)


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_native_and_torch_hold_the_same(ops, dtype):
    """The reference op set: the same codes, so the same attention up to the rounding of q and p."""
    torch_ops = pytest.importorskip("herd.ops.torch").TorchOps()
    rng = np.random.default_rng(9)
    N, K, H = heads = (4, 2, 64)
    if dtype == "int8":
        q, k, v = array(rng, (600, N, H)), array(rng, (600, K, H)), array(rng, (600, K, H))
        seg = Segments(np.array([0, 600]), np.array([600]), np.arange(3)[None], np.arange(600), PAGE)
        found = [Placing(o).attend(q, k, v, seg, o.new_kv(768, K, H, dtype)) for o in (ops, torch_ops)]
        np.testing.assert_allclose(found[0], found[1], atol=2e-3)
        return
    for rope in (True, False):
        kvs = [o.new_kv(6 * PAGE, K, H, dtype, exact_slots=40 * PAGE, rope=rope) for o in (ops, torch_ops)]
        s = Sequence(rng, 900, heads)
        run(ops, kvs[0], Pages(np.random.default_rng(1), 6), [(s, 900)])
        pages, s.done, s.pages = s.pages, 0, []
        o = run(Placing(torch_ops), kvs[1], Pages(np.random.default_rng(1), 6), [(s, 900)])[0]
        assert s.pages == pages
        slots = 40 * PAGE + np.concatenate([p * PAGE + np.arange(PAGE) for p in pages[1:3]])
        for a, b in zip(ops.kv_read(kvs[0], slots), torch_ops.kv_read(kvs[1], slots), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
        for t in (300, 600, 899):
            keys, values = seen(ops, kvs[0], s, t)
            np.testing.assert_allclose(o[t], attend(s.q[t : t + 1], keys, values, t + 1)[0], atol=1e-4)


class Placing:
    """numpy in and out of another op set."""

    def __init__(self, ops):
        self.ops = ops

    def attend(self, q, k, v, seg, kv):
        placed = self.ops.place(Context(np.zeros(len(q), np.int64), seg, seg))
        return self.ops.numpy(self.ops.attend(*map(self.ops.array, (q, k, v)), placed.full, kv))


def test_pages_of_coarse_types_are_copied(ops):
    rng = np.random.default_rng(10)
    kv = ops.new_kv(64, 2, 32, "int8")
    ops.kv_write(kv, np.arange(64), *array(rng, (2, 64, 2, 32)))
    before = ops.kv_read(kv, np.arange(64))
    ops.copy_pages(kv, [0], [2], 16)
    for a, b in zip(before, ops.kv_read(kv, np.arange(64)), strict=True):
        np.testing.assert_array_equal(b[32:48], a[:16])
        np.testing.assert_array_equal(b[48:], a[48:])
    kv = ops.new_kv(3 * PAGE, 2, 32, "int4", exact_slots=2 * PAGE)
    ops.kv_write(kv, np.arange(PAGE), *array(rng, (2, PAGE, 2, 32)))
    ops.close_pages(kv, [0], [0])
    ops.copy_pages(kv, [0], [2], PAGE)
    ops.copy_pages(kv, [0], [1], PAGE, exact=True)
    read = [ops.kv_read(kv, np.arange(i * PAGE, (i + 1) * PAGE)) for i in range(5)]
    np.testing.assert_array_equal(read[0], read[1])
    np.testing.assert_array_equal(read[2], read[4])
    assert np.abs(read[3][0]).max() == 0


def ints(*x):
    return np.array(x, np.int64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"page_size": 64}, "256 with exact pages"),
        ({"exact_pages": ints(0, 9)[None]}, "exact slots up to 2560, expected at most the cache's 512"),
        ({"exact_pages": ints(0, -1)[None]}, "exact_pages: got -1"),
        ({"exact_pages": ints(0, 2**60)[None]}, "exact_pages: got"),
        ({"exact_pages": ints(0, 1, 1)[None]}, "exact_pages: got shape"),
        ({"exact_pages": None, "closing": None}, "no exact pages, expected them, since the cache is int4"),
        ({"exact_pages": None, "closing": ints(0, 0)[None]}, "closing without exact_pages"),
        ({"closing": ints(0, 3)[None]}, "segments: got slots up to 1024, expected at most the cache's 768"),
        ({"closing": ints(7, 0)[None]}, "exact slots up to 2048"),
        ({"closing": ints(-1, 0)[None]}, "closing: got -1"),
        ({"closing": ints(0, -5)[None]}, "closing: got -5"),
        ({"closing": ints(0, 0, 0)}, "closing: got shape"),
        ({"slots_T": ints(255, 512)}, "exact slots up to 513"),
        ({"starts": ints(0, 2), "kv_lens": ints(257)}, "within one page of 256"),
        ({"kv_lens": ints(514), "pages": ints(0, 99, 0)[None]}, "slots up to 25600"),
    ],
)
def test_hostile_integers_are_refused_at_the_door(change, message):
    ops, q = NativeOps(1), np.zeros((2, 2, 16), np.float32)
    kv = ops.new_kv(3 * PAGE, 2, 16, "int4", exact_slots=2 * PAGE)
    fields = {
        "starts": ints(0, 2),
        "kv_lens": ints(2),
        "pages": ints(0)[None],
        "slots_T": ints(0, 1),
        "page_size": PAGE,
        "exact_pages": ints(0, 0)[None],
        "closing": None,
    }
    if "pages" not in change and change.get("kv_lens", [0])[0] > PAGE:
        change = {**change, "pages": ints(0, 0)[None]}
    with pytest.raises(ValueError, match=message) as e:
        ops.attend(q, q, q, Segments(**{**fields, **change}), kv)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda o: o.new_kv(100, 2, 16, "int4", exact_slots=PAGE), "multiples of 256"),
        (lambda o: o.new_kv(PAGE, 2, 16, "int4"), "multiples of 256, some exact"),
        (lambda o: o.new_kv(PAGE, 2, 16, "bf16", exact_slots=PAGE), "no exact ones"),
        (lambda o: o.new_kv(PAGE, 2, 16, "int4", exact_slots=2**62), "fits in memory"),
        (lambda o: o.new_kv(PAGE, 1, 2048, "int8"), "head size: got 2048, expected at most 1024"),
        (lambda o: o.kv_write(four(o), [PAGE], *np.zeros((2, 1, 2, 16), np.float32)), "slots: got 256"),
        (lambda o: o.kv_read(four(o), [3 * PAGE]), "slots: got 768"),
        (lambda o: o.close_pages(four(o), [1], [0]), "exact page: got 1"),
        (lambda o: o.close_pages(four(o), [0], [2]), "page: got 2"),
        (lambda o: o.close_pages(four(o), [0, 0], [1]), "pages: got shape"),
        (lambda o: o.close_pages(o.new_kv(16, 2, 16), [0], [0]), "a cache of int4"),
        (lambda o: o.copy_pages(four(o), [0], [1], 16), "256 in a cache of int4"),
        (lambda o: o.copy_pages(four(o), [0], [1], PAGE, exact=True), "page: got 1"),
        (lambda o: o.copy_pages(o.new_kv(16, 2, 16), [0], [0], 4, exact=True), "exact pages are of int4"),
    ],
)
def test_wrong_calls_are_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as e:
        call(NativeOps(1))
    assert "\n" not in str(e.value)


def four(ops):
    return ops.new_kv(2 * PAGE, 2, 16, "int4", exact_slots=PAGE)
