// Packed weights times few quantised rows, AVX-512 VNNI: along each weight row, straight from the file's blocks.
// Codes are unsigned, activations signed, as vpdpbusd wants; what a code's zero point adds is taken off once a row from
// the sums of the activations. M rows of activations share each unpacked weight.

// Bytes ahead of the block in hand that are asked for: the hardware's own prefetching stops at each page of memory.
constexpr int AHEAD = 2048;

INLINE __m512 spread(__m512i index, __m512 v) { return _mm512_permutexvar_ps(index, v); }
INLINE __m512i four_times(int a, int b, int c, int d) {
    return _mm512_setr_epi32(a, a, a, a, b, b, b, b, c, c, c, c, d, d, d, d);
}
INLINE __m512i eight_times(int a, int b) { return _mm512_setr_epi32(a, a, a, a, a, a, a, a, b, b, b, b, b, b, b, b); }
INLINE float total4(__m128 v) {
    v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    return _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)));
}
INLINE float total8(__m256 v) { return total4(_mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1))); }
INLINE float total16(__m512 v) {
    return total8(_mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1)));
}

INLINE __m512i four_blocks(const uint8_t *a, const uint8_t *b, const uint8_t *c, const uint8_t *d) {
    __m512i z = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)a));
    z = _mm512_inserti32x4(z, _mm_loadu_si128((const __m128i *)b), 1);
    z = _mm512_inserti32x4(z, _mm_loadu_si128((const __m128i *)c), 2);
    return _mm512_inserti32x4(z, _mm_loadu_si128((const __m128i *)d), 3);
}

INLINE __m128 four_halves(const uint8_t *a, const uint8_t *b, const uint8_t *c, const uint8_t *d) {
    uint16_t h[4];
    memcpy(h, a, 2), memcpy(h + 1, b, 2), memcpy(h + 2, c, 2), memcpy(h + 3, d, 2);
    return _mm_cvtph_ps(_mm_loadl_epi64((const __m128i *)h));
}

// q4_0, q4_1: four blocks at a time, activations in Layout::split.
template <bool MIN, int M>
INLINE void few_q4(const uint8_t *row, int64_t blocks, const Quantised &x, float *y, int64_t ldy) {
    constexpr int B = MIN ? 20 : 18, CODES = B - 16;
    const int64_t G = x.Kp / 32;
    const __m512i nibble = _mm512_set1_epi8(15), expand = four_times(0, 1, 2, 3);
    __m512 acc[M];
    __m128 low[M];
    for (int m = 0; m < M; m++) acc[m] = _mm512_setzero_ps(), low[m] = _mm_setzero_ps();
    for (int64_t b = 0; b < blocks; b += 4) {
        // Past the last block its own bytes stand in: the activations there are zero.
        int64_t left = blocks - b - 1;
        const uint8_t *p = row + b * B, *p1 = p + (left < 1 ? left : 1) * B, *p2 = p + (left < 2 ? left : 2) * B,
                      *p3 = p + (left < 3 ? left : 3) * B;
        _mm_prefetch((const char *)p + AHEAD, _MM_HINT_T0);
        __m512i z = four_blocks(p + CODES, p1 + CODES, p2 + CODES, p3 + CODES);
        __m512i lo = _mm512_and_si512(z, nibble), hi = _mm512_and_si512(_mm512_srli_epi16(z, 4), nibble);
        __m128 d = four_halves(p, p1, p2, p3);
        __m128 least = MIN ? four_halves(p + 2, p1 + 2, p2 + 2, p3 + 2) : d;
        for (int m = 0; m < M; m++) {
            const int8_t *q = x.q + m * x.Kp + 32 * b;
            __m512i dot = _mm512_dpbusd_epi32(_mm512_setzero_si512(), lo, _mm512_load_si512(q));
            dot = _mm512_dpbusd_epi32(dot, hi, _mm512_load_si512(q + 64));
            __m128 s = _mm_mul_ps(d, _mm_loadu_ps(x.scale + m * G + b));
            acc[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), spread(expand, _mm512_castps128_ps512(s)), acc[m]);
            low[m] = _mm_fmadd_ps(least, _mm_loadu_ps(x.sum + m * G + b), low[m]);
        }
    }
    for (int m = 0; m < M; m++) y[m * ldy] = total16(acc[m]) + (MIN ? total4(low[m]) : -8 * total4(low[m]));
}

