// Attention of one query in double precision, and how far an implementation may be from it.
#pragma once
#include <functional>
#include <vector>

#include "kv.h"

namespace check {

// How queries and probabilities are rounded on the way.
enum class Rounding {
    floats,  // not at all
    dots,    // to bfloat16: the dot instruction of avx512bf16
    codes,   // to whole numbers of 14 bits, by the largest of a row
    mixed,   // queries as for codes; probabilities, times the values' scales, as for dots
};

// What a query sees, in order.
struct Keys {
    std::vector<Held> at;
    std::vector<Rounding> rounding;  // of each
    bool per_channel = false;        // codes of keys whose scale belongs to a channel: queries of 7 bits and a sign
};

struct Reference {
    std::vector<double> out, bound;  // [H]
};

Reference softmax(const float *q, int64_t H, const Keys &keys);

}  // namespace check
