// Each format: its search, its codes, its bytes (herd.formats has the layouts). Simple formats without importances round
// as llama.cpp does, to the same bytes.

// -- bytes --------------------------------------------------------------------------------------------------------

// Weights `from + i` and `from + i + half` share a byte, i < half.
INLINE void put_nibbles(Block &b, int at, int from, int half) {
    for (int i = 0; i < half; i++)
        put(b.bytes[at + i], (get(b.q[from + i]) & 15) | ((get(b.q[from + half + i]) & 15) << 4));
}

// 2-bit codes, (q >> shift) & 3: each 128 weights in four runs of 32.
INLINE void put_runs(Block &b, int at, int shift) {
    for (int h = 0; h < 2; h++)
        for (int i = 0; i < 32; i++) {
            B v = {};
            for (int r = 0; r < 4; r++) v |= ((get(b.q[128 * h + 32 * r + i]) >> shift) & 3) << (2 * r);
            put(b.bytes[at + 32 * h + i], v);
        }
}

// Bit `shift` of each code: bit j of byte i belongs to weight 32 j + i.
INLINE void put_bits(Block &b, int at, int shift) {
    for (int i = 0; i < 32; i++) {
        B v = {};
        for (int j = 0; j < 8; j++) v |= ((get(b.q[32 * j + i]) >> shift) & 1) << j;
        put(b.bytes[at + i], v);
    }
}

// The fifth bits of 32 codes, bit i of four bytes.
INLINE void put_fifths(Block &b, int at) {
    for (int k = 0; k < 4; k++) {
        B v = {};
        for (int j = 0; j < 8; j++) v |= ((get(b.q[8 * k + j]) >> 4) & 1) << j;
        put(b.bytes[at + k], v);
    }
}

// Eight scales and minima of 6 bits in twelve bytes, as q4_k and q5_k have them.
INLINE void put_scales(Block &b, int at, const Affine<8> &a) {
    for (int j = 0; j < 4; j++) {
        B s = narrowed(a.scale[j]), m = narrowed(a.minimum[j]);
        B s4 = narrowed(a.scale[4 + j]), m4 = narrowed(a.minimum[4 + j]);
        put(b.bytes[at + j], s | (s4 >> 4 << 6));
        put(b.bytes[at + 4 + j], m | (m4 >> 4 << 6));
        put(b.bytes[at + 8 + j], (s4 & 15) | (m4 << 4));
    }
}

// -- blocks of 32 -------------------------------------------------------------------------------------------------

// Towards zero, as C converts.
INLINE F cut(F x) { return __builtin_convertvector(__builtin_convertvector(x, I), F); }

constexpr int NUM_REACHES = 2 * sizeof(INSIDE) / sizeof(float);
struct Reaches {
    float at[NUM_REACHES];
    // The extreme weight beside the last value of either side.
    Reaches(float low, float high) {
        for (int i = 0; i < NUM_REACHES / 2; i++) {
            at[2 * i] = low - INSIDE[i];
            at[2 * i + 1] = high + INSIDE[i];
        }
    }
};

// x ~ d * q, q -bottom..bottom-1 stored from 0 on.
template <bool H>
INLINE F symmetric_codes(Block &b, float bottom) {
    F d;
    if (H) {
        Reaches reaches(-bottom, bottom - 1);
        d = halved(fit_scale<H, 32>(b.x, b.w, Whole{-bottom, bottom - 1}, reaches.at, NUM_REACHES), b);
        F inv = inverse(d);
        for (int i = 0; i < 32; i++) {
            F q = whole(b.x[i] * inv, -bottom, bottom - 1);
            put(b.q[i], narrowed(q + bottom));
            lose<H>(b, i, d * q);
        }
        return d;
    }
    F extreme = {}, size = {};
    for (int i = 0; i < 32; i++) {
        I more = absolute(b.x[i]) > size;
        extreme = more ? b.x[i] : extreme;
        size = more ? absolute(b.x[i]) : size;
    }
    F exact = extreme / -bottom, inv = inverse(exact);
    d = halved(exact, b);
    for (int i = 0; i < 32; i++) {
        F q = smallest(cut(b.x[i] * inv + (bottom + 0.5f)), set1(2 * bottom - 1));
        put(b.q[i], narrowed(q));
        lose<H>(b, i, d * (q - bottom));
    }
    return d;
}

