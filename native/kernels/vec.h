// One vector type for every instruction set, from the compiler's vector extension: F holds W floats.
// Included inside an unnamed namespace of one isa_*.cpp.

#if defined(HERD_AVX512)
constexpr int W = 16;
#elif defined(HERD_AVX2)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float F __attribute__((vector_size(4 * W)));
typedef int32_t I __attribute__((vector_size(4 * W)));
typedef uint32_t U __attribute__((vector_size(4 * W)));
typedef uint16_t U16 __attribute__((vector_size(2 * W)));
typedef float FLoose __attribute__((vector_size(4 * W), aligned(1), may_alias));
typedef uint16_t U16Loose __attribute__((vector_size(2 * W), aligned(1), may_alias));

typedef uint8_t Codes __attribute__((vector_size(4 * W)));  // W outputs, four inputs each
typedef uint8_t CodesLoose __attribute__((vector_size(4 * W), aligned(1), may_alias));
typedef uint8_t B1Loose __attribute__((vector_size(W), aligned(1), may_alias));
typedef int8_t S1Loose __attribute__((vector_size(W), aligned(1), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE F load(const float *p) { return *(const FLoose *)p; }
INLINE void store(float *p, F v) { *(FLoose *)p = v; }
INLINE F set1(float x) { return x - F{}; }
INLINE I set1i(int32_t x) { return x - I{}; }
INLINE F pick(I mask, F a, F b) { return (F)((mask & (I)a) | (~mask & (I)b)); }
// a > b ? a : b, lane by lane: b where one is no number.
INLINE F largest(F a, F b) {
#if defined(HERD_AVX512)
    return (F)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(HERD_AVX2)
    return (F)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return a > b ? a : b;
#endif
}
INLINE F absolute(F a) { return (F)((I)a & set1i(0x7fffffff)); }

INLINE Codes load_bytes(const uint8_t *p) { return *(const CodesLoose *)p; }
INLINE void store_bytes(uint8_t *p, Codes v) { *(CodesLoose *)p = v; }
// W bytes or half words, widened. Said in intrinsics: compilers take them apart one by one.
INLINE U load_u8(const uint8_t *p) {
#if defined(HERD_AVX512)
    return (U)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
#elif defined(HERD_AVX2)
    return (U)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
#else
    return __builtin_convertvector(*(const B1Loose *)p, U);
#endif
}
INLINE I load_s8(const uint8_t *p) {
#if defined(HERD_AVX512)
    return (I)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p));
#elif defined(HERD_AVX2)
    return (I)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p));
#else
    return __builtin_convertvector(*(const S1Loose *)p, I);
#endif
}
INLINE U load_u16(const uint8_t *p) {
#if defined(HERD_AVX512)
    return (U)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
#elif defined(HERD_AVX2)
    return (U)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
#else
    return __builtin_convertvector(*(const U16Loose *)p, U);
#endif
}
INLINE F to_floats(I x) { return __builtin_convertvector(x, F); }

// a * b + c in one rounding where the processor has it: said outright, so that every path rounds alike.
INLINE F fused(F a, F b, F c) {
#if defined(HERD_AVX512)
    return (F)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(HERD_AVX2)
    return (F)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (F)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

// acc + the dot products of four codes with four activations, output by output.
// AVX2 adds pairs in 16 bits: codes up to 63 times 127, twice, fit; wider ones take `dot4_wide`.
INLINE I dot4(I acc, Codes codes, int32_t four) {
#if defined(HERD_AVX512)
    return (I)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)codes, _mm512_set1_epi32(four));
#elif defined(HERD_AVXVNNI)
    return (I)_mm256_dpbusd_avx_epi32((__m256i)acc, (__m256i)codes, _mm256_set1_epi32(four));
#elif defined(HERD_AVX2)
    __m256i pairs = _mm256_maddubs_epi16((__m256i)codes, _mm256_set1_epi32(four));
    return acc + (I)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#elif defined(HERD_NEON)
    return (I)vdotq_s32((int32x4_t)acc, (int8x16_t)codes, vreinterpretq_s8_s32(vdupq_n_s32(four)));
#else
    int8_t a[4];
    memcpy(a, &four, 4);
    U x = (U)codes;
    return acc + (I)(x & 255) * a[0] + (I)(x >> 8 & 255) * a[1] + (I)(x >> 16 & 255) * a[2] + (I)(x >> 24) * a[3];
#endif
}

// As dot4 for codes of 8 bits with zero point 128: whether that is taken off here or by the caller says WIDE_ZERO.
#if defined(HERD_AVX512) || defined(HERD_AVXVNNI)
constexpr int WIDE_ZERO = 128;
#else
constexpr int WIDE_ZERO = 0;
#endif

