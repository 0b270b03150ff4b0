#include "formats.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

namespace check {

using herd::Type;

const std::vector<Format> FORMATS = {
    {"f32", Type::f32, 1, 4, {}, {}},
    {"f16", Type::f16, 1, 2, {0}, {}},
    {"bf16", Type::bf16, 1, 2, {}, {}},
    {"q4_0", Type::q4_0, 32, 18, {0}, {{2, 1}, {4, 4}}},
    {"q4_1", Type::q4_1, 32, 20, {0, 2}, {{2, 2}, {4, 4}}},
    {"q5_0", Type::q5_0, 32, 22, {0}, {{2, 1}, {4, 1}, {4, 4}}},
    {"q5_1", Type::q5_1, 32, 24, {0, 2}, {{2, 2}, {4, 1}, {4, 4}}},
    {"q8_0", Type::q8_0, 32, 34, {0}, {{2, 1}, {4, 8}}},
    {"q2_k", Type::q2_k, 256, 84, {80, 82}, {{1, 16}, {4, 16}, {2, 2}}},
    {"q3_k", Type::q3_k, 256, 110, {108}, {{4, 8}, {4, 16}, {1, 12}, {2, 1}}},
    {"q4_k", Type::q4_k, 256, 144, {0, 2}, {{2, 2}, {1, 12}, {4, 32}}},
    {"q5_k", Type::q5_k, 256, 176, {0, 2}, {{2, 2}, {1, 12}, {4, 8}, {4, 32}}},
    {"q6_k", Type::q6_k, 256, 210, {208}, {{4, 32}, {4, 16}, {1, 16}, {2, 1}}},
    {"iq4_nl", Type::iq4_nl, 32, 18, {0}, {{2, 1}, {4, 4}}},
    {"iq4_xs", Type::iq4_xs, 256, 136, {0}, {{2, 2}, {1, 4}, {4, 32}}},
    {"mxfp4", Type::mxfp4, 32, 17, {}, {{1, 1}, {4, 4}}},
    {"tq1_0", Type::tq1_0, 256, 54, {52}, {{4, 13}, {2, 1}}},
    {"tq2_0", Type::tq2_0, 256, 66, {64}, {{4, 16}, {2, 1}}},
    {"iq1_s", Type::iq1_s, 256, 50, {0}, {{2, 1}, {4, 8}, {2, 8}}},
    {"iq1_m", Type::iq1_m, 256, 56, {}, {{4, 8}, {2, 8}, {2, 4}}},
    {"iq2_xxs", Type::iq2_xxs, 256, 66, {0}, {{2, 1}, {4, 16}}},
    {"iq2_xs", Type::iq2_xs, 256, 74, {0}, {{2, 1}, {4, 16}, {1, 8}}},
    {"iq2_s", Type::iq2_s, 256, 82, {0}, {{2, 1}, {4, 8}, {4, 8}, {1, 8}, {1, 8}}},
    {"iq3_xxs", Type::iq3_xxs, 256, 98, {0}, {{2, 1}, {4, 16}, {4, 8}}},
    {"iq3_s", Type::iq3_s, 256, 110, {0}, {{2, 1}, {4, 16}, {1, 8}, {4, 8}, {1, 4}}},
};

const Format &format_of(const char *name) {
    for (const Format &f : FORMATS)
        if (!std::strcmp(f.name, name)) return f;
    std::abort();
}

double half(const uint8_t *p) {
    const int h = p[0] | p[1] << 8, e = h >> 10 & 31, m = h & 1023;
    const double v = e == 31 ? (m ? NAN : INFINITY) : e ? std::ldexp(1024 + m, e - 25) : std::ldexp(m, -24);
    return h & 0x8000 ? -v : v;
}

uint16_t nearest_half(double x) {
    const int sign = std::signbit(x) ? 0x8000 : 0;
    x = std::fabs(x);
    if (x >= 65520) return (uint16_t)(sign | 0x7c00);
    int e = -13;  // zero counts as the smallest
    if (x > 0) std::frexp(x, &e);            // x in [2^(e - 1), 2^e)
    const int step = std::max(e, -13) - 11;  // of the unit in the last place
    // Whole units follow one another through the binades in the bits, too; nearbyint rounds ties to even.
    const int units = (int)std::nearbyint(std::ldexp(x, -step));
    return (uint16_t)(sign | (((step + 24) << 10) + units));
}

namespace {

const int BELL[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

int low_then_high(const uint8_t *codes, int i, int run) { return i < run ? codes[i] & 15 : codes[i - run] >> 4; }

void decode_32(Type type, const uint8_t *b, double *y) {
    const double d = half(b), m = half(b + 2);
    for (int i = 0; i < 32; i++) {
        const auto fifth = [&](int at) { return (b[at + i / 8] >> i % 8 & 1) * 16; };
        switch (type) {
            case Type::q4_0: y[i] = d * (low_then_high(b + 2, i, 16) - 8); break;
            case Type::q4_1: y[i] = d * low_then_high(b + 4, i, 16) + m; break;
            case Type::q5_0: y[i] = d * (low_then_high(b + 6, i, 16) + fifth(2) - 16); break;
            case Type::q5_1: y[i] = d * (low_then_high(b + 8, i, 16) + fifth(4)) + m; break;
            case Type::iq4_nl: y[i] = d * BELL[low_then_high(b + 2, i, 16)]; break;
            default: y[i] = d * (int8_t)b[2 + i];  // q8_0
        }
    }
}

// Eight scales and minima of six bits in twelve bytes: the first four whole, the others from their low four bits
// and the two bits left over in the first four.
void six_bits(const uint8_t *s, int *scale, int *minimum) {
    for (int g = 0; g < 4; g++) {
        scale[g] = s[g] & 63, minimum[g] = s[4 + g] & 63;
        scale[4 + g] = (s[8 + g] & 15) + (s[g] >> 6) * 16, minimum[4 + g] = (s[8 + g] >> 4) + (s[4 + g] >> 6) * 16;
    }
}

// Two runs of 32 weights share the halves of 32 bytes; q5_k keeps the fifth bit of group g in bit g of 32 others.
void decode_q4_q5_k(const uint8_t *b, bool five, double *y) {
    int scale[8], minimum[8];
    six_bits(b + 4, scale, minimum);
    for (int g = 0; g < 8; g++)
        for (int l = 0; l < 32; l++) {
            const uint8_t byte = b[(five ? 48 : 16) + g / 2 * 32 + l];
            const int code = (g % 2 ? byte >> 4 : byte & 15) + (five ? (b[16 + l] >> g & 1) * 16 : 0);
            *y++ = half(b) * scale[g] * code - half(b + 2) * minimum[g];
        }
}

void decode_q2_k(const uint8_t *b, double *y) {
    const uint8_t *scale = b, *codes = b + 16;
    for (int n = 0; n < 2; n++, codes += 32)
        for (int shift = 0; shift < 8; shift += 2)
            for (int side = 0; side < 2; side++, scale++)
                for (int l = 0; l < 16; l++)
                    *y++ = half(b + 80) * (*scale & 15) * (codes[16 * side + l] >> shift & 3) -
                           half(b + 82) * (*scale >> 4);
}

void decode_q3_k(const uint8_t *b, double *y) {
    const uint8_t *codes = b + 32, *s = b + 96;
    int group = 0, bit = 0;
    for (int n = 0; n < 2; n++, codes += 32)
        for (int shift = 0; shift < 8; shift += 2, bit++)
            for (int side = 0; side < 2; side++, group++) {
                const int low = group < 8 ? s[group] & 15 : s[group - 8] >> 4;
                const int scale = low + (s[8 + group % 4] >> group / 4 * 2 & 3) * 16 - 32;
                for (int l = 16 * side; l < 16 * side + 16; l++)
                    *y++ = half(b + 108) * scale * ((codes[l] >> shift & 3) + (b[l] >> bit & 1) * 4 - 4);
            }
}

void decode_q6_k(const uint8_t *b, double *y) {
    for (int i = 0; i < 256; i++) {
        const int c = i / 128, j = i % 128;
        const int code = low_then_high(b + 64 * c, j, 64) + (b[128 + 32 * c + j % 32] >> j / 32 * 2 & 3) * 16;
        y[i] = half(b + 208) * (int8_t)b[192 + i / 16] * (code - 32);
    }
}

void decode_iq4_xs(const uint8_t *b, double *y) {
    const int tops = b[2] + b[3] * 256;
    for (int g = 0; g < 8; g++) {
        const int low = g % 2 ? b[4 + g / 2] >> 4 : b[4 + g / 2] & 15, scale = low + (tops >> 2 * g & 3) * 16 - 32;
        for (int l = 0; l < 32; l++) *y++ = half(b) * scale * BELL[low_then_high(b + 8 + 16 * g, l, 16)];
    }
}

// -- codebooks: the words of native/core/codebooks.cpp by their description (src/herd/formats/codebooks.py) -----------

const int PLACE[4] = {0, 8, 4, 12};  // of the nibble of weight k, and of weight k + 4 of eight

std::vector<int> eight(int book, int index) {
    std::vector<int> levels;
    for (int k = 0; k < 8; k++) levels.push_back(herd::CODEBOOKS[book + index] >> PLACE[k % 4] >> (k < 4 ? 0 : 2) & 3);
    return levels;
}

std::vector<int> four(int book, int index) {
    std::vector<int> levels;
    for (int k = 0; k < 4; k++) levels.push_back(herd::CODEBOOKS[book + index] >> PLACE[k] & 15);
    return levels;
}

const int IQ2[3] = {8, 25, 43}, IQ3[8] = {4, 12, 20, 28, 36, 44, 52, 62};

uint32_t number(const uint8_t *b, int bytes) {
    uint32_t n = 0;
    for (int i = 0; i < bytes; i++) n |= (uint32_t)b[i] << 8 * i;
    return n;
}

int even(int seven) {
    int ones = 0;
    for (int i = 0; i < 7; i++) ones += seven >> i & 1;
    return seven + ones % 2 * 128;
}

void decode_iq1(const uint8_t *b, bool m, double *y) {
    for (int e = 0; e < 32; e++) {
        const int high = m ? b[32 + e / 2] >> (e % 2 ? 4 : 0) & 15 : (int)(number(b + 34 + e / 4 * 2, 2) >> 3 * (e % 4) & 7);
        const bool down = m ? high & 8 : b[35 + e / 4 * 2] & 0x80;
        const uint32_t packed = number(m ? b + 48 + e / 8 * 2 : b + 34 + e / 4 * 2, 2);
        const int scale = (int)(m ? packed >> 3 * (e / 2 % 4) & 7 : packed >> 12 & 7);
        double d = half(b);
        if (m) {
            const uint8_t parts[2] = {(uint8_t)(b[49] / 16 + b[51] / 16 * 16), (uint8_t)(b[53] / 16 + b[55] / 16 * 16)};
            d = half(parts);
        }
        for (int level : eight(herd::BOOK_IQ1, (m ? b[e] : b[2 + e]) + (high & 7) * 256))
            *y++ = d * (2 * scale + 1) * (level - 1 + (down ? -0.125 : 0.125));
    }
}

void decode_iq2(Type type, const uint8_t *b, double *y) {
    for (int e = 0; e < 32; e++) {
        int index, signs, scale, book;
        const int nibble = e / 2 % 2 * 4;
        if (type == Type::iq2_xxs) {
            const uint8_t *group = b + 2 + e / 4 * 8;
            const uint32_t word = number(group + 4, 4);
            book = herd::BOOK_IQ2_XXS, index = group[e % 4], signs = even(word >> 7 * (e % 4) & 127), scale = (int)(word >> 28);
        } else if (type == Type::iq2_xs) {
            const int code = (int)number(b + 2 + 2 * e, 2);
            book = herd::BOOK_IQ2_XS, index = code % 512, signs = even(code / 512), scale = b[66 + e / 4] >> nibble & 15;
        } else {
            book = herd::BOOK_IQ2_S, index = b[2 + e] + (b[66 + e / 4] >> 2 * (e % 4) & 3) * 256;
            signs = b[34 + e], scale = b[74 + e / 4] >> nibble & 15;
        }
        for (int level : eight(book, index)) {
            *y++ = half(b) * (0.5 + scale) / 4 * IQ2[level] * (signs & 1 ? -1 : 1);
            signs >>= 1;
        }
    }
}

void decode_iq3(bool xxs, const uint8_t *b, double *y) {
    for (int e = 0; e < 64; e++) {
        const uint32_t word = number(b + 66 + e / 8 * 4, 4);
        int signs = xxs ? even(word >> 7 * (e / 2 % 4) & 127) : b[74 + e / 2];
        signs >>= e % 2 * 4;
        const int index = b[2 + e] + (xxs ? 0 : (b[66 + e / 8] >> e % 8 & 1) * 256);
        const double scale = xxs ? (0.5 + (word >> 28)) / 2 : 1 + 2 * (b[106 + e / 16] >> e / 8 % 2 * 4 & 15);
        for (int level : four(xxs ? herd::BOOK_IQ3_XXS : herd::BOOK_IQ3_S, index)) {
            *y++ = half(b) * scale * (xxs ? IQ3[level] : 2 * level + 1) * (signs & 1 ? -1 : 1);
            signs >>= 1;
        }
    }
}

// A fraction of 256 in base 3: five digits of each of 32 bytes, then of 16, then four of each of 4.
void decode_tq1_0(const uint8_t *b, double *y) {
    const int runs[3][2] = {{32, 5}, {16, 5}, {4, 4}};
    const uint8_t *from = b;
    for (const auto &[bytes, digits] : runs) {
        for (int n = 0, power = 1; n < digits; n++, power *= 3)
            for (int i = 0; i < bytes; i++) *y++ = half(b + 52) * (from[i] * power % 256 * 3 / 256 - 1);
        from += bytes;
    }
}

void decode_tq2_0(const uint8_t *b, double *y) {
    for (int run = 0; run < 8; run++)
        for (int i = 0; i < 32; i++) *y++ = half(b + 64) * ((b[run / 4 * 32 + i] >> run % 4 * 2 & 3) - 1);
}

void decode_mxfp4(const uint8_t *b, double *y) {
    const double values[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    for (int i = 0; i < 32; i++) {
        const int code = low_then_high(b + 1, i, 16);
        y[i] = std::ldexp(values[code % 8], b[0] - 127) * (code < 8 ? 1 : -1);
    }
}

double float_at(const uint8_t *b, bool bf16) {
    uint32_t bits = (uint32_t)(b[0] | b[1] << 8) << 16;
    float v;
    if (!bf16) std::memcpy(&bits, b, 4);
    std::memcpy(&v, &bits, 4);
    return v;
}

}  // namespace

void decode(const Format &f, const uint8_t *b, double *y) {
    switch (f.type) {
        case Type::f32: *y = float_at(b, false); return;
        case Type::f16: *y = half(b); return;
        case Type::bf16: *y = float_at(b, true); return;
        case Type::q2_k: return decode_q2_k(b, y);
        case Type::q3_k: return decode_q3_k(b, y);
        case Type::q4_k: return decode_q4_q5_k(b, false, y);
        case Type::q5_k: return decode_q4_q5_k(b, true, y);
        case Type::q6_k: return decode_q6_k(b, y);
        case Type::iq4_xs: return decode_iq4_xs(b, y);
        case Type::mxfp4: return decode_mxfp4(b, y);
        case Type::tq1_0: return decode_tq1_0(b, y);
        case Type::tq2_0: return decode_tq2_0(b, y);
        case Type::iq1_s:
        case Type::iq1_m: return decode_iq1(b, f.type == Type::iq1_m, y);
        case Type::iq2_xxs:
        case Type::iq2_xs:
        case Type::iq2_s: return decode_iq2(f.type, b, y);
        case Type::iq3_xxs:
        case Type::iq3_s: return decode_iq3(f.type == Type::iq3_xxs, b, y);
        default: return decode_32(f.type, b, y);
    }
}

void set_scale(const Format &f, uint8_t *b, bool subnormal) {
    const auto top = [&](int byte) { return (uint8_t)((byte & 0x83) | (subnormal ? 0 : 0x24)); };
    for (int at : f.halves) b[at + 1] = top(b[at + 1]);
    if (f.type == Type::mxfp4) b[0] = (uint8_t)(subnormal ? 20 : 118 + b[0] % 8);
    if (f.type != Type::iq1_m) return;
    const uint8_t byte = top((b[53] >> 4) | (b[55] & 0xf0));  // the upper one of its float16, in two parts
    b[53] = (uint8_t)((b[53] & 15) | byte << 4), b[55] = (uint8_t)((b[55] & 15) | (byte & 0xf0));
}

std::vector<uint8_t> to_strips(const Format &f, const uint8_t *rows, int64_t num_rows, int64_t row_bytes) {
    const int64_t strips = (num_rows + 15) / 16, blocks = row_bytes / f.bytes;
    std::vector<uint8_t> out;
    out.reserve((size_t)(strips * 16 * row_bytes));
    for (int64_t strip = 0; strip < strips; strip++)
        for (int64_t block = 0; block < blocks; block++) {
            int at = 0;
            for (const Field &field : f.fields)
                for (int i = 0; i < field.count; i++, at += field.unit)
                    for (int64_t row = 16 * strip; row < 16 * strip + 16; row++)
                        for (int k = 0; k < field.unit; k++)
                            out.push_back(row < num_rows ? rows[row * row_bytes + block * f.bytes + at + k] : 0);
        }
    return out;
}

}  // namespace check