template <int M>
INLINE void few_q8(const uint8_t *row, int64_t blocks, const Quantised &x, float *y, int64_t ldy) {
    const int64_t G = x.Kp / 32;
    const __m512i flip = _mm512_set1_epi8(-128), first = eight_times(0, 1), second = eight_times(2, 3);
    __m512 acc[M], acc2[M];
    __m128 low[M];
    for (int m = 0; m < M; m++) acc[m] = acc2[m] = _mm512_setzero_ps(), low[m] = _mm_setzero_ps();
    for (int64_t b = 0; b < blocks; b += 4) {
        int64_t left = blocks - b - 1;
        const uint8_t *p = row + b * 34, *p1 = p + (left < 1 ? left : 1) * 34, *p2 = p + (left < 2 ? left : 2) * 34,
                      *p3 = p + (left < 3 ? left : 3) * 34;
        _mm_prefetch((const char *)p + AHEAD, _MM_HINT_T0);
        _mm_prefetch((const char *)p + AHEAD + 64, _MM_HINT_T0);
        __m512i u = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(p + 2)));
        u = _mm512_xor_si512(_mm512_inserti64x4(u, _mm256_loadu_si256((const __m256i *)(p1 + 2)), 1), flip);
        __m512i v = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(p2 + 2)));
        v = _mm512_xor_si512(_mm512_inserti64x4(v, _mm256_loadu_si256((const __m256i *)(p3 + 2)), 1), flip);
        __m128 d = four_halves(p, p1, p2, p3);
        for (int m = 0; m < M; m++) {
            const int8_t *q = x.q + m * x.Kp + 32 * b;
            __m512i a = _mm512_dpbusd_epi32(_mm512_setzero_si512(), u, _mm512_load_si512(q));
            __m512i c = _mm512_dpbusd_epi32(_mm512_setzero_si512(), v, _mm512_load_si512(q + 64));
            __m512 s = _mm512_castps128_ps512(_mm_mul_ps(d, _mm_loadu_ps(x.scale + m * G + b)));
            acc[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(a), spread(first, s), acc[m]);
            acc2[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(c), spread(second, s), acc2[m]);
            low[m] = _mm_fmadd_ps(d, _mm_loadu_ps(x.sum + m * G + b), low[m]);
        }
    }
    for (int m = 0; m < M; m++) y[m * ldy] = total16(_mm512_add_ps(acc[m], acc2[m])) - 128 * total4(low[m]);
}

INLINE __m256 bytes_to_floats(uint64_t bytes) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)bytes)));
}

template <int M>
INLINE void few_q4_k(const uint8_t *row, int64_t blocks, const Quantised &x, float *y, int64_t ldy) {
    const int64_t G = x.Kp / 32;
    const __m512i nibble = _mm512_set1_epi8(15);
    const __m512i even[2] = {eight_times(0, 2), eight_times(4, 6)}, odd[2] = {eight_times(1, 3), eight_times(5, 7)};
    __m512 acc[M], acc2[M];
    __m256 low[M];
    for (int m = 0; m < M; m++) acc[m] = acc2[m] = _mm512_setzero_ps(), low[m] = _mm256_setzero_ps();
    for (int64_t b = 0; b < blocks; b++) {
        const uint8_t *p = row + b * 144;
        for (int i = 0; i < 192; i += 64) _mm_prefetch((const char *)p + AHEAD + i, _MM_HINT_T0);
        uint32_t a, c, e;
        memcpy(&a, p + 4, 4), memcpy(&c, p + 8, 4), memcpy(&e, p + 12, 4);
        uint64_t sc = (a & 0x3f3f3f3f) | (uint64_t)((e & 0x0f0f0f0f) | (a >> 2 & 0x30303030)) << 32;
        uint64_t mn = (c & 0x3f3f3f3f) | (uint64_t)((e >> 4 & 0x0f0f0f0f) | (c >> 2 & 0x30303030)) << 32;
        __m256 d = _mm256_mul_ps(bytes_to_floats(sc), _mm256_set1_ps(half_to_float(p)));
        __m256 least = _mm256_mul_ps(bytes_to_floats(mn), _mm256_set1_ps(half_to_float(p + 2)));
        __m512i lo[2], hi[2];
        for (int i = 0; i < 2; i++) {
            __m512i z = _mm512_loadu_si512(p + 16 + 64 * i);
            lo[i] = _mm512_and_si512(z, nibble), hi[i] = _mm512_and_si512(_mm512_srli_epi16(z, 4), nibble);
        }
        for (int m = 0; m < M; m++) {
            const int8_t *q = x.q + m * x.Kp + 256 * b;
            __m512 s = _mm512_castps256_ps512(_mm256_mul_ps(d, _mm256_loadu_ps(x.scale + m * G + 8 * b)));
            for (int i = 0; i < 2; i++) {
                __m512i u = _mm512_load_si512(q + 128 * i), v = _mm512_load_si512(q + 128 * i + 64);
                __m512i first = _mm512_shuffle_i64x2(u, v, 0x44), second = _mm512_shuffle_i64x2(u, v, 0xee);
                __m512i s1 = _mm512_dpbusd_epi32(_mm512_setzero_si512(), lo[i], first);
                __m512i s2 = _mm512_dpbusd_epi32(_mm512_setzero_si512(), hi[i], second);
                acc[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(s1), spread(even[i], s), acc[m]);
                acc2[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(s2), spread(odd[i], s), acc2[m]);
            }
            low[m] = _mm256_fmadd_ps(least, _mm256_loadu_ps(x.sum + m * G + 8 * b), low[m]);
        }
    }
    for (int m = 0; m < M; m++) y[m * ldy] = total16(_mm512_add_ps(acc[m], acc2[m])) - total8(low[m]);
}

