// Everything that is compiled once per instruction set. The includer defines HERD_TABLE and HERD_NAME, and HERD_BASE when
// only attention differs from another set's kernels.
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
#if !defined(HERD_BASE)
#include "strips.inl"
#include "opened_scales.inl"
#include "opened.inl"
#include "products.inl"
#endif
#include "attend_soften.inl"
#include "attend_plain.inl"
#include "attend_bf16.inl"
#include "attend_int8.inl"
#include "attend_int4.inl"
#include "attend.inl"

#if !defined(HERD_BASE)
void widen(Type type, const uint8_t *row, int64_t n, float *y) {
    switch (type) {
        case Type::f16: return widen_as<Type::f16>(row, n, y);
        case Type::bf16: return widen_as<Type::bf16>(row, n, y);
        default: return widen_as<Type::f32>(row, n, y);
    }
}

const Kernels table = {HERD_NAME, rms,      layer_norm, silu_mul, gelu, rotate, scale,  add,  widen,
                       narrow,    quantise, is_few,     few,      many, pack,   attend, merge};
#endif

}  // namespace

#if defined(HERD_BASE)
const Kernels *HERD_TABLE() {
    static const Kernels table = [] {
        Kernels k = *HERD_BASE();
        k.name = HERD_NAME, k.attend = attend, k.merge = merge;
        return k;
    }();
    return &table;
}
#else
const Kernels *HERD_TABLE() { return &table; }
#endif

}  // namespace herd
