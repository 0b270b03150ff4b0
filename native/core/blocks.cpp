#include "blocks.h"

#include <cstring>

namespace herd {
namespace {

// Fields of a block in the file's order: bytes of a unit, number of units (herd.formats.strips).
struct Field {
    int unit, count;
};

struct Layout {
    Block block;
    Field fields[5];
};

const Layout &layout_of(Type type) {
    static const Layout layouts[] = {
        {{32, 18}, {{2, 1}, {4, 4}}},                     // q4_0
        {{32, 20}, {{2, 2}, {4, 4}}},                     // q4_1
        {{32, 22}, {{2, 1}, {4, 5}}},                     // q5_0
        {{32, 24}, {{2, 2}, {4, 5}}},                     // q5_1
        {{32, 34}, {{2, 1}, {4, 8}}},                     // q8_0
        {{256, 84}, {{1, 16}, {4, 16}, {2, 2}}},          // q2_k
        {{256, 110}, {{4, 24}, {1, 12}, {2, 1}}},         // q3_k
        {{256, 144}, {{2, 2}, {1, 12}, {4, 32}}},         // q4_k
        {{256, 176}, {{2, 2}, {1, 12}, {4, 40}}},         // q5_k
        {{256, 210}, {{4, 48}, {1, 16}, {2, 1}}},         // q6_k
        {{32, 18}, {{2, 1}, {4, 4}}},                     // iq4_nl
        {{256, 136}, {{2, 2}, {1, 4}, {4, 32}}},          // iq4_xs
        {{32, 17}, {{1, 1}, {4, 4}}},                     // mxfp4
        {{256, 54}, {{4, 13}, {2, 1}}},                   // tq1_0
        {{256, 66}, {{4, 16}, {2, 1}}},                   // tq2_0
        {{256, 50}, {{2, 1}, {4, 8}, {2, 8}}},            // iq1_s
        {{256, 56}, {{4, 8}, {2, 12}}},                   // iq1_m
        {{256, 66}, {{2, 1}, {4, 16}}},                   // iq2_xxs
        {{256, 74}, {{2, 1}, {4, 16}, {1, 8}}},           // iq2_xs
        {{256, 82}, {{2, 1}, {4, 16}, {1, 16}}},          // iq2_s
        {{256, 98}, {{2, 1}, {4, 24}}},                   // iq3_xxs
        {{256, 110}, {{2, 1}, {4, 16}, {1, 8}, {4, 8}, {1, 4}}},  // iq3_s
    };
    return layouts[(int)type - (int)Type::q4_0];
}

float half(const uint8_t *p) {
    const uint32_t h = (uint32_t)(p[0] | p[1] << 8), rest = (h & 0x7fff) << 13;
    float v;
    std::memcpy(&v, &rest, 4);
    v *= 0x1p112f;
    uint32_t bits;
    std::memcpy(&bits, &v, 4);
    if ((h & 0x7c00) == 0x7c00) bits = rest | 0x7f800000u;
    bits |= (h & 0x8000) << 16;
    std::memcpy(&v, &bits, 4);
    return v;
}

const int8_t IQ4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

int nibble(const uint8_t *q, int i) { return i < 16 ? q[i] & 15 : q[i - 16] >> 4; }

const int8_t E2M1[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
const uint8_t IQ2[4] = {8, 25, 43, 0}, IQ3[8] = {4, 12, 20, 28, 36, 44, 52, 62};

float half_exponent(int e) {
    const uint32_t bits = e > 1 ? (uint32_t)(e - 1) << 23 : (uint32_t)(e + 1) << 21;
    float v;
    std::memcpy(&v, &bits, 4);
    return v;
}

int u16(const uint8_t *p) { return p[0] | p[1] << 8; }

// Weight k of an entry of a codebook (herd.formats.codebooks): its level of eight weights', or of four.
int of_eight(int book, int index, int k) {
    const int nibble = CODEBOOKS[book + index] >> (k % 4 == 1 ? 8 : k % 4 == 2 ? 4 : k % 4 * 4);
    return nibble >> (k / 4 * 2) & 3;
}
int of_four(int book, int index, int k) {
    return CODEBOOKS[book + index] >> (k == 1 ? 8 : k == 2 ? 4 : k * 4) & 15;
}

float with_sign(float v, int bits, int k) { return bits >> k & 1 ? -v : v; }
int sign_bits(int seven) { return seven | __builtin_parity((unsigned)seven) << 7; }
// Signs of eight weights l of 32, seven bits of a word each.
int sign_bits(const uint8_t *word, int l) {
    return sign_bits((int)((u16(word) | (uint32_t)u16(word + 2) << 16) >> (7 * (l / 8)) & 127));
}

int digit(const uint8_t *b, int i) {  // of tq1_0
    const int byte = i < 160 ? i % 32 : i < 240 ? 32 + (i - 160) % 16 : 48 + (i - 240) % 4;
    int n = i < 160 ? i / 32 : i < 240 ? (i - 160) / 16 : (i - 240) / 4, q = b[byte];
    for (; n > 0; n--) q = q * 3 & 255;
    return q * 3 >> 8;
}

// Weight i of a block of the formats with three values or a codebook.
float widen_opened(Type type, const uint8_t *b, int i) {
    const int g = i / 32, l = i % 32, e = i / 8, k = i % 8;
    switch (type) {
        case Type::tq1_0: return half(b + 52) * (float)(digit(b, i) - 1);
        case Type::tq2_0: return half(b + 64) * (float)((b[i / 128 * 32 + l] >> i % 128 / 32 * 2 & 3) - 1);
        case Type::iq1_s: {
            const int h = u16(b + 34 + 2 * g), level = of_eight(BOOK_IQ1, b[2 + e] | (h >> e % 4 * 3 & 7) << 8, k) - 1;
            return half(b) * (float)(2 * (h >> 12 & 7) + 1) * ((float)level + (h >> 15 ? -0.125f : 0.125f));
        }
        case Type::iq1_m: {
            const uint8_t *s = b + 48;
            const int h = b[32 + e / 2] >> e % 2 * 4, level = of_eight(BOOK_IQ1, b[e] | (h & 7) << 8, k) - 1;
            const uint8_t d[2] = {(uint8_t)(s[1] >> 4 | (s[3] & 0xf0)), (uint8_t)(s[5] >> 4 | (s[7] & 0xf0))};
            const int scale = u16(s + i / 64 * 2) >> i / 16 % 4 * 3 & 7;
            return half(d) * (float)(2 * scale + 1) * ((float)level + (h & 8 ? -0.125f : 0.125f));
        }
        case Type::iq2_xxs: {
            const uint8_t *q = b + 2 + 8 * g;
            const float v = half(b) * (0.5f + (float)(q[7] >> 4)) * 0.25f * IQ2[of_eight(BOOK_IQ2_XXS, q[l / 8], k)];
            return with_sign(v, sign_bits(q + 4, l), k);
        }
        case Type::iq2_xs: {
            const int code = u16(b + 2 + 2 * e), s = b[66 + g] >> l / 16 * 4 & 15;
            const float v = half(b) * (0.5f + (float)s) * 0.25f * IQ2[of_eight(BOOK_IQ2_XS, code & 511, k)];
            return with_sign(v, sign_bits(code >> 9), k);
        }
        case Type::iq2_s: {
            const int index = b[2 + e] | (b[66 + g] >> e % 4 * 2 & 3) << 8, s = b[74 + g] >> l / 16 * 4 & 15;
            return with_sign(half(b) * (0.5f + (float)s) * 0.25f * IQ2[of_eight(BOOK_IQ2_S, index, k)], b[34 + e], k);
        }
        case Type::iq3_xxs: {
            const uint8_t *s = b + 66 + 4 * g;
            const float v = half(b) * (0.5f + (float)(s[3] >> 4)) * 0.5f * IQ3[of_four(BOOK_IQ3_XXS, b[2 + i / 4], i % 4)];
            return with_sign(v, sign_bits(s, l), k);
        }
        default: {  // iq3_s
            const int index = b[2 + i / 4] | (b[66 + g] >> l / 4 & 1) << 8, s = b[106 + g / 2] >> g % 2 * 4 & 15;
            return with_sign(half(b) * (float)(1 + 2 * s) * (float)(2 * of_four(BOOK_IQ3_S, index, i % 4) + 1), b[74 + e], k);
        }
    }
}

void widen(Type type, const uint8_t *b, float *y) {
    if (type >= Type::tq1_0) {
        for (int i = 0; i < 256; i++) y[i] = widen_opened(type, b, i);
        return;
    }
    switch (type) {
        case Type::mxfp4:
            for (int i = 0; i < 32; i++) y[i] = half_exponent(b[0]) * (float)E2M1[nibble(b + 1, i)];
            return;
        case Type::q4_0:
            for (int i = 0; i < 32; i++) y[i] = half(b) * (float)(nibble(b + 2, i) - 8);
            return;
        case Type::q4_1:
            for (int i = 0; i < 32; i++) y[i] = half(b) * (float)nibble(b + 4, i) + half(b + 2);
            return;
        case Type::q5_0:
            for (int i = 0; i < 32; i++)
                y[i] = half(b) * (float)((nibble(b + 6, i) | (b[2 + i / 8] >> i % 8 & 1) << 4) - 16);
            return;
        case Type::q5_1:
            for (int i = 0; i < 32; i++)
                y[i] = half(b) * (float)(nibble(b + 8, i) | (b[4 + i / 8] >> i % 8 & 1) << 4) + half(b + 2);
            return;
        case Type::q8_0:
            for (int i = 0; i < 32; i++) y[i] = half(b) * (float)(int8_t)b[2 + i];
            return;
        case Type::iq4_nl:
            for (int i = 0; i < 32; i++) y[i] = half(b) * (float)IQ4[nibble(b + 2, i)];
            return;
        default: break;
    }
    for (int i = 0; i < 256; i++) {
        const int c = i / 128, j = i % 128 / 32, l = i % 32, g = i / 32;
        switch (type) {
            case Type::q2_k: {
                const int s = b[i / 16], q = b[16 + 32 * c + l] >> 2 * j & 3;
                y[i] = half(b + 80) * (float)(s & 15) * (float)q - half(b + 82) * (float)(s >> 4);
                break;
            }
            case Type::q3_k: {
                const uint8_t *s = b + 96;
                const int k = i / 16, low = k < 8 ? s[k] & 15 : s[k - 8] >> 4, top = s[8 + k % 4] >> 2 * (k / 4) & 3;
                const int q = (b[32 + 32 * c + l] >> 2 * j & 3) - (b[l] >> g & 1 ? 0 : 4);
                y[i] = half(b + 108) * (float)((low | top << 4) - 32) * (float)q;
                break;
            }
            case Type::q4_k:
            case Type::q5_k: {
                const uint8_t *s = b + 4, *q = b + (type == Type::q4_k ? 16 : 48);
                const int sc = g < 4 ? s[g] & 63 : (s[g + 4] & 15) | (s[g - 4] >> 6) << 4;
                const int mn = g < 4 ? s[g + 4] & 63 : (s[g + 4] >> 4) | (s[g] >> 6) << 4;
                int code = g % 2 ? q[32 * (g / 2) + l] >> 4 : q[32 * (g / 2) + l] & 15;
                if (type == Type::q5_k) code |= (b[16 + l] >> g & 1) << 4;
                y[i] = half(b) * (float)sc * (float)code - half(b + 2) * (float)mn;
                break;
            }
            case Type::q6_k: {
                const uint8_t low = b[64 * c + 32 * (j % 2) + l];
                const int q = (j < 2 ? low & 15 : low >> 4) | (b[128 + 32 * c + l] >> 2 * j & 3) << 4;
                y[i] = half(b + 208) * (float)(int8_t)b[192 + i / 16] * (float)(q - 32);
                break;
            }
            default: {  // iq4_xs
                const int low = b[4 + g / 2] >> 4 * (g % 2) & 15, top = (b[2] | b[3] << 8) >> 2 * g & 3;
                y[i] = half(b) * (float)((low | top << 4) - 32) * (float)IQ4[nibble(b + 8 + 16 * g, l)];
            }
        }
    }
}

}  // namespace

Block block_of(Type type) { return layout_of(type).block; }

void widen_blocks(const Matrix &m, int64_t o, float *y) {
    const Layout &layout = layout_of(m.type);
    const auto [inputs, bytes] = layout.block;
    uint8_t own[256];
    for (int64_t n = 0; n < m.K / inputs; n++) {
        const uint8_t *b = m.data + o * m.row_bytes + n * bytes;
        if (m.strips) {
            const uint8_t *from = m.data + (o / STRIP * m.row_bytes + n * bytes) * STRIP;
            uint8_t *to = own;
            for (const Field &f : layout.fields)
                for (int i = 0; i < f.count; i++, to += f.unit, from += STRIP * f.unit)
                    std::memcpy(to, from + o % STRIP * f.unit, (size_t)f.unit);
            b = own;
        }
        widen(m.type, b, y + n * inputs);
    }
}

}  // namespace herd
