// A panel's weights from 48 rows of blocks into the byte tile of many.inl, AVX-512: sixteen columns at a time, blocks
// turned by four-by-four transposes of 32-bit words, so that a vector holds four inputs of each of sixteen columns.

struct Sixteen {
    const uint8_t *at[16];
};

// w[j]: bytes 4j..4j+3 of sixteen blocks, block c in word c.
INLINE void turn(const Sixteen &s, int64_t offset, __m512i w[4]) {
    __m512i z[4];
    for (int r = 0; r < 4; r++)
        z[r] = four_blocks(s.at[r] + offset, s.at[4 + r] + offset, s.at[8 + r] + offset, s.at[12 + r] + offset);
    __m512i a = _mm512_unpacklo_epi32(z[0], z[1]), b = _mm512_unpackhi_epi32(z[0], z[1]);
    __m512i c = _mm512_unpacklo_epi32(z[2], z[3]), d = _mm512_unpackhi_epi32(z[2], z[3]);
    w[0] = _mm512_unpacklo_epi64(a, c), w[1] = _mm512_unpackhi_epi64(a, c);
    w[2] = _mm512_unpacklo_epi64(b, d), w[3] = _mm512_unpackhi_epi64(b, d);
}

INLINE __m512 sixteen_halves(const Sixteen &s, int64_t offset) {
    alignas(32) uint16_t h[16];
    for (int c = 0; c < 16; c++) memcpy(h + c, s.at[c] + offset, 2);
    return _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)h));
}

INLINE __m512 byte_of_each(const uint64_t v[16], int i) {
    __m512i a = _mm512_srli_epi64(_mm512_loadu_si512(v), (unsigned)(8 * i)),
            b = _mm512_srli_epi64(_mm512_loadu_si512(v + 8), (unsigned)(8 * i));
    __m128i bytes = _mm_unpacklo_epi64(_mm512_cvtepi64_epi8(a), _mm512_cvtepi64_epi8(b));
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
}

