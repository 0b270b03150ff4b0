// A few rows times strips of the formats with a codebook: what indices find (permuted_books.inl) is a byte for four weights, 4 i
// to 4 i + 3 of sixteen in byte i of an output's word. Vector k of four holds the weights 4 i + k of them all; so rows are
// brought into that order, once, and weights never are. The dots are the same whole numbers as those of opened.inl, and the
// floats are added in the same order: the same bits.

// Values of six bits, plus 128: a level at one bit, a sign at another, others for nothing.
struct Values {
    alignas(64) uint8_t of[64];
};
constexpr Values values(const uint8_t *magnitudes, int level, int levels, int sign) {
    Values v{};
    for (int i = 0; i < 64; i++) {
        const int m = magnitudes[i >> level & (levels - 1)];
        v.of[i] = (uint8_t)(i >> sign & 1 ? 128 - m : 128 + m);
    }
    return v;
}
constexpr uint8_t IQ2_LEVELS[4] = {8, 25, 43, 0}, XXS_LEVELS[8] = {4, 12, 20, 28, 36, 44, 52, 62},
                  S_LEVELS[8] = {1, 3, 5, 7, 9, 11, 13, 15};
// By the weight of four.
constexpr Values IQ2_VALUES[4] = {values(IQ2_LEVELS, 2, 4, 0), values(IQ2_LEVELS, 4, 4, 1), values(IQ2_LEVELS, 0, 4, 2),
                                  values(IQ2_LEVELS, 4, 4, 3)};
// Of weight 0, of 1, of 2 and 3.
constexpr Values XXS_VALUES[3] = {values(XXS_LEVELS, 3, 8, 0), values(XXS_LEVELS, 3, 8, 1), values(XXS_LEVELS, 0, 8, 3)};
constexpr Values S_VALUES[3] = {values(S_LEVELS, 3, 8, 0), values(S_LEVELS, 3, 8, 1), values(S_LEVELS, 0, 8, 3)};

INLINE Z valued(Z six_bits, const Values &v) { return _mm512_permutexvar_epi8(six_bits, load_z(v.of)); }

// The row, turned (turn_row).
struct Turned {
    int8_t *q;
    int32_t *zeros;   // for each sixteen, what codes have too much: -128 times the sum, of iq1 -7 times
    int32_t *shifts;  // for each eight, of iq1: what a negative shift takes off, -2 times the sum
};

INLINE Z plus_dot(Z sum, Z codes, const int8_t *four) {
    int32_t at;
    memcpy(&at, four, 4);
    return _mm512_dpbusd_epi32(sum, codes, _mm512_set1_epi32(at));
}

// The levels of half h of a group, the eights' halves side by side.
INLINE Z levels_of(const Z half[2], int h) {
    const Z pairs = _mm512_set_epi64(0x7d3d7c3c79397838, 0x7535743471317030, 0x6d2d6c2c69296828, 0x6525642461216020,
                                     0x5d1d5c1c59195818, 0x5515541451115010, 0x4d0d4c0c49094808, 0x4505440441014000);
    return _mm512_permutex2var_epi8(half[0], _mm512_or_si512(pairs, set_z(h ? 0x02020202 : 0)), half[1]);
}

// Dots of half h of a group with signs, from its levels, for each of R rows.
template <Type T, int R>
INLINE void dots(const Z half[2], int h, Z signs, const Turned *x, int at, Z sum[R]) {
    const Z sign = shifted(signs, h ? 0x1c181410 : 0x0c080400);  // of weight k of four at bit k
    Z c[4];
    if constexpr (OF_FOUR<T>) {
        const Values *v = T == Type::iq3_s ? S_VALUES : XXS_VALUES;
        c[0] = valued(choose(0x38383838, half[0], sign), v[0]), c[1] = valued(choose(0x38383838, half[1], sign), v[1]);
        c[2] = valued(choose(0x07070707, half[1], _mm512_add_epi8(sign, sign)), v[2]);
        c[3] = valued(choose(0x07070707, half[0], sign), v[2]);
    } else {
        const Z levels = levels_of(half, h);
        c[0] = valued(choose(0x0c0c0c0c, levels, sign), IQ2_VALUES[0]);
        c[1] = valued(choose(0x30303030, levels, sign), IQ2_VALUES[1]);
        c[2] = valued(choose(0x03030303, levels, sign), IQ2_VALUES[2]);
        c[3] = valued(choose(0x30303030, _mm512_srli_epi32(levels, 2), sign), IQ2_VALUES[3]);
    }
    for (int r = 0; r < R; r++) sum[r] = _mm512_set1_epi32(x[r].zeros[at]);
    for (int k = 0; k < 4; k++)
        for (int r = 0; r < R; r++) sum[r] = plus_dot(sum[r], c[k], x[r].q + 16 * at + 4 * k);
}

