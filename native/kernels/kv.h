// How keys and values lie in a cache, and what one task of attention is given. Included by table.h.
//
//     type   a slot's key and value of one KV head
//     f32    rows [H] of float32                          scores and sums in float32
//     f16    rows [H] of float16                          widened exactly, as f32
//     bf16   blocks of 16 slots: keys [H/2][16][2], values [8 pairs of slots][H][2]
//     int8   blocks of 16 slots: keys [H/4][16][4], values [4 quads of slots][H][4], each then [16] float32 scales:
//            x = scale * q, scale = max |x| / 127 of a slot and head
//     int4   pages of 256 slots, x = scale * q + minimum, q from 0 to 15, scale and minimum float16:
//            keys [8 times 32 slots][H/4][16][4], slots 0 to 15 in the low halves of the bytes, 16 to 31 in the high;
//            then without positions (rope false) scales [4 times 64 slots][H], minima [4][H]: per channel;
//            otherwise scales [groups of 64 dims][256], minima: per slot;
//            values [32 times 8 slots][H][4], slots 0 to 3 low, 4 to 7 high; then scales [groups][256], minima
//
// In the blocked layouts sixteen keys are one vector whose lane holds as many neighbouring dims as an instruction
// multiplies at once, and a vector of values holds sixteen dims of as many neighbouring slots: nothing is turned in
// decoding or prefill, and a score is one chain of sums in any case.
#pragma once
#include <cstdint>

namespace herd {

enum class Kv : int { f32, f16, bf16, int8, int4 };

constexpr int64_t BLOCK = 16;          // slots of a block
constexpr int64_t PAGE = 256;          // slots of a page of int4, and keys that are exact around a query
constexpr int64_t KEY_GROUP = 64;      // slots that share a channel's scale
constexpr int64_t DIM_GROUP = 64;      // dims that share a slot's scale
constexpr int64_t WHOLE = 127 * 128;   // int8 and int4: queries and probabilities are whole numbers up to this, in two
                                       // digits of seven bits, so that sums of products are exact
constexpr int64_t MOST_DIMS = 1024;    // of a head in int8 and int4: WHOLE * 127 * MOST_DIMS < 2^31
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

HERD_INLINE int64_t dim_groups(int64_t H) { return (H + DIM_GROUP - 1) / DIM_GROUP; }

// Keys of a range: what is softened at once. Counted from the segment's start, so that a row's result depends on the
// positions of its keys and nothing else.
HERD_INLINE int64_t range_keys(Kv type) {
    return type == Kv::int4 ? PAGE : type == Kv::bf16 || type == Kv::int8 ? 512 : 128;
}

// Slots that lie together: a block, a page (int4), or one.
HERD_INLINE int64_t unit_slots(Kv type) {
    return type == Kv::int4 ? PAGE : type == Kv::bf16 || type == Kv::int8 ? BLOCK : 1;
}

// Bytes of the keys and of the values of a unit of one head.
HERD_INLINE int64_t key_bytes(Kv type, int64_t H, bool rope = true) {
    switch (type) {
        case Kv::f32: return 4 * H;
        case Kv::f16: return 2 * H;
        case Kv::bf16: return 2 * BLOCK * round_up(H, 2);
        case Kv::int8: return BLOCK * round_up(H, 4) + 4 * BLOCK;
        default:
            return PAGE / 2 * round_up(H, 4) +
                   (rope ? 4 * PAGE * dim_groups(H) : 4 * (PAGE / KEY_GROUP) * round_up(H, 16));
    }
}
HERD_INLINE int64_t value_bytes(Kv type, int64_t H) {
    switch (type) {
        case Kv::f32: return 4 * H;
        case Kv::f16: return 2 * H;
        case Kv::bf16: return 2 * BLOCK * round_up(H, 16);
        case Kv::int8: return BLOCK * round_up(H, 16) + 4 * BLOCK;
        default: return PAGE / 2 * round_up(H, 16) + 4 * PAGE * dim_groups(H);
    }
}

// One KV head: where its first unit lies, and how far it is to the next one.
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
    KvHead exact;                // int4: the pool of exact pages, bf16
    int64_t first_page, own_page;  // int4: in `exact`, of positions 0 .. 255 and of the segment's last
    int64_t last_page;             // int4: number of the segment's last page of positions
    bool rope;                     // int4: scales of keys per slot, not per channel
    const int64_t *pages;  // null: slot = key
    int64_t page_size;
    float *o;  // [tokens][ldo], or with `state` [tokens * heads][H in whole 16s], not normalised
    int64_t ldo;
    float *state;      // [tokens * heads][2]: maximum (in powers of two) and sum, for `merge`; ranges of one group only
    uint8_t *scratch;  // attend_scratch(...) bytes, aligned to 64
};

// A prepared query: [width] float32 times log2(e) / sqrt(H), then as much again for what a kind makes of it.
HERD_INLINE int64_t query_bytes(int64_t H) { return 8 * round_up(H, 16) + 192; }

// Probabilities of a row in two digits, per group of dims: [groups][2][MOST_KEYS] and the factor and constant of each.
HERD_INLINE int64_t digit_bytes(int64_t H) { return dim_groups(H) * (2 * MOST_KEYS + 8) + 64; }

HERD_INLINE int64_t attend_scratch(int64_t rows, int64_t H) {
    int64_t width = round_up(H, 16);
    int64_t row = query_bytes(H) + 2 * (4 * width + 8), tile = 4 * SCORE_STRIDE + 4 * width + 8 + digit_bytes(H);
    return round_up(rows * row + 8 * tile + 4 * MOST_KEYS * width + 512, 64);
}

}  // namespace herd
