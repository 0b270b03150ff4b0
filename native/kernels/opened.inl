// Formats that are opened before they are computed with. A piece of a strip becomes a strip of Type::opened in the
// first-level cache, 128 + v in a byte and a float scale for every 16 inputs, and the products run over that: nine ways to
// write a weight, most by the index of a codebook (herd.formats.codebooks), need one kernel, and none is dear.

INLINE void put_codes(uint8_t *to, int unit, int p, Codes c) { store_bytes(to + 4 * STRIP * unit + 4 * W * p, c); }
INLINE void put_scale(uint8_t *to, int group, int p, F s) {
    store((float *)(to + STRIP * (256 + 4 * group) + 4 * W * p), s);
}

// -- codebooks ----------------------------------------------------------------------------------------------------

// Entries of a book of N by an index in each half of a word.
template <int N>
INLINE U entries(const uint16_t *book, U index) {
#if defined(HERD_AVX512)
    if constexpr (N == 64) {
        const __m512i low = _mm512_loadu_si512(book), high = _mm512_loadu_si512(book + 32);
        return (U)_mm512_permutex2var_epi16(low, (__m512i)index, high);
    } else {
        const __mmask32 upper = _mm512_test_epi16_mask((__m512i)index, _mm512_set1_epi16(N / 2));
        return (U)_mm512_mask_blend_epi16(upper, (__m512i)entries<N / 2>(book, index),
                                          (__m512i)entries<N / 2>(book + N / 2, index));
    }
#elif defined(HERD_AVX2)
    const __m256i low = _mm256_i32gather_epi32((const int *)book, (__m256i)(index & 0xffff), 2);
    const __m256i high = _mm256_i32gather_epi32((const int *)book, (__m256i)(index >> 16), 2);
    return ((U)low & 0xffff) | (U)high << 16;
#else
    uint16_t at[2 * W];
    memcpy(at, &index, sizeof at);
    for (int i = 0; i < 2 * W; i++) at[i] = book[at[i]];
    memcpy(&index, at, sizeof at);
    return index;
#endif
}

// The nibbles of one half of each word to its four bytes; others stand above them.
INLINE U nibbles_of(U entry, bool upper) {
    const U low = upper ? entry >> 16 : entry, high = upper ? entry >> 4 : entry << 12;
    return (low & 0xffffu) | (high & 0xffff0000u);
}

// Bit 4i + b of each word in byte b, as 8 or 0.
INLINE U sign_bit(U word, int i) {
#if defined(HERD_AVX512)
    const U spread = {0x0,       0x8,       0x800,     0x808,     0x80000,   0x80008,   0x80800,   0x80808,
                      0x8000000, 0x8000008, 0x8000800, 0x8000808, 0x8080000, 0x8080008, 0x8080800, 0x8080808};
    return (U)_mm512_permutexvar_epi32((__m512i)(word >> (4 * i)), (__m512i)spread);
#else
    return (U)((Codes)(bits_of(word, i) != 0) & 8);
#endif
}

// 128 + v, or 128 - v where the sign's bit, 8, stands beside the level.
alignas(16) const uint8_t IQ2[16] = {136, 153, 171, 0, 0, 0, 0, 0, 120, 103, 85, 0, 0, 0, 0, 0};
alignas(16) const uint8_t IQ3_XXS[16] = {132, 140, 148, 156, 164, 172, 180, 190, 124, 116, 108, 100, 92, 84, 76, 66};
alignas(16) const uint8_t IQ3_S[16] = {129, 131, 133, 135, 137, 139, 141, 143, 127, 125, 123, 121, 119, 117, 115, 113};

// Seven signs in each byte, and the eighth that makes the number of negative ones even.
INLINE U with_eighth(U x) {
    U odd = x ^ (x >> 4);
    odd = odd ^ (odd >> 2);
    odd = odd ^ (odd >> 1);
    return x | (odd & 0x01010101u) << 7;
}
INLINE U of_sevens(U s) {
    return with_eighth((s & 0x7fu) | (s << 1 & 0x7f00u) | (s << 2 & 0x7f0000u) | (s << 3 & 0x7f000000u));
}

