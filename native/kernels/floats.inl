// Products with float32, float16 and bfloat16 weights. Weights widen to float32 exactly; an output is one chain of
// float32 multiply-adds over its inputs in order (tile.inl), for one row as for five hundred.

template <Type T>
INLINE F load_as(const uint8_t *p) {
    if constexpr (T == Type::f16) return load_half(p);
    if constexpr (T == Type::bf16) return load_bf16(p);
    return load((const float *)(const void *)p);
}

template <Type T>
INLINE float one_as(const uint8_t *p) {
    if constexpr (T == Type::f16) return half_to_float(p);
    if constexpr (T == Type::bf16) return bf16_to_float(p);
    float value;
    memcpy(&value, p, 4);
    return value;
}

template <Type T>
constexpr int64_t SIZE = T == Type::f32 ? 4 : 2;

template <Type T>
INLINE void widen_as(const uint8_t *p, int64_t n, float *y) {
    int64_t i = 0;
    for (; i + W <= n; i += W) store(y + i, load_as<T>(p + i * SIZE<T>));
    for (; i < n; i++) y[i] = one_as<T>(p + i * SIZE<T>);
}

// W rows of n values become n rows of W: to[i * stride + r] = row[r][i].
// What comes FLOAT_DEPTH inputs later in each row is asked for: short pieces of many rows are no stream that the processor
// would follow.
template <Type T>
INLINE void turn_rows(const uint8_t *const row[W], int64_t n, float *to, int64_t stride) {
    int64_t i = 0;
    if constexpr (T == Type::bf16)  // pairs travel together: half the work
        for (; i + 2 * W <= n; i += 2 * W) {
            F v[W];
            for (int r = 0; r < W; r++) {
                __builtin_prefetch(row[r] + (i + FLOAT_DEPTH) * SIZE<T>, 0, 2);
                v[r] = load((const float *)(const void *)(row[r] + i * SIZE<T>));
            }
            transpose(v);
            for (int r = 0; r < W; r++) {
                store(to + (i + 2 * r) * stride, (F)((U)v[r] << 16));
                store(to + (i + 2 * r + 1) * stride, (F)((U)v[r] & 0xffff0000u));
            }
        }
    for (; i + W <= n; i += W) {
        F v[W];
        for (int r = 0; r < W; r++) {
            __builtin_prefetch(row[r] + (i + FLOAT_DEPTH) * SIZE<T>, 0, 2);
            v[r] = load_as<T>(row[r] + i * SIZE<T>);
        }
        transpose(v);
        for (int r = 0; r < W; r++) store(to + (i + r) * stride, v[r]);
    }
    for (; i < n; i++)
        for (int r = 0; r < W; r++) to[i * stride + r] = one_as<T>(row[r] + i * SIZE<T>);
}

// A panel of at most PANEL outputs is widened and turned into [depth][PANEL], then all rows run over it.
template <Type T>
static void panel_floats(const Product &p, float *panel) {
    const Matrix &w = *p.w;
    const uint8_t *data = w.data + p.expert * w.expert_bytes;
    int64_t cols = p.o1 - p.o0, vectors = (cols + W - 1) / W;
    for (int64_t k0 = 0; k0 < w.K; k0 += FLOAT_DEPTH) {
        int64_t depth = w.K - k0 < FLOAT_DEPTH ? w.K - k0 : FLOAT_DEPTH;
        if (w.input_major) {
            if (cols < PANEL) memset(panel, 0, (size_t)(depth * PANEL) * 4);
            for (int64_t k = 0; k < depth; k++)
                widen_as<T>(data + (k0 + k) * w.row_bytes + p.o0 * SIZE<T>, cols, panel + k * PANEL);
        } else {
            // Columns past the last stand in for by it: their sums are never read.
            for (int64_t c = 0; c < cols; c += W) {
                const uint8_t *row[W];
                for (int64_t i = 0; i < W; i++)
                    row[i] = data + (p.o0 + (c + i < cols ? c + i : cols - 1)) * w.row_bytes + k0 * SIZE<T>;
                turn_rows<T>(row, depth, panel + c, PANEL);
            }
        }
        tile(p.rows, depth, vectors, p.x + k0, p.ldx, panel, PANEL, p.y, p.ldy, k0 > 0);
    }
}
