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
    Field fields[4];
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

void widen(Type type, const uint8_t *b, float *y) {
    switch (type) {
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
