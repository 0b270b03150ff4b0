// Keys and values in blocks of bfloat16 (kv.h), read where they lie. With the dot instruction (HERD_BF16) queries and
// probabilities are rounded to bfloat16, too, and a lane takes two dims or two keys at once; elsewhere the two halves
// of a lane are widened by a shift and a mask and meet float32.

// A block of its own in `spare` for keys that do not fill or share one: past the last key it is zero, since whatever
// lies in those slots belongs to nobody. D: dims of a lane of keys and slots of a lane of values, of SIZE bytes each.
template <int D, int SIZE>
static void gather(const Attend &a, int64_t key0, int64_t n, uint8_t *k, uint8_t *v) {
    constexpr int64_t LANE = D * SIZE;
    const int64_t steps = (a.H + D - 1) / D, HV = round_up(a.H, 16);
    const int64_t k_bytes = key_bytes(a.kv.type, a.H), v_bytes = value_bytes(a.kv.type, a.H);
    if (n < BLOCK) {
        memset(k, 0, (size_t)k_bytes);
        memset(v, 0, (size_t)v_bytes);
    }
    for (int64_t j = 0; j < n; j++) {
        int64_t slot = slot_of(a, key0 + j), at = slot / BLOCK * a.kv.stride, lane = slot % BLOCK;
        const uint8_t *fk = a.kv.k + at, *fv = a.kv.v + at;
        for (int64_t i = 0; i < steps; i++) memcpy(k + (i * BLOCK + j) * LANE, fk + (i * BLOCK + lane) * LANE, LANE);
        for (int64_t i = 0; i < HV; i++)
            memcpy(v + (j / D * HV + i) * LANE + j % D * SIZE, fv + (lane / D * HV + i) * LANE + lane % D * SIZE, SIZE);
        if (SIZE == 1) {  // scales
            memcpy(k + k_bytes - 4 * (BLOCK - j), fk + k_bytes - 4 * (BLOCK - lane), 4);
            memcpy(v + v_bytes - 4 * (BLOCK - j), fv + v_bytes - 4 * (BLOCK - lane), 4);
        }
    }
}

template <int D, int SIZE>
static void open_blocks(const Attend &a, int64_t key0, int64_t n, int64_t last, Blocks &b, uint8_t *spare) {
    const int64_t k_bytes = key_bytes(a.kv.type, a.H), v_bytes = value_bytes(a.kv.type, a.H);
    const bool lone = a.page_size % BLOCK != 0;
    b.count = (n + BLOCK - 1) / BLOCK;
    for (int64_t i = 0; i < b.count; i++) {
        int64_t left = n - i * BLOCK;
        if (lone || left < BLOCK) {
            gather<D, SIZE>(a, key0 + i * BLOCK, left < BLOCK ? left : BLOCK, spare, spare + k_bytes);
            b.k[i] = spare, b.v[i] = spare + k_bytes;
            spare += k_bytes + v_bytes;
        } else {
            int64_t at = slot_of(a, key0 + i * BLOCK) / BLOCK * a.kv.stride;
            b.k[i] = a.kv.k + at, b.v[i] = a.kv.v + at;
        }
    }
    for (int64_t i = 0; i < AHEAD; i++) {
        b.k[b.count + i] = b.v[i < b.count ? i : b.count - 1];
        int64_t next = key0 + MOST_KEYS + i * BLOCK;
        b.v[b.count + i] =
            next < last && !lone ? a.kv.k + slot_of(a, next) / BLOCK * a.kv.stride : b.v[b.count - 1];
    }
}

#if defined(HERD_BF16)
struct Bf16 {
    static constexpr bool COARSE = false;
    using Probability = uint16_t;
    static constexpr int64_t KEYS = 512;
    static constexpr int SCORE_BLOCKS = 4, VALUE_VECTORS = 4, VALUE_BLOCKS = 4;
    static void open(const Attend &a, int64_t key0, int64_t n, int64_t last, Blocks &b, uint8_t *spare) {
        open_blocks<2, 2>(a, key0, n, last, b, spare);
    }
    INLINE void prepare(const float *q, int64_t H, uint8_t *made) {
        for (int64_t i = 0; i < round_up(H, 2); i++) {
            uint16_t x = float_to_bf16(q[i]);
            memcpy(made + 2 * i, &x, 2);
        }
    }
    template <int R>
    INLINE void fold(const Tile &) {}

    template <int R, int B>
    INLINE void scores(const Tile &t, int64_t block) {
        __m512 acc[R][B];
        for (int r = 0; r < R; r++)
            for (int b = 0; b < B; b++) acc[r][b] = _mm512_setzero_ps();
        const uint8_t *k[B], *next[B];
        for (int b = 0; b < B; b++) k[b] = t.at->k[block + b], next[b] = t.at->k[block + b + AHEAD];
        const int64_t steps = (t.H + 1) / 2;
        for (int64_t i = 0; i < steps; i++) {
            __m512bh x[B];
            for (int b = 0; b < B; b++) {
                x[b] = (__m512bh)_mm512_loadu_si512(k[b] + 64 * i);
                __builtin_prefetch(next[b] + 64 * i, 0, 2);
            }
            for (int r = 0; r < R; r++) {
                int32_t pair;
                memcpy(&pair, t.made(r) + 4 * i, 4);
                __m512bh q = (__m512bh)_mm512_set1_epi32(pair);
                for (int b = 0; b < B; b++) acc[r][b] = _mm512_dpbf16_ps(acc[r][b], x[b], q);
            }
        }
        for (int r = 0; r < R; r++)
            for (int b = 0; b < B; b++) _mm512_storeu_ps(t.s + r * SCORE_STRIDE + (block + b) * BLOCK, acc[r][b]);
    }