// Of iq1, whose value is 8 level - 8 and the shift of its eight. first, second: outputs where that of the half's first
// eight, of its second is negative.
template <int R>
INLINE void dots_of_three(const Z half[2], int h, __mmask16 first, __mmask16 second, const Turned *x, int at, Z sum[R]) {
    const Z levels = levels_of(half, h), upper = _mm512_srli_epi32(levels, 4);
    const Z ones = set_z(0x03030303), fours = set_z(0x0c0c0c0c);
    const Z c[4] = {_mm512_and_si512(levels, fours), _mm512_and_si512(upper, ones), _mm512_and_si512(levels, ones),
                    _mm512_and_si512(upper, fours)};
    for (int r = 0; r < R; r++) {
        const int8_t *q = x[r].q + 16 * at;
        const Z one = plus_dot(plus_dot(Z{}, c[1], q + 4), c[2], q + 8), four = plus_dot(plus_dot(Z{}, c[0], q), c[3], q + 12);
        Z zero = _mm512_set1_epi32(x[r].zeros[at]);
        zero = _mm512_mask_add_epi32(zero, first, zero, _mm512_set1_epi32(x[r].shifts[2 * at]));
        zero = _mm512_mask_add_epi32(zero, second, zero, _mm512_set1_epi32(x[r].shifts[2 * at + 1]));
        const Z twice = _mm512_add_epi32(_mm512_slli_epi32(one, 2), four);
        sum[r] = _mm512_add_epi32(_mm512_add_epi32(twice, twice), zero);
    }
}

// Outputs whose index i of group g has a negative shift.
template <Type T>
INLINE __mmask16 negative(const uint8_t *b, int g, int i) {
    constexpr bool m = T == Type::iq1_m;
    return _mm512_test_epi32_mask((Z)pairs_at(b, m ? 32 : 34, g, 0), set_z(m ? 8u << (4 * i) : 0x8000));
}

// -- products -----------------------------------------------------------------------------------------------------

constexpr int64_t ROW_PIECE = 32768;  // inputs that are turned at once, of all rows together
constexpr int64_t MOST_ROWS = 4;
static_assert(ROW_PIECE + ROW_PIECE / 4 + ROW_PIECE / 2 <= PRODUCT_SCRATCH);

// Each sixteen of the row as 4 x 4 transposed.
template <Type T>
INLINE void turn_row(const int8_t *q, const int16_t *sum16, int64_t inputs, const Turned &to) {
    constexpr bool iq1 = T == Type::iq1_s || T == Type::iq1_m;
    const Z order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    for (int64_t k = 0; k < inputs; k += 64) {
        const Z x = load_z((const uint8_t *)q + k);
        _mm512_storeu_si512(to.q + k, _mm512_shuffle_epi8(x, order));
        if constexpr (iq1) {  // sums of eight, 128 added to each
            const Z sums = _mm512_sad_epu8(_mm512_xor_si512(x, set_z(0x80808080)), Z{});
            const __m256i less = _mm256_sub_epi32(_mm256_set1_epi32(1024), _mm512_cvtepi64_epi32(sums));
            _mm256_storeu_si256((__m256i *)(to.shifts + k / 8), _mm256_add_epi32(less, less));
        }
    }
    for (int64_t i = 0; i < inputs / 16; i++) to.zeros[i] = (iq1 ? -7 : -128) * sum16[i];
}

