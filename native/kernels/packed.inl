// The block formats as  w = s * (u - zero) + m : u an unsigned code, s and m per group of 32 inputs (q6_k: 16), zero a
// constant of the format. Layouts are GGUF's (herd.formats documents them); blocks may lie at any address.

struct Format {
    int64_t block, bytes;  // inputs and bytes of a block
    int group;
    int zero;
    bool has_min;
};

INLINE Format format_of(Type type) {
    switch (type) {
        case Type::q4_0: return {32, 18, 32, 8, false};
        case Type::q4_1: return {32, 20, 32, 0, true};
        case Type::q8_0: return {32, 34, 32, 128, false};
        case Type::q4_k: return {256, 144, 32, 0, true};
        default: return {256, 210, 16, 32, false};  // q6_k
    }
}

// The eight 6-bit scales and minima of a q4_k block, from its 12 bytes.
INLINE void q4_k_scales(const uint8_t *b, uint8_t *sc, uint8_t *mn) {
    for (int j = 0; j < 4; j++) {
        sc[j] = b[j] & 63;
        mn[j] = b[j + 4] & 63;
        sc[j + 4] = (uint8_t)((b[j + 8] & 15) | (b[j] >> 6 << 4));
        mn[j + 4] = (uint8_t)((b[j + 8] >> 4) | (b[j + 4] >> 6 << 4));
    }
}

// n inputs (whole blocks) from `b`: codes u in order, s and m per group.
static void unpack(Type type, const uint8_t *b, int64_t n, uint8_t *u, float *s, float *m) {
    Format f = format_of(type);
    for (int64_t k = 0; k < n;
         k += f.block, b += f.bytes, u += f.block, s += f.block / f.group, m += f.block / f.group) {
        if (type == Type::q4_0 || type == Type::q4_1) {
            const uint8_t *code = b + f.bytes - 16;
            for (int i = 0; i < 16; i++) u[i] = code[i] & 15, u[16 + i] = code[i] >> 4;
            *s = half_to_float(b);
            *m = f.has_min ? half_to_float(b + 2) : 0;
        } else if (type == Type::q8_0) {
            for (int i = 0; i < 32; i++) u[i] = b[2 + i] ^ 0x80;
            *s = half_to_float(b);
            *m = 0;
        } else if (type == Type::q4_k) {
            float d = half_to_float(b), low = half_to_float(b + 2);
            uint8_t sc[8], mn[8];
            q4_k_scales(b + 4, sc, mn);
            for (int g = 0; g < 8; g++) s[g] = d * sc[g], m[g] = -low * mn[g];
            for (int c = 0; c < 4; c++)
                for (int i = 0; i < 32; i++) {
                    uint8_t byte = b[16 + 32 * c + i];
                    u[64 * c + i] = byte & 15;
                    u[64 * c + 32 + i] = byte >> 4;
                }
        } else {  // q6_k
            float d = half_to_float(b + 208);
            for (int g = 0; g < 16; g++) s[g] = d * (int8_t)b[192 + g], m[g] = 0;
            for (int c = 0; c < 2; c++)
                for (int i = 0; i < 32; i++) {
                    uint8_t l0 = b[64 * c + i], l1 = b[64 * c + 32 + i], h = b[128 + 32 * c + i];
                    u[128 * c + i] = (uint8_t)((l0 & 15) | (h & 3) << 4);
                    u[128 * c + 32 + i] = (uint8_t)((l1 & 15) | (h >> 2 & 3) << 4);
                    u[128 * c + 64 + i] = (uint8_t)((l0 >> 4) | (h >> 4 & 3) << 4);
                    u[128 * c + 96 + i] = (uint8_t)((l1 >> 4) | (h >> 6) << 4);
                }
        }
    }
}

static void widen_packed(Type type, const uint8_t *b, int64_t n, float *y) {
    Format f = format_of(type);
    uint8_t u[256];
    float s[16], m[16];
    for (int64_t k = 0; k < n; k += f.block, b += f.bytes) {
        unpack(type, b, f.block, u, s, m);
        for (int64_t i = 0; i < f.block; i++) y[k + i] = s[i / f.group] * (float)(u[i] - f.zero) + m[i / f.group];
    }
}
