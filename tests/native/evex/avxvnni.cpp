// The kernels for AVX-VNNI with their one instruction in its AVX-512 form: the same operation under another encoding, so
// that processors with AVX-512 VNNI, which mostly lack the short form, can run that path. Built into check_avxvnni only.
#include <immintrin.h>

#define __AVXVNNI__ 1
#define _mm256_dpbusd_avx_epi32 _mm256_dpbusd_epi32
#include "../../../native/kernels/isa_avxvnni.cpp"
