// The cache of keys and values of one layer: memory, layout (kernels/kv.h), and moving rows in and out.
#pragma once
#include <cstdint>
#include <memory>

#include "cpu.h"
#include "pool.h"

namespace herd {

// f32 and f16: [2][K][slots][row]. Others: [units][K][keys, values], so that memory fills in the order in which slots
// are taken and large pages help. Zeroed by the system and taken as it is written.
//
// int4 is two pools: coarse pages of 256 slots, and `exact`, bf16, to which rows are written. Slots of `write` and `read`
// are those of the exact pool; `read` sees the coarse ones behind them.
struct Cache {
    // Throws std::bad_alloc. exact_slots and rope (whether the keys carry positions): int4 only.
    Cache(int64_t slots, int64_t K, int64_t H, Kv type, int64_t exact_slots = 0, bool rope = true);
    int64_t slots, K, H;
    Kv type;
    bool rope;
    std::unique_ptr<Cache> exact;

    int64_t bytes() const;
    int64_t readable() const { return slots + (exact ? exact->slots : 0); }
    int64_t writable() const { return exact ? exact->slots : slots; }
    KvHead head(int64_t h) const;

    // One row of one head, [H] float32 each.
    void write(int64_t slot, int64_t h, const float *key, const float *value);
    void read(int64_t slot, int64_t h, float *key, float *value) const;
    // Pages were checked.
    void copy(int64_t source, int64_t target, int64_t page_size);
    // int4: a whole exact page of one head to a coarse one.
    void close(int64_t exact_page, int64_t page, int64_t h);

  private:
    bool plain() const { return type == Kv::f32 || type == Kv::f16; }
    int64_t stride() const;
    int64_t own_bytes() const;
    uint8_t *keys(int64_t h, int64_t unit) const;
    uint8_t *values(int64_t h, int64_t unit) const;
    struct Free {
        int64_t bytes;
        void operator()(uint8_t *p) const;
    };
    std::unique_ptr<uint8_t, Free> data_;
};

}  // namespace herd