// x ~ d * q + m, q 0..top.
template <bool H>
INLINE Line affine_codes(Block &b, float top) {
    Line line;
    if (H) {
        line = fit_affine<H, 32>(b.x, b.w, top, false);
        F d = halved(line.scale, b), m = halved(line.offset, b), inv = inverse(d);
        for (int i = 0; i < 32; i++) {
            F q = whole((b.x[i] - m) * inv, 0, top);
            put(b.q[i], narrowed(q));
            lose<H>(b, i, d * q + m);
        }
        return {d, m};
    }
    F low = b.x[0], high = b.x[0];
    for (int i = 1; i < 32; i++) low = smallest(low, b.x[i]), high = largest(high, b.x[i]);
    F exact = (high - low) / top, inv = inverse(exact);
    line = {halved(exact, b), halved(low, b)};
    for (int i = 0; i < 32; i++) {
        F q = smallest(cut((b.x[i] - low) * inv + 0.5f), set1(top));
        put(b.q[i], narrowed(q));
        lose<H>(b, i, line.scale * q + line.offset);
    }
    return line;
}

template <bool H>
void nibbles_0(Block &b) {
    put_half(b, 0, symmetric_codes<H>(b, 8));
    put_nibbles(b, 2, 0, 16);
}

template <bool H>
void fives_0(Block &b) {
    put_half(b, 0, symmetric_codes<H>(b, 16));
    put_fifths(b, 2);
    put_nibbles(b, 6, 0, 16);
}

template <bool H>
void nibbles_1(Block &b) {
    Line line = affine_codes<H>(b, 15);
    put_half(b, 0, line.scale), put_half(b, 2, line.offset);
    put_nibbles(b, 4, 0, 16);
}

template <bool H>
void fives_1(Block &b) {
    Line line = affine_codes<H>(b, 31);
    put_half(b, 0, line.scale), put_half(b, 2, line.offset);
    put_fifths(b, 4);
    put_nibbles(b, 8, 0, 16);
}

template <bool H>
void bytes_0(Block &b) {
    F d;
    if (H) {
        Reaches reaches(-127, 127);
        d = halved(fit_scale<H, 32>(b.x, b.w, Whole{-127, 127}, reaches.at, NUM_REACHES), b);
        F inv = inverse(d);
        for (int i = 0; i < 32; i++) {
            F q = whole(b.x[i] * inv, -127, 127);
            put(b.bytes[2 + i], narrowed(q));
            lose<H>(b, i, d * q);
        }
    } else {
        F size = {};
        for (int i = 0; i < 32; i++) size = largest(size, absolute(b.x[i]));
        F exact = size / 127.0f, inv = inverse(exact);
        d = halved(exact, b);
        for (int i = 0; i < 32; i++) {
            // Halves away from zero, as C's roundf.
            F at = b.x[i] * inv, a = absolute(at), down = cut(a);
            F q = (a - down) >= 0.5f ? down + 1.0f : down;
            q = at < 0.0f ? -q : q;
            put(b.bytes[2 + i], narrowed(q));
            lose<H>(b, i, d * q);
        }
    }
    put_half(b, 0, d);
}

constexpr int NUM_BELL_REACHES = 34;
struct BellReaches {
    float at[NUM_BELL_REACHES];
    BellReaches() {
        for (int i = 0; i < 15; i++) at[i] = 72 + 4 * i;
        for (int i = 0; i < 19; i++) at[15 + i] = -(72 + 4 * i);
    }
};

template <bool H>
void bells(Block &b) {
    F d = halved(fit_scale<H, 32>(b.x, b.w, Bell{}, BellReaches().at, NUM_BELL_REACHES), b), inv = inverse(d);
    for (int i = 0; i < 32; i++) {
        F at = b.x[i] * inv;
        put(b.q[i], Bell{}.code(at));
        lose<H>(b, i, d * Bell{}.value(at));
    }
    put_half(b, 0, d);
    put_nibbles(b, 2, 0, 16);
}

// -- super-blocks of 256 ------------------------------------------------------------------------------------------

constexpr int ROUNDS = 3;

template <bool H>
void fours_k(Block &b) {
    Affine<8> a = search_affine<H, 8, 32>(b, 15, 63, ROUNDS);
    code_affine<H, 8, 32>(b, a, 15);
    put_half(b, 0, a.d), put_half(b, 2, a.dmin);
    put_scales(b, 4, a);
    for (int g = 0; g < 4; g++) put_nibbles(b, 16 + 32 * g, 64 * g, 32);
}

