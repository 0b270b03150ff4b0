// The encoders for x86-64 with AVX2. Built with its flags; called only where cpu.cpp finds it.
#if defined(__AVX2__) && defined(__F16C__)
#define HERD_AVX2
#define HERD_ENCODERS avx2_encoders
#define HERD_NAME "avx2"
#include "encode.inl"
#else
#include "encode.h"
namespace herd {
const Encoders *avx2_encoders() { return nullptr; }
}  // namespace herd
#endif
