// The encoders for any processor: the compiler's baseline, four lanes (SSE2 or NEON).
#define HERD_ENCODERS portable_encoders
#define HERD_NAME "portable"
#include "encode.inl"