    template <int R, int V>
    INLINE void values(const Tile &t, int64_t column, int64_t from, int64_t to) {
        __m512 acc[R][V];
        for (int r = 0; r < R; r++)
            for (int v = 0; v < V; v++)
                acc[r][v] = from ? _mm512_loadu_ps(t.o + r * t.width + column + v * W) : _mm512_setzero_ps();
        const int64_t row = 4 * t.width;
        for (int64_t block = from; block < to; block++) {
            const uint8_t *at = t.at->v[block] + 4 * column, *next = t.at->v[block + AHEAD] + 4 * column;
            const uint8_t *p = (const uint8_t *)(t.s) + block * 32;
            for (int64_t j = 0; j < BLOCK / 2; j++, at += row, next += row, p += 4) {
                __m512bh x[V];
                for (int v = 0; v < V; v++) {
                    x[v] = (__m512bh)_mm512_loadu_si512(at + 64 * v);
                    __builtin_prefetch(next + 64 * v, 0, 2);
                }
                for (int r = 0; r < R; r++) {
                    int32_t pair;
                    memcpy(&pair, p + r * SCORE_STRIDE * 4, 4);
                    __m512bh w = (__m512bh)_mm512_set1_epi32(pair);
                    for (int v = 0; v < V; v++) acc[r][v] = _mm512_dpbf16_ps(acc[r][v], x[v], w);
                }
            }
        }
        for (int r = 0; r < R; r++)
            for (int v = 0; v < V; v++) _mm512_storeu_ps(t.o + r * t.width + column + v * W, acc[r][v]);
    }
};
#else
struct Bf16 {
    static constexpr bool COARSE = false;
    using Probability = float;
    static constexpr int64_t KEYS = 512;
    static constexpr int64_t VALUE_BLOCKS = MOST_KEYS / BLOCK;  // all at once
#if defined(HERD_AVX512)
    static constexpr int SCORE_BLOCKS = 2, VALUE_VECTORS = 2;
#else
    static constexpr int SCORE_BLOCKS = 1, VALUE_VECTORS = 2;
#endif
    static void open(const Attend &a, int64_t key0, int64_t n, int64_t last, Blocks &b, uint8_t *spare) {
        open_blocks<2, 2>(a, key0, n, last, b, spare);
    }
    INLINE void prepare(const float *, int64_t, uint8_t *) {}
    template <int R>
    INLINE void fold(const Tile &) {}

    INLINE U load_pairs(const uint8_t *p) {
        typedef uint32_t Loose __attribute__((vector_size(4 * W), aligned(1), may_alias));
        return *(const Loose *)p;
    }

    template <int R, int B>
    INLINE void scores(const Tile &t, int64_t block) {
        constexpr int V = B * BLOCK / W;
        F acc[R][V] = {};
        const int64_t steps = (t.H + 1) / 2;
        for (int64_t i = 0; i < steps; i++) {
            for (int b = 0; b < B; b++) __builtin_prefetch(t.at->k[block + b + AHEAD] + 64 * i);
            F low[V], high[V];
            for (int v = 0; v < V; v++) {
                U x = load_pairs(t.at->k[block + v * W / BLOCK] + (i * BLOCK + v * W % BLOCK) * 4);
                low[v] = (F)(x << 16), high[v] = (F)(x & 0xffff0000u);
            }
            for (int r = 0; r < R; r++) {
                const float *q = t.query(r) + 2 * i;
                F a = set1(q[0]), b = set1(q[1]);
                for (int v = 0; v < V; v++) acc[r][v] += a * low[v];
                for (int v = 0; v < V; v++) acc[r][v] += b * high[v];
            }
        }
        for (int r = 0; r < R; r++)
            for (int v = 0; v < V; v++) store(t.s + r * SCORE_STRIDE + block * BLOCK + v * W, acc[r][v]);
    }

    template <int R, int V>
    INLINE void values(const Tile &t, int64_t column, int64_t, int64_t) {
        F acc[R][V] = {};
        for (int64_t block = 0; block < t.blocks; block++) {
            const uint8_t *at = t.at->v[block] + 4 * column, *next = t.at->v[block + AHEAD] + 4 * column;
            for (int64_t j = 0; j < BLOCK / 2; j++) {
                F low[V], high[V];
                for (int v = 0; v < V; v++) {
                    U x = load_pairs(at + 4 * (j * t.width + v * W));
                    low[v] = (F)(x << 16), high[v] = (F)(x & 0xffff0000u);
                }
                __builtin_prefetch(next + 4 * j * t.width);
                for (int r = 0; r < R; r++) {
                    const float *p = t.s + r * SCORE_STRIDE + block * BLOCK + 2 * j;
                    F a = set1(p[0]), b = set1(p[1]);
                    for (int v = 0; v < V; v++) acc[r][v] += a * low[v];
                    for (int v = 0; v < V; v++) acc[r][v] += b * high[v];
                }
            }
        }
        for (int r = 0; r < R; r++)
            for (int v = 0; v < V; v++) store(t.o + r * t.width + column + v * W, acc[r][v]);
    }
};
#endif
