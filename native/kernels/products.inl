// Products of weights in strips with quantised rows. Two ways through the same arithmetic, so that a row's result is the
// same bits however many rows come with it:
//
//     few    codes straight from the strip into registers, each shared by up to eight rows: bound by memory
//     many   a panel of three strips x DEPTH inputs unpacked once into bytes [inputs / 4][PANEL][4] in the first-level
//            cache, then tiles of four rows x a part of the panel run over it: bound by arithmetic
//
// For one output, in the order of its inputs (dots and sums of codes are exact integers, so only floats have an order):
//     blocks of 32     y = fused(float(dot) * a, s, y), then, with a minimum of its own, y = fused(m, a * sum, y)
//     blocks of 256    b = -dmin * float(sum of mn * sums), then b = fused(float(dot), s, b) group by group;
//                      y = fused(b, a, y)
// with a the scale of the activations. Weights in rows are turned into strips piece by piece on the way.

struct RowsOf {
    const int8_t *q;
    const float *scale;
    const int16_t *sum16, *sum32;
    int64_t Kp, groups;  // strides of q and scale
};

INLINE RowsOf rows_of(const Quantised &x, int64_t row, int64_t k) {
    const int64_t groups = x.Kp / x.step;
    return {x.q + row * x.Kp + k,
            x.scale + row * groups + k / x.step,
            x.sum16 + row * (x.Kp / 16) + k / 16,
            x.sum32 + row * (x.Kp / 32) + k / 32,
            x.Kp,
            groups};
}

INLINE int32_t four_at(const int8_t *q) {
    int32_t four;
    __builtin_memcpy(&four, q, 4);
    return four;
}

INLINE int32_t two_at(const int16_t *s) {
    int32_t two;
    __builtin_memcpy(&two, s, 4);
    return two;
}

template <Type T>
INLINE I dot_of(I acc, Codes c, int32_t four) {
    if constexpr (Form<T>::wide) return dot4_wide(acc, c, four);
    else return dot4(acc, c, four);
}

// One row is read front to back nearly as fast as the processor's own prefetching goes, and better without asking, except
// where codes, high bits and scales are wanted in an order that it does not follow.
template <Type T, int R>
constexpr bool ASKS = T != Type::opened && (R > 1 || Form<T>::dear);

// R rows times part p of one strip's block, whose codes are shared by the rows; added to y when `more`.
template <Type T, int R>
INLINE void few_block(const uint8_t *strip, int p, const int8_t *q, const float *scale, const int16_t *sum16,
                      const int16_t *sum32, const RowsOf &x, F (&acc)[R]) {
    using Fm = Form<T>;
    F s[Fm::groups], part[R];
    scales<T>(strip, p, s);
    if constexpr (Fm::minimum == Minimum::two_level) {
        I pairs[Fm::groups / 2];
        F by = minima<T>(strip, p, pairs);
        for (int r = 0; r < R; r++) {
            const int16_t *sums = Fm::group == 16 ? sum16 + r * (x.Kp / 16) : sum32 + r * (x.Kp / 32);
            I m{};
            for (int g = 0; g < Fm::groups / 2; g++) m = dot2(m, pairs[g], two_at(sums + 2 * g));
            part[r] = by * to_floats(m);
        }
    } else if constexpr (Fm::large) {
        for (int r = 0; r < R; r++) part[r] = F{};
    }
    constexpr int STEPS = Fm::group / 4;
#pragma GCC unroll 8
    for (int g = 0; g < Fm::block / 32; g++) {
        Codes c[8];
        codes<T>(strip, g, p, c);
        for (int h = 0; h < 32 / Fm::group; h++) {
            const int at = Fm::group == 16 ? 2 * g + h : g;
            I dot[R];
            for (int r = 0; r < R; r++)
                dot[r] = set1i(-Fm::zero *
                               (Fm::group == 16 ? sum16[r * (x.Kp / 16) + at] : sum32[r * (x.Kp / 32) + at]));
            // one step of every row after another: a row's own dots wait for each other
            for (int i = STEPS * h; i < STEPS * (h + 1); i++)
                for (int r = 0; r < R; r++) dot[r] = dot_of<T>(dot[r], c[i], four_at(q + r * x.Kp + 32 * g + 4 * i));
            for (int r = 0; r < R; r++)
                if constexpr (Fm::large) part[r] = fused(to_floats(dot[r]), s[at], part[r]);
                else acc[r] = fused(to_floats(dot[r]) * scale[r * x.groups], s[0], acc[r]);
        }
    }
    for (int r = 0; r < R; r++) {
        if constexpr (Fm::large) acc[r] = fused(part[r], set1(scale[r * x.groups]), acc[r]);
        if constexpr (Fm::minimum == Minimum::plain)
            acc[r] = fused(halves_at(strip, 2, p), set1(scale[r * x.groups] * (float)sum32[r * (x.Kp / 32)]), acc[r]);
    }
}

