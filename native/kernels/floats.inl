// Products with float32, float16 and bfloat16 weights. Weights widen to float32 exactly; sums are float32.

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

// Along the rows of w[O, K]: M rows of x share each load of a weight.
template <Type T, int M>
INLINE void dot_rows(const uint8_t *w, const float *x, int64_t ldx, int64_t K, float *y, int64_t ldy) {
    constexpr int S = M == 1 ? 4 : 2;  // chains per row, to hide the latency of an addition
    F acc[M][S] = {};
    int64_t k = 0;
    for (; k + S * W <= K; k += S * W)
        for (int s = 0; s < S; s++) {
            F v = load_as<T>(w + (k + s * W) * SIZE<T>);
            for (int m = 0; m < M; m++) acc[m][s] += v * load(x + m * ldx + k + s * W);
        }
    for (; k + W <= K; k += W) {
        F v = load_as<T>(w + k * SIZE<T>);
        for (int m = 0; m < M; m++) acc[m][0] += v * load(x + m * ldx + k);
    }
    for (int m = 0; m < M; m++) {
        F sum = acc[m][0];
        for (int s = 1; s < S; s++) sum += acc[m][s];
        float tail = 0;
        for (int64_t i = k; i < K; i++) tail += one_as<T>(w + i * SIZE<T>) * x[m * ldx + i];
        y[m * ldy] = total(sum) + tail;
    }
}

// Down the columns of w[K, O]: V vectors of outputs at a time.
template <Type T, int M, int V>
INLINE void dot_columns(const uint8_t *w, int64_t stride, const float *x, int64_t ldx, int64_t K, float *y,
                        int64_t ldy) {
    F acc[M][V] = {};
    for (int64_t k = 0; k < K; k++)
        for (int v = 0; v < V; v++) {
            F b = load_as<T>(w + k * stride + v * W * SIZE<T>);
            for (int m = 0; m < M; m++) acc[m][v] += b * x[m * ldx + k];
        }
    for (int m = 0; m < M; m++)
        for (int v = 0; v < V; v++) store(y + m * ldy + v * W, acc[m][v]);
}

template <Type T, int M>
INLINE void few_floats(const Product &p, int64_t row) {
    const Matrix &w = *p.w;
    const uint8_t *data = w.data + p.expert * w.expert_bytes;
    const float *x = p.x + row * p.ldx;
    float *y = p.y + row * p.ldy;
    if (!w.input_major) {
        for (int64_t o = p.o0; o < p.o1; o++)
            dot_rows<T, M>(data + o * w.row_bytes, x, p.ldx, w.K, y + o - p.o0, p.ldy);
        return;
    }
    int64_t o = p.o0;
    for (; o + 4 * W <= p.o1; o += 4 * W)
        dot_columns<T, M, 4>(data + o * SIZE<T>, w.row_bytes, x, p.ldx, w.K, y + o - p.o0, p.ldy);
    for (; o + W <= p.o1; o += W)
        dot_columns<T, M, 1>(data + o * SIZE<T>, w.row_bytes, x, p.ldx, w.K, y + o - p.o0, p.ldy);
    for (; o < p.o1; o++)
        for (int m = 0; m < M; m++) {
            float sum = 0;
            for (int64_t k = 0; k < w.K; k++) sum += one_as<T>(data + k * w.row_bytes + o * SIZE<T>) * x[m * p.ldx + k];
            y[m * p.ldy + o - p.o0] = sum;
        }
}

template <Type T>
static void few_floats(const Product &p) {
    int64_t row = 0;
    for (; row + 4 <= p.rows; row += 4) few_floats<T, 4>(p, row);
    for (; row + 2 <= p.rows; row += 2) few_floats<T, 2>(p, row);
    if (row < p.rows) few_floats<T, 1>(p, row);
}

// W rows of n values become n rows of W: to[i * stride + r] = row[r][i].
template <Type T>
INLINE void turn_rows(const uint8_t *const row[W], int64_t n, float *to, int64_t stride) {
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        F v[W];
        for (int r = 0; r < W; r++) v[r] = load_as<T>(row[r] + i * SIZE<T>);
        transpose(v);
        for (int r = 0; r < W; r++) store(to + (i + r) * stride, v[r]);
    }
    for (; i < n; i++)
        for (int r = 0; r < W; r++) to[i * stride + r] = one_as<T>(row[r] + i * SIZE<T>);
}

// A panel of weights is widened and turned into [depth][PANEL], then all rows run over it. y: [rows][PANEL].
template <Type T>
static void many_floats(const Product &p, float *panel) {
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
