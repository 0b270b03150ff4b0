// Scales of the formats that are opened (opened.inl) or permuted (permuted.inl).

template <Type T>
constexpr bool OPENED = T >= Type::tq1_0 && T < Type::opened;
template <Type T>
constexpr bool OF_FOUR = T == Type::iq3_xxs || T == Type::iq3_s;  // entries of four weights

INLINE U pairs_at(const uint8_t *strip_block, int offset, int i, int p) {
    return load_u16(strip_block + STRIP * (offset + 2 * i) + 2 * W * p);
}

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