// R rows times one strip, `blocks` of them, added to y when `more`.
template <Type T, int R>
static void few_strip(const uint8_t *strip, int64_t blocks, const RowsOf &x, float *y, int64_t ldy, bool more) {
    using Fm = Form<T>;
    F acc[PARTS][R];
    for (int p = 0; p < PARTS; p++)
        for (int r = 0; r < R; r++) acc[p][r] = more ? load(y + r * ldy + p * W) : F{};
    for (int64_t n = 0; n < blocks; n++, strip += Fm::strip_block) {
        if (ASKS<T, R>) ask_ahead<T>(strip);
#pragma GCC unroll 1
        for (int p = 0; p < PARTS; p++)
            few_block<T, R>(strip, p, x.q + n * Fm::block, x.scale + n, x.sum16 + n * (Fm::block / 16),
                            x.sum32 + n * (Fm::block / 32), x, acc[p]);
    }
    for (int p = 0; p < PARTS; p++)
        for (int r = 0; r < R; r++) store(y + r * ldy + p * W, acc[p][r]);
}

// Most rows that share codes in registers: what is dear to unpack leaves no room for eight.
template <Type T>
constexpr int SHARING = Form<T>::dear ? 4 : 8;

// Three rows are computed as four, five to seven as eight: the quantised rows and y have room.
template <Type T>
static void few_rows(int64_t rows, const uint8_t *strip, int64_t blocks, const Quantised &x, int64_t k, float *y,
                     int64_t ldy, bool more) {
    for (int64_t r = 0; r < rows; r += SHARING<T>, y += SHARING<T> * ldy) {
        const RowsOf from = rows_of(x, r, k);
        if (SHARING<T> > 4 && rows - r > 4) few_strip<T, SHARING<T>>(strip, blocks, from, y, ldy, more);
        else if (rows - r > 2) few_strip<T, 4>(strip, blocks, from, y, ldy, more);
        else if (rows - r > 1) few_strip<T, 2>(strip, blocks, from, y, ldy, more);
        else few_strip<T, 1>(strip, blocks, from, y, ldy, more);
    }
}

// Sixteen rows of blocks from row o on; past the last they stand in for by it, their sums are never read.
INLINE void strip_from_rows(const Matrix &w, const uint8_t *data, int64_t o, int64_t last, int64_t offset,
                            const uint8_t *rows[STRIP]) {
    for (int64_t i = 0; i < STRIP; i++) rows[i] = data + (o + i < last ? o + i : last - 1) * w.row_bytes + offset;
}

// Bytes of one row's block in the matrix.
template <Type T>
INLINE int64_t bytes_in(const Matrix &w) {
    return T == Type::opened ? w.row_bytes / (w.K / 256) : Form<T>::bytes;
}

