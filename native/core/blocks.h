// The block formats value by value, in plain C++: rows of an embedding table. Kernels have their own (kernels/strips.inl).
#pragma once
#include "../kernels/table.h"

namespace herd {

struct Block {
    int64_t inputs, bytes;
};
Block block_of(Type type);  // of a packed format

// Row o of a packed matrix, in rows or strips, as float32 [K].
void widen_blocks(const Matrix &m, int64_t o, float *y);

}  // namespace herd
