// Keys and values as int8 with a scale per slot (kv.h). Queries and probabilities become whole numbers of 14 bits in two
// digits, so that both products are exact integers: nothing but the cache's own rounding is lost, and an instruction
// takes four dims or four keys at once.

INLINE I load_lanes(const uint8_t *p) {
    typedef int32_t Loose __attribute__((vector_size(4 * W), aligned(1), may_alias));
    return *(const Loose *)p;
}

INLINE I same_bytes(const uint8_t *p) {
    int32_t four;
    memcpy(&four, p, 4);
    return set1i(four);
}

// acc + the sum of four products of bytes: u from 0 to 127, s signed.
INLINE I dot_unsigned(I acc, I u, I s) {
#if defined(HERD_AVX512)
    return (I)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)u, (__m512i)s);
#elif defined(HERD_AVX2)
    __m256i pairs = _mm256_maddubs_epi16((__m256i)u, (__m256i)s);
    return acc + (I)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#elif defined(HERD_NEON)
    return (I)vdotq_s32((int32x4_t)acc, (int8x16_t)u, (int8x16_t)s);
#else
    for (int i = 24; i >= 0; i -= 8) acc += ((I)((U)u << i) >> 24) * ((I)((U)s << i) >> 24);
    return acc;
#endif
}

// The same of signed bytes. AVX-512 multiplies unsigned ones: 128 is added to each key, and taken off at the end.
#if defined(HERD_AVX512)
constexpr uint32_t KEY_BIAS = 128;
INLINE I ready_key(I k) { return k ^ set1i((int32_t)0x80808080); }
#else
constexpr uint32_t KEY_BIAS = 0;
INLINE I ready_key(I k) { return k; }
#endif
INLINE I dot_key(I acc, I k, I q) {
#if defined(HERD_AVX2)
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8((__m256i)k), _mm256_sign_epi8((__m256i)q, (__m256i)k));
    return acc + (I)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#else
    return dot_unsigned(acc, k, q);
#endif
}

INLINE F to_float(I x) { return __builtin_convertvector(x, F); }

// 1.5 * 2^23. Added to |x| < 2^22 it rounds to the nearest integer, whose low 22 bits are those of the sum.
constexpr float ROUNDING = 12582912.0f;
// Any other x gives any integer: the scale beside it is then NaN (or 0).
INLINE I nearest(F x) { return (I)((U)(x + ROUNDING) - (U)set1(ROUNDING)); }

// The lowest byte of each lane.
INLINE void put_bytes(uint8_t *p, I x) {
#if defined(HERD_AVX512)
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8((__m512i)x));
#else
    typedef uint8_t B __attribute__((vector_size(W)));
    B b = __builtin_convertvector((U)x & 0xff, B);
    memcpy(p, &b, W);
#endif
}

INLINE int32_t total_of(I x) {
    uint32_t sum = 0;
    for (int i = 0; i < W; i++) sum += (uint32_t)x[i];
    return (int32_t)sum;
}

// What is below rounds to 0: WHOLE over it might be infinite.
constexpr float LEAST = 1e-30f;

// n values (whole vectors) as whole numbers up to WHOLE in two signed digits, 128 * high + low; returns their scale.
// sum: of the whole numbers.
INLINE float whole_digits(const float *x, int64_t n, uint8_t *high, uint8_t *low, int32_t &sum) {
    F most{}, all{};
    for (int64_t i = 0; i < n; i += W) most = largest(most, absolute(load(x + i))), all += load(x + i) * 0.0f;
    const float top = peak(most);
    const float by = top > LEAST ? (float)WHOLE / top : 0.0f;
    U count{};
    for (int64_t i = 0; i < n; i += W) {
        I v = nearest(load(x + i) * by), h = (I)((U)v + 64) >> 7;
        count += (U)v;
        put_bytes(high + i, h);
        put_bytes(low + i, v - (I)((U)h << 7));
    }
    sum = total_of((I)count);
    return top / (float)WHOLE + total(all);  // NaN when a value is none
}

// Probabilities p[0, n) times a factor each, as whole numbers in two digits; `scale_at(j)` gives the factors of a vector
// of keys. Returns what their products are to be multiplied with.
template <class S>
INLINE float fold_row(const float *p, int64_t n, S scale_at, uint8_t *high, uint8_t *low) {
    F most{}, all{};
    for (int64_t j = 0; j < n; j += W) {
        F x = load(p + j) * scale_at(j);
        most = largest(most, x);
        all += x * 0.0f;
    }
    const float top = peak(most);
    const float by = top > LEAST ? (float)WHOLE / top : 0.0f;
    for (int64_t j = 0; j < n; j += W) {
        I v = (I)fused(load(p + j) * scale_at(j), set1(by), set1(ROUNDING));  // its low 14 bits are the number
        put_bytes(high + j, v >> 7);
        put_bytes(low + j, v & set1i(127));
    }
    return top / (float)WHOLE + total(all);
}