// Blocks n .. n + count of the strip from output o on: turned where they lie in rows, opened where that is how they are
// computed with; then at most DEPTH inputs of them, in `room` for a strip turned and one opened.
template <Type T>
static const uint8_t *strip_of(const Matrix &w, const uint8_t *data, int64_t o, int64_t n, int64_t count, uint8_t *room) {
    const int64_t bytes = bytes_in<T>(w);
    const uint8_t *strip = data + o * w.row_bytes + n * STRIP * bytes;
    if (!w.strips) {
        const uint8_t *rows[STRIP];
        strip_from_rows(w, data, o, w.O, n * bytes, rows);
        if constexpr (T == Type::opened) pack(w.type, rows, count, room);
        else pack_as<T>(rows, count, room);
        strip = room;
    }
    if constexpr (T == Type::opened) {
        uint8_t *to = room + STRIP * DEPTH / 32 * 34;
        open_strip(w.type, strip, count, to);
        strip = to;
    }
    return strip;
}

template <Type T>
static void few_as(const Product &p, uint8_t *scratch) {
    using Fm = Form<T>;
    const Matrix &w = *p.w;
    const int64_t blocks = w.K / Fm::block;
    const uint8_t *data = w.data + p.expert * w.expert_bytes;
    const bool whole = T != Type::opened && w.strips && p.rows <= SHARING<T>;
    const int64_t piece = whole ? blocks : DEPTH / Fm::block;
    for (int64_t o = p.o0; o < p.o1; o += STRIP) {
        float *y = p.y + o - p.o0;
        for (int64_t n = 0; n < blocks; n += piece) {
            const int64_t count = blocks - n < piece ? blocks - n : piece;
            const uint8_t *strip = strip_of<T>(w, data, o, n, count, scratch);
            few_rows<T>(p.rows, strip, count, p.quantised, n * Fm::block, y, p.ldy, n > 0);
        }
    }
}

// -- many rows ----------------------------------------------------------------------------------------------------

struct Panel {
    uint8_t *u;   // [DEPTH / 4][PANEL][4]
    float *s;     // [groups][PANEL]
    float *m;     // [blocks][PANEL]: minimum of its own, or -dmin
    int32_t *mn;  // [pairs of groups][PANEL]
};

// One strip's blocks into columns `column` .. of the panel.
template <Type T>
static void unpack_strip(const uint8_t *strip, int64_t blocks, int column, const Panel &panel) {
    using Fm = Form<T>;
    for (int64_t n = 0; n < blocks; n++, strip += Fm::strip_block)
#pragma GCC unroll 1
        for (int p = 0; p < PARTS; p++) {
            const int at = column + p * W;
            F s[Fm::groups];
            scales<T>(strip, p, s);
            for (int g = 0; g < Fm::groups; g++) store(panel.s + (n * Fm::groups + g) * PANEL + at, s[g]);
            if constexpr (Fm::minimum == Minimum::plain) store(panel.m + n * PANEL + at, halves_at(strip, 2, p));
            if constexpr (Fm::minimum == Minimum::two_level) {
                I pairs[Fm::groups / 2];
                store(panel.m + n * PANEL + at, minima<T>(strip, p, pairs));
                for (int g = 0; g < Fm::groups / 2; g++)
                    __builtin_memcpy(panel.mn + (n * (Fm::groups / 2) + g) * PANEL + at, &pairs[g], sizeof(I));
            }
            uint8_t *u = panel.u + n * (Fm::block / 4) * 4 * PANEL + 4 * at;
#pragma GCC unroll 8
            for (int g = 0; g < Fm::block / 32; g++) {
                Codes c[8];
                codes<T>(strip, g, p, c);
                for (int i = 0; i < 8; i++) store_bytes(u + (8 * g + i) * 4 * PANEL, c[i]);
            }
        }
}

