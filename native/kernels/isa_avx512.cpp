// The kernels for x86-64 with AVX-512 F, BW, DQ, VL and VNNI. Built with those flags; called only where cpu.cpp finds
// them.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512VNNI__)
#define HERD_AVX512
#define HERD_TABLE avx512_kernels
#define HERD_NAME "avx512"
#include "isa.inl"
#else
#include "table.h"
namespace herd {
const Kernels *avx512_kernels() { return nullptr; }
}  // namespace herd
#endif