// Indices of four bytes, and what stands above their eight bits: 0 and 2 in the halves of a word, then 1 and 3.
INLINE void four_indices(Codes z, U tops, U more, U *index) {
    index[0] = ((U)z & 0x00ff00ffu) | tops, index[1] = ((U)z >> 8 & 0x00ff00ffu) | more;
}

// Group g of 32 inputs: the indices of a codebook, two in each of index[2] (eight weights) or index[4] (four).
template <Type T>
INLINE void indices(const uint8_t *b, int g, int p, U *index) {
    if constexpr (T == Type::iq1_s) {
        const U h = pairs_at(b, 34, g, p);
        four_indices(words_at(b, 2, g, p), (h << 8 & 0x700u) | (h << 18 & 0x07000000u),
                     (h << 5 & 0x700u) | (h << 15 & 0x07000000u), index);
    } else if constexpr (T == Type::iq1_m) {
        const U h = pairs_at(b, 32, g, p);
        four_indices(words_at(b, 0, g, p), (h << 8 & 0x700u) | (h << 16 & 0x07000000u),
                     (h << 4 & 0x700u) | (h << 12 & 0x07000000u), index);
    } else if constexpr (T == Type::iq2_xxs) {
        four_indices(words_at(b, 2, 2 * g, p), U{}, U{}, index);
    } else if constexpr (T == Type::iq2_xs) {  // as they stand: 0 and 1, then 2 and 3
        for (int i = 0; i < 2; i++) index[i] = (U)words_at(b, 2, 2 * g + i, p) & 0x01ff01ffu;
    } else if constexpr (T == Type::iq2_s) {
        const U h = load_u8(bytes_at(b, 66, g, p));
        four_indices(words_at(b, 2, g, p), (h << 8 & 0x300u) | (h << 20 & 0x03000000u),
                     (h << 6 & 0x300u) | (h << 18 & 0x03000000u), index);
    } else if constexpr (T == Type::iq3_xxs) {
        for (int i = 0; i < 2; i++) four_indices(words_at(b, 2, 2 * g + i, p), U{}, U{}, index + 2 * i);
    } else {  // iq3_s
        const U h = load_u8(bytes_at(b, 66, g, p));
        for (int i = 0; i < 2; i++)
            four_indices(words_at(b, 2, 2 * g + i, p), (h << (8 - 4 * i) & 0x100u) | (h << (22 - 4 * i) & 0x01000000u),
                         (h << (7 - 4 * i) & 0x100u) | (h << (21 - 4 * i) & 0x01000000u), index + 2 * i);
    }
}

// Signs of the group's 32 weights.
template <Type T>
INLINE U signs_of(const uint8_t *b, int g, int p) {
    if constexpr (T == Type::iq2_xxs) return of_sevens((U)words_at(b, 2, 2 * g + 1, p));
    else if constexpr (T == Type::iq3_xxs) return of_sevens((U)words_at(b, 66, g, p));
    else if constexpr (T == Type::iq2_s) return (U)words_at(b, 34, g, p);
    else if constexpr (T == Type::iq3_s) return (U)words_at(b, 74, g, p);
    else {  // iq2_xs
        const U first = (U)words_at(b, 2, 2 * g, p), second = (U)words_at(b, 2, 2 * g + 1, p);
        return with_eighth((first >> 9 & 0x7fu) | (first >> 17 & 0x7f00u) | (second << 7 & 0x7f0000u) |
                           (second >> 1 & 0x7f000000u));
    }
}

// The codes of group g of 32 inputs, of entries of four weights.
template <Type T>
    requires OF_FOUR<T>
INLINE void codes(const uint8_t *b, int g, int p, Codes c[8]) {
    constexpr bool s = T == Type::iq3_s;
    U index[4];
    indices<T>(b, g, p, index);
    for (int i = 0; i < 4; i++) index[i] = entries<s ? 512 : 256>(CODEBOOKS + (s ? BOOK_IQ3_S : BOOK_IQ3_XXS), index[i]);
    const U negative = signs_of<T>(b, g, p);
    for (int j = 0; j < 8; j++) {
        const U level = nibbles_of(index[j / 4 * 2 + j % 2], j % 4 / 2) & 0x0f0f0f0fu;
        c[j] = look_up(s ? IQ3_S : IQ3_XXS, (Codes)(level | sign_bit(negative, j)));
    }
}

