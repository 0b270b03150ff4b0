// Keys and values as rows of float32 or float16 (or the rows of the pass itself): a range is widened and turned into
// keys [block][H][16] and values [block][16][width] first, for any number of query rows, so that a score is the same
// chain over the dims in every case.

INLINE int64_t slot_of(const Attend &a, int64_t key) {
    return a.pages ? a.pages[key / a.page_size] * a.page_size + key % a.page_size : key;
}

// The blocks of a range, and behind them those that will be wanted next.
struct Blocks {
    int64_t count;
    const uint8_t *page, *next_page;  // int4: a coarse page's keys and values; null when the range is exact
    const uint8_t *k[MOST_KEYS / BLOCK + AHEAD], *v[MOST_KEYS / BLOCK + AHEAD];
};

template <bool HALF>
INLINE F load_plain(const uint8_t *p) {
    return HALF ? load_half(p) : load((const float *)(const void *)p);
}

template <bool HALF>
INLINE float one_plain(const uint8_t *p) {
    if (HALF) return half_to_float(p);
    float value;
    memcpy(&value, p, 4);
    return value;
}

// Keys past the last one are zero: whatever lies in their slots belongs to nobody.
template <bool HALF>
static void open_plain(const Attend &a, int64_t key0, int64_t n, Blocks &b, uint8_t *spare) {
    constexpr int64_t SIZE = HALF ? 2 : 4;
    const int64_t H = a.H, HV = round_up(H, 16);
    b.count = (n + BLOCK - 1) / BLOCK;
    float *kt = (float *)(void *)spare, *vt = kt + b.count * BLOCK * HV;
    alignas(64) static const uint8_t zeros[4 * W] = {};
    for (int64_t block = 0; block < b.count; block++, kt += H * BLOCK, vt += HV * BLOCK) {
        const uint8_t *k[BLOCK], *v[BLOCK];
        int64_t here = n - block * BLOCK < BLOCK ? n - block * BLOCK : BLOCK;
        for (int64_t j = 0; j < here; j++) {
            int64_t at = slot_of(a, key0 + block * BLOCK + j) * a.kv.stride;
            k[j] = a.kv.k + at, v[j] = a.kv.v + at;
        }
        for (int64_t j0 = 0; j0 < BLOCK; j0 += W) {
            int64_t i = 0;
            for (; i + W <= H; i += W) {
                F x[W];
                for (int64_t j = 0; j < W; j++)
                    x[j] = load_plain<HALF>(j0 + j < here ? k[j0 + j] + i * SIZE : zeros);
                transpose(x);
                for (int64_t j = 0; j < W; j++) store(kt + (i + j) * BLOCK + j0, x[j]);
            }
            for (; i < H; i++)
                for (int64_t j = j0; j < j0 + W; j++)
                    kt[i * BLOCK + j] = j < here ? one_plain<HALF>(k[j] + i * SIZE) : 0;
        }
        for (int64_t j = 0; j < BLOCK; j++) {
            int64_t i = 0;
            float *to = vt + j * HV;
            if (j < here) {
                for (; i + W <= H; i += W) store(to + i, load_plain<HALF>(v[j] + i * SIZE));
                for (; i < H; i++) to[i] = one_plain<HALF>(v[j] + i * SIZE);
            }
            for (; i < HV; i++) to[i] = 0;
        }
        b.k[block] = (const uint8_t *)kt, b.v[block] = (const uint8_t *)vt;
    }
}

// What the products of a tile of rows are made from.
struct Tile {
    int64_t H, width, blocks;
    const Blocks *at;
    bool rope;
    const uint8_t *q;  // prepared queries, a row every `query_stride` bytes
    int64_t query_stride;
    float *s;  // [rows][SCORE_STRIDE]: scores, then probabilities
    float *o;  // [rows][width]
    uint8_t *digits;
    int64_t digit_stride;

    const float *query(int64_t r) const { return (const float *)(const void *)(q + r * query_stride); }
    const uint8_t *made(int64_t r) const { return q + r * query_stride + 4 * width; }
    uint8_t *digit(int64_t r, int64_t group, int64_t which) const {
        return digits + r * digit_stride + (2 * group + which) * MOST_KEYS;
    }
    // factor and constant of a group
    float *of_digits(int64_t r, int64_t group) const {
        return (float *)(void *)(digits + r * digit_stride + 2 * dim_groups(H) * MOST_KEYS) + 2 * group;
    }
};

#if defined(HERD_AVX512)
constexpr int TILE_ROWS = 6;
#elif defined(HERD_AVX2) || defined(HERD_NEON)
constexpr int TILE_ROWS = 4;
#else
constexpr int TILE_ROWS = 2;
#endif

struct Plain {
    static constexpr bool COARSE = false;
    using Probability = float;
    static constexpr int64_t KEYS = 128;
    static constexpr int64_t VALUE_BLOCKS = MOST_KEYS / BLOCK;  // all at once
#if defined(HERD_AVX512)
    static constexpr int SCORE_BLOCKS = 4, VALUE_VECTORS = 4;
#elif defined(HERD_AVX2)
    static constexpr int SCORE_BLOCKS = 1, VALUE_VECTORS = 2;
#else
    static constexpr int SCORE_BLOCKS = 1, VALUE_VECTORS = 4;
#endif
    INLINE void prepare(const float *, int64_t, uint8_t *) {}
    template <int R>
    INLINE void fold(const Tile &) {}

    template <int R, int B>
    INLINE void scores(const Tile &t, int64_t block) {
        constexpr int V = B * BLOCK / W;
        F acc[R][V] = {};
        for (int64_t i = 0; i < t.H; i++) {
            F k[V];
            for (int v = 0; v < V; v++)
                k[v] = load((const float *)(const void *)t.at->k[block + v * W / BLOCK] + i * BLOCK + v * W % BLOCK);
            for (int r = 0; r < R; r++) {
                F q = set1(t.query(r)[i]);
                for (int v = 0; v < V; v++) acc[r][v] += q * k[v];
            }
        }
        for (int r = 0; r < R; r++)
            for (int v = 0; v < V; v++) store(t.s + r * SCORE_STRIDE + block * BLOCK + v * W, acc[r][v]);
    }

    template <int R, int V>
    INLINE void values(const Tile &t, int64_t column, int64_t, int64_t) {
        F acc[R][V] = {};
        for (int64_t block = 0; block < t.blocks; block++) {
            const float *at = (const float *)(const void *)t.at->v[block] + column;
            for (int64_t j = 0; j < BLOCK; j++) {
                F x[V];
                for (int v = 0; v < V; v++) x[v] = load(at + j * t.width + v * W);
                for (int r = 0; r < R; r++) {
                    F p = set1(t.s[r * SCORE_STRIDE + block * BLOCK + j]);
                    for (int v = 0; v < V; v++) acc[r][v] += p * x[v];
                }
            }
        }
        for (int r = 0; r < R; r++)
            for (int v = 0; v < V; v++) store(t.o + r * t.width + column + v * W, acc[r][v]);
    }
};

struct Float32 : Plain {
    static void open(const Attend &a, int64_t key0, int64_t n, int64_t, Blocks &b, uint8_t *spare) {
        open_plain<false>(a, key0, n, b, spare);
    }
};

struct Float16 : Plain {
    static void open(const Attend &a, int64_t key0, int64_t n, int64_t, Blocks &b, uint8_t *spare) {
        open_plain<true>(a, key0, n, b, spare);
    }
};
