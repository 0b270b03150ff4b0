// The block formats as they lie in strips (herd.formats.strips): what a kernel needs to know of each, written once over
// the vectors of vec.h. A format is  w = s (u - ZERO) - m : u an unsigned code; s a scale for each group of GROUP
// inputs, of two levels d * sc in blocks of 256; m a minimum of two levels dmin * mn, or (q4_1, q5_1) a float of its own.
//
//     codes      eight vectors of a group of 32 inputs: vector i holds inputs 4i .. 4i + 3 of W outputs
//     halves     float16 fields of W outputs
//     part p of 16 / W: outputs p * W .. of the strip

constexpr int PARTS = STRIP / W;

enum class Minimum { none, plain, two_level };

template <Type T>
struct Form {
    static constexpr bool large = T == Type::q2_k || T == Type::q3_k || T == Type::q4_k || T == Type::q5_k ||
                                  T == Type::q6_k || (T >= Type::iq4_xs && T != Type::mxfp4);
    static constexpr int block = large ? 256 : 32;  // inputs, and inputs that share a scale of the activations
    static constexpr int bytes = T == Type::q4_0     ? 18
                                 : T == Type::q4_1   ? 20
                                 : T == Type::q5_0   ? 22
                                 : T == Type::q5_1   ? 24
                                 : T == Type::q8_0   ? 34
                                 : T == Type::q2_k   ? 84
                                 : T == Type::q3_k   ? 110
                                 : T == Type::q4_k   ? 144
                                 : T == Type::q5_k   ? 176
                                 : T == Type::q6_k   ? 210
                                 : T == Type::iq4_nl ? 18
                                 : T == Type::iq4_xs ? 136
                                 : T == Type::mxfp4  ? 17
                                 : T == Type::tq1_0  ? 54
                                 : T == Type::tq2_0  ? 66
                                 : T == Type::iq1_s  ? 50
                                 : T == Type::iq1_m  ? 56
                                 : T == Type::iq2_xxs ? 66
                                 : T == Type::iq2_xs  ? 74
                                 : T == Type::iq2_s   ? 82
                                 : T == Type::iq3_xxs ? 98
                                 : T == Type::iq3_s   ? 110
                                                      : 320;  // opened
    static constexpr int group =
        T == Type::q2_k || T == Type::q3_k || T == Type::q6_k || T >= Type::tq1_0 ? 16 : 32;
    static constexpr Minimum minimum = T == Type::q4_1 || T == Type::q5_1                       ? Minimum::plain
                                       : T == Type::q2_k || T == Type::q4_k || T == Type::q5_k ? Minimum::two_level
                                                                                                : Minimum::none;
    static constexpr bool wide =
        T == Type::q8_0 || T == Type::iq4_nl || T == Type::iq4_xs || T >= Type::tq1_0;  // codes of 8 bits
    static constexpr int zero = wide                  ? WIDE_ZERO
                                : T == Type::q4_0     ? 8
                                : T == Type::mxfp4    ? 12
                                : T == Type::q5_0     ? 16
                                : T == Type::q3_k     ? 4
                                : T == Type::q6_k     ? 32
                                                      : 0;
    // Dear to unpack: high bits lie apart from the low ones, and a block has sixteen scales.
    static constexpr bool dear = T == Type::q3_k || T == Type::q6_k;
    static constexpr int groups = block / group;
    static constexpr int strip_block = STRIP * bytes;
};

INLINE F halves_at(const uint8_t *strip_block, int offset, int p) {
    return load_half(strip_block + STRIP * offset + 2 * W * p);
}
INLINE Codes words_at(const uint8_t *strip_block, int offset, int word, int p) {
    return load_bytes(strip_block + STRIP * (offset + 4 * word) + 4 * W * p);
}
INLINE const uint8_t *bytes_at(const uint8_t *strip_block, int offset, int i, int p) {
    return strip_block + STRIP * (offset + i) + W * p;
}

// Asks for as much as a block, some way ahead, into the second-level cache: into the first is slower than not asking.
constexpr int CODES_AHEAD = 4096;

template <Type T>
INLINE void ask_ahead(const uint8_t *strip) {
    for (int i = 0; i < Form<T>::strip_block; i += 64) __builtin_prefetch(strip + CODES_AHEAD + i, 0, 2);
}

// Values of iq4_nl and iq4_xs, plus 128.
alignas(16) const uint8_t IQ4[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};