// -- entries of eight weights -------------------------------------------------------------------------------------

#if defined(HERD_AVX512) || defined(HERD_AVX2)
// Entries of two outputs side by side, and of four.
INLINE __m128d two_entries(const uint64_t *book, const uint16_t *at) {
    return _mm_loadh_pd(_mm_load_sd((const double *)(book + at[0])), (const double *)(book + at[2]));
}
INLINE __m256d four_entries(const uint64_t *book, const uint16_t *first, const uint16_t *second) {
    return _mm256_insertf128_pd(_mm256_castpd128_pd256(two_entries(book, first)), two_entries(book, second), 1);
}
#endif

// The bytes 0 .. 3 and 4 .. 7 of an entry of eight for each of W outputs; its index in every other of `at`.
INLINE void entries_of_eight(const uint64_t *book, const uint16_t *at, Codes &low, Codes &high) {
#if defined(HERD_AVX512)
    __m512i half[2];
    for (int h = 0; h < 2; h++, at += 16) {
        const __m256d first = four_entries(book, at, at + 4), second = four_entries(book, at + 8, at + 12);
        half[h] = _mm512_castpd_si512(_mm512_insertf64x4(_mm512_castpd256_pd512(first), second, 1));
    }
    const I even = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
    low = (Codes)_mm512_permutex2var_epi32(half[0], (__m512i)even, half[1]);
    high = (Codes)_mm512_permutex2var_epi32(half[0], (__m512i)(even + 1), half[1]);
#elif defined(HERD_AVX2)
    const __m256 first = (__m256)four_entries(book, at, at + 8), second = (__m256)four_entries(book, at + 4, at + 12);
    low = (Codes)_mm256_shuffle_ps(first, second, 0x88), high = (Codes)_mm256_shuffle_ps(first, second, 0xdd);
#else
    uint32_t words[2][W];
    for (int r = 0; r < W; r++) words[0][r] = (uint32_t)book[at[2 * r]], words[1][r] = (uint32_t)(book[at[2 * r]] >> 32);
    memcpy(&low, words[0], sizeof low), memcpy(&high, words[1], sizeof high);
#endif
}

// 120, and index j's shift by an eighth in every byte: 121 or, where its bit is set, 119.
template <Type T>
INLINE Codes shift_of(const uint8_t *b, int g, int p, int j) {
    const U bit = T == Type::iq1_s ? pairs_at(b, 34, g, p) >> 15 : pairs_at(b, 32, g, p) >> (4 * j + 3) & 1;
    return (Codes)((U{} - bit) | 0x01010101u) + 120;
}

// All indices first: read one by one as soon as they are stored, they would be waited for.
template <Type T>
INLINE void open_eights(const uint8_t *b, int p, uint8_t *to) {
    constexpr bool iq1 = T == Type::iq1_s || T == Type::iq1_m;
    constexpr int book = iq1                     ? BOOK_IQ1
                         : T == Type::iq2_xxs ? BOOK_IQ2_XXS
                         : T == Type::iq2_xs  ? BOOK_IQ2_XS
                                              : BOOK_IQ2_S;
    constexpr bool in_pairs = T == Type::iq2_xs;  // indices 0 and 1 in a word, not 0 and 2
    U index[8][2];
    for (int g = 0; g < 8; g++) indices<T>(b, g, p, index[g]);
    uint16_t at[8][2][2 * W];
    memcpy(at, index, sizeof at);
#pragma GCC unroll 1
    for (int g = 0; g < 8; g++) {
        U negative{};
        if constexpr (!iq1) negative = signs_of<T>(b, g, p);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            Codes c[2];
            entries_of_eight(EIGHTS + book, in_pairs ? at[g][j / 2] + j % 2 : at[g][j % 2] + j / 2, c[0], c[1]);
            for (int h = 0; h < 2; h++) {
                if constexpr (iq1) c[h] = c[h] + shift_of<T>(b, g, p, j);
                else c[h] = look_up(IQ2, (Codes)((U)c[h] | sign_bit(negative, 2 * j + h)));
                put_codes(to, 8 * g + 2 * j + h, p, c[h]);
            }
        }
    }
}

