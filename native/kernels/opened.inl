// Formats that are opened before they are computed with. A piece of a strip becomes a strip of Type::opened in the
// first-level cache, 128 + v in a byte and a float scale for every 16 inputs, and the products run over that: nine ways to
// write a weight, most by the index of a codebook (herd.formats.codebooks), need one kernel, and none is dear.

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

// The nibbles of one half of each word to its four bytes.
INLINE Codes nibbles_of(U entry, bool upper) {
    return upper ? joined(entry >> 16, entry >> 4, 0xffff, 0x0f0f0f0fu) : joined(entry, entry << 12, 0xffff, 0x0f0f0f0fu);
}

// 128 + level, by a nibble of one level or two.
alignas(16) const uint8_t IQ1_FIRST[16] = {120, 128, 136, 0, 120, 128, 136, 0, 120, 128, 136, 0, 120, 128, 136, 0};
alignas(16) const uint8_t IQ1_SECOND[16] = {120, 120, 120, 120, 128, 128, 128, 128, 136, 136, 136, 136, 0, 0, 0, 0};
alignas(16) const uint8_t IQ2_FIRST[16] = {136, 153, 171, 0, 136, 153, 171, 0, 136, 153, 171, 0, 136, 153, 171, 0};
alignas(16) const uint8_t IQ2_SECOND[16] = {136, 136, 136, 136, 153, 153, 153, 153, 171, 171, 171, 171, 0, 0, 0, 0};
alignas(16) const uint8_t IQ3_XXS[16] = {132, 140, 148, 156, 164, 172, 180, 190, 0, 0, 0, 0, 0, 0, 0, 0};
alignas(16) const uint8_t IQ3_S[16] = {129, 131, 133, 135, 137, 139, 141, 143, 0, 0, 0, 0, 0, 0, 0, 0};

// Codes of 128 + v to those of 128 - v where the sign's bit is set: bit 4i + b of the word for byte b of vector i.
INLINE Codes with_signs(Codes u, U negative, int i) {
    const Codes x = bits_of(negative, i);
#if defined(HERD_AVX512)
    const __mmask64 at = _mm512_test_epi8_mask((__m512i)x, (__m512i)x);
    return (Codes)_mm512_mask_sub_epi8((__m512i)u, at, _mm512_setzero_si512(), (__m512i)u);
#else
    const Codes all = (Codes)(x != 0);
    return (u ^ all) - all;
#endif
}

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

// Index j's shift by an eighth, in the bytes of a word: 1 or, where its bit is set, -1.
template <Type T>
INLINE Codes shift_of(const uint8_t *b, int g, int p, int j) {
    const U bit = T == Type::iq1_s ? pairs_at(b, 34, g, p) >> 15 : pairs_at(b, 32, g, p) >> (4 * j + 3) & 1;
    return (Codes)((U{} - bit) | 0x01010101u);
}

