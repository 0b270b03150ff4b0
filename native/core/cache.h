// The cache of keys and values of one layer: memory, layout (kernels/kv.h), and moving rows in and out.
#pragma once
#include <cstdint>
#include <memory>

#include "cpu.h"
#include "pool.h"

namespace herd {

// f32 and f16: [2][K][slots][row]. bf16: [blocks][K][keys, values], so that memory fills in the order in which slots
// are taken and large pages help. Zeroed by the system and taken as it is written.
struct Cache {
    Cache(int64_t slots, int64_t K, int64_t H, Kv type);  // throws std::bad_alloc
    int64_t slots, K, H;
    Kv type;

    bool blocked() const { return type == Kv::bf16; }
    int64_t bytes() const;
    KvHead head(int64_t h) const;

    // One row of one head, [H] float32 each.
    void write(int64_t slot, int64_t h, const float *key, const float *value);
    void read(int64_t slot, int64_t h, float *key, float *value) const;
    // Pages one after another; `source` and `target` were checked.
    void copy(int64_t source, int64_t target, int64_t page_size);

  private:
    uint8_t *block(int64_t slot, int64_t h) const { return head_at(h) + slot / BLOCK * stride(); }
    uint8_t *head_at(int64_t h) const;
    int64_t stride() const;
    struct Free {
        int64_t bytes;
        void operator()(uint8_t *p) const;
    };
    std::unique_ptr<uint8_t, Free> data_;
};

}  // namespace herd
