// Softmax over a range of keys and the joining of ranges (Milakov and Gimelshein 2018; Dao et al. 2022). Scores come in
// powers of two: log2(e) / sqrt(H) is in the queries.

constexpr float MINUS_INFINITY = -__builtin_inff();

// 2^x for x <= 0 (NaN stays), relative error 1e-7: x = n + r with |r| <= 1/2, and the polynomial of least relative
// error with p(0) = 1.
INLINE F power_of_two(F x) {
#if defined(HERD_AVX512)
    x = (F)_mm512_max_ps(_mm512_set1_ps(-200.0f), (__m512)x);  // of a NaN and a number the second is taken
    F n = (F)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    I low = x < set1(-126.0f);
    x = pick(low, set1(-126.0f), x);
    const F magic = set1(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    F n = x + magic;
    F power = (F)(((I)n - (I)magic + 127) << 23);
    n = n - magic;
#endif
    F r = x - n;
    F p = set1(0.0013264726972867992f);
    p = p * r + 0.009671512755001442f;
    p = p * r + 0.05550733743859062f;
    p = p * r + 0.240222420828624f;
    p = p * r + 0.693146977599008f;
    p = p * r + 1.0f;
#if defined(HERD_AVX512)
    return (F)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
    return pick(low, F{}, p * power);
#endif
}

// Where probabilities go to. n is a multiple of BLOCK.
INLINE void put_probabilities(float *p, F v) { store(p, v); }
#if defined(HERD_BF16)
INLINE void put_probabilities(uint16_t *p, F v) {
    _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh((__m512)v));
}
#endif

// One row: scores s[0, n), of which the first `seen` count, to p = 2^(s - m), m and their sum l. s and p may be one.
template <class P>
INLINE void soften(float *s, int64_t seen, int64_t n, P *p, float *state) {
    for (int64_t j = seen; j < n; j++) s[j] = MINUS_INFINITY;
    F top = load(s);
    for (int64_t j = W; j < n; j += W) top = largest(top, load(s + j));
    float m = peak(top);
    F sum{};
    for (int64_t j = 0; j < n; j += W) {
        F e = power_of_two(load(s + j) - m);
        sum += e;
        put_probabilities(p + j, e);
    }
    state[0] = m, state[1] = total(sum);
}

// state = (m, l) and o of some keys, joined with those of later keys: both to the power of the larger maximum. n: whole vectors.
static __attribute__((noinline)) void merge(float *state, float *o, const float *part, const float *part_o, int64_t n) {
    float top = part[0] > state[0] ? part[0] : state[0];
    float a = power_of_two(set1(state[0] - top))[0], b = power_of_two(set1(part[0] - top))[0];
    state[1] = state[1] * a + part[1] * b;
    state[0] = top;
    for (int64_t i = 0; i < n; i += W) store(o + i, load(o + i) * a + load(part_o + i) * b);
}
