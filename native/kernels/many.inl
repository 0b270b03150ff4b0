// The blocked product of packed weights: a panel of PANEL outputs x DEPTH inputs is unpacked once into bytes
// [inputs / 4][PANEL][4] with float scales and minima [group][PANEL], and every tile of four rows runs over it.

struct Panel {
    uint8_t *u;
    float *s, *m;
};

// A tile of four rows. start: what the dots of each group begin with, [group][4].
#if defined(HERD_AVX512)
template <bool MIN, int GROUP, int BITS>
INLINE void many_tile(const Panel &panel, int64_t depth, const int8_t *q, const float *scale, const float *sum,
                      const int32_t *start, float *y, int64_t ldy, bool more) {
    __m512 acc[4][3];
    for (int r = 0; r < 4; r++)
        for (int v = 0; v < 3; v++) acc[r][v] = more ? _mm512_loadu_ps(y + r * ldy + 16 * v) : _mm512_setzero_ps();
    const uint8_t *u = panel.u;
    for (int64_t g = 0; g < depth / GROUP; g++) {
        __m512i dot[4][3];
        for (int r = 0; r < 4; r++)
            for (int v = 0; v < 3; v++) dot[r][v] = MIN ? _mm512_setzero_si512() : _mm512_set1_epi32(start[4 * g + r]);
        for (int k = 0; k < GROUP / 4; k++, u += 4 * PANEL, q += 16) {
            __m512i w[3];
            for (int v = 0; v < 3; v++) w[v] = _mm512_loadu_si512(u + 64 * v);
            for (int r = 0; r < 4; r++) {
                int32_t four;
                memcpy(&four, q + 4 * r, 4);
                __m512i a = _mm512_set1_epi32(four);
                for (int v = 0; v < 3; v++) dot[r][v] = _mm512_dpbusd_epi32(dot[r][v], w[v], a);
            }
        }
        int64_t by = GROUP == 32 ? g : g / 2;
        for (int v = 0; v < 3; v++) {
            __m512 s = _mm512_load_ps(panel.s + g * PANEL + 16 * v);
            __m512 m = MIN ? _mm512_load_ps(panel.m + g * PANEL + 16 * v) : s;
            for (int r = 0; r < 4; r++) {
                __m512 a = _mm512_mul_ps(_mm512_cvtepi32_ps(dot[r][v]), _mm512_set1_ps(scale[4 * by + r]));
                acc[r][v] = _mm512_fmadd_ps(a, s, acc[r][v]);
                if (MIN) acc[r][v] = _mm512_fmadd_ps(m, _mm512_set1_ps(sum[4 * by + r]), acc[r][v]);
            }
        }
    }
    for (int r = 0; r < 4; r++)
        for (int v = 0; v < 3; v++) _mm512_storeu_ps(y + r * ldy + 16 * v, acc[r][v]);
}
#elif defined(HERD_AVX2)
// Products of 4-bit codes add up in 16 bits over a whole group (8 steps of at most 2 * 15 * 127), those of 6 bits over
// two steps. 8-bit codes become signed and take dot_signed's way.
template <bool MIN, int GROUP, int BITS>
INLINE void many_tile(const Panel &panel, int64_t depth, const int8_t *q, const float *scale, const float *sum,
                      const int32_t *start, float *y, int64_t ldy, bool more) {
    constexpr int STEPS = BITS == 4 ? GROUP / 4 : 2;
    const __m256i one = _mm256_set1_epi16(1);
    for (int c = 0; c < PANEL; c += 8) {
        F acc[4];
        for (int r = 0; r < 4; r++) acc[r] = more ? load(y + r * ldy + c) : F{};
        const uint8_t *u = panel.u + 4 * c;
        const int8_t *x = q;
        for (int64_t g = 0; g < depth / GROUP; g++) {
            __m256i dot[4];
            for (int r = 0; r < 4; r++)
                dot[r] = MIN || BITS == 8 ? _mm256_setzero_si256() : _mm256_set1_epi32(start[4 * g + r]);
            for (int k = 0; k < GROUP / 4; k += STEPS) {
                __m256i pair[4] = {};
                for (int i = 0; i < STEPS; i++, u += 4 * PANEL, x += 16) {
                    __m256i w = _mm256_load_si256((const __m256i *)u);
                    if (BITS == 8) w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
                    for (int r = 0; r < 4; r++) {
                        int32_t four;
                        memcpy(&four, x + 4 * r, 4);
                        __m256i a = _mm256_set1_epi32(four);
                        if (BITS == 8) dot[r] = _mm256_add_epi32(dot[r], (__m256i)dot_signed(w, a));
                        else pair[r] = _mm256_add_epi16(pair[r], _mm256_maddubs_epi16(w, a));
                    }
                }
                if (BITS != 8)
                    for (int r = 0; r < 4; r++) dot[r] = _mm256_add_epi32(dot[r], _mm256_madd_epi16(pair[r], one));
            }
            int64_t by = GROUP == 32 ? g : g / 2;
            F s = load(panel.s + g * PANEL + c);
            for (int r = 0; r < 4; r++) {
                acc[r] += (F)_mm256_cvtepi32_ps(dot[r]) * scale[4 * by + r] * s;
                if (MIN) acc[r] += load(panel.m + g * PANEL + c) * sum[4 * by + r];
            }
        }
        for (int r = 0; r < 4; r++) store(y + r * ldy + c, acc[r]);
    }
}
#elif defined(HERD_NEON)
// A vector of activations holds four inputs of each of the four rows: the dot product picks a row by its lane.
template <int V, int BITS>
INLINE void neon_step(int32x4_t dot[4][V], const uint8_t *u, const int8_t *q) {
    int8x16_t a = vld1q_s8(q);
    for (int v = 0; v < V; v++) {
        int8x16_t w = vld1q_s8((const int8_t *)u + 16 * v);
        if (BITS == 8) w = veorq_s8(w, vdupq_n_s8(-128));
        dot[0][v] = vdotq_laneq_s32(dot[0][v], w, a, 0);
        dot[1][v] = vdotq_laneq_s32(dot[1][v], w, a, 1);
        dot[2][v] = vdotq_laneq_s32(dot[2][v], w, a, 2);
        dot[3][v] = vdotq_laneq_s32(dot[3][v], w, a, 3);
    }
}

