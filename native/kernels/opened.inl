// Formats that are opened before they are computed with. A piece of a strip becomes a strip of Type::opened in the
// first-level cache, 128 + v in a byte and a float scale for every 16 inputs, and the products run over that: nine ways to
// write a weight, most by the index of a codebook (herd.formats.codebooks), need one kernel, and none is dear.

template <Type T>
constexpr bool OPENED = T >= Type::tq1_0 && T < Type::opened;

INLINE void put_codes(uint8_t *to, int unit, int p, Codes c) { store_bytes(to + 4 * STRIP * unit + 4 * W * p, c); }
INLINE void put_scale(uint8_t *to, int group, int p, F s) {
    store((float *)(to + STRIP * (256 + 4 * group) + 4 * W * p), s);
}
INLINE U pairs_at(const uint8_t *strip_block, int offset, int i, int p) {
    return load_u16(strip_block + STRIP * (offset + 2 * i) + 2 * W * p);
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

// The nibbles of one half of each word to its four bytes, with others above them.
INLINE U nibbles_of(U entry, bool upper) {
    constexpr uint32_t all = 0xffffffffu;
    return (U)(upper ? joined(entry >> 16, entry >> 4, 0xffff, all) : joined(entry, entry << 12, 0xffff, all));
}

// Bit 4i + b of each word in byte b, as BIT or 0.
template <uint8_t BIT>
INLINE U bit_of(U word, int i) {
#if defined(HERD_AVX512)
    static const uint32_t spread[16] = {0x0,       0x1,       0x100,     0x101,     0x10000,   0x10001,   0x10100,   0x10101,
                                        0x1000000, 0x1000001, 0x1000100, 0x1000101, 0x1010000, 0x1010001, 0x1010100, 0x1010101};
    const __m512i table = _mm512_mullo_epi32(_mm512_loadu_si512(spread), _mm512_set1_epi32(BIT));
    return (U)_mm512_permutexvar_epi32((__m512i)(word >> (4 * i)), table);
#else
    return (U)((Codes)(bits_of(word, i) != 0) & BIT);
#endif
}

// 128 + v or 128 - v, by a level and a bit for the sign.
alignas(16) const uint8_t IQ2_FIRST[16] = {136, 153, 171, 0, 0, 0, 0, 0, 120, 103, 85, 0, 0, 0, 0, 0};    // sign: 8
alignas(16) const uint8_t IQ2_SECOND[16] = {136, 120, 0, 0, 153, 103, 0, 0, 171, 85, 0, 0, 0, 0, 0, 0};  // sign: 1
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

template <Type T>
constexpr bool OF_FOUR = T == Type::iq3_xxs || T == Type::iq3_s;
template <Type T>
constexpr bool HAS_SIGNS = T == Type::iq2_xxs || T == Type::iq2_xs || T == Type::iq2_s || OF_FOUR<T>;

template <Type T>
    requires HAS_SIGNS<T>
INLINE void codes(const uint8_t *b, int g, int p, Codes c[8]) {
    constexpr int words = OF_FOUR<T> ? 4 : 2;
    constexpr int count = T == Type::iq2_s ? 1024 : T == Type::iq2_xs || T == Type::iq3_s ? 512 : 256;
    const uint16_t *book = CODEBOOKS + (T == Type::iq2_xxs   ? BOOK_IQ2_XXS
                                        : T == Type::iq2_xs  ? BOOK_IQ2_XS
                                        : T == Type::iq2_s   ? BOOK_IQ2_S
                                        : T == Type::iq3_xxs ? BOOK_IQ3_XXS
                                                             : BOOK_IQ3_S);
    U index[words];
    indices<T>(b, g, p, index);
    for (int i = 0; i < words; i++) index[i] = entries<count>(book, index[i]);
    const U negative = signs_of<T>(b, g, p);
    for (int j = 0; j < 2 * words; j++) {
        const U n = T == Type::iq2_xs ? nibbles_of(index[j / 2], j % 2) : nibbles_of(index[j / 4 * 2 + j % 2], j % 4 / 2);
        if constexpr (OF_FOUR<T>) {
            c[j] = look_up(T == Type::iq3_s ? IQ3_S : IQ3_XXS, (Codes)((n & 0x07070707u) | bit_of<8>(negative, j)));
        } else {
            c[2 * j] = look_up(IQ2_FIRST, (Codes)((n & 0x03030303u) | bit_of<8>(negative, 2 * j)));
            c[2 * j + 1] = look_up(IQ2_SECOND, (Codes)((n & 0x0c0c0c0cu) | bit_of<1>(negative, 2 * j + 1)));
        }
    }
}

// -- eight weights of -1, 0, 1 ------------------------------------------------------------------------------------

// The bytes 0 .. 3 and 4 .. 7 of an entry of eight for each of W outputs; its index in every other of `at`.
INLINE void entries_of_eight(const uint64_t *book, const uint16_t *at, Codes &low, Codes &high) {
#if defined(HERD_AVX512)
    __m512i half[2];
    for (int h = 0; h < 2; h++, at += 16) {
        __m128d two[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            two[i] = _mm_loadh_pd(_mm_load_sd((const double *)(book + at[4 * i])), (const double *)(book + at[4 * i + 2]));
        const __m256d first = _mm256_insertf128_pd(_mm256_castpd128_pd256(two[0]), two[1], 1);
        const __m256d second = _mm256_insertf128_pd(_mm256_castpd128_pd256(two[2]), two[3], 1);
        half[h] = _mm512_castpd_si512(_mm512_insertf64x4(_mm512_castpd256_pd512(first), second, 1));
    }
    const I even = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
    low = (Codes)_mm512_permutex2var_epi32(half[0], (__m512i)even, half[1]);
    high = (Codes)_mm512_permutex2var_epi32(half[0], (__m512i)(even + 1), half[1]);
#else
    uint32_t words[2][W];
    for (int r = 0; r < W; r++) words[0][r] = (uint32_t)book[at[2 * r]], words[1][r] = (uint32_t)(book[at[2 * r]] >> 32);
    memcpy(&low, words[0], sizeof low), memcpy(&high, words[1], sizeof high);
#endif
}

// Index j's shift by an eighth, in the bytes of a word: 1 or, where its bit is set, -1.
template <Type T>
INLINE Codes shift_of(const uint8_t *b, int g, int p, int j) {
    const U bit = T == Type::iq1_s ? pairs_at(b, 34, g, p) >> 15 : pairs_at(b, 32, g, p) >> (4 * j + 3) & 1;
    return (Codes)((U{} - bit) | 0x01010101u);
}

// All indices first: read one by one as soon as they are stored, they would be waited for.
template <Type T>
INLINE void open_iq1(const uint8_t *b, int p, uint8_t *to) {
    U index[8][2];
    for (int g = 0; g < 8; g++) indices<T>(b, g, p, index[g]);
    uint16_t at[8][2][2 * W];
    memcpy(at, index, sizeof at);
#pragma GCC unroll 1
    for (int g = 0; g < 8; g++)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            Codes low, high;
            entries_of_eight(IQ1_EIGHTS, at[g][j % 2] + j / 2, low, high);
            const Codes shift = shift_of<T>(b, g, p, j);
            put_codes(to, 8 * g + 2 * j, p, low + shift), put_codes(to, 8 * g + 2 * j + 1, p, high + shift);
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

// -- scales, strips -----------------------------------------------------------------------------------------------

// d (2 s + 1) / 8: entries of iq1 are kept eight times as large, with their shift.
INLINE F eighths(F d, U s) { return d * (to_floats((I)(s << 1 | 1)) * 0.125f); }
// d (0.5 + s) * by
INLINE F halves(F d, U s, float by) { return d * ((to_floats((I)s) + 0.5f) * by); }

// As of a format with scales for 16 inputs: s[16].
template <Type T>
    requires OPENED<T>
INLINE void scales(const uint8_t *b, int p, F *s) {
    if constexpr (T == Type::iq1_m) {
        U d{};
        for (int i = 0; i < 4; i++) d = d | pairs_at(b, 48, i, p) >> 12 << (4 * i);
        for (int g = 0; g < 16; g++) s[g] = eighths(half_bits(d), pairs_at(b, 48, g / 4, p) >> (3 * (g % 4)) & 7);
    } else {
        const F d = halves_at(b, T == Type::tq1_0 ? 52 : T == Type::tq2_0 ? 64 : 0, p);
        for (int g = 0; g < 8; g++) {
            F &one = s[2 * g], &other = s[2 * g + 1];
            one = d;
            if constexpr (T == Type::iq1_s) one = eighths(d, pairs_at(b, 34, g, p) >> 12 & 7);
            if constexpr (T == Type::iq2_xxs) one = halves(d, (U)words_at(b, 2, 2 * g + 1, p) >> 28, 0.25f);
            if constexpr (T == Type::iq3_xxs) one = halves(d, (U)words_at(b, 66, g, p) >> 28, 0.5f);
            if constexpr (T == Type::iq3_s)
                one = halves(d, load_u8(bytes_at(b, 106, g / 2, p)) >> (4 * (g % 2)) & 15, 2.0f);
            other = one;
            if constexpr (T == Type::iq2_xs || T == Type::iq2_s) {
                const U two = load_u8(bytes_at(b, T == Type::iq2_xs ? 66 : 74, g, p));
                one = halves(d, two & 15, 0.25f), other = halves(d, two >> 4, 0.25f);
            }
        }
    }
}

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
            else if constexpr (T == Type::iq1_s || T == Type::iq1_m) open_iq1<T>(strip, p, to);
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