struct Int8 {
    static constexpr bool COARSE = false;
    using Probability = float;
    static constexpr int64_t KEYS = 512;
    static constexpr int64_t VALUE_BLOCKS = MOST_KEYS / BLOCK;  // all at once
#if defined(HERD_AVX512)
    static constexpr int SCORE_BLOCKS = 2, VALUE_VECTORS = 2;
#else
    static constexpr int SCORE_BLOCKS = 1, VALUE_VECTORS = 1;
#endif
    static void open(const Attend &a, int64_t key0, int64_t n, int64_t last, Blocks &b, uint8_t *spare) {
        open_blocks<4, 1>(a, key0, n, last, b, spare);
    }
    // Digits [2][width], then scale and sum.
    static __attribute__((noinline)) void prepare(const float *q, int64_t H, uint8_t *made) {
        const int64_t width = round_up(H, 16);
        int32_t sum;
        float scale = whole_digits(q, width, made, made + width, sum);
        memcpy(made + 4 * width, &scale, 4);
        memcpy(made + 4 * width + 4, &sum, 4);
    }

    template <int R, int B>
    INLINE void scores(const Tile &t, int64_t block) {
        constexpr int V = B * BLOCK / W;
        I high[R][V] = {}, low[R][V] = {};
        const int64_t steps = (t.H + 3) / 4;
        for (int64_t i = 0; i < steps; i++) {
            for (int b = 0; b < B; b++) __builtin_prefetch(t.at->k[block + b + AHEAD] + 64 * i);
            I k[V];
            for (int v = 0; v < V; v++)
                k[v] = ready_key(load_lanes(t.at->k[block + v * W / BLOCK] + (i * BLOCK + v * W % BLOCK) * 4));
            for (int r = 0; r < R; r++) {
                I a = same_bytes(t.made(r) + 4 * i), b = same_bytes(t.made(r) + t.width + 4 * i);
                for (int v = 0; v < V; v++) high[r][v] = dot_key(high[r][v], k[v], a);
                for (int v = 0; v < V; v++) low[r][v] = dot_key(low[r][v], k[v], b);
            }
        }
        for (int r = 0; r < R; r++) {
            float scale;
            uint32_t sum;
            memcpy(&scale, t.made(r) + 4 * t.width, 4);
            memcpy(&sum, t.made(r) + 4 * t.width + 4, 4);
            for (int v = 0; v < V; v++) {
                const uint8_t *scales = t.at->k[block + v * W / BLOCK] + 4 * (steps * BLOCK + v * W % BLOCK);
                I dot = (I)(((U)high[r][v] << 7) + (U)low[r][v] - KEY_BIAS * sum);
                store(t.s + r * SCORE_STRIDE + block * BLOCK + v * W,
                      to_float(dot) * scale * load((const float *)(const void *)scales));
            }
        }
    }

    static __attribute__((noinline)) void fold_one(const Tile &t, int64_t r) {
        auto scale_at = [&](int64_t j) __attribute__((always_inline)) {
            const uint8_t *v = t.at->v[j / BLOCK] + BLOCK * t.width + j % BLOCK * 4;
            return load((const float *)(const void *)v);
        };
        t.of_digits(r, 0)[0] =
            fold_row(t.s + r * SCORE_STRIDE, t.blocks * BLOCK, scale_at, t.digit(r, 0, 0), t.digit(r, 0, 1));
    }
    template <int R>
    INLINE void fold(const Tile &t) {
        for (int r = 0; r < R; r++) fold_one(t, r);
    }

    template <int R, int V>
    INLINE void values(const Tile &t, int64_t column, int64_t, int64_t) {
        I high[R][V] = {}, low[R][V] = {};
        for (int64_t block = 0; block < t.blocks; block++) {
            const uint8_t *at = t.at->v[block] + 4 * column, *next = t.at->v[block + AHEAD] + 4 * column;
            for (int64_t j = 0; j < BLOCK; j += 4) {
                I x[V];
                for (int v = 0; v < V; v++) x[v] = load_lanes(at + j * t.width + 4 * v * W);
                for (int v = 0; v < V; v++) __builtin_prefetch(next + j * t.width + 4 * v * W);
                for (int r = 0; r < R; r++) {
                    I a = same_bytes(t.digit(r, 0, 0) + block * BLOCK + j);
                    I b = same_bytes(t.digit(r, 0, 1) + block * BLOCK + j);
                    for (int v = 0; v < V; v++) high[r][v] = dot_unsigned(high[r][v], a, x[v]);
                    for (int v = 0; v < V; v++) low[r][v] = dot_unsigned(low[r][v], b, x[v]);
                }
            }
        }
        for (int r = 0; r < R; r++)
            for (int v = 0; v < V; v++)
                store(t.o + r * t.width + column + v * W,
                      to_float((I)(((U)high[r][v] << 7) + (U)low[r][v])) * t.of_digits(r, 0)[0]);
    }
};