INLINE I load_ints(const int32_t *p) {
    I v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

// R rows x V vectors of the panel's columns from `column` on.
template <Type T, int R, int V>
INLINE void tile_of(const Panel &panel, int64_t blocks, const RowsOf &x, int column, float *y, int64_t ldy, bool more) {
    using Fm = Form<T>;
    constexpr int STEPS = Fm::group / 4;
    F acc[R][V];
    if (!Fm::large)
        for (int r = 0; r < R; r++)
            for (int v = 0; v < V; v++) acc[r][v] = more ? load(y + r * ldy + v * W) : F{};
    const uint8_t *u = panel.u + 4 * column;
    for (int64_t n = 0; n < blocks; n++) {
        const int8_t *q = x.q + n * Fm::block;
        const int16_t *sum16 = x.sum16 + n * (Fm::block / 16), *sum32 = x.sum32 + n * (Fm::block / 32);
        if constexpr (Fm::minimum == Minimum::two_level) {
            I m[R][V] = {};
            const int32_t *mn = panel.mn + n * (Fm::groups / 2) * PANEL + column;
            for (int g = 0; g < Fm::groups / 2; g++)
                for (int r = 0; r < R; r++) {
                    const int16_t *sums = Fm::group == 16 ? sum16 + r * (x.Kp / 16) : sum32 + r * (x.Kp / 32);
                    for (int v = 0; v < V; v++)
                        m[r][v] = dot2(m[r][v], load_ints(mn + g * PANEL + v * W), two_at(sums + 2 * g));
                }
            for (int r = 0; r < R; r++)
                for (int v = 0; v < V; v++)
                    acc[r][v] = load(panel.m + n * PANEL + column + v * W) * to_floats(m[r][v]);
        } else if constexpr (Fm::large) {
            for (int r = 0; r < R; r++)
                for (int v = 0; v < V; v++) acc[r][v] = F{};
        }
#pragma GCC unroll 1
        for (int g = 0; g < Fm::groups; g++) {
            I dot[R][V];
            for (int r = 0; r < R; r++) {
                int32_t start = 0;
                if constexpr (Fm::zero != 0)
                    start = -Fm::zero * (Fm::group == 16 ? sum16[r * (x.Kp / 16) + g] : sum32[r * (x.Kp / 32) + g]);
                for (int v = 0; v < V; v++) dot[r][v] = set1i(start);
            }
            for (int k = 0; k < STEPS; k++, u += 4 * PANEL) {
                Codes w[V];
                for (int v = 0; v < V; v++) w[v] = load_bytes(u + 4 * W * v);
                for (int r = 0; r < R; r++) {
                    const int32_t four = four_at(q + r * x.Kp + g * Fm::group + 4 * k);
                    for (int v = 0; v < V; v++) dot[r][v] = dot_of<T>(dot[r][v], w[v], four);
                }
            }
            for (int v = 0; v < V; v++) {
                F s = load(panel.s + (n * Fm::groups + g) * PANEL + column + v * W);
                for (int r = 0; r < R; r++)
                    if constexpr (Fm::large) acc[r][v] = fused(to_floats(dot[r][v]), s, acc[r][v]);
                    else acc[r][v] = fused(to_floats(dot[r][v]) * x.scale[r * x.groups + n], s, acc[r][v]);
            }
            if constexpr (Fm::minimum == Minimum::plain)
                for (int v = 0; v < V; v++) {
                    F m = load(panel.m + n * PANEL + column + v * W);
                    for (int r = 0; r < R; r++)
                        acc[r][v] = fused(m, set1(x.scale[r * x.groups + n] * (float)sum32[r * (x.Kp / 32)]), acc[r][v]);
                }
        }
        if constexpr (Fm::large)
            for (int r = 0; r < R; r++)
                for (int v = 0; v < V; v++) {
                    float *at = y + r * ldy + v * W;
                    F before = more || n > 0 ? load(at) : F{};
                    store(at, fused(acc[r][v], set1(x.scale[r * x.groups + n]), before));
                }
    }
    if (!Fm::large)
        for (int r = 0; r < R; r++)
            for (int v = 0; v < V; v++) store(y + r * ldy + v * W, acc[r][v]);
}

#if defined(HERD_AVX512)
constexpr int TILE = 3;  // vectors of columns: 12 sums of integers and 12 of floats in 32 registers
#elif defined(HERD_NEON)
constexpr int TILE = 3;
#else
constexpr int TILE = 1;
#endif

template <Type T, int R>
static void tile_rows(const Panel &panel, int64_t blocks, const RowsOf &x, float *y, int64_t ldy, bool more) {
    for (int c = 0; c < PANEL; c += TILE * W) tile_of<T, R, TILE>(panel, blocks, x, c, y + c, ldy, more);
}

// y: rows of at least PANEL, and, as the quantised rows, a whole number of fours of them.
template <Type T>
static void many_as(const Product &p, uint8_t *scratch) {
    using Fm = Form<T>;
    const Matrix &w = *p.w;
    Panel panel;
    panel.u = scratch;
    panel.s = (float *)(panel.u + PANEL * DEPTH);
    panel.mn = (int32_t *)(panel.s + PANEL * (DEPTH / 16));
    panel.m = (float *)(panel.mn + PANEL * (DEPTH / 32));
    uint8_t *turned = (uint8_t *)(panel.m + PANEL * (DEPTH / 32));
    const int64_t blocks = w.K / Fm::block, piece = DEPTH / Fm::block, strip_block = STRIP * bytes_in<T>(w);
    const uint8_t *data = w.data + p.expert * w.expert_bytes;
    for (int64_t n = 0; n < blocks; n += piece) {
        const int64_t count = blocks - n < piece ? blocks - n : piece;
        for (int64_t o = p.o0; o < p.o1; o += STRIP) {
            unpack_strip<T>(strip_of<T>(w, data, o, n, count, turned), count, (int)(o - p.o0), panel);
        }
        // What the next piece is made of, asked for share by share while this one is computed with.
        const int64_t left = blocks - n - count, tiles = (p.rows + 3) / 4;
        const int64_t next = w.strips ? (left < piece ? left : piece) * strip_block : 0;
        const int64_t share = (next / tiles + 63) / 64 * 64;
        for (int64_t t = 0; t < tiles; t++) {
            for (int64_t o = p.o0; o < p.o1; o += STRIP) {
                const uint8_t *from = data + o * w.row_bytes + (n + count) * strip_block;
                for (int64_t i = t * share; i < (t + 1) * share && i < next; i += 64) __builtin_prefetch(from + i, 0, 2);
            }
            const RowsOf x = rows_of(p.quantised, 4 * t, n * Fm::block);
            float *y = p.y + 4 * t * p.ldy;
            if (p.rows - 4 * t > 2) tile_rows<T, 4>(panel, count, x, y, p.ldy, n > 0);
            else tile_rows<T, 2>(panel, count, x, y, p.ldy, n > 0);
        }
    }
}

static void few_floats(const Product &p, uint8_t *scratch) {
    Product part = p;
    for (int64_t o = p.o0; o < p.o1; o += PANEL) {
        part.o0 = o, part.o1 = o + PANEL < p.o1 ? o + PANEL : p.o1, part.y = p.y + o - p.o0;
        if (p.w->type == Type::f32) panel_floats<Type::f32>(part, (float *)scratch);
        else if (p.w->type == Type::f16) panel_floats<Type::f16>(part, (float *)scratch);
        else panel_floats<Type::bf16>(part, (float *)scratch);
    }
}

// Most rows for which `few` is the faster way: it unpacks for each SHARING of them, `many` once for all.
template <Type T>
constexpr int64_t MOST_FEW = Form<T>::dear ? 8 : FEW_ROWS;

static bool is_few(Type type, int64_t rows) {
    int64_t most = FEW_ROWS;
    if (type <= Type::bf16) return rows <= most;
#define HERD_MOST(T) most = MOST_FEW<T>
    HERD_EACH_FORMAT(type, HERD_MOST, HERD_MOST(Type::opened))
#undef HERD_MOST
    return rows <= most;
}

static void few(const Product &p, uint8_t *scratch) {
    if (p.w->type <= Type::bf16) return few_floats(p, scratch);
#define HERD_FEW(T) few_as<T>(p, scratch)
    HERD_EACH_FORMAT(p.w->type, HERD_FEW, HERD_FEW(Type::opened))
#undef HERD_FEW
}

static void many(const Product &p, uint8_t *scratch) {
    if (p.w->type <= Type::bf16) return few_floats(p, scratch);
#define HERD_MANY(T) many_as<T>(p, scratch)
    HERD_EACH_FORMAT(p.w->type, HERD_MANY, HERD_MANY(Type::opened))
#undef HERD_MANY
}
