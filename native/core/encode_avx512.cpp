// The encoders for x86-64 with AVX-512 F, BW, DQ and VL. Built with those flags; called only where cpu.cpp finds them.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define HERD_AVX512
#define HERD_ENCODERS avx512_encoders
#define HERD_NAME "avx512"
#include "encode.inl"
#else
#include "encode.h"
namespace herd {
const Encoders *avx512_encoders() { return nullptr; }
}  // namespace herd
#endif
