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

#include "rowwise.inl"
#include "tile.inl"
#include "floats.inl"
#include "strips.inl"
#include "products.inl"
#include "attend_soften.inl"
#include "attend_plain.inl"
#include "attend_bf16.inl"
#include "attend.inl"

void widen(Type type, const uint8_t *row, int64_t n, float *y) {
    switch (type) {
        case Type::f16: return widen_as<Type::f16>(row, n, y);
        case Type::bf16: return widen_as<Type::bf16>(row, n, y);
        default: return widen_as<Type::f32>(row, n, y);
    }
}

const Kernels table = {HERD_NAME, rms,    layer_norm, silu_mul, gelu, rotate, scale,  add,
                       widen,     narrow, quantise,   few,      many, pack,   attend, merge};

}  // namespace

const Kernels *HERD_TABLE() { return &table; }

}  // namespace herd