template <Type T>
INLINE void unpack_sixteen(const Sixteen &first, int64_t n, const Panel &panel, int64_t column) {
    constexpr int64_t BLOCK = T == Type::q4_k || T == Type::q6_k ? 256 : 32;
    constexpr int64_t BYTES = T == Type::q4_0   ? 18
                              : T == Type::q4_1 ? 20
                              : T == Type::q8_0 ? 34
                              : T == Type::q4_k ? 144
                                                : 210;
    const __m512i nibble = _mm512_set1_epi8(15), top = _mm512_set1_epi8(0x30);
    Sixteen s = first;
    for (int64_t k = 0; k < n; k += BLOCK) {
        uint8_t *u = panel.u + k * PANEL + column * 4;  // step j of four inputs: u + j * 4 * PANEL
        auto put = [&](int64_t step, __m512i v)
                       __attribute__((always_inline)) { _mm512_store_si512(u + step * 4 * PANEL, v); };
        __m512i w[4];
        if constexpr (T == Type::q4_0 || T == Type::q4_1) {
            float *at = panel.s + k / 32 * PANEL + column;
            _mm512_store_ps(at, sixteen_halves(s, 0));
            if constexpr (T == Type::q4_1) _mm512_store_ps(panel.m + k / 32 * PANEL + column, sixteen_halves(s, 2));
            turn(s, BYTES - 16, w);
            for (int j = 0; j < 4; j++) {
                put(j, _mm512_and_si512(w[j], nibble));
                put(4 + j, _mm512_and_si512(_mm512_srli_epi16(w[j], 4), nibble));
            }
        } else if constexpr (T == Type::q8_0) {
            _mm512_store_ps(panel.s + k / 32 * PANEL + column, sixteen_halves(s, 0));
            for (int h = 0; h < 2; h++) {
                turn(s, 2 + 16 * h, w);
                for (int j = 0; j < 4; j++) put(4 * h + j, _mm512_xor_si512(w[j], _mm512_set1_epi8(-128)));
            }
        } else if constexpr (T == Type::q4_k) {
            uint64_t sc[16], mn[16];
            for (int c = 0; c < 16; c++) {
                uint32_t a, b, e;
                memcpy(&a, s.at[c] + 4, 4), memcpy(&b, s.at[c] + 8, 4), memcpy(&e, s.at[c] + 12, 4);
                sc[c] = (a & 0x3f3f3f3f) | (uint64_t)((e & 0x0f0f0f0f) | (a >> 2 & 0x30303030)) << 32;
                mn[c] = (b & 0x3f3f3f3f) | (uint64_t)((e >> 4 & 0x0f0f0f0f) | (b >> 2 & 0x30303030)) << 32;
            }
            __m512 d = sixteen_halves(s, 0), least = _mm512_sub_ps(_mm512_setzero_ps(), sixteen_halves(s, 2));
            for (int g = 0; g < 8; g++) {
                _mm512_store_ps(panel.s + (k / 32 + g) * PANEL + column, _mm512_mul_ps(d, byte_of_each(sc, g)));
                _mm512_store_ps(panel.m + (k / 32 + g) * PANEL + column, _mm512_mul_ps(least, byte_of_each(mn, g)));
            }
            for (int c = 0; c < 4; c++)
                for (int h = 0; h < 2; h++) {
                    turn(s, 16 + 32 * c + 16 * h, w);
                    for (int j = 0; j < 4; j++) {
                        put(16 * c + 4 * h + j, _mm512_and_si512(w[j], nibble));
                        put(16 * c + 8 + 4 * h + j, _mm512_and_si512(_mm512_srli_epi16(w[j], 4), nibble));
                    }
                }
        } else {
            __m512 d = sixteen_halves(s, 208);
            turn(s, 192, w);
            for (int g = 0; g < 16; g++) {
                __m512i sc = _mm512_srai_epi32(_mm512_slli_epi32(w[g / 4], (unsigned)(24 - 8 * (g % 4))), 24);
                _mm512_store_ps(panel.s + (k / 16 + g) * PANEL + column, _mm512_mul_ps(d, _mm512_cvtepi32_ps(sc)));
            }
            for (int c = 0; c < 2; c++)
                for (int h = 0; h < 2; h++) {
                    __m512i x[4], y[4];
                    turn(s, 64 * c + 16 * h, x);
                    turn(s, 64 * c + 32 + 16 * h, y);
                    turn(s, 128 + 32 * c + 16 * h, w);
                    for (int j = 0; j < 4; j++) {
                        int64_t step = 32 * c + 4 * h + j;
                        put(step, _mm512_or_si512(_mm512_and_si512(x[j], nibble),
                                                  _mm512_and_si512(_mm512_slli_epi16(w[j], 4), top)));
                        put(step + 8, _mm512_or_si512(_mm512_and_si512(y[j], nibble),
                                                      _mm512_and_si512(_mm512_slli_epi16(w[j], 2), top)));
                        put(step + 16, _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(x[j], 4), nibble),
                                                       _mm512_and_si512(w[j], top)));
                        put(step + 24, _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(y[j], 4), nibble),
                                                       _mm512_and_si512(_mm512_srli_epi16(w[j], 2), top)));
                    }
                }
        }
        for (int c = 0; c < 16; c++) s.at[c] += BYTES;
    }
}

// Columns past the last stand in for by it: their sums are never read. `next`: bytes of the following piece of a row,
// asked for now so that they are there when the rows have passed over this one.
static void unpack_panel(const Matrix &w, const uint8_t *first, int64_t cols, int64_t k0, int64_t n,
                         const Panel &panel) {
    const Format f = format_of(w.type);
    const int64_t offset = k0 / f.block * f.bytes, length = n / f.block * f.bytes;
    const int64_t next = offset + 2 * length <= w.row_bytes ? length : w.row_bytes - offset - length;
    for (int64_t c0 = 0; c0 < PANEL; c0 += 16) {
        Sixteen s;
        for (int64_t c = 0; c < 16; c++) {
            const uint8_t *row = first + (c0 + c < cols ? c0 + c : cols - 1) * w.row_bytes + offset;
            s.at[c] = row;
            for (int64_t i = 0; i < next; i += 64) _mm_prefetch((const char *)row + length + i, _MM_HINT_T0);
        }
        switch (w.type) {
            case Type::q4_0: unpack_sixteen<Type::q4_0>(s, n, panel, c0); break;
            case Type::q4_1: unpack_sixteen<Type::q4_1>(s, n, panel, c0); break;
            case Type::q8_0: unpack_sixteen<Type::q8_0>(s, n, panel, c0); break;
            case Type::q4_k: unpack_sixteen<Type::q4_k>(s, n, panel, c0); break;
            default: unpack_sixteen<Type::q6_k>(s, n, panel, c0);
        }
    }
}
