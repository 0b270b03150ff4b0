// The cache of keys and values, and attention over it (herd.ops.contract: attend).
#pragma once
#include <memory>
#include <vector>

#include "cpu.h"
#include "pool.h"

namespace herd {

// Keys and values of one layer: [2][K][slots][H] of float32, float16 or bfloat16. A head's keys lie together, so that a
// task that reads one head streams. Zeroed lazily by the system.
struct Cache {
    Cache(int64_t slots, int64_t K, int64_t H, Type type);  // throws std::bad_alloc
    int64_t slots, K, H;
    Type type;
    int64_t row_bytes() const { return H * (type == Type::f32 ? 4 : 2); }
    int64_t bytes() const { return 2 * K * slots * row_bytes(); }
    uint8_t *at(int what, int64_t head, int64_t slot) const {
        return data.get() + ((what * K + head) * slots + slot) * row_bytes();
    }
    struct Free {
        void operator()(uint8_t *p) const;
    };
    std::unique_ptr<uint8_t, Free> data;
};

// Segments (herd.batch) that were checked: starts ascend from 0 to T, lengths fit, pages and slots lie below `top`.
struct Spans {
    std::vector<int64_t> starts, lengths, pages, slots;
    int64_t widest = 0;     // pages per segment
    int64_t page_size = 0;  // 0: the keys are the segment's own rows
    int64_t top = 0;        // slots that a cache must have
};

struct Heads3 {
    int64_t T, N, K, H;
};

// cache null: keys are the rows themselves. Otherwise k and v are written to the slots first.
void attend(Pool &pool, const Spans &spans, Cache *cache, const Heads3 &shape, const float *q, const float *k,
            const float *v, bool causal, float *o);

}  // namespace herd