// Values of mxfp4, plus 12.
alignas(16) const uint8_t E2M1[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

// Bit 4i + b of each output's 32-bit word to byte b, as 0 or something else.
INLINE Codes bits_of(U word, int i) {
    return (Codes)((U)spread_byte(word, i / 2) & (i % 2 ? 0x80402010u : 0x08040201u));
}
INLINE Codes fifth_bit(U word, int i) { return (Codes)(bits_of(word, i) != 0) & 16; }

// Bits of `low` under the mask, those of `high` above it, as far as `all` goes; masks for each byte of a word. Shifted words
// bring bits of neighbouring bytes only to where a mask takes them off.
INLINE Codes joined(U low, U high, uint32_t mask, uint32_t all) {
    return (Codes)(((low & mask) | (high & ~mask)) & all);
}

// The codes of group g of 32 inputs in a block.
template <Type T>
INLINE void codes(const uint8_t *b, int g, int p, Codes c[8]) {
    if constexpr (T == Type::opened) {
        for (int i = 0; i < 8; i++) c[i] = words_at(b, 0, 8 * g + i, p);
    } else if constexpr (T == Type::q4_0 || T == Type::q4_1 || T == Type::iq4_nl || T == Type::mxfp4) {
        for (int i = 0; i < 4; i++) {
            Codes z = words_at(b, T == Type::q4_1 ? 4 : T == Type::mxfp4 ? 1 : 2, i, p);
            c[i] = z & 15, c[4 + i] = z >> 4;
        }
        if constexpr (T == Type::iq4_nl || T == Type::mxfp4)
            for (int i = 0; i < 8; i++) c[i] = look_up(T == Type::mxfp4 ? E2M1 : IQ4, c[i]);
    } else if constexpr (T == Type::q5_0 || T == Type::q5_1) {
        constexpr int at = T == Type::q5_0 ? 2 : 4;
        U top = (U)words_at(b, at, 0, p);
        for (int i = 0; i < 4; i++) {
            Codes z = words_at(b, at + 4, i, p);
            c[i] = (z & 15) | fifth_bit(top, i), c[4 + i] = (z >> 4) | fifth_bit(top, 4 + i);
        }
    } else if constexpr (T == Type::q8_0) {
        for (int i = 0; i < 8; i++) c[i] = words_at(b, 2, i, p) ^ 0x80;
    } else if constexpr (T == Type::q4_k || T == Type::q5_k) {
        for (int i = 0; i < 8; i++) {
            Codes z = words_at(b, T == Type::q4_k ? 16 : 48, 8 * (g / 2) + i, p);
            if constexpr (T == Type::q5_k) {
                U h = (U)words_at(b, 16, i, p), low = g % 2 ? (U)z >> 4 : (U)z;
                c[i] = joined(low, g < 4 ? h << (4 - g) : h >> (g - 4), 0x0f0f0f0fu, 0x1f1f1f1fu);
            } else {
                c[i] = g % 2 ? z >> 4 : z & 15;
            }
        }
    } else if constexpr (T == Type::q6_k) {
        for (int i = 0; i < 8; i++) {
            U z = (U)words_at(b, 0, 16 * (g / 4) + 8 * (g % 2) + i, p), h = (U)words_at(b, 128, 8 * (g / 4) + i, p);
            U high = g % 4 < 2 ? h << (4 - 2 * (g % 4)) : h >> (2 * (g % 4) - 4);
            c[i] = joined(g % 4 < 2 ? z : z >> 4, high, 0x0f0f0f0fu, 0x3f3f3f3fu);
        }
    } else if constexpr (T == Type::q2_k) {
        for (int i = 0; i < 8; i++) c[i] = words_at(b, 16, 8 * (g / 4) + i, p) >> (2 * (g % 4)) & 3;
    } else if constexpr (T == Type::q3_k) {
        for (int i = 0; i < 8; i++) {
            U z = (U)words_at(b, 32, 8 * (g / 4) + i, p), h = (U)words_at(b, 0, i, p);
            c[i] = joined(z >> (2 * (g % 4)), g < 2 ? h << (2 - g) : h >> (g - 2), 0x03030303u, 0x07070707u);
        }
    } else {  // iq4_xs
        for (int i = 0; i < 4; i++) {
            Codes z = words_at(b, 8, 4 * g + i, p);
            c[i] = look_up(IQ4, z & 15), c[4 + i] = look_up(IQ4, z >> 4);
        }
    }
}

// Scale of each group of a block: s[groups].
template <Type T>
INLINE void scales(const uint8_t *b, int p, F *s) {
    if constexpr (T == Type::opened) {
        for (int g = 0; g < 16; g++) s[g] = load((const float *)(b + STRIP * (256 + 4 * g) + 4 * W * p));
    } else if constexpr (T == Type::mxfp4) {
        const U e = load_u8(bytes_at(b, 0, 0, p)), normal = (U)((I)e > 1);
        s[0] = (F)(((e - 1) << 23 & normal) | ((e + 1) << 21 & ~normal));
    } else if constexpr (!Form<T>::large) {
        s[0] = halves_at(b, 0, p);
    } else if constexpr (T == Type::q4_k || T == Type::q5_k) {
        F d = halves_at(b, 0, p);
        for (int g = 0; g < 4; g++) {
            U first = load_u8(bytes_at(b, 4, g, p)), third = load_u8(bytes_at(b, 4, 8 + g, p));
            s[g] = d * to_floats((I)(first & 63));
            s[4 + g] = d * to_floats((I)((third & 15) | (first >> 6) << 4));
        }
    } else if constexpr (T == Type::q6_k) {
        F d = halves_at(b, 208, p);
        for (int g = 0; g < 16; g++) s[g] = d * to_floats(load_s8(bytes_at(b, 192, g, p)));
    } else if constexpr (T == Type::q2_k) {
        F d = halves_at(b, 80, p);
        for (int g = 0; g < 16; g++) s[g] = d * to_floats((I)(load_u8(bytes_at(b, 0, g, p)) & 15));
    } else if constexpr (T == Type::q3_k) {
        F d = halves_at(b, 108, p);
        for (int g = 0; g < 8; g++) {
            U low = load_u8(bytes_at(b, 96, g, p)), top = load_u8(bytes_at(b, 104, g % 4, p));
            s[g] = d * to_floats((I)((low & 15) | (top >> (2 * (g / 4)) & 3) << 4) - 32);
            s[8 + g] = d * to_floats((I)((low >> 4) | (top >> (4 + 2 * (g / 4)) & 3) << 4) - 32);
        }
    } else {  // iq4_xs
        F d = halves_at(b, 0, p);
        U top = load_u16(b + STRIP * 2 + 2 * W * p);
        for (int g = 0; g < 8; g++) {
            U low = load_u8(bytes_at(b, 4, g / 2, p)) >> (4 * (g % 2)) & 15;
            s[g] = d * to_floats((I)(low | (top >> (2 * g) & 3) << 4) - 32);
        }
    }
}

// Minima of two levels: whole numbers of neighbouring groups in pairs of 16 bits, pairs[groups / 2], and -dmin.
template <Type T>
INLINE F minima(const uint8_t *b, int p, I *pairs) {
    if constexpr (T == Type::q2_k) {
        for (int g = 0; g < 8; g++)
            pairs[g] = (I)((load_u8(bytes_at(b, 0, 2 * g, p)) >> 4) | (load_u8(bytes_at(b, 0, 2 * g + 1, p)) >> 4) << 16);
        return -halves_at(b, 82, p);
    } else {
        U mn[8];
        for (int g = 0; g < 4; g++) {
            U second = load_u8(bytes_at(b, 8, g, p)), third = load_u8(bytes_at(b, 12, g, p));
            mn[g] = second & 63, mn[4 + g] = (third >> 4) | (second >> 6) << 4;
        }
        for (int g = 0; g < 4; g++) pairs[g] = (I)(mn[2 * g] | mn[2 * g + 1] << 16);
        return -halves_at(b, 2, p);
    }
}

// -- from rows of blocks to strips --------------------------------------------------------------------------------

// COUNT units of UNIT bytes at `offset` of sixteen rows' blocks.
template <int UNIT, int COUNT>
INLINE void turn_units(const uint8_t *const *rows, int64_t offset, uint8_t *to) {
#if defined(HERD_AVX512)
    constexpr int FOURS = UNIT == 4 ? COUNT / 4 * 4 : 0;
    if constexpr (FOURS > 0)
        for (int u = 0; u < FOURS; u += 4) {
            const int64_t at = offset + 4 * u;
            __m512i z[4];
            for (int r = 0; r < 4; r++) {
                z[r] = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(rows[r] + at)));
                z[r] = _mm512_inserti32x4(z[r], _mm_loadu_si128((const __m128i *)(rows[4 + r] + at)), 1);
                z[r] = _mm512_inserti32x4(z[r], _mm_loadu_si128((const __m128i *)(rows[8 + r] + at)), 2);
                z[r] = _mm512_inserti32x4(z[r], _mm_loadu_si128((const __m128i *)(rows[12 + r] + at)), 3);
            }
            __m512i a = _mm512_unpacklo_epi32(z[0], z[1]), b = _mm512_unpackhi_epi32(z[0], z[1]);
            __m512i c = _mm512_unpacklo_epi32(z[2], z[3]), d = _mm512_unpackhi_epi32(z[2], z[3]);
            _mm512_storeu_si512(to + 64 * u, _mm512_unpacklo_epi64(a, c));
            _mm512_storeu_si512(to + 64 * u + 64, _mm512_unpackhi_epi64(a, c));
            _mm512_storeu_si512(to + 64 * u + 128, _mm512_unpacklo_epi64(b, d));
            _mm512_storeu_si512(to + 64 * u + 192, _mm512_unpackhi_epi64(b, d));
        }
