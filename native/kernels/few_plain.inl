// Products of packed weights with quantised rows: y = sum over groups a_g (s_g dot_g + m_g sum_g), dots in integers.

// The plain form, for any processor: a weight row is unpacked piece by piece and all rows run over it.
INLINE int32_t dot_bytes(const int8_t *w, const int8_t *x, int n) {
    int32_t sum = 0;
    for (int i = 0; i < n; i++) sum += (int32_t)w[i] * x[i];
    return sum;
}

static void few_packed(const Product &p) {
    const Matrix &w = *p.w;
    Format f = format_of(w.type);
    int64_t Kp = p.quantised.Kp, G = Kp / 32, per = f.group / 16;
    alignas(64) uint8_t u[DEPTH];
    alignas(64) int8_t q[DEPTH];
    float s[DEPTH / 16], m[DEPTH / 16];
    for (int64_t o = p.o0; o < p.o1; o++) {
        for (int64_t r = 0; r < p.rows; r++) p.y[r * p.ldy + o - p.o0] = 0;
        for (int64_t k0 = 0; k0 < w.K; k0 += DEPTH) {
            int64_t n = w.K - k0 < DEPTH ? w.K - k0 : DEPTH;
            unpack(w.type, w.data + p.expert * w.expert_bytes + o * w.row_bytes + k0 / f.block * f.bytes, n, u, s, m);
            for (int64_t i = 0; i < n; i++) q[i] = (int8_t)(u[i] - f.zero);
            for (int64_t r = 0; r < p.rows; r++) {
                const int8_t *x = p.quantised.q + r * Kp + k0;
                const float *a = p.quantised.scale + r * G + k0 / 32, *sum = p.quantised.sum + r * G + k0 / 32;
                float y = 0;
                for (int64_t g = 0; g < n / f.group; g++) {
                    y += a[g * per / 2] * s[g] * (float)dot_bytes(q + g * f.group, x + g * f.group, f.group);
                    if (f.has_min) y += m[g] * sum[g];
                }
                p.y[r * p.ldy + o - p.o0] += y;
            }
        }
    }
}
