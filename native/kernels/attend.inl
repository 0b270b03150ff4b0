// Exact attention of a block of rows (tokens x query heads of one KV head) over ranges of keys. Per range and row: all
// scores, their softmax, the weighted sum of values, each one chain in the order of the keys; ranges are joined in
// order within a group, groups in order. All of this is counted from the segment's start, and a row meets the same
// operations in the same order whatever shares its tile: its result depends on its own keys and nothing else.
//
// A kind K of keys has: KEYS of a range; open(): where the blocks lie of n keys from key0, of `last` that there are;
// prepare(): what it makes of a query row; scores<R, B>(), fold<R>() between softmax and values, values<R, V>() of R
// rows, over VALUE_BLOCKS blocks at a time, so that memory is read in the order in which it lies, the sums going on
// from one time to the next; Probability: what soften() leaves.

template <class K, int R>
static __attribute__((noinline)) void tile_rows(const Tile &t, const int64_t *seen, float *state) {
    int64_t block = 0;
    for (; block + K::SCORE_BLOCKS <= t.blocks; block += K::SCORE_BLOCKS) K::template scores<R, K::SCORE_BLOCKS>(t, block);
    for (; block < t.blocks; block++) K::template scores<R, 1>(t, block);
    for (int r = 0; r < R; r++) {
        float *s = t.s + r * SCORE_STRIDE;
        soften(s, seen[r], t.blocks * BLOCK, (typename K::Probability *)(void *)s, state + 2 * r);
    }
    K::template fold<R>(t);
    for (int64_t from = 0; from < t.blocks; from += K::VALUE_BLOCKS) {
        const int64_t to = from + K::VALUE_BLOCKS < t.blocks ? from + K::VALUE_BLOCKS : t.blocks;
        int64_t column = 0;
        for (; column + K::VALUE_VECTORS * W <= t.width; column += K::VALUE_VECTORS * W)
            K::template values<R, K::VALUE_VECTORS>(t, column, from, to);
        for (; column < t.width; column += W) K::template values<R, 1>(t, column, from, to);
    }
}

// At most R rows.
template <class K, int R>
static void tile_of(int64_t rows, const Tile &t, const int64_t *seen, float *state) {
    if constexpr (R > 0) {
        if (rows == R) tile_rows<K, R>(t, seen, state);
        else tile_of<K, R - 1>(rows, t, seen, state);
    }
}

template <class K>
INLINE void run_tile(int64_t rows, const Tile &t, const int64_t *seen, float *state) {
    if constexpr (K::COARSE) {
        if (!t.at->page) return tile_of<Bf16, TILE_ROWS>(rows, t, seen, state);
    }
    tile_of<K, TILE_ROWS>(rows, t, seen, state);
}

template <class K>
static void attend_as(const Attend &a) {
    constexpr int64_t GROUP = GROUP_KEYS / K::KEYS;
    const int64_t rows = a.tokens * a.heads, H = a.H, width = round_up(H, 16);
    const int64_t query_stride = query_bytes(H);
    uint8_t *q = a.scratch;
    float *o = (float *)(void *)(q + rows * query_stride), *state = o + rows * width;  // of the group
    float *all_o = state + 2 * rows, *all_state = all_o + rows * width;                // of the groups before
    float *s = (float *)(void *)(a.scratch +
                                 round_up((uint8_t *)(all_state + 2 * rows) - a.scratch, 64));
    float *part = s + TILE_ROWS * SCORE_STRIDE, *part_state = part + TILE_ROWS * width;
    uint8_t *digits = a.scratch + round_up((uint8_t *)(part_state + 2 * TILE_ROWS) - a.scratch, 64);
    const int64_t digit_stride = round_up(digit_bytes(H) - 63, 64);
    uint8_t *spare = digits + TILE_ROWS * digit_stride;
    const float by = 1.44269504f / __builtin_sqrtf((float)H);
    for (int64_t r = 0; r < rows; r++) {
        const float *from = a.q + r / a.heads * a.ldq + r % a.heads * H;
        float *to = (float *)(void *)(q + r * query_stride);
        for (int64_t i = 0; i < width; i++) to[i] = i < H ? from[i] * by : 0;
        K::prepare(to, H, q + r * query_stride + 4 * width);
    }
    auto empty = [&](float *st, float *to) {
        for (int64_t r = 0; r < rows; r++) st[2 * r] = MINUS_INFINITY, st[2 * r + 1] = 0;
        memset(to, 0, (size_t)(rows * width) * 4);
    };
    empty(state, o);
    const bool groups = a.range0 / GROUP != (a.range1 - 1) / GROUP;
    if (groups) empty(all_state, all_o);
    const int64_t last = a.causal ? a.first + a.tokens - 1 : a.first;  // keys that the last token sees
    for (int64_t range = a.range0; range < a.range1; range++) {
        const int64_t key0 = range * K::KEYS, keys = last - key0 < K::KEYS ? last - key0 : K::KEYS;
        if (keys <= 0) break;
        Blocks blocks;
        K::open(a, key0, keys, last, blocks, spare);
        for (int64_t r0 = 0; r0 < rows; r0 += TILE_ROWS) {
            int64_t n = rows - r0 < TILE_ROWS ? rows - r0 : TILE_ROWS, seen[TILE_ROWS], most = 0;
            for (int64_t r = 0; r < n; r++) {
                int64_t sees = (a.causal ? a.first + (r0 + r) / a.heads : a.first) - key0;
                seen[r] = sees < 0 ? 0 : sees < keys ? sees : keys;
                most = seen[r] > most ? seen[r] : most;
            }
            if (!most) continue;
            Tile t{H,    width,  (most + BLOCK - 1) / BLOCK, &blocks, a.rope, q + r0 * query_stride, query_stride, s,
                   part, digits, digit_stride};
            run_tile<K>(n, t, seen, part_state);
            for (int64_t r = 0; r < n; r++)
                if (seen[r])
                    merge(state + 2 * (r0 + r), o + (r0 + r) * width, part_state + 2 * r, part + r * width, width);
        }
        if (groups && ((range + 1) % GROUP == 0 || range + 1 == a.range1 || key0 + K::KEYS >= last)) {
            for (int64_t r = 0; r < rows; r++)
                if (state[2 * r + 1] != 0)
                    merge(all_state + 2 * r, all_o + r * width, state + 2 * r, o + r * width, width);
            empty(state, o);
        }
    }
    if (groups) o = all_o, state = all_state;
    if (a.state) {
        memcpy(a.state, state, (size_t)rows * 8);
        memcpy(a.o, o, (size_t)(rows * width) * 4);
        return;
    }
    for (int64_t r = 0; r < rows; r++) {
        const float norm = 1.0f / state[2 * r + 1];
        float *to = a.o + r / a.heads * a.ldo + r % a.heads * H;
        for (int64_t i = 0; i < H; i++) to[i] = o[r * width + i] * norm;
    }
}

static void attend(const Attend &a) {
    switch (a.kv.type) {
        case Kv::f32: return attend_as<Float32>(a);
        case Kv::f16: return attend_as<Float16>(a);
        case Kv::bf16: return attend_as<Bf16>(a);
        case Kv::int8: return attend_as<Int8>(a);
        case Kv::int4: return attend_as<Int4>(a);
    }
}
