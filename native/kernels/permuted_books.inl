// Looking up entries of codebooks by permuting bytes (AVX-512 VBMI). The levels of half an entry are a byte of a table (HALVES):
// 64 indices, four of each of sixteen outputs, find their bytes among 128 in one instruction.

typedef __m512i Z;

INLINE Z load_z(const uint8_t *p) { return _mm512_loadu_si512(p); }
INLINE Z set_z(uint32_t x) { return _mm512_set1_epi32((int)x); }
// Where the mask's bits are set, a; else b.
INLINE Z choose(uint32_t mask, Z a, Z b) { return _mm512_ternarylogic_epi32(set_z(mask), a, b, 0xca); }
// Eight bits of each double word of x from each of eight places on: those of the lower word, the upper's 32 further.
INLINE Z shifted(Z x, uint32_t places) {
    return _mm512_multishift_epi64_epi8(_mm512_set1_epi64((int64_t)((uint64_t)(places + 0x20202020u) << 32 | places)), x);
}

// What indices have above their seven low bits: bit 7, and the bits from 8 on where each byte of `from` has one of `bits`.
struct Top {
    __mmask64 seventh;
    Z from;
    uint32_t bits[3];
};
INLINE __mmask64 bit_of(const Top &top, int i) { return _mm512_test_epi8_mask(top.from, set_z(top.bits[i])); }

// Those whose bits 7 and 8 are q; of a book of 256, whose bit 7 is.
template <int N>
INLINE __mmask64 quarter(const Top &top, __mmask64 eighth, int q) {
    if constexpr (N == 256) return q ? top.seventh : _knot_mask64(top.seventh);
    else if (q == 0) return _knot_mask64(_kor_mask64(top.seventh, eighth));
    else if (q == 3) return _kand_mask64(top.seventh, eighth);
    else return q == 1 ? _kandn_mask64(eighth, top.seventh) : _kandn_mask64(top.seventh, eighth);
}

// Bytes of a table of N by two vectors of indices at once, so that the table is loaded once. Within 512 entries an index gives
// way to what it finds in its own quarter, and nothing is to be blended.
template <int N>
INLINE void found_in(const uint8_t *table, const Z index[2], const Top top[2], Z &first, Z &second) {
    constexpr int M = N < 512 ? 1 : N / 512, Q = N < 512 ? N / 128 : 4;
    __mmask64 eighth[2]{};
    Z of[M][2];
    for (int i = 0; i < 2; i++) {
        if constexpr (N > 256) eighth[i] = bit_of(top[i], 0);
        for (int m = 0; m < M; m++) of[m][i] = index[i];
    }
    for (int q = 0; q < Q; q++) {
        const __mmask64 own[2] = {quarter<N>(top[0], eighth[0], q), quarter<N>(top[1], eighth[1], q)};
        for (int m = 0; m < M; m++) {
            const Z low = load_z(table + 512 * m + 128 * q), high = load_z(table + 512 * m + 128 * q + 64);
            for (int i = 0; i < 2; i++) of[m][i] = _mm512_mask2_permutex2var_epi8(low, of[m][i], own[i], high);
        }
    }
    for (int i = 0; i < 2; i++) {
        if constexpr (M == 4) {
            const __mmask64 tenth = bit_of(top[i], 2);
            for (int m = 0; m < 2; m++) of[m][i] = _mm512_mask_blend_epi8(tenth, of[m][i], of[2 + m][i]);
        }
        if constexpr (M > 1) of[0][i] = _mm512_mask_blend_epi8(bit_of(top[i], 1), of[0][i], of[1][i]);
    }
    first = of[0][0], second = of[0][1];
}

// The byte of each of sixteen outputs, four times.
INLINE Z four_times(const uint8_t *p) {
    const Z to = _mm512_set_epi32(0x0f0f0f0f, 0x0e0e0e0e, 0x0d0d0d0d, 0x0c0c0c0c, 0x0b0b0b0b, 0x0a0a0a0a, 0x09090909, 0x08080808,
                                  0x07070707, 0x06060606, 0x05050505, 0x04040404, 0x03030303, 0x02020202, 0x01010101, 0);
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)p)), to);
}

// -- formats ------------------------------------------------------------------------------------------------------

// Seven bits of each byte from bit `first` on, and the eighth that makes their number even.
INLINE Z even_signs(Z x, int first) {
    uint64_t matrix = 0;  // row 7 - i: the bits that make bit i
    for (int i = 0; i < 7; i++) matrix |= (uint64_t)(1 << (i + first)) << (8 * (7 - i));
    matrix |= (uint64_t)(0x7f << first);
    return _mm512_gf2p8affine_epi64_epi8(x, _mm512_set1_epi64((int64_t)matrix), 0);
}

