// Keys and values in pages of 256 slots as 4-bit codes (kv.h), between a first page and an own page of bfloat16.
//
// Keys whose scale and minimum belong to a channel d: q . k = sum over d of (q_d s_d) c_d + q_d m_d, so the scales go
// into the query, anew for each 64 keys, as int8. What that rounding loses on the middle of the codes (7.5) is added
// back, exactly; the rest of it is small beside the codes' own rounding. Keys whose scale belongs to the slot, and
// values: as int8, by groups of 64 dims.

struct Int4 {
    static constexpr bool COARSE = true;
    using Probability = float;
    static constexpr int64_t KEYS = PAGE;
    static constexpr int64_t VALUE_BLOCKS = MOST_KEYS / BLOCK;  // all at once
#if defined(HERD_BF16)
    static constexpr int SCORE_BLOCKS = 4, VALUE_VECTORS = 4;
#elif defined(HERD_AVX512)
    static constexpr int SCORE_BLOCKS = 4, VALUE_VECTORS = 2;
#else
    static constexpr int SCORE_BLOCKS = 2, VALUE_VECTORS = 1;
#endif
    static void open(const Attend &a, int64_t key0, int64_t n, int64_t last, Blocks &b, uint8_t *spare) {
        const int64_t range = key0 / PAGE;
        if (range == 0 || range == a.last_page) {
            Attend exact = a;
            exact.kv = a.exact;
            exact.pages = range == 0 ? &a.first_page : &a.own_page;
            open_blocks<2, 2>(exact, 0, n, 0, b, spare);
            b.page = nullptr;
            return;
        }
        b.count = PAGE / BLOCK;
        b.page = a.kv.k + a.pages[range] * a.kv.stride;
        bool more = range + 1 < a.last_page && range + 1 < a.range1 && key0 + PAGE < last;
        b.next_page = more ? a.kv.k + a.pages[range + 1] * a.kv.stride : b.page;
    }

    // What Bf16 wants, then digits [2][width] by groups of dims, then scale and sum of each group.
    static __attribute__((noinline)) void prepare(const float *q, int64_t H, uint8_t *made) {
        const int64_t width = round_up(H, 16);
        Bf16::prepare(q, H, made);
        uint8_t *high = made + 2 * width, *low = made + 3 * width;
        for (int64_t g = 0; g < dim_groups(H); g++) {
            int64_t at = g * DIM_GROUP, n = width - at < DIM_GROUP ? width - at : DIM_GROUP;
            int32_t whole;
            F sum{};
            for (int64_t i = 0; i < n; i += W) sum += load(q + at + i);
            float of[2] = {whole_digits(q + at, n, high + at, low + at, whole), total(sum)};
            memcpy(made + 4 * width + 8 * g, of, 8);
        }
    }

    // The queries with the scales of 64 keys' channels in them, as int8: score = dot * scale + constant.
    template <int R>
    static __attribute__((noinline)) void channel_queries(const Tile &t, const uint8_t *scales, const uint8_t *minima,
                                                          uint8_t (*to)[MOST_DIMS], float *scale, float *constant) {
        const int64_t ahead = t.at->next_page - t.at->page;
        alignas(64) float factor[MOST_DIMS];
        F most[R] = {}, sum[R] = {}, count[R] = {}, by[R];
        for (int64_t i = 0; i < t.width; i += W) {
            F s = load_half(scales + 2 * i), middle = fused(s, set1(7.5f), load_half(minima + 2 * i));
            __builtin_prefetch(scales + ahead + 2 * i, 0, 2);
            __builtin_prefetch(minima + ahead + 2 * i, 0, 2);
            store(factor + i, s);
            for (int r = 0; r < R; r++) {
                F q = load(t.query(r) + i);
                most[r] = largest(most[r], absolute(q * s));
                sum[r] = fused(q, middle, sum[r]);
            }
        }
        for (int r = 0; r < R; r++) {
            const float top = peak(most[r]);
            by[r] = set1(top > LEAST ? 127.0f / top : 0.0f), scale[r] = top / 127.0f;
        }
        for (int64_t i = 0; i < t.width; i += W) {
            F s = load(factor + i);
            for (int r = 0; r < R; r++) {
                F v = fused(load(t.query(r) + i) * s, by[r], set1(ROUNDING));
                put_bytes(to[r] + i, (I)v);
                count[r] += v - ROUNDING;
            }
        }
        for (int r = 0; r < R; r++) constant[r] = total(fused(count[r], set1(-7.5f * scale[r]), sum[r]));
    }

