// The kernels for x86-64 with AVX2, FMA and F16C. Built with those flags; called only where cpu.cpp finds them.
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define HERD_AVX2
#define HERD_TABLE avx2_kernels
#define HERD_NAME "avx2"
#include "isa.inl"
#else
#include "table.h"
namespace herd {
const Kernels *avx2_kernels() { return nullptr; }
}  // namespace herd
#endif