// The lower or the upper bytes of iq2_xs's four codes of 16 bits.
INLINE Z every_other(const uint8_t *b, int g, int upper) {
    const Z even = _mm512_set_epi64(0x7e7c3e3c7a783a38, 0x7674363472703230, 0x6e6c2e2c6a682a28, 0x6664262462602220,
                                    0x5e5c1e1c5a581a18, 0x5654161452501210, 0x4e4c0e0c4a480a08, 0x4644060442400200);
    return _mm512_permutex2var_epi8(load_z(b + STRIP * (2 + 8 * g)), _mm512_or_si512(even, set_z(upper ? 0x01010101 : 0)),
                                    load_z(b + STRIP * (6 + 8 * g)));
}

// Groups of 32 inputs that two vectors of indices are for.
template <Type T>
constexpr int GROUPS = OF_FOUR<T> ? 1 : 2;

// What the two vectors of indices from group g on find: half[i] the halves (HALVES) of vector i's entries. Entries of eight
// weights have a vector for each group, those of four one for each half of a group.
template <Type T>
INLINE void halves_of(const uint8_t *b, int g, Z half[2][2]) {
    constexpr bool s = T == Type::iq3_s;
    constexpr int N = T == Type::iq3_xxs || T == Type::iq2_xxs ? 256 : T == Type::iq2_s ? 1024 : 512;
    constexpr int book = T == Type::iq2_xxs   ? BOOK_IQ2_XXS
                         : T == Type::iq2_xs  ? BOOK_IQ2_XS
                         : T == Type::iq2_s   ? BOOK_IQ2_S
                         : T == Type::iq3_xxs ? BOOK_IQ3_XXS
                                              : BOOK_IQ3_S;
    Z index[2];
    Top top[2];
    for (int i = 0; i < 2; i++) {
        if constexpr (T == Type::iq2_xs) index[i] = every_other(b, g + i, 0);
        else index[i] = load_z(b + STRIP * (2 + 4 * (OF_FOUR<T> ? 2 * g + i : T == Type::iq2_s ? g + i : 2 * (g + i))));
        top[i] = {_mm512_movepi8_mask(index[i]), Z{}, {}};
        if constexpr (T == Type::iq2_xs) top[i].from = every_other(b, g + i, 1), top[i].bits[0] = 0x01010101;
        if constexpr (T == Type::iq2_s)
            top[i].from = four_times(b + STRIP * (66 + g + i)), top[i].bits[0] = 0x40100401, top[i].bits[1] = 0x80200802;
        if constexpr (s) top[i].from = four_times(b + STRIP * (66 + g)), top[i].bits[0] = i ? 0x80402010 : 0x08040201;
    }
    for (int h = 0; h < 2; h++) found_in<N>(HALVES[h] + book, index, top, half[0][h], half[1][h]);
}

// The same of iq1. Its book is sorted by the weights 4 to 7, which change at most once within sixteen entries (IQ1_STEPS).
template <Type T>
    requires(T == Type::iq1_s || T == Type::iq1_m)
INLINE void halves_of(const uint8_t *b, int g, Z half[2][2]) {
    constexpr bool m = T == Type::iq1_m;
    Z index[2], sixteen[2], step[3][2];
    Top top[2];
    for (int i = 0; i < 2; i++) {
        index[i] = load_z(b + STRIP * ((m ? 0 : 2) + 4 * (g + i)));
        const Z upper = shifted((Z)pairs_at(b, m ? 32 : 34, g + i, 0), m ? 0x0804003c : 0x05023f3c);  // 3 bits from 4 on
        top[i] = {_mm512_movepi8_mask(index[i]), upper, {0x10101010, 0x20202020, 0x40404040}};
        sixteen[i] = choose(0x0f0f0f0f, _mm512_srli_epi32(index[i], 4), upper);
    }
    found_in<2048>(HALVES[0] + BOOK_IQ1, index, top, half[0][0], half[1][0]);
    for (int n = 0; n < 3; n++) {
        const Z low = load_z(IQ1_STEPS + 128 * n), high = load_z(IQ1_STEPS + 128 * n + 64);
        for (int i = 0; i < 2; i++) step[n][i] = _mm512_permutex2var_epi8(low, sixteen[i], high);
    }
    for (int i = 0; i < 2; i++)
        half[i][1] = _mm512_mask_blend_epi8(_mm512_cmpge_epu8_mask(index[i], step[0][i]), step[1][i], step[2][i]);
}

// The signs of the group's 32 weights, a word for each output; iq1 has none.
template <Type T>
INLINE Z sign_words(const uint8_t *b, int g) {
    if constexpr (T == Type::iq1_s || T == Type::iq1_m) return Z{};
    else if constexpr (T == Type::iq2_s) return load_z(b + STRIP * (34 + 4 * g));
    else if constexpr (T == Type::iq3_s) return load_z(b + STRIP * (74 + 4 * g));
    else if constexpr (T == Type::iq2_xs) return even_signs(every_other(b, g, 1), 1);
    else return even_signs(shifted(load_z(b + STRIP * (T == Type::iq2_xxs ? 6 + 8 * g : 66 + 4 * g)), 0x150e0700), 0);
}