    template <int R, int B>
    INLINE void scores(const Tile &t, int64_t block) {
        if constexpr (B == SCORE_BLOCKS) {
            if (t.rope) {
                for (int64_t b = 0; b < B; b += 2) slot_scores<R>(t, block + b);
            } else {
                channel_scores<R, B>(t, block);
            }
        }
    }

    template <int R, int B>
    INLINE void channel_scores(const Tile &t, int64_t block) {
        constexpr int V = B * BLOCK / W, HALF = BLOCK / W;
        const int64_t H4 = round_up(t.H, 4), group = block * BLOCK / KEY_GROUP;
        const uint8_t *codes = t.at->page + block * BLOCK / 2 * H4, *params = t.at->page + PAGE / 2 * H4;
        const uint8_t *scales = params + group * 2 * t.width, *minima = scales + PAGE / KEY_GROUP * 2 * t.width;
        const int64_t ahead = t.at->next_page - t.at->page;
        alignas(64) uint8_t q[R][MOST_DIMS];
        float scale[R], constant[R];
        channel_queries<R>(t, scales, minima, q, scale, constant);
        I acc[R][V] = {};
        for (int64_t i = 0; i < H4 / 4; i++) {
            I c[V];
            for (int b = 0; b < B / 2; b++) {
                const uint8_t *at = codes + b * BLOCK * H4 + 64 * i;
                __builtin_prefetch(at + ahead, 0, 2);
                for (int v = 0; v < HALF; v++) {
                    I x = load_lanes(at + 4 * W * v);
                    c[2 * b * HALF + v] = x & set1i(0x0f0f0f0f);
                    c[(2 * b + 1) * HALF + v] = (I)((U)x >> 4) & set1i(0x0f0f0f0f);
                }
            }
            for (int r = 0; r < R; r++) {
                I a = same_bytes(q[r] + 4 * i);
                for (int v = 0; v < V; v++) acc[r][v] = dot_unsigned(acc[r][v], c[v], a);
            }
        }
        for (int r = 0; r < R; r++)
            for (int v = 0; v < V; v++)
                store(t.s + r * SCORE_STRIDE + block * BLOCK + v * W, to_float(acc[r][v]) * scale[r] + constant[r]);
    }

    // 32 keys with a scale and minimum per slot and group of dims.
    template <int R>
    INLINE void slot_scores(const Tile &t, int64_t block) {
        constexpr int HALF = BLOCK / W, V = 2 * HALF;
        const int64_t H4 = round_up(t.H, 4), groups = dim_groups(t.H);
        const uint8_t *codes = t.at->page + block * BLOCK / 2 * H4;
        const uint8_t *scales = t.at->page + PAGE / 2 * H4 + 2 * block * BLOCK, *minima = scales + 2 * PAGE * groups;
        const int64_t ahead = t.at->next_page - t.at->page;
        for (int64_t g = 0; g < groups; g++) {
            I high[R][V] = {}, low[R][V] = {};
            int64_t stop = (g + 1) * DIM_GROUP < H4 ? (g + 1) * DIM_GROUP : H4;
            for (int64_t i = g * DIM_GROUP; i < stop; i += 4) {
                I c[V];
                const uint8_t *at = codes + BLOCK * i;
                __builtin_prefetch(at + ahead, 0, 2);
                for (int v = 0; v < HALF; v++) {
                    I x = load_lanes(at + 4 * W * v);
                    c[v] = x & set1i(0x0f0f0f0f);
                    c[HALF + v] = (I)((U)x >> 4) & set1i(0x0f0f0f0f);
                }
                for (int r = 0; r < R; r++) {
                    I a = same_bytes(t.made(r) + 2 * t.width + i), b = same_bytes(t.made(r) + 3 * t.width + i);
                    for (int v = 0; v < V; v++) high[r][v] = dot_unsigned(high[r][v], c[v], a);
                    for (int v = 0; v < V; v++) low[r][v] = dot_unsigned(low[r][v], c[v], b);
                }
            }
            for (int r = 0; r < R; r++) {
                float of[2];
                memcpy(of, t.made(r) + 4 * t.width + 8 * g, 8);
                for (int v = 0; v < V; v++) {
                    float *s = t.s + r * SCORE_STRIDE + block * BLOCK + v * W;
                    const int64_t at = 2 * (g * PAGE + v * W);
                    F dot = to_float((I)(((U)high[r][v] << 7) + (U)low[r][v])) * of[0];
                    F sum = g ? load(s) : F{};
                    sum += load_half(minima + at) * of[1];
                    sum += load_half(scales + at) * dot;
                    store(s, sum);
                }
            }
        }
    }

