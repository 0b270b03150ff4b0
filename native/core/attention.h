// Attention over a cache, or over the rows themselves (herd.ops.contract: attend).
#pragma once
#include <vector>

#include "cache.h"

namespace herd {

// Segments (herd.batch) that were checked: starts ascend from 0 to T, lengths fit, pages and slots lie below `top`.
struct Spans {
    std::vector<int64_t> starts, lengths, pages, slots;
    int64_t widest = 0;     // pages per segment
    int64_t page_size = 0;  // 0: the keys are the segment's own rows
    int64_t top = 0;        // slots that a cache must have
    // int4: [segments][2] first and own exact page; [closed][2] exact and coarse page; exact slots that must be there
    std::vector<int64_t> exact, closing;
    int64_t exact_top = 0;
};

struct Heads3 {
    int64_t T, N, K, H;
};

// cache null: keys are the rows themselves. Otherwise k and v are written to the slots first.
void attend(Pool &pool, const Spans &spans, Cache *cache, const Heads3 &shape, const float *q, const float *k,
            const float *v, bool causal, float *o);

}  // namespace herd
