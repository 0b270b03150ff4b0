// The kernels for any processor: plain C++, the compiler's baseline.
#define HERD_TABLE portable_kernels
#define HERD_NAME "portable"
#include "isa.inl"