    INLINE const uint8_t *values_of(const Tile &t) { return t.at->page + key_bytes(Kv::int4, t.H, t.rope); }
#if defined(HERD_BF16)
    // 16 + code as bfloat16: the code becomes the upper bits of the mantissa. Of a lane's eight codes, shifted by one of
    // four distances, the halves of the lane then hold two of neighbouring bytes: slots 0 and 2, 1 and 3, 4 and 6, 5 and 7.
    template <int SHIFT>
    INLINE __m512bh halves(__m512i x) {
        x = SHIFT < 0 ? _mm512_slli_epi32(x, SHIFT < 0 ? -SHIFT : 0) : _mm512_srli_epi32(x, SHIFT < 0 ? 0 : SHIFT);
        const __m512i bits = _mm512_set1_epi32(0x00780078), sixteen = _mm512_set1_epi32(0x41804180);
        return (__m512bh)_mm512_ternarylogic_epi32(x, bits, sixteen, 0xea);  // x & bits | sixteen
    }

    // Probabilities times scales as bfloat16, eight slots in that order, and what minima and sixteens add to the sums.
    template <int R>
    static __attribute__((noinline)) void fold(const Tile &t) {
        const int64_t groups = dim_groups(t.H), ahead = t.at->next_page - t.at->page;
        const uint8_t *scales = values_of(t) + PAGE / 2 * t.width, *minima = scales + 2 * PAGE * groups;
        const __m512i order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
        const __m512bh less = (__m512bh)_mm512_set1_epi16((short)0xc180);  // -16
        for (int64_t g = 0; g < groups; g++, scales += 2 * PAGE, minima += 2 * PAGE) {
            F sum[R] = {};
            for (int64_t j = 0; j < PAGE; j += 2 * W) {
                F s0 = load_half(scales + 2 * j), s1 = load_half(scales + 2 * j + 2 * W);
                F m0 = load_half(minima + 2 * j), m1 = load_half(minima + 2 * j + 2 * W);
                __builtin_prefetch(scales + ahead + 2 * j, 0, 2);
                __builtin_prefetch(minima + ahead + 2 * j, 0, 2);
                for (int r = 0; r < R; r++) {
                    F a = load(t.s + r * SCORE_STRIDE + j), b = load(t.s + r * SCORE_STRIDE + j + W);
                    __m512bh x = _mm512_cvtne2ps_pbh((__m512)(b * s1), (__m512)(a * s0));
                    _mm512_storeu_si512(t.digit(r, g, 0) + 2 * j, _mm512_shuffle_epi8((__m512i)x, order));
                    sum[r] = fused(b, m1, fused(a, m0, sum[r]));
                    sum[r] = (F)_mm512_dpbf16_ps((__m512)sum[r], x, less);
                }
            }
            for (int r = 0; r < R; r++) t.of_digits(r, g)[1] = total(sum[r]);
        }
    }

