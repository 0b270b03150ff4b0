// Few quantised rows: which rows, outputs and experts; the loop along one weight row is the instruction set's own.

INLINE Quantised rows_from(const Quantised &x, int64_t row) {
    int64_t G = x.Kp / 32;
    return {x.q + row * x.Kp, x.scale + row * G, x.sum + row * G, x.half + row * 2 * G, x.Kp};
}

template <int M>
static void few_packed(const Product &p, int64_t row) {
    const Matrix &w = *p.w;
    const Quantised x = rows_from(p.quantised, row);
    const int64_t blocks = w.K / format_of(w.type).block;
    const uint8_t *data = w.data + p.expert * w.expert_bytes;
    float *y = p.y + row * p.ldy;
    for (int64_t o = p.o0; o < p.o1; o++, y++) few_one<M>(w.type, data + o * w.row_bytes, blocks, x, y, p.ldy);
}

// A few outputs at a time, so that their weights stay in the first-level cache while groups of rows pass over them.
static void few_packed(const Product &p) {
    Product part = p;
    const int64_t step = p.rows > 4 ? 4 : p.o1 - p.o0;
    for (int64_t o = p.o0; o < p.o1; o += step) {
        part.o0 = o;
        part.o1 = o + step < p.o1 ? o + step : p.o1;
        part.y = p.y + o - p.o0;
        int64_t row = 0;
        for (; row + 4 <= p.rows; row += 4) few_packed<4>(part, row);
        for (; row + 2 <= p.rows; row += 2) few_packed<2>(part, row);
        if (row < p.rows) few_packed<1>(part, row);
    }
}