template <Type T>
INLINE void open_group(const uint8_t *b, int g, int p, uint8_t *to) {
    constexpr bool iq1 = T == Type::iq1_s || T == Type::iq1_m, four = T == Type::iq3_xxs || T == Type::iq3_s;
    constexpr int count = iq1 ? 2048 : T == Type::iq2_s ? 1024 : T == Type::iq2_xs || T == Type::iq3_s ? 512 : 256;
    const uint16_t *book = CODEBOOKS + (iq1                     ? BOOK_IQ1
                                        : T == Type::iq2_xxs ? BOOK_IQ2_XXS
                                        : T == Type::iq2_xs  ? BOOK_IQ2_XS
                                        : T == Type::iq2_s   ? BOOK_IQ2_S
                                        : T == Type::iq3_xxs ? BOOK_IQ3_XXS
                                                             : BOOK_IQ3_S);
    U index[four ? 4 : 2], negative{};
    indices<T>(b, g, p, index);
    for (int i = 0; i < (four ? 4 : 2); i++) index[i] = entries<count>(book, index[i]);
    if constexpr (!iq1) negative = signs_of<T>(b, g, p);
    for (int j = 0; j < (four ? 8 : 4); j++) {
        const int word = T == Type::iq2_xs ? j / 2 : j / 4 * 2 + j % 2, half = T == Type::iq2_xs ? j % 2 : j % 4 / 2;
        const Codes n = nibbles_of(index[word], half != 0);
        if constexpr (four) {
            put_codes(to, 8 * g + j, p, with_signs(look_up(T == Type::iq3_s ? IQ3_S : IQ3_XXS, n), negative, j));
        } else if constexpr (iq1) {
            const Codes shift = shift_of<T>(b, g, p, j);
            put_codes(to, 8 * g + 2 * j, p, look_up(IQ1_FIRST, n) + shift);
            put_codes(to, 8 * g + 2 * j + 1, p, look_up(IQ1_SECOND, n) + shift);
        } else {
            put_codes(to, 8 * g + 2 * j, p, with_signs(look_up(IQ2_FIRST, n), negative, 2 * j));
            put_codes(to, 8 * g + 2 * j + 1, p, with_signs(look_up(IQ2_SECOND, n), negative, 2 * j + 1));
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

// -- scales, strips -----------------------------------------------------------------------------------------------

// d (2 s + 1) / 8: entries of iq1 are kept eight times as large, with their shift.
INLINE F eighths(F d, U s) { return d * (to_floats((I)(s << 1 | 1)) * 0.125f); }
// d (0.5 + s) * by
INLINE F halves(F d, U s, float by) { return d * ((to_floats((I)s) + 0.5f) * by); }

template <Type T>
INLINE void open_scales(const uint8_t *b, int p, uint8_t *to) {
    if constexpr (T == Type::iq1_m) {
        U d{};
        for (int i = 0; i < 4; i++) d = d | pairs_at(b, 48, i, p) >> 12 << (4 * i);
        for (int g = 0; g < 16; g++)
            put_scale(to, g, p, eighths(half_bits(d), pairs_at(b, 48, g / 4, p) >> (3 * (g % 4)) & 7));
    } else {
        const F d = halves_at(b, T == Type::tq1_0 ? 52 : T == Type::tq2_0 ? 64 : 0, p);
        for (int g = 0; g < 8; g++) {
            F s = d, t;
            if constexpr (T == Type::iq1_s) s = eighths(d, pairs_at(b, 34, g, p) >> 12 & 7);
            if constexpr (T == Type::iq2_xxs) s = halves(d, (U)words_at(b, 2, 2 * g + 1, p) >> 28, 0.25f);
            if constexpr (T == Type::iq3_xxs) s = halves(d, (U)words_at(b, 66, g, p) >> 28, 0.5f);
            if constexpr (T == Type::iq3_s)
                s = halves(d, load_u8(bytes_at(b, 106, g / 2, p)) >> (4 * (g % 2)) & 15, 2.0f);
            t = s;
            if constexpr (T == Type::iq2_xs || T == Type::iq2_s) {
                const U two = load_u8(bytes_at(b, T == Type::iq2_xs ? 66 : 74, g, p));
                s = halves(d, two & 15, 0.25f), t = halves(d, two >> 4, 0.25f);
            }
            put_scale(to, 2 * g, p, s), put_scale(to, 2 * g + 1, p, t);
        }
    }
}

template <Type T>
static void open_as(const uint8_t *strip, int64_t blocks, uint8_t *to) {
    for (int64_t n = 0; n < blocks; n++, strip += Form<T>::strip_block, to += Form<Type::opened>::strip_block)
#pragma GCC unroll 1
        for (int p = 0; p < PARTS; p++) {
            open_scales<T>(strip, p, to);
            if constexpr (T == Type::tq1_0) open_tq1_0(strip, p, to);
            else if constexpr (T == Type::tq2_0) open_tq2_0(strip, p, to);
            else
#pragma GCC unroll 1
                for (int g = 0; g < 8; g++) open_group<T>(strip, g, p, to);
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
