// The kernels of isa_avx2.cpp with dot products of bytes (AVX-VNNI, the VEX form). Called only where cpu.cpp finds them.
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__) && defined(__AVXVNNI__)
#define HERD_AVX2
#define HERD_AVXVNNI
#define HERD_TABLE avxvnni_kernels
#define HERD_NAME "avxvnni"
#include "isa.inl"
#else
#include "table.h"
namespace herd {
const Kernels *avxvnni_kernels() { return nullptr; }
}  // namespace herd
#endif
