// Everything of the encoders that is compiled once per instruction set. The includer defines HERD_ENCODERS, HERD_NAME.
#include <cstring>

#include "encode.h"
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace herd {
namespace {

#include "../kernels/vec.h"
#include "encode_search.inl"
#include "encode_formats.inl"

// One weight as float32.
INLINE float element(const uint8_t *p, Element kind) {
    if (kind == Element::f16) return half_to_float(p);
    float x;
    if (kind == Element::f32) {
        memcpy(&x, p, 4);
        return x;
    }
    uint16_t h;
    memcpy(&h, p, 2);
    uint32_t bits = (uint32_t)h << 16;
    memcpy(&x, &bits, 4);
    return x;
}

// x[i][lane] = row lane, column i. Lanes without a row are zeros.
template <Element KIND>
void gather(const Given &g, int64_t row0, int64_t column0, int n, int rows, F *x) {
    float *to = (float *)x;
    if (rows < W) memset((void *)x, 0, n * sizeof(F));
    const uint8_t *from = g.x + row0 * g.row_step + column0 * g.column_step;
    if (g.column_step > g.row_step) {  // input-major: columns of a row lie a power of two apart, its lanes together
        for (int i = 0; i < n; i++)
            for (int lane = 0; lane < rows; lane++)
                to[i * W + lane] = element(from + i * g.column_step + lane * g.row_step, KIND);
        return;
    }
    for (int lane = 0; lane < rows; lane++)
        for (int i = 0; i < n; i++) to[i * W + lane] = element(from + lane * g.row_step + i * g.column_step, KIND);
}

// Records the weight that stands first in the rows of a block and cannot be held. `over`: lanes whose scale overflowed.
void find_fault(const Block &b, int n, int rows, int64_t row0, int64_t column0, int64_t K, Lost &lost) {
    const float *x = (const float *)b.x;
    for (int lane = 0; lane < rows; lane++) {
        int largest_at = 0;
        for (int i = 0; i < n; i++) {
            float v = x[i * W + lane], size = v < 0 ? -v : v;
            bool finite = size <= 3.4028234e38f;
            if (!finite || size > LARGEST) {
                int64_t at = (row0 + lane) * K + column0 + i;
                if (at < lost.at) lost.at = at, lost.fault = finite ? Fault::too_large : Fault::not_finite;
                largest_at = -1;
                break;
            }
            float peak = x[largest_at * W + lane];
            if (size > (peak < 0 ? -peak : peak)) largest_at = i;
        }
        int64_t at = (row0 + lane) * K + column0 + largest_at;
        if (largest_at >= 0 && b.over[lane] && at < lost.at) lost.at = at, lost.fault = Fault::too_large;
    }
}

// Lanes hold the bytes of a block side by side: row by row they go where they belong.
INLINE void scatter(const Block &b, int bytes, int rows, uint8_t *out, int64_t row_bytes) {
    for (int lane = 0; lane < rows; lane++)
        for (int k = 0; k < bytes; k++) out[lane * row_bytes + k] = b.bytes[k][lane];
}

template <bool H>
void encode_block(Coding coding, Block &b) {
    switch (coding) {
        case Coding::q4_0: return nibbles_0<H>(b);
        case Coding::q4_1: return nibbles_1<H>(b);
        case Coding::q5_0: return fives_0<H>(b);
        case Coding::q5_1: return fives_1<H>(b);
        case Coding::q8_0: return bytes_0<H>(b);
        case Coding::q2_k: return twos_k<H>(b);
        case Coding::q3_k: return threes_k<H>(b);
        case Coding::q4_k: return fours_k<H>(b);
        case Coding::q5_k: return fives_k<H>(b);
        case Coding::q6_k: return sixes_k<H>(b);
        case Coding::iq4_nl: return bells<H>(b);
        case Coding::iq4_xs: return bells_xs<H>(b);
    }
}

void strip(Coding coding, const Given &g, int64_t row0, int64_t column0, int64_t column1, uint8_t *out,
           int64_t row_bytes, Lost &lost) {
    const int n = CODINGS[(int)coding].block, bytes = CODINGS[(int)coding].bytes;
    const int rows = g.rows - row0 < W ? (int)(g.rows - row0) : W;
    Block b;
    for (int64_t column = column0; column < column1; column += n) {
        switch (g.element) {
            case Element::f32: gather<Element::f32>(g, row0, column, n, rows, b.x); break;
            case Element::f16: gather<Element::f16>(g, row0, column, n, rows, b.x); break;
            case Element::bf16: gather<Element::bf16>(g, row0, column, n, rows, b.x); break;
        }
        b.clear();
        U sizes = {};
        F x2 = {};
        for (int i = 0; i < n; i++) {
            U size = (U)b.x[i] & 0x7fffffffu;
            sizes = size > sizes ? size : sizes;
            x2 += b.x[i] * b.x[i];
        }
        bool faulty = false;
        for (int lane = 0; lane < rows; lane++) faulty |= sizes[lane] > LARGEST_BITS;
        if (faulty) {
            find_fault(b, n, rows, row0, column, g.K, lost);
            continue;
        }
        b.w = g.importance ? g.importance + column : nullptr;
        if (b.w) encode_block<true>(coding, b);
        else encode_block<false>(coding, b);
        for (int lane = 0; lane < rows; lane++) faulty |= b.over[lane];
        if (faulty) {
            find_fault(b, n, rows, row0, column, g.K, lost);
            continue;
        }
        scatter(b, bytes, rows, out + row0 * row_bytes + column / n * bytes, row_bytes);
        for (int lane = 0; lane < rows; lane++) {
            lost.error2 += b.error2[lane], lost.x2 += x2[lane];
            lost.weighted2 += b.w ? b.weighted2[lane] : b.error2[lane];
            lost.most = b.most[lane] > lost.most ? b.most[lane] : lost.most;
        }
    }
}

const Encoders table = {HERD_NAME, W, strip};

}  // namespace

const Encoders *HERD_ENCODERS() { return &table; }

}  // namespace herd