template <bool MIN, int GROUP, int BITS>
INLINE void many_tile(const Panel &panel, int64_t depth, const int8_t *q, const float *scale, const float *sum,
                      const int32_t *start, float *y, int64_t ldy, bool more) {
    constexpr int V = 3;
    for (int c = 0; c < PANEL; c += 4 * V) {
        F acc[4][V];
        for (int r = 0; r < 4; r++)
            for (int v = 0; v < V; v++) acc[r][v] = more ? load(y + r * ldy + c + 4 * v) : F{};
        const uint8_t *u = panel.u + 4 * c;
        const int8_t *x = q;
        for (int64_t g = 0; g < depth / GROUP; g++) {
            int32x4_t dot[4][V];
            for (int r = 0; r < 4; r++)
                for (int v = 0; v < V; v++) dot[r][v] = vdupq_n_s32(MIN || BITS == 8 ? 0 : start[4 * g + r]);
            for (int k = 0; k < GROUP / 4; k++, u += 4 * PANEL, x += 16) neon_step<V, BITS>(dot, u, x);
            int64_t by = GROUP == 32 ? g : g / 2;
            for (int v = 0; v < V; v++) {
                F s = load(panel.s + g * PANEL + c + 4 * v);
                for (int r = 0; r < 4; r++) {
                    acc[r][v] += __builtin_convertvector((I)dot[r][v], F) * scale[4 * by + r] * s;
                    if (MIN) acc[r][v] += load(panel.m + g * PANEL + c + 4 * v) * sum[4 * by + r];
                }
            }
        }
        for (int r = 0; r < 4; r++)
            for (int v = 0; v < V; v++) store(y + r * ldy + c + 4 * v, acc[r][v]);
    }
}
#else
template <bool MIN, int GROUP, int BITS>
INLINE void many_tile(const Panel &panel, int64_t depth, const int8_t *q, const float *scale, const float *sum,
                      const int32_t *start, float *y, int64_t ldy, bool more) {
    if (!more)
        for (int r = 0; r < 4; r++)
            for (int c = 0; c < PANEL; c++) y[r * ldy + c] = 0;
    for (int64_t g = 0; g < depth / GROUP; g++) {
        int64_t by = GROUP == 32 ? g : g / 2;
        for (int r = 0; r < 4; r++) {
            int32_t dot[PANEL];
            for (int c = 0; c < PANEL; c++) dot[c] = MIN ? 0 : start[4 * g + r];
            for (int k = 0; k < GROUP / 4; k++) {
                const uint8_t *u = panel.u + (g * GROUP / 4 + k) * 4 * PANEL;
                const int8_t *x = q + (g * GROUP / 4 + k) * 16 + 4 * r;
                for (int c = 0; c < PANEL; c++)
                    dot[c] += u[4 * c] * x[0] + u[4 * c + 1] * x[1] + u[4 * c + 2] * x[2] + u[4 * c + 3] * x[3];
            }
            for (int c = 0; c < PANEL; c++) {
                float value = y[r * ldy + c] + scale[4 * by + r] * (float)dot[c] * panel.s[g * PANEL + c];
                if (MIN) value += panel.m[g * PANEL + c] * sum[4 * by + r];
                y[r * ldy + c] = value;
            }
        }
    }
}
#endif

