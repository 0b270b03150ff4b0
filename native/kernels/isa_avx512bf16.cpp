// The kernels for x86-64 with AVX-512 F, BW, DQ, VL, VNNI and BF16. Built with those flags; called only where cpu.cpp finds
// them.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512VNNI__) && defined(__AVX512BF16__)
#define HERD_AVX512
#define HERD_BF16
#pragma GCC diagnostic ignored "-Wunused-function"  // what HERD_BASE brings
#define HERD_BASE avx512_kernels
#define HERD_TABLE avx512bf16_kernels
#define HERD_NAME "avx512bf16"
#include "isa.inl"
#else
#include "table.h"
namespace herd {
const Kernels *avx512bf16_kernels() { return nullptr; }
}  // namespace herd
#endif
