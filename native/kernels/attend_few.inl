// Both products of attention for a few query rows (decoding), straight from the cache: every key and value is read
// once, widened in registers, and met by all rows of its KV head. Pointers KEYS further on are those of the next block.

// W vectors to one that holds the sum of each, by halving; pairs lie W / 2 apart, so the order stays.
INLINE F totals(F v[W]) {
#if defined(HERD_AVX512)
    const I low = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
    const I high = {8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
#elif defined(HERD_AVX2)
    const I low = {0, 8, 1, 9, 2, 10, 3, 11}, high = {4, 12, 5, 13, 6, 14, 7, 15};
#else
    const I low = {0, 4, 1, 5}, high = {2, 6, 3, 7};
#endif
#pragma GCC unroll 4
    for (int n = W / 2; n; n /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < n; i++)
            v[i] = __builtin_shuffle(v[i], v[i + n], low) + __builtin_shuffle(v[i], v[i + n], high);
    return v[0];
}

// s[r][j] = q[r] . k[j] for R rows and n keys
template <Type T, int R>
INLINE void few_scores(const uint8_t *const *k, int64_t n, const float *q, int64_t ldq, int64_t H, float *s) {
    for (int64_t j0 = 0; j0 < n; j0 += W) {
        F part[R][W];
        for (int j = 0; j < W; j += 2) {
            const uint8_t *a = k[j0 + j < n ? j0 + j : n - 1], *b = k[j0 + j + 1 < n ? j0 + j + 1 : n - 1];
            F x[R] = {}, y[R] = {};
            int64_t i = 0;
            for (; i + W <= H; i += W) {
                if (i * SIZE<T> % 64 == 0)
                    __builtin_prefetch(k[KEYS + j0 + j] + i * SIZE<T>),
                        __builtin_prefetch(k[KEYS + j0 + j + 1] + i * SIZE<T>);
                F u = load_as<T>(a + i * SIZE<T>), v = load_as<T>(b + i * SIZE<T>);
                for (int r = 0; r < R; r++) {
                    F w = load(q + r * ldq + i);
                    x[r] += u * w, y[r] += v * w;
                }
            }
            if (i < H) {
                float u[W] = {}, v[W] = {};
                for (int64_t d = i; d < H; d++)
                    u[d - i] = one_as<T>(a + d * SIZE<T>), v[d - i] = one_as<T>(b + d * SIZE<T>);
                for (int r = 0; r < R; r++) {
                    F w = load(q + r * ldq + i);  // rows of q are padded to whole vectors
                    x[r] += load(u) * w, y[r] += load(v) * w;
                }
            }
            for (int r = 0; r < R; r++) part[r][j] = x[r], part[r][j + 1] = y[r];
        }
        for (int r = 0; r < R; r++) store(s + r * KEYS + j0, totals(part[r]));
    }
}

template <Type T, int R, int V>
INLINE void few_values_of(const uint8_t *const *v, int64_t offset, int64_t n, const float *p, float *o, int64_t ldo) {
    F acc[R][V];
    for (int r = 0; r < R; r++)
        for (int i = 0; i < V; i++) acc[r][i] = load(o + r * ldo + i * W);
    for (int64_t j = 0; j < n; j++) {
        F x[V];
        __builtin_prefetch(v[KEYS + j] + offset * SIZE<T>);
        for (int i = 0; i < V; i++) x[i] = load_as<T>(v[j] + (offset + i * W) * SIZE<T>);
        for (int r = 0; r < R; r++) {
            F w = set1(p[r * KEYS + j]);
            for (int i = 0; i < V; i++) acc[r][i] += w * x[i];
        }
    }
    for (int r = 0; r < R; r++)
        for (int i = 0; i < V; i++) store(o + r * ldo + i * W, acc[r][i]);
}

// o[r] += sum over j of p[r][j] v[j]
template <Type T, int R>
INLINE void few_values(const uint8_t *const *v, int64_t n, const float *p, int64_t H, float *o, int64_t ldo) {
    int64_t i = 0;
    for (; i + 2 * W <= H; i += 2 * W) few_values_of<T, R, 2>(v, i, n, p, o + i, ldo);
    for (; i + W <= H; i += W) few_values_of<T, R, 1>(v, i, n, p, o + i, ldo);
    for (; i < H; i++)
        for (int r = 0; r < R; r++)
            for (int64_t j = 0; j < n; j++) o[r * ldo + i] += p[r * KEYS + j] * one_as<T>(v[j] + i * SIZE<T>);
}

constexpr int64_t FEW_QUERIES = 16;  // rows of a task up to which this pays against turning the keys

template <Type T, int R>
INLINE void few_rows_of(bool scores, const uint8_t *const *at, int64_t n, int64_t rows, int64_t H, const float *q,
                        float *s, float *o, int64_t ld) {
    if constexpr (R > 0) {
        if (rows != R) return few_rows_of<T, R - 1>(scores, at, n, rows, H, q, s, o, ld);
        if (scores) few_scores<T, R>(at, n, q, ld, H, s);
        else few_values<T, R>(at, n, s, H, o, ld);
    }
}

// All rows in groups of at most five.
template <Type T>
static void few_queries(bool scores, const uint8_t *const *at, int64_t n, int64_t rows, int64_t H, const float *q,
                        float *s, float *o, int64_t ld) {
    for (int64_t r = 0; r < rows; r += 5)
        few_rows_of<T, 5>(scores, at, n, rows - r < 5 ? rows - r : 5, H, q + r * ld, s + r * KEYS, o + r * ld, ld);
}