template <bool H>
void fives_k(Block &b) {
    Affine<8> a = search_affine<H, 8, 32>(b, 31, 63, ROUNDS);
    code_affine<H, 8, 32>(b, a, 31);
    put_half(b, 0, a.d), put_half(b, 2, a.dmin);
    put_scales(b, 4, a);
    put_bits(b, 16, 4);
    for (int g = 0; g < 4; g++) put_nibbles(b, 48 + 32 * g, 64 * g, 32);
}

template <bool H>
void twos_k(Block &b) {
    Affine<16> a = search_affine<H, 16, 16>(b, 3, 15, 4);
    code_affine<H, 16, 16>(b, a, 3);
    for (int g = 0; g < 16; g++) put(b.bytes[g], narrowed(a.scale[g]) | (narrowed(a.minimum[g]) << 4));
    put_runs(b, 16, 0);
    put_half(b, 80, a.d), put_half(b, 82, a.dmin);
}

// Codes x ~ d * scale * (q - zero).
template <bool H>
INLINE void code_symmetric(Block &b, const Symmetric<16> &a, float zero, float top) {
    for (int g = 0; g < 16; g++) {
        F step = a.d * a.scale[g], inv = inverse(step);
        for (int i = 16 * g; i < 16 * (g + 1); i++) {
            F q = whole(b.x[i] * inv, -zero, top);
            put(b.q[i], narrowed(q + zero));
            lose<H>(b, i, step * q);
        }
    }
}

template <bool H>
void threes_k(Block &b) {
    Reaches reaches(-4, 3);
    Symmetric<16> a = search_symmetric<H, 16, 16>(b, Whole{-4, 3}, reaches.at, NUM_REACHES, 32, 4);
    code_symmetric<H>(b, a, 4, 3);
    put_bits(b, 0, 2);
    put_runs(b, 32, 0);
    B s[16];
    for (int g = 0; g < 16; g++) s[g] = narrowed(a.scale[g] + 32.0f);
    for (int j = 0; j < 8; j++) put(b.bytes[96 + j], (s[j] & 15) | (s[8 + j] << 4));
    for (int j = 0; j < 4; j++)
        put(b.bytes[104 + j],
            (s[j] >> 4) | (s[4 + j] >> 4 << 2) | (s[8 + j] >> 4 << 4) | (s[12 + j] >> 4 << 6));
    put_half(b, 108, a.d);
}

template <bool H>
void sixes_k(Block &b) {
    Reaches reaches(-32, 31);
    Symmetric<16> a = search_symmetric<H, 16, 16>(b, Whole{-32, 31}, reaches.at, NUM_REACHES, 128, ROUNDS);
    code_symmetric<H>(b, a, 32, 31);
    for (int h = 0; h < 2; h++)
        for (int i = 0; i < 64; i++)
            put(b.bytes[64 * h + i], (get(b.q[128 * h + i]) & 15) | (get(b.q[128 * h + 64 + i]) << 4));
    put_runs(b, 128, 4);
    for (int g = 0; g < 16; g++) put(b.bytes[192 + g], narrowed(a.scale[g]));
    put_half(b, 208, a.d);
}

template <bool H>
void bells_xs(Block &b) {
    Symmetric<8> a = search_symmetric<H, 8, 32>(b, Bell{}, BellReaches().at, NUM_BELL_REACHES, 32, ROUNDS);
    B s[8], high[2] = {};
    for (int g = 0; g < 8; g++) {
        F step = a.d * a.scale[g], inv = inverse(step);
        for (int i = 32 * g; i < 32 * (g + 1); i++) {
            F at = b.x[i] * inv;
            put(b.q[i], Bell{}.code(at));
            lose<H>(b, i, step * Bell{}.value(at));
        }
        s[g] = narrowed(a.scale[g] + 32.0f);
        high[g / 4] |= s[g] >> 4 << (2 * (g % 4));
        put_nibbles(b, 8 + 16 * g, 32 * g, 16);
    }
    put_half(b, 0, a.d);
    put(b.bytes[2], high[0]), put(b.bytes[3], high[1]);
    for (int g = 0; g < 8; g += 2) put(b.bytes[4 + g / 2], (s[g] & 15) | (s[g + 1] << 4));
}
