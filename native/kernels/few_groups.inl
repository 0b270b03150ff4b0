// Packed weights times few quantised rows, AVX2 and NEON: along each weight row, one group of 32 inputs after another.
// Only the unpacking of a group differs between formats. Symmetric formats take their zero point off the codes, which
// then fit signed bytes; the others add m times the sum of the activations.

#if defined(HERD_AVX2)
typedef __m256i Codes;  // 32 bytes in the order of the inputs

INLINE Codes load_codes(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
INLINE Codes minus(Codes a, int zero) { return _mm256_sub_epi8(a, _mm256_set1_epi8((char)zero)); }
INLINE Codes low_nibbles(Codes a) { return _mm256_and_si256(a, _mm256_set1_epi8(15)); }
INLINE Codes high_nibbles(Codes a) { return low_nibbles(_mm256_srli_epi16(a, 4)); }
// 16 bytes whose low nibbles are the first inputs, whose high nibbles the last
INLINE Codes nibbles(const uint8_t *p) {
    __m128i z = _mm_loadu_si128((const __m128i *)p);
    return low_nibbles(_mm256_inserti128_si256(_mm256_castsi128_si256(z), _mm_srli_epi16(z, 4), 1));
}
template <int SHIFT>
INLINE Codes with_top(Codes low, Codes h) {  // two more bits, at SHIFT of h
    __m256i mask = _mm256_set1_epi8(0x30);
    __m256i top = SHIFT < 4 ? _mm256_slli_epi16(h, 4 - SHIFT) : _mm256_srli_epi16(h, SHIFT - 4);
    return _mm256_or_si256(low, _mm256_and_si256(top, mask));
}
// vpmaddubsw wants one side unsigned: |w| and a with the sign of w. |-128| is 128 unsigned, and two products of at most
// 128 * 127 fit 16 bits, so nothing saturates.
INLINE I dot_signed(Codes w, Codes a) {
    return (I)_mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_sign_epi8(w, w), _mm256_sign_epi8(a, w)),
                                _mm256_set1_epi16(1));
}
INLINE I dot_unsigned(Codes w, Codes a) {
    return (I)_mm256_madd_epi16(_mm256_maddubs_epi16(w, a), _mm256_set1_epi16(1));
}
INLINE F dot_halves(Codes w, Codes a, float s0, float s1) {
    return __builtin_convertvector(dot_signed(w, a), F) * (F)_mm256_set_m128(_mm_set1_ps(s1), _mm_set1_ps(s0));
}
#else
struct Codes {
    int8x16_t first, last;
};

INLINE Codes load_codes(const void *p) { return {vld1q_s8((const int8_t *)p), vld1q_s8((const int8_t *)p + 16)}; }
INLINE Codes minus(Codes a, int zero) {
    int8x16_t z = vdupq_n_s8((int8_t)zero);
    return {vsubq_s8(a.first, z), vsubq_s8(a.last, z)};
}
INLINE int8x16_t low_of(int8x16_t a) { return vandq_s8(a, vdupq_n_s8(15)); }
INLINE int8x16_t high_of(int8x16_t a) { return vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(a), 4)); }
INLINE Codes low_nibbles(Codes a) { return {low_of(a.first), low_of(a.last)}; }
INLINE Codes high_nibbles(Codes a) { return {high_of(a.first), high_of(a.last)}; }
INLINE Codes nibbles(const uint8_t *p) {
    int8x16_t z = vld1q_s8((const int8_t *)p);
    return {low_of(z), high_of(z)};
}
template <int SHIFT>
INLINE int8x16_t top_of(int8x16_t low, int8x16_t h) {
    uint8x16_t u = vreinterpretq_u8_s8(h);
    u = vshlq_u8(u, vdupq_n_s8(4 - SHIFT));
    return vorrq_s8(low, vreinterpretq_s8_u8(vandq_u8(u, vdupq_n_u8(0x30))));
}
template <int SHIFT>
INLINE Codes with_top(Codes low, Codes h) {
    return {top_of<SHIFT>(low.first, h.first), top_of<SHIFT>(low.last, h.last)};
}
INLINE I dot_signed(Codes w, Codes a) {
    return (I)vdotq_s32(vdotq_s32(vdupq_n_s32(0), w.first, a.first), w.last, a.last);
}
INLINE I dot_unsigned(Codes w, Codes a) { return dot_signed(w, a); }  // codes up to 15 are signed bytes as well
INLINE F dot_halves(Codes w, Codes a, float s0, float s1) {
    I x = (I)vdotq_s32(vdupq_n_s32(0), w.first, a.first), y = (I)vdotq_s32(vdupq_n_s32(0), w.last, a.last);
    return __builtin_convertvector(x, F) * s0 + __builtin_convertvector(y, F) * s1;
}
#endif