// One block of a strip times R rows. half: what its first indices find, then what those of the block `after` it do: look-ups
// run a step ahead of the dots, whose inputs are there by then.
template <Type T, int R>
INLINE void permuted_block(const uint8_t *b, const uint8_t *after, const Turned *x, Z half[2][2], F part[R]) {
    F s[16];
    scales<T>(b, 0, s);
    for (int r = 0; r < R; r++) part[r] = F{};
#pragma GCC unroll 1
    for (int g = 0; g < 8; g += GROUPS<T>) {
        Z next[2][2];
        const bool last = g + GROUPS<T> == 8;
        halves_of<T>(last ? after : b, last ? 0 : g + GROUPS<T>, next);
        for (int i = 0; i < GROUPS<T>; i++) {
            const Z signs = sign_words<T>(b, g + i);
            for (int h = 0; h < 2; h++) {
                const int at = 2 * (g + i) + h;
                const Z *of = half[OF_FOUR<T> ? h : i];
                Z sum[R];
                if constexpr (T == Type::iq1_s || T == Type::iq1_m)
                    dots_of_three<R>(of, h, negative<T>(b, g + i, 2 * h), negative<T>(b, g + i, 2 * h + 1), x, at, sum);
                else dots<T, R>(of, h, signs, x, at, sum);
                for (int r = 0; r < R; r++) part[r] = fused(to_floats((I)sum[r]), s[at], part[r]);
            }
        }
        memcpy(half, next, sizeof next);
    }
}

// R rows, of which some may be only room, times `count` blocks of a strip, from block n on.
template <Type T, int R>
INLINE void permuted_strip(const uint8_t *strip, int64_t n, int64_t count, const Turned *rows, const Quantised &q, float *y,
                           int64_t ldy) {
    F acc[R];
    for (int r = 0; r < R; r++) acc[r] = n > 0 ? load(y + r * ldy) : F{};
    Z half[2][2];
    halves_of<T>(strip, 0, half);
    for (int64_t i = 0; i < count; i++) {
        const uint8_t *after = i + 1 < count ? strip + Form<T>::strip_block : strip;
        ask_ahead<T>(strip);
        Turned x[R];
        F part[R];
        for (int r = 0; r < R; r++) x[r] = {rows[r].q + 256 * i, rows[r].zeros + 16 * i, rows[r].shifts + 32 * i};
        permuted_block<T, R>(strip, after, x, half, part);
        for (int r = 0; r < R; r++) acc[r] = fused(part[r], set1(q.scale[r * (q.Kp / 256) + n + i]), acc[r]);
        strip = after;
    }
    for (int r = 0; r < R; r++) store(y + r * ldy, acc[r]);
}

template <Type T, int R>
static void permuted_rows(const Product &p, uint8_t *scratch) {
    constexpr int64_t PIECE = ROW_PIECE / R;
    const Matrix &w = *p.w;
    const Quantised &q = p.quantised;
    Turned rows[R];
    for (int r = 0; r < R; r++) {
        int8_t *room = (int8_t *)scratch + r * (PIECE + PIECE / 4 + PIECE / 2);
        rows[r] = {room, (int32_t *)(room + PIECE), (int32_t *)(room + PIECE + PIECE / 4)};
    }
    const int64_t blocks = w.K / 256, piece = PIECE / 256;
    for (int64_t n = 0; n < blocks; n += piece) {
        const int64_t count = blocks - n < piece ? blocks - n : piece;
        for (int r = 0; r < R; r++)
            turn_row<T>(q.q + r * q.Kp + 256 * n, q.sum16 + r * (q.Kp / 16) + 16 * n, 256 * count, rows[r]);
        for (int64_t o = p.o0; o < p.o1; o += STRIP) {
            const uint8_t *strip = w.data + p.expert * w.expert_bytes + o * w.row_bytes + n * Form<T>::strip_block;
            permuted_strip<T, R>(strip, n, count, rows, q, p.y + o - p.o0, p.ldy);
        }
    }
}

// Three rows are computed as four: the quantised rows and y have room.
template <Type T>
static void permuted(const Product &p, uint8_t *scratch) {
    if (p.rows > 2) permuted_rows<T, 4>(p, scratch);
    else if (p.rows > 1) permuted_rows<T, 2>(p, scratch);
    else permuted_rows<T, 1>(p, scratch);
}

static void few(const Product &p, uint8_t *scratch) {
    if (p.rows <= MOST_ROWS && p.w->strips) switch (p.w->type) {
            case Type::iq1_s: return permuted<Type::iq1_s>(p, scratch);
            case Type::iq1_m: return permuted<Type::iq1_m>(p, scratch);
            case Type::iq2_xxs: return permuted<Type::iq2_xxs>(p, scratch);
            case Type::iq2_xs: return permuted<Type::iq2_xs>(p, scratch);
            case Type::iq2_s: return permuted<Type::iq2_s>(p, scratch);
            case Type::iq3_xxs: return permuted<Type::iq3_xxs>(p, scratch);
            case Type::iq3_s: return permuted<Type::iq3_s>(p, scratch);
            default: break;
        }
    avx512_kernels()->few(p, scratch);
}