INLINE I dot4_wide(I acc, Codes codes, int32_t four) {
#if defined(HERD_AVX512) || defined(HERD_AVXVNNI)
    return dot4(acc, codes, four);
#elif defined(HERD_AVX2)
    // |w| and a with the sign of w: |-128| is 128 unsigned, and two products of at most 128 * 127 fit 16 bits.
    __m256i w = (__m256i)(codes ^ 0x80), a = _mm256_sign_epi8(_mm256_set1_epi32(four), w);
    __m256i pairs = _mm256_maddubs_epi16(_mm256_sign_epi8(w, w), a);
    return acc + (I)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#elif defined(HERD_NEON)
    return dot4(acc, codes ^ 0x80, four);
#else
    int8_t a[4];
    memcpy(a, &four, 4);
    I x = (I)(codes ^ 0x80);
    return acc + (x << 24 >> 24) * a[0] + (x << 16 >> 24) * a[1] + (x << 8 >> 24) * a[2] + (x >> 24) * a[3];
#endif
}

// acc + the dot products of two 16-bit numbers with two others, output by output.
INLINE I dot2(I acc, I pairs, int32_t two) {
#if defined(HERD_AVX512)
    return (I)_mm512_dpwssd_epi32((__m512i)acc, (__m512i)pairs, _mm512_set1_epi32(two));
#elif defined(HERD_AVX2)
    return acc + (I)_mm256_madd_epi16((__m256i)pairs, _mm256_set1_epi32(two));
#else
    return acc + (pairs << 16 >> 16) * (int32_t)(int16_t)two + (pairs >> 16) * (two >> 16);
#endif
}

// table[code] of sixteen entries, codes below 16.
INLINE Codes look_up(const uint8_t *table, Codes codes) {
#if defined(HERD_AVX512)
    __m512i t = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)table));
    return (Codes)_mm512_shuffle_epi8(t, (__m512i)codes);
#elif defined(HERD_AVX2)
    __m256i t = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)table));
    return (Codes)_mm256_shuffle_epi8(t, (__m256i)codes);
#elif defined(HERD_NEON)
    return (Codes)vqtbl1q_u8(vld1q_u8(table), (uint8x16_t)codes);
#else
    Codes found;
    for (int i = 0; i < 4 * W; i++) found[i] = table[codes[i]];
    return found;
#endif
}

// Byte `b` of each word to all four of its bytes.
INLINE Codes spread_byte(U word, int b) {
#if defined(HERD_AVX512)
    return (Codes)_mm512_shuffle_epi8((__m512i)word, _mm512_add_epi8(_mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0),
                                                                     _mm512_set1_epi8((char)b)));
#elif defined(HERD_AVX2)
    return (Codes)_mm256_shuffle_epi8((__m256i)word, _mm256_add_epi8(_mm256_set_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0,
                                                                                      0x0c0c0c0c, 0x08080808, 0x04040404, 0),
                                                                     _mm256_set1_epi8((char)b)));
#else
    U x = word >> (8 * b) & 255;
    x = x | x << 8;
    return (Codes)(x | x << 16);
#endif
}

// Lanes N to 2 N - 1 in the first N places; N: a power of two below W.
template <int N>
INLINE F lower(F v) {
#if defined(HERD_AVX512)
    if constexpr (N >= 4) return (F)_mm512_shuffle_f32x4((__m512)v, (__m512)v, N == 8 ? 0x0e : 0x01);
    else return (F)_mm512_permute_ps((__m512)v, N == 2 ? 0x0e : 0x01);
#elif defined(HERD_AVX2)
    if constexpr (N == 4) return (F)_mm256_permute2f128_ps((__m256)v, (__m256)v, 0x01);
    else return (F)_mm256_permute_ps((__m256)v, N == 2 ? 0x0e : 0x01);
#else
    return __builtin_shuffle(v, N == 2 ? (I){2, 3, 2, 3} : (I){1, 1, 1, 1});
#endif
}

// A fixed tree, so that the result does not depend on how the compiler reduces.
template <int N = W / 2>
INLINE float total(F v) {
    if constexpr (N == 0) return v[0];
    else return total<N / 2>(v + lower<N>(v));
}

template <int N = W / 2>
INLINE float peak(F v) {
    if constexpr (N == 0) return v[0];
    else return peak<N / 2>(largest(v, lower<N>(v)));
}