#else
    constexpr int FOURS = 0;
#endif
    for (int u = FOURS; u < COUNT; u++)
        for (int r = 0; r < STRIP; r++)
            __builtin_memcpy(to + (u * STRIP + r) * UNIT, rows[r] + offset + u * UNIT, UNIT);
}

// Fields one after another: pairs of UNIT and COUNT.
template <int UNIT, int COUNT, int... REST>
INLINE void turn_fields(const uint8_t *const *rows, int64_t at, uint8_t *to) {
    turn_units<UNIT, COUNT>(rows, at, to);
    if constexpr (sizeof...(REST) > 0) turn_fields<REST...>(rows, at + UNIT * COUNT, to + STRIP * UNIT * COUNT);
}

template <Type T>
static void pack_as(const uint8_t *const *rows, int64_t blocks, uint8_t *to) {
    for (int64_t b = 0; b < blocks; b++, to += Form<T>::strip_block) {
        const int64_t at = b * Form<T>::bytes;
        if constexpr (T == Type::q4_0 || T == Type::iq4_nl) turn_fields<2, 1, 4, 4>(rows, at, to);
        else if constexpr (T == Type::q4_1) turn_fields<2, 2, 4, 4>(rows, at, to);
        else if constexpr (T == Type::q5_0) turn_fields<2, 1, 4, 1, 4, 4>(rows, at, to);
        else if constexpr (T == Type::q5_1) turn_fields<2, 2, 4, 1, 4, 4>(rows, at, to);
        else if constexpr (T == Type::q8_0) turn_fields<2, 1, 4, 8>(rows, at, to);
        else if constexpr (T == Type::q2_k) turn_fields<1, 16, 4, 16, 2, 2>(rows, at, to);
        else if constexpr (T == Type::q3_k) turn_fields<4, 8, 4, 16, 1, 12, 2, 1>(rows, at, to);
        else if constexpr (T == Type::q4_k) turn_fields<2, 2, 1, 12, 4, 32>(rows, at, to);
        else if constexpr (T == Type::q5_k) turn_fields<2, 2, 1, 12, 4, 8, 4, 32>(rows, at, to);
        else if constexpr (T == Type::q6_k) turn_fields<4, 32, 4, 16, 1, 16, 2, 1>(rows, at, to);
        else if constexpr (T == Type::iq4_xs) turn_fields<2, 2, 1, 4, 4, 32>(rows, at, to);
        else if constexpr (T == Type::mxfp4) turn_fields<1, 1, 4, 4>(rows, at, to);
        else if constexpr (T == Type::tq1_0) turn_fields<4, 13, 2, 1>(rows, at, to);
        else if constexpr (T == Type::tq2_0) turn_fields<4, 16, 2, 1>(rows, at, to);
        else if constexpr (T == Type::iq1_s) turn_fields<2, 1, 4, 8, 2, 8>(rows, at, to);
        else if constexpr (T == Type::iq1_m) turn_fields<4, 8, 2, 12>(rows, at, to);
        else if constexpr (T == Type::iq2_xxs) turn_fields<2, 1, 4, 16>(rows, at, to);
        else if constexpr (T == Type::iq2_xs) turn_fields<2, 1, 4, 16, 1, 8>(rows, at, to);
        else if constexpr (T == Type::iq2_s) turn_fields<2, 1, 4, 16, 1, 16>(rows, at, to);
        else if constexpr (T == Type::iq3_xxs) turn_fields<2, 1, 4, 24>(rows, at, to);
        else turn_fields<2, 1, 4, 16, 1, 8, 4, 8, 1, 4>(rows, at, to);  // iq3_s
    }
}

// body(T) for the block format `type`; others: for those that are opened first.
#define HERD_EACH_FORMAT(type, body, others)             \
    switch (type) {                                      \
        case Type::q4_0: body(Type::q4_0); break;        \
        case Type::q4_1: body(Type::q4_1); break;        \
        case Type::q5_0: body(Type::q5_0); break;        \
        case Type::q5_1: body(Type::q5_1); break;        \
        case Type::q8_0: body(Type::q8_0); break;        \
        case Type::q2_k: body(Type::q2_k); break;        \
        case Type::q3_k: body(Type::q3_k); break;        \
        case Type::q4_k: body(Type::q4_k); break;        \
        case Type::q5_k: body(Type::q5_k); break;        \
        case Type::q6_k: body(Type::q6_k); break;        \
        case Type::iq4_nl: body(Type::iq4_nl); break;    \
        case Type::iq4_xs: body(Type::iq4_xs); break;    \
        case Type::mxfp4: body(Type::mxfp4); break;      \
        default: others;                                 \
    }
