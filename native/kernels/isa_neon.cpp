// The kernels for aarch64 with the dot product instructions (ARMv8.2 dotprod). Called only where cpu.cpp finds them.
#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
#define HERD_NEON
#define HERD_TABLE neon_kernels
#define HERD_NAME "neon"
#include "isa.inl"
#else
#include "table.h"
namespace herd {
const Kernels *neon_kernels() { return nullptr; }
}  // namespace herd
#endif