// IEEE half to float by bits: a scaled copy of exponent and mantissa, subnormals included; infinities and NaN apart.
INLINE F half_bits(U h) {
    U sign = (h & 0x8000) << 16, rest = (h & 0x7fff) << 13;
    F value = (F)rest * 0x1p112f;
    U special = (U)((I)(h & 0x7c00) == set1i(0x7c00));
    U bits = ((U)value & ~special) | ((rest | 0x7f800000u) & special);
    return (F)(bits | sign);
}

INLINE F load_half(const uint8_t *p) {
#if defined(HERD_AVX512)
    return (F)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
#elif defined(HERD_AVX2)
    return (F)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
#elif defined(__aarch64__)
    uint16_t h[4];
    memcpy(h, p, 8);
    return (F)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(h)));
#else
    return half_bits(__builtin_convertvector(*(const U16Loose *)p, U));
#endif
}

INLINE F load_bf16(const uint8_t *p) { return (F)(__builtin_convertvector(*(const U16Loose *)p, U) << 16); }

INLINE float half_to_float(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, 2);
#if defined(HERD_AVX512) || defined(HERD_AVX2)
    return _cvtsh_ss(h);
#else
    uint32_t rest = (uint32_t)(h & 0x7fff) << 13, bits;
    float value;
    memcpy(&value, &rest, 4);
    value *= 0x1p112f;
    memcpy(&bits, &value, 4);
    if ((h & 0x7c00) == 0x7c00) bits = rest | 0x7f800000u;
    bits |= (uint32_t)(h & 0x8000) << 16;
    memcpy(&value, &bits, 4);
    return value;
#endif
}

INLINE float bf16_to_float(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, 2);
    uint32_t bits = (uint32_t)h << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

// Round to nearest even. Values past 65504 + half a step become infinity, as hardware does.
INLINE uint16_t float_to_half(float x) {
    uint32_t b;
    memcpy(&b, &x, 4);
    uint32_t sign = b >> 16 & 0x8000, a = b & 0x7fffffff;
    if (a > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (a >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
    if (a < 0x38800000) {  // subnormal: let a float addition do the rounding
        float f;
        memcpy(&f, &a, 4);
        f += 0.5f;
        memcpy(&a, &f, 4);
        return (uint16_t)(sign | (a - 0x3f000000));
    }
    return (uint16_t)(sign | ((a + 0xfff + (a >> 13 & 1) - 0x38000000) >> 13));
}

INLINE uint16_t float_to_bf16(float x) {
    uint32_t b;
    memcpy(&b, &x, 4);
    if ((b & 0x7fffffff) > 0x7f800000) return (uint16_t)(b >> 16 | 0x40);
    return (uint16_t)((b + 0x7fff + (b >> 16 & 1)) >> 16);
}

// e^x to about 1.5 units in the last place: x = n ln 2 + r, |r| <= ln 2 / 2, Taylor to r^7 (remainder 5e-9 relative).
// Below -87.3 the result is 0, above 88.7 it is clamped near the largest float.
INLINE F exponential(F x) {
    I low = x < set1(-87.3f);
    x = x > set1(88.3f) ? set1(88.3f) : x;
    x = pick(low, set1(-87.3f), x);
    const F magic = set1(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    F n = x * 1.44269504f + magic;
    I power = ((I)n - (I)magic + 127) << 23;
    n = n - magic;
    F r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    F p = set1(1.0f / 5040);
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    p = p * (F)power;
    return pick(low, F{}, p);
}

// The last n < W values of a row, the rest of the vector zero.
INLINE F load_part(const float *p, int64_t n) {
    float part[W] = {};
    for (int64_t i = 0; i < n; i++) part[i] = p[i];
    return load(part);
}

INLINE void store_part(float *p, F v, int64_t n) {
    float part[W];
    store(part, v);
    for (int64_t i = 0; i < n; i++) p[i] = part[i];
}

// Transposes a square of W vectors in log2(W) rounds of interleaving halves.
INLINE void transpose(F v[W]) {
#if defined(HERD_AVX512)
    const I low = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
    const I high = {8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
#elif defined(HERD_AVX2)
    const I low = {0, 8, 1, 9, 2, 10, 3, 11}, high = {4, 12, 5, 13, 6, 14, 7, 15};
#else
    const I low = {0, 4, 1, 5}, high = {2, 6, 3, 7};
#endif
    F u[W];
#pragma GCC unroll 4
    for (int n = 1; n < W; n *= 2) {
#pragma GCC unroll 16
        for (int i = 0; i < W / 2; i++) {
            u[2 * i] = __builtin_shuffle(v[i], v[i + W / 2], low);
            u[2 * i + 1] = __builtin_shuffle(v[i], v[i + W / 2], high);
        }
#pragma GCC unroll 16
        for (int i = 0; i < W; i++) v[i] = u[i];
    }
}
