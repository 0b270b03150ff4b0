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

enum class Type : int { f32, f16, bf16, q4_0, q4_1, q8_0, q4_k, q6_k };

// A weight matrix [O, K], or a stack of E such. Output-major: a row of `row_bytes` per output. Input-major (float types
// only): element (k, o) at k * row_bytes + o * element size. `data` may be unaligned and read-only (a mapped file).
struct Matrix {
    Type type;
    bool input_major;
    int64_t E, O, K;
    const uint8_t *data;
    int64_t row_bytes, expert_bytes;
};

// How a tile of four quantised activation rows lies in memory; each takes the same room.
enum class Layout : int {
    rows,   // q[4][Kp], scale[4][G]: dot products along a weight row
    split,  // as rows, but each 128 inputs as the low 16 of four groups of 32, then their high 16 (q4_0, q4_1)
    tiles,  // q[Kp/4][4 rows][4], scale[G][4]: blocked products, four rows against a panel
};

// Activations quantised to int8 by groups of 32 inputs: x ~ scale * q. One tile is four rows; in Layout::tiles missing
// ones are zero. Kp: K rounded up to 128; G = Kp / 32. Per tile 4 * Kp bytes of q, 4 * G scales and sums, 8 * G halves.
struct Quantised {
    int8_t *q;
    float *scale;
    float *sum;     // scale * sum of q over the group, as the minimum of a group multiplies it
    int32_t *half;  // sums of q over 16 inputs: rows [4][2G], tiles [2G][4]
    int64_t Kp;
};

constexpr int PANEL = 48;   // outputs of a blocked product's tile
constexpr int DEPTH = 512;  // inputs of it: 48 * 512 bytes stay in the first-level cache
constexpr int FLOAT_DEPTH = 128;

// One product of a tile of outputs: what a task of the pool does.
struct Product {
    const Matrix *w;
    int64_t expert;
    int64_t o0, o1;  // outputs [o0, o1)
    int64_t rows;
    const float *x;  // float weights: rows of stride ldx
    int64_t ldx;
    Quantised quantised;  // packed weights: first tile of these rows
    float *y;             // y[row * ldy + o - o0]
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
    void (*quantise)(const float *x, int64_t ldx, int64_t rows, int64_t K, Layout layout, Quantised tile);
    Layout (*few_layout)(Type type);                   // what `few` wants for a packed type
    int64_t few_rows;                                  // products of at most this many rows go to `few`
    void (*few)(const Product &p);                     // few rows: along the weight rows, bound by memory
    void (*many)(const Product &p, uint8_t *scratch);  // many rows: o1 - o0 <= PANEL; scratch: PRODUCT_SCRATCH bytes
    // Attention
    void (*attend)(const Attend &a);
    // state [2] and o [n] of some keys, joined with those of later keys
    void (*merge)(float *state, float *o, const float *part, const float *part_o, int64_t n);
};

constexpr int64_t PRODUCT_SCRATCH =
    PANEL * DEPTH + 2 * 4 * PANEL * (DEPTH / 16) + 4 * PANEL * FLOAT_DEPTH + 4 * 4 * PANEL + 1024;

const Kernels *portable_kernels();
const Kernels *avx2_kernels();  // null where it was not built
const Kernels *avx512_kernels();
const Kernels *avx512bf16_kernels();
const Kernels *neon_kernels();

}  // namespace herd
