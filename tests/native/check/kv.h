// What a cache of keys and values holds, read from its bytes by the layouts of docs/kv.md.
#pragma once
#include <vector>

#include "../../../native/core/cache.h"

namespace check {

float nearest_bf16(float x);  // of finite x, ties to even

// One slot and head: the key and value that count, and for codes their steps: value = code * step + minimum.
struct Held {
    std::vector<double> key, value;            // [H]
    std::vector<double> key_step, value_step;  // [H]; 0: a float
    std::vector<double> key_code, value_code;  // [H], without the minimum; 0 for floats
};

// A slot of a cache that is not int4, or a coarse slot of one that is.
Held held(const herd::Cache &c, int64_t slot, int64_t h);

}  // namespace check