template <int M>
INLINE void few_q6_k(const uint8_t *row, int64_t blocks, const Quantised &x, float *y, int64_t ldy) {
    const int64_t G = x.Kp / 32;
    const __m512i nibble = _mm512_set1_epi8(15), top = _mm512_set1_epi8(0x30);
    const __m512i pairs = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    const __m512i left = _mm512_inserti64x4(_mm512_set1_epi16(4), _mm256_set1_epi16(2), 1);
    const __m512i right = _mm512_inserti64x4(_mm512_set1_epi16(0), _mm256_set1_epi16(2), 1);
    __m512 acc[M], low[M];
    for (int m = 0; m < M; m++) acc[m] = low[m] = _mm512_setzero_ps();
    for (int64_t b = 0; b < blocks; b++) {
        const uint8_t *p = row + b * 210;
        for (int i = 0; i < 256; i += 64) _mm_prefetch((const char *)p + AHEAD + i, _MM_HINT_T0);
        __m512 d = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(p + 192))));
        d = _mm512_mul_ps(d, _mm512_set1_ps(half_to_float(p + 208)));
        __m512i u[4];
        for (int c = 0; c < 2; c++) {
            __m512i z = _mm512_loadu_si512(p + 64 * c);
            __m512i h = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(p + 128 + 32 * c)));
            u[2 * c] = _mm512_or_si512(_mm512_and_si512(z, nibble), _mm512_and_si512(_mm512_sllv_epi16(h, left), top));
            u[2 * c + 1] = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(z, 4), nibble),
                                           _mm512_and_si512(_mm512_srlv_epi16(h, right), top));
        }
        for (int m = 0; m < M; m++) {
            const int8_t *q = x.q + m * x.Kp + 256 * b;
            __m512 a = _mm512_castps256_ps512(_mm256_loadu_ps(x.scale + m * G + 8 * b));
            __m512 s = _mm512_mul_ps(d, spread(pairs, a));
            for (int i = 0; i < 4; i++) {
                __m512i dot = _mm512_dpbusd_epi32(_mm512_setzero_si512(), u[i], _mm512_load_si512(q + 64 * i));
                acc[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot),
                                         spread(four_times(4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3), s), acc[m]);
            }
            low[m] = _mm512_fmadd_ps(s, _mm512_cvtepi32_ps(_mm512_loadu_si512(x.half + 2 * (m * G + 8 * b))), low[m]);
        }
    }
    for (int m = 0; m < M; m++) y[m * ldy] = total16(acc[m]) - 32 * total16(low[m]);
}

template <int M>
INLINE void few_one(Type type, const uint8_t *at, int64_t blocks, const Quantised &x, float *y, int64_t ldy) {
    switch (type) {
        case Type::q4_0: return few_q4<false, M>(at, blocks, x, y, ldy);
        case Type::q4_1: return few_q4<true, M>(at, blocks, x, y, ldy);
        case Type::q8_0: return few_q8<M>(at, blocks, x, y, ldy);
        case Type::q4_k: return few_q4_k<M>(at, blocks, x, y, ldy);
        default: return few_q6_k<M>(at, blocks, x, y, ldy);
    }
}
