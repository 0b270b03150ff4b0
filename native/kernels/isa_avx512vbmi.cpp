// A faster `few` for one to four rows of iq1 to iq3, the same bits as that of isa_avx512.cpp, for processors with AVX-512 VBMI and
// GFNI besides. Built with those flags; called only where cpu.cpp finds them.
#include "table.h"
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512VNNI__) && \
    defined(__AVX512VBMI__) && defined(__GFNI__)
#define HERD_AVX512
#include <cstring>
#include <immintrin.h>

namespace herd {
namespace {

#include "vec.h"

#include "strips.inl"
#include "opened_scales.inl"
#include "permuted_books.inl"
#include "permuted.inl"

}  // namespace

decltype(Kernels::few) avx512vbmi_few() { return few; }

}  // namespace herd
#else
namespace herd {
decltype(Kernels::few) avx512vbmi_few() { return nullptr; }
}  // namespace herd
#endif