    template <int R, int V>
    INLINE void values(const Tile &t, int64_t column, int64_t, int64_t) {
        __m512 acc[R][V];
        for (int r = 0; r < R; r++)
            for (int v = 0; v < V; v++) acc[r][v] = _mm512_setzero_ps();
        const int64_t g = column / DIM_GROUP, ahead = t.at->next_page - t.at->page;
        const uint8_t *at = values_of(t) + 4 * column, *p = t.digit(0, g, 0);
        for (int64_t j = 0; j < PAGE; j += 8, at += 4 * t.width, p += 16) {
            for (int v = 0; v < V; v++) __builtin_prefetch(at + ahead + 64 * v, 0, 2);
            value_pairs<R, V, -3>(acc, at, p, t.digit_stride);
            value_pairs<R, V, 5>(acc, at, p + 4, t.digit_stride);
            value_pairs<R, V, 1>(acc, at, p + 8, t.digit_stride);
            value_pairs<R, V, 9>(acc, at, p + 12, t.digit_stride);
        }
        for (int r = 0; r < R; r++)
            for (int v = 0; v < V; v++)
                store(t.o + r * t.width + column + v * W, (F)acc[r][v] + t.of_digits(r, g)[1]);
    }
    template <int R, int V, int SHIFT>
    INLINE void value_pairs(__m512 (&acc)[R][V], const uint8_t *at, const uint8_t *p, int64_t stride) {
        __m512bh x[V];
        for (int v = 0; v < V; v++) x[v] = halves<SHIFT>(_mm512_loadu_si512(at + 64 * v));
        for (int r = 0; r < R; r++) {
            int32_t pair;
            memcpy(&pair, p + r * stride, 4);
            __m512bh w = (__m512bh)_mm512_set1_epi32(pair);
            for (int v = 0; v < V; v++) acc[r][v] = _mm512_dpbf16_ps(acc[r][v], x[v], w);
        }
    }
#else
    static __attribute__((noinline)) void fold_one(const Tile &t, int64_t r) {
        const int64_t groups = dim_groups(t.H), n = t.blocks * BLOCK;
        const uint8_t *scales = values_of(t) + PAGE / 2 * t.width, *minima = scales + 2 * PAGE * groups;
        const float *p = t.s + r * SCORE_STRIDE;
        for (int64_t g = 0; g < groups; g++) {
            auto scale_at = [&](int64_t j) __attribute__((always_inline)) {
                return load_half(scales + 2 * (g * PAGE + j));
            };
            F sum{};
            for (int64_t j = 0; j < n; j += W) sum += load(p + j) * load_half(minima + 2 * (g * PAGE + j));
            float *of = t.of_digits(r, g);
            of[0] = fold_row(p, n, scale_at, t.digit(r, g, 0), t.digit(r, g, 1));
            of[1] = total(sum);
        }
    }
    template <int R>
    INLINE void fold(const Tile &t) {
        for (int r = 0; r < R; r++) fold_one(t, r);
    }

    template <int R, int V>
    INLINE void values(const Tile &t, int64_t column, int64_t, int64_t) {
        I high[R][V] = {}, low[R][V] = {};
        const int64_t g = column / DIM_GROUP;
        const uint8_t *at = values_of(t) + 4 * column;
        const int64_t ahead = t.at->next_page - t.at->page;
        for (int64_t j = 0; j < t.blocks * BLOCK; j += 8, at += 4 * t.width) {
            I first[V], second[V];
            for (int v = 0; v < V; v++) {
                I x = load_lanes(at + 4 * v * W);
                __builtin_prefetch(at + ahead + 4 * v * W, 0, 2);
                first[v] = x & set1i(0x0f0f0f0f);
                second[v] = (I)((U)x >> 4) & set1i(0x0f0f0f0f);
            }
            for (int r = 0; r < R; r++) {
                const uint8_t *h = t.digit(r, g, 0) + j, *l = t.digit(r, g, 1) + j;
                I a = same_bytes(h), b = same_bytes(l), c = same_bytes(h + 4), d = same_bytes(l + 4);
                for (int v = 0; v < V; v++) high[r][v] = dot_unsigned(high[r][v], a, first[v]);
                for (int v = 0; v < V; v++) low[r][v] = dot_unsigned(low[r][v], b, first[v]);
                for (int v = 0; v < V; v++) high[r][v] = dot_unsigned(high[r][v], c, second[v]);
                for (int v = 0; v < V; v++) low[r][v] = dot_unsigned(low[r][v], d, second[v]);
            }
        }
        for (int r = 0; r < R; r++) {
            const float *of = t.of_digits(r, g);
            for (int v = 0; v < V; v++)
                store(t.o + r * t.width + column + v * W,
                      to_float((I)(((U)high[r][v] << 7) + (U)low[r][v])) * of[0] + of[1]);
        }
    }
#endif
};
