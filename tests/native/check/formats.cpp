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
        default: return decode_32(f.type, b, y);
    }
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