#if defined(HERD_AVX512)
#include "panel_avx512.inl"
#else
// The columns of a panel one after another, scattered by fours.
static void unpack_panel(const Matrix &w, const uint8_t *first, int64_t cols, int64_t k0, int64_t n,
                         const Panel &panel) {
    Format f = format_of(w.type);
    alignas(64) uint8_t u[DEPTH];
    float s[DEPTH / 16], m[DEPTH / 16];
    for (int64_t c = 0; c < PANEL; c++) {
        if (c < cols) {
            unpack(w.type, first + c * w.row_bytes + k0 / f.block * f.bytes, n, u, s, m);
        } else if (c == cols) {
            memset(u, 0, sizeof u);
            memset(s, 0, sizeof s);
            memset(m, 0, sizeof m);
        }
        for (int64_t k = 0; k < n / 4; k++) memcpy(panel.u + (k * PANEL + c) * 4, u + 4 * k, 4);
        for (int64_t g = 0; g < n / f.group; g++) panel.s[g * PANEL + c] = s[g], panel.m[g * PANEL + c] = m[g];
    }
}
#endif

// Codes are unsigned: the dots of a group begin at -zero times the sum of its activations.
INLINE void starts(const int32_t *half, int64_t n, const Format &f, int32_t *start) {
    if (f.group == 16)
        for (int64_t i = 0; i < n / 4; i++) start[i] = -f.zero * half[i];
    else
        for (int64_t g = 0; g < n / 32; g++)
            for (int r = 0; r < 4; r++) start[4 * g + r] = -f.zero * (half[8 * g + r] + half[8 * g + 4 + r]);
}

// y: [rows rounded up to 4][PANEL]
static void many_packed(const Product &p, uint8_t *scratch) {
    const Matrix &w = *p.w;
    Format f = format_of(w.type);
    Panel panel{scratch, (float *)(scratch + PANEL * DEPTH), (float *)(scratch + PANEL * DEPTH) + PANEL * (DEPTH / 16)};
    const uint8_t *first = w.data + p.expert * w.expert_bytes + p.o0 * w.row_bytes;
    const Quantised &x = p.quantised;
    int64_t G = x.Kp / 32;
    for (int64_t k0 = 0; k0 < w.K; k0 += DEPTH) {
        int64_t n = w.K - k0 < DEPTH ? w.K - k0 : DEPTH;
        unpack_panel(w, first, p.o1 - p.o0, k0, n, panel);
        for (int64_t t = 0; t * 4 < p.rows; t++) {
            const int8_t *q = x.q + 4 * t * x.Kp + 4 * k0;
            const float *scale = x.scale + 4 * (t * G + k0 / 32), *sum = x.sum + 4 * (t * G + k0 / 32);
            float *y = p.y + 4 * t * p.ldy;
            alignas(64) int32_t start[4 * DEPTH / 16];
            starts(x.half + 8 * (t * G + k0 / 32), n, f, start);
            if (f.has_min) many_tile<true, 32, 4>(panel, n, q, scale, sum, start, y, p.ldy, k0 > 0);
            else if (f.group == 16) many_tile<false, 16, 6>(panel, n, q, scale, sum, start, y, p.ldy, k0 > 0);
            else if (f.zero == 8) many_tile<false, 32, 4>(panel, n, q, scale, sum, start, y, p.ldy, k0 > 0);
            else many_tile<false, 32, 8>(panel, n, q, scale, sum, start, y, p.ldy, k0 > 0);
        }
    }
}