// -- three values -------------------------------------------------------------------------------------------------

// The first `count` digits in base 3 of the fractions z / 256, every `step` units.
INLINE void open_digits(Codes z, int count, int unit, int step, int p, uint8_t *to) {
    for (int n = 0; n < count; n++, z = z + z + z)
        put_codes(to, unit + step * n, p, Codes{} + 127 - (Codes)(z > 85) - (Codes)(z > 170));
}

INLINE void open_tq1_0(const uint8_t *b, int p, uint8_t *to) {
    for (int i = 0; i < 8; i++) open_digits(words_at(b, 0, i, p), 5, i, 8, p, to);
    for (int i = 0; i < 4; i++) open_digits(words_at(b, 0, 8 + i, p), 5, 40 + i, 4, p, to);
    open_digits(words_at(b, 0, 12, p), 4, 60, 1, p, to);
}

INLINE void open_tq2_0(const uint8_t *b, int p, uint8_t *to) {
    for (int i = 0; i < 16; i++) {
        const Codes z = words_at(b, 0, i, p);
        for (int n = 0; n < 4; n++) put_codes(to, i / 8 * 32 + 8 * n + i % 8, p, (z >> (2 * n) & 3) + 127);
    }
}

// -- strips ------------------------------------------------------------------------------------------------------

template <Type T>
static void open_as(const uint8_t *strip, int64_t blocks, uint8_t *to) {
    for (int64_t n = 0; n < blocks; n++, strip += Form<T>::strip_block, to += Form<Type::opened>::strip_block) {
        ask_ahead<T>(strip);
#pragma GCC unroll 1
        for (int p = 0; p < PARTS; p++) {
            F s[16];
            scales<T>(strip, p, s);
            for (int g = 0; g < 16; g++) put_scale(to, g, p, s[g]);
            if constexpr (T == Type::tq1_0) open_tq1_0(strip, p, to);
            else if constexpr (T == Type::tq2_0) open_tq2_0(strip, p, to);
            else if constexpr (!OF_FOUR<T>) open_eights<T>(strip, p, to);
            else
#pragma GCC unroll 1
                for (int g = 0; g < 8; g++) {
                    Codes c[8];
                    codes<T>(strip, g, p, c);
                    for (int i = 0; i < 8; i++) put_codes(to, 8 * g + i, p, c[i]);
                }
        }
    }
}

// body(T) for a format that is opened.
#define HERD_EACH_OPENED(type, body)                     \
    switch (type) {                                      \
        case Type::tq1_0: body(Type::tq1_0); break;      \
        case Type::tq2_0: body(Type::tq2_0); break;      \
        case Type::iq1_s: body(Type::iq1_s); break;      \
        case Type::iq1_m: body(Type::iq1_m); break;      \
        case Type::iq2_xxs: body(Type::iq2_xxs); break;  \
        case Type::iq2_xs: body(Type::iq2_xs); break;    \
        case Type::iq2_s: body(Type::iq2_s); break;      \
        case Type::iq3_xxs: body(Type::iq3_xxs); break;  \
        default: body(Type::iq3_s);                      \
    }

static void open_strip(Type type, const uint8_t *strip, int64_t blocks, uint8_t *to) {
#define HERD_OPEN(T) open_as<T>(strip, blocks, to)
    HERD_EACH_OPENED(type, HERD_OPEN)
#undef HERD_OPEN
}

static void pack(Type type, const uint8_t *const *rows, int64_t blocks, uint8_t *strip) {
#define HERD_PACK(T) pack_as<T>(rows, blocks, strip)
    HERD_EACH_FORMAT(type, HERD_PACK, HERD_EACH_OPENED(type, HERD_PACK))
#undef HERD_PACK
}