template <int M>
struct Sums {
    F acc[M];
    float low[M];
};

// Group g: codes w, scale s, minimum m.
template <bool MIN, int M>
INLINE void use_group(Sums<M> &sums, const Quantised &x, int64_t g, Codes w, float s, float m) {
    const int64_t G = x.Kp / 32;
    for (int r = 0; r < M; r++) {
        Codes a = load_codes(x.q + r * x.Kp + 32 * g);
        I dot = MIN ? dot_unsigned(w, a) : dot_signed(w, a);
        sums.acc[r] += __builtin_convertvector(dot, F) * (s * x.scale[r * G + g]);
        if (MIN) sums.low[r] += m * x.sum[r * G + g];
    }
}

template <int M>
INLINE void use_halves(Sums<M> &sums, const Quantised &x, int64_t g, Codes w, float s0, float s1) {
    const int64_t G = x.Kp / 32;
    for (int r = 0; r < M; r++) {
        float a = x.scale[r * G + g];
        sums.acc[r] += dot_halves(w, load_codes(x.q + r * x.Kp + 32 * g), s0 * a, s1 * a);
    }
}

constexpr int AHEAD = 1024;  // bytes ahead of the block in hand that are asked for

template <Type T, int M>
INLINE void few_row(const uint8_t *p, int64_t blocks, const Quantised &x, float *y, int64_t ldy) {
    Sums<M> sums = {};
    for (int64_t b = 0; b < blocks; b++) {
        __builtin_prefetch(p + AHEAD);
        if constexpr (T == Type::q4_0) {
            use_group<false, M>(sums, x, b, minus(nibbles(p + 2), 8), half_to_float(p), 0);
            p += 18;
        } else if constexpr (T == Type::q4_1) {
            use_group<true, M>(sums, x, b, nibbles(p + 4), half_to_float(p), half_to_float(p + 2));
            p += 20;
        } else if constexpr (T == Type::q8_0) {
            use_group<false, M>(sums, x, b, load_codes(p + 2), half_to_float(p), 0);
            p += 34;
        } else if constexpr (T == Type::q4_k) {
            __builtin_prefetch(p + AHEAD + 64);
            float d = half_to_float(p), least = -half_to_float(p + 2);
            uint8_t sc[8], mn[8];
            q4_k_scales(p + 4, sc, mn);
            for (int c = 0; c < 4; c++) {
                Codes z = load_codes(p + 16 + 32 * c);
                use_group<true, M>(sums, x, 8 * b + 2 * c, low_nibbles(z), d * sc[2 * c], least * mn[2 * c]);
                use_group<true, M>(sums, x, 8 * b + 2 * c + 1, high_nibbles(z), d * sc[2 * c + 1],
                                   least * mn[2 * c + 1]);
            }
            p += 144;
        } else {
            __builtin_prefetch(p + AHEAD + 64);
            float d = half_to_float(p + 208), s[16];
            for (int g = 0; g < 16; g++) s[g] = d * (int8_t)p[192 + g];
            for (int c = 0; c < 2; c++) {
                Codes l0 = load_codes(p + 64 * c), l1 = load_codes(p + 64 * c + 32), h = load_codes(p + 128 + 32 * c);
                const int64_t g = 8 * b + 4 * c;
                const float *t = s + 8 * c;
                use_halves<M>(sums, x, g, minus(with_top<0>(low_nibbles(l0), h), 32), t[0], t[1]);
                use_halves<M>(sums, x, g + 1, minus(with_top<2>(low_nibbles(l1), h), 32), t[2], t[3]);
                use_halves<M>(sums, x, g + 2, minus(with_top<4>(high_nibbles(l0), h), 32), t[4], t[5]);
                use_halves<M>(sums, x, g + 3, minus(with_top<6>(high_nibbles(l1), h), 32), t[6], t[7]);
            }
            p += 210;
        }
    }
    for (int r = 0; r < M; r++) y[r * ldy] = total(sums.acc[r]) + sums.low[r];
}

template <int M>
INLINE void few_one(Type type, const uint8_t *at, int64_t blocks, const Quantised &x, float *y, int64_t ldy) {
    switch (type) {
        case Type::q4_0: return few_row<Type::q4_0, M>(at, blocks, x, y, ldy);
        case Type::q4_1: return few_row<Type::q4_1, M>(at, blocks, x, y, ldy);
        case Type::q8_0: return few_row<Type::q8_0, M>(at, blocks, x, y, ldy);
        case Type::q4_k: return few_row<Type::q4_k, M>(at, blocks, x, y, ldy);
        default: return few_row<Type::q6_k, M>(at, blocks, x, y, ldy);
    }
}
