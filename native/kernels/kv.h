// How keys and values lie in a cache, and what one task of attention is given. Included by table.h.
//
//     type   a slot's key and value of one KV head
//     f32    rows [H] of float32                          scores and sums in float32
//     f16    rows [H] of float16                          widened exactly, as f32
//     bf16   blocks of 16 slots: keys [H/2][16][2], values [8 pairs of slots][H][2]
//
// In the blocked layouts sixteen keys are one vector whose lane holds as many neighbouring dims as an instruction
// multiplies at once, and a vector of values holds sixteen dims of as many neighbouring slots: nothing is turned in
// decoding or prefill, and a score is one chain of sums in any case.
#pragma once
#include <cstdint>

namespace herd {

enum class Kv : int { f32, f16, bf16 };

constexpr int64_t BLOCK = 16;          // slots of a block
constexpr int64_t MOST_KEYS = 512;     // most keys of a range
constexpr int64_t GROUP_KEYS = 8192;   // ranges are put together within such groups first, then the groups
constexpr int64_t SCORE_STRIDE = MOST_KEYS + 16;  // of the scores of a tile's rows, off a power of two
constexpr int64_t AHEAD = 4;           // blocks asked for ahead of the one in hand

#if defined(__GNUC__)
#define HERD_INLINE __attribute__((always_inline)) static inline
#else
#define HERD_INLINE static inline
#endif

HERD_INLINE int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Keys of a range: what is softened at once. Counted from the segment's start, so that a row's result depends on the
// positions of its keys and nothing else.
HERD_INLINE int64_t range_keys(Kv type) { return type == Kv::bf16 ? 512 : 128; }

// Bytes of the keys and of the values of a block (of one slot for f32 and f16) of one head.
HERD_INLINE int64_t key_bytes(Kv type, int64_t H) {
    return type == Kv::f32 ? 4 * H : type == Kv::f16 ? 2 * H : 2 * BLOCK * round_up(H, 2);
}
HERD_INLINE int64_t value_bytes(Kv type, int64_t H) {
    return type == Kv::f32 ? 4 * H : type == Kv::f16 ? 2 * H : 2 * BLOCK * round_up(H, 16);
}

// One KV head: where its slot or block 0 lies, and how far it is to the next one.
struct KvHead {
    Kv type;
    const uint8_t *k, *v;
    int64_t stride;
};

// Attention of `tokens` rows times `heads` query heads that share one KV head, over ranges [range0, range1) of a
// segment's keys.
struct Attend {
    const float *q;  // [tokens][ldq], heads * H values used
    int64_t ldq;
    int64_t tokens, heads, H;
    int64_t first;  // keys that token 0 sees; token j sees first + j when causal, `first` otherwise
    bool causal;
    int64_t range0, range1;
    KvHead kv;
    const int64_t *pages;  // null: slot = key
    int64_t page_size;
    float *o;  // [tokens][ldo], or with `state` [tokens * heads][H in whole 16s], not normalised
    int64_t ldo;
    float *state;      // [tokens * heads][2]: maximum (in powers of two) and sum, for `merge`; ranges of one group only
    uint8_t *scratch;  // attend_scratch(...) bytes, aligned to 64
};

HERD_INLINE int64_t attend_scratch(int64_t rows, int64_t H) {
    int64_t width = round_up(H, 16);
    int64_t row = 4 * width + 64 + 2 * (4 * width + 8), tile = 4 * SCORE_STRIDE + 4 * width + 8;
    return round_up(rows * row + 8 * tile + 4 * MOST_KEYS * width + 256, 64);
}

}  // namespace herd
