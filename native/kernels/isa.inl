// Everything that is compiled once per instruction set. The includer defines HERD_TABLE and HERD_NAME.
#include <cstring>

#include "table.h"
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace herd {
namespace {

#include "vec.h"

void widen(Type type, const uint8_t *row, int64_t n, float *y);

#include "rowwise.inl"
#include "tile.inl"
#include "floats.inl"
#include "packed.inl"
#if defined(HERD_AVX512)
#include "few_avx512.inl"
#include "few.inl"
#elif defined(HERD_AVX2) || defined(HERD_NEON)
#include "few_groups.inl"
#include "few.inl"
#else
#include "few_plain.inl"
#endif
#include "many.inl"
#include "attend_soften.inl"
#include "attend_plain.inl"
#include "attend_bf16.inl"
#include "attend.inl"

void widen(Type type, const uint8_t *row, int64_t n, float *y) {
    switch (type) {
        case Type::f32: return widen_as<Type::f32>(row, n, y);
        case Type::f16: return widen_as<Type::f16>(row, n, y);
        case Type::bf16: return widen_as<Type::bf16>(row, n, y);
        default: return widen_packed(type, row, n, y);
    }
}

#if defined(HERD_AVX512)
constexpr int64_t FEW_ROWS = 4;
Layout few_layout(Type type) { return type == Type::q4_0 || type == Type::q4_1 ? Layout::split : Layout::rows; }
#else
constexpr int64_t FEW_ROWS = 4;
Layout few_layout(Type) { return Layout::rows; }
#endif

void few(const Product &p) {
    switch (p.w->type) {
        case Type::f32: return few_floats<Type::f32>(p);
        case Type::f16: return few_floats<Type::f16>(p);
        case Type::bf16: return few_floats<Type::bf16>(p);
        default: return few_packed(p);
    }
}

void many(const Product &p, uint8_t *scratch) {
    switch (p.w->type) {
        case Type::f32: return many_floats<Type::f32>(p, (float *)scratch);
        case Type::f16: return many_floats<Type::f16>(p, (float *)scratch);
        case Type::bf16: return many_floats<Type::bf16>(p, (float *)scratch);
        default: return many_packed(p, scratch);
    }
}

const Kernels table = {HERD_NAME, rms,    layer_norm, silu_mul,   gelu,     rotate, scale, add,
                       widen,     narrow, quantise,   few_layout, FEW_ROWS, few,    many,  attend, merge};

}  // namespace

const Kernels *HERD_TABLE() { return &table; }

}  // namespace herd
