// The kernels of one instruction set: plain structs and a table of functions.
//
// The same sources (kernels/*.inl) are compiled once per instruction set (isa_*.cpp), each time in an unnamed
// namespace; core/cpu.cpp picks a table at run time. Rule for everything that isa_*.cpp includes: no library templates
// and no inline functions with external linkage, or the linker could keep the copy made for a processor that is not
// there.
//
// Letters: T or M rows of activations, K inputs of a product (I of the op contract), O outputs, E experts, H head size.
#pragma once
#include <cstdint>

#include "kv.h"

namespace herd {

enum class Type : int {
    f32, f16, bf16, q4_0, q4_1, q5_0, q5_1, q8_0, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl, iq4_xs, mxfp4,
    tq1_0, tq2_0, iq1_s, iq1_m, iq2_xxs, iq2_xs, iq2_s, iq3_xxs, iq3_s,
    opened  // what those from tq1_0 on are computed with (opened.inl); no weight has it
};

// The books of herd.formats.codebooks, one after another, and where each begins.
constexpr int BOOK_IQ1 = 0, BOOK_IQ2_XXS = 2048, BOOK_IQ2_XS = 2304, BOOK_IQ2_S = 2816, BOOK_IQ3_XXS = 3840,
              BOOK_IQ3_S = 4096, CODEBOOK_WORDS = 4608;
extern const uint16_t CODEBOOKS[];
extern const uint64_t *const EIGHTS;  // those of eight weights, a byte for each: the level, of iq1 times 8
// The levels of half an entry in a byte, [CODEBOOK_WORDS]: of eight weights, weights 4 h to 4 h + 3 at bits 2, 4, 0 and 6; of
// four, weights 3 - h and h at bits 0 and 3.
extern const uint8_t *const HALVES[2];
// iq1's weights 4 to 7, which change at most once in sixteen entries: [3][128] the low byte of the index from which the
// second levels hold, the first levels, the second.
extern const uint8_t *const IQ1_STEPS;

constexpr int STRIP = 16;  // outputs of a strip (herd.formats.strips)

// A weight matrix [O, K], or a stack of E such. Output-major: a row of `row_bytes` per output, or, in strips, 16 *
// row_bytes per sixteen outputs. Input-major (float types only): element (k, o) at k * row_bytes + o * element size.
// `data` may be unaligned and read-only (a mapped file).
struct Matrix {
    Type type;
    bool input_major, strips;
    int64_t E, O, K;
    const uint8_t *data;
    int64_t row_bytes, expert_bytes;
};

// Rows of activations quantised to int8 by groups of `step` inputs: x ~ scale * q. A group with a value that is not
// finite has scale NaN, so that it cannot be lost. Kp: K rounded up to 256.
struct Quantised {
    int8_t *q;       // [rows][Kp]; room for a whole number of fours of rows, here and below
    float *scale;    // [rows][Kp / step]
    int16_t *sum16;  // [rows][Kp / 16]: sums of q over 16 inputs
    int16_t *sum32;  // [rows][Kp / 32]
    int64_t Kp;
    int step;  // 32 or 256
};

constexpr int PANEL = 48;   // outputs of a blocked product's tile: three strips
constexpr int DEPTH = 512;  // inputs of it: 48 * 512 bytes stay in the first-level cache
constexpr int FLOAT_DEPTH = 128;

// One product of a tile of outputs: what a task of the pool does. o0 is a multiple of 16.
struct Product {
    const Matrix *w;
    int64_t expert;
    int64_t o0, o1;  // outputs [o0, o1)
    int64_t rows;
    const float *x;  // float weights: rows of stride ldx
    int64_t ldx;
    Quantised quantised;  // packed weights: from the first of these rows
    float *y;             // y[row * ldy + o - o0]; ldy has room for o1 - o0 rounded up to 16
    int64_t ldy;
};

struct Kernels {
    const char *name;
    // Row by row
    void (*rms)(const float *x, const float *w, float eps, int64_t n, float *y);  // w null: no weights; y may be x
    void (*layer_norm)(const float *x, const float *w, const float *b, float eps, int64_t n, float *y);
    void (*silu_mul)(const float *gate, const float *up, int64_t n, float *y);
    void (*gelu)(const float *x, int64_t n, float *y);                            // exact erf form
    void (*rotate)(float *x, const float *cos, const float *sin, int64_t pairs);  // adjacent pairs, in place
    void (*scale)(float *x, float by, int64_t n);
    void (*add)(const float *a, const float *b, int64_t n, float *y);
    void (*widen)(Type type, const uint8_t *row, int64_t n, float *y);   // any Type to float32
    void (*narrow)(Type type, const float *x, int64_t n, uint8_t *row);  // float32 to f32, f16 or bf16
    // Products
    void (*quantise)(const float *x, int64_t ldx, int64_t rows, int64_t K, Quantised to);
    bool (*is_few)(Type type, int64_t rows);           // whether `few` is the faster way for so many rows
    void (*few)(const Product &p, uint8_t *scratch);   // few rows: straight along the strips, bound by memory
    void (*many)(const Product &p, uint8_t *scratch);  // o1 - o0 <= PANEL. Both give the same bits for every row.
    void (*pack)(Type type, const uint8_t *const *rows, int64_t blocks, uint8_t *strip);  // sixteen rows of blocks
    // Attention
    void (*attend)(const Attend &a);
    // state [2] and o [n] of some keys, joined with those of later keys
    void (*merge)(float *state, float *o, const float *part, const float *part_o, int64_t n);
};

constexpr int64_t FEW_ROWS = 24;  // `few` takes at most so many rows

// Codes, scales, minima and block scales of a panel, and three strips made on the way (or one, and it opened).
constexpr int64_t PRODUCT_SCRATCH = PANEL * DEPTH + 4 * PANEL * (DEPTH / 16) + 4 * PANEL * (DEPTH / 32) +
                                    4 * PANEL * (DEPTH / 32) + 4 * PANEL * (DEPTH / 256) + PANEL * DEPTH / 32 * 34 + 512;
const Kernels *portable_kernels();
const Kernels *avx2_kernels();  // null where it was not built
const Kernels *avxvnni_kernels();
const Kernels *avx512_kernels();
const Kernels *avx512bf16_kernels();
decltype(Kernels::few) avx512vbmi_few();  // in place of those two's `few`
const Kernels *neon_kernels();

}  // namespace herd
