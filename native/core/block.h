// A layer of the text model: the four operations of the op contract, one after another, without a way back between them.
#pragma once
#include "attention.h"
#include "layers.h"

namespace herd {

// Weights whose shapes fit together over rows of D.
struct Block {
    int64_t D = 0, H = 0;
    Norm norm1, norm2;
    Projections in;
    const Linear *out = nullptr;
    bool experts = false;  // moe, else mlp
    Moe moe;
    Mlp mlp;

    int64_t N() const { return in.q->m.O / H; }
    int64_t K() const { return in.k->m.O / H; }
};

// x += attention(x), x += ffn(x). Causal; keys and values go into the cache (null: they are the rows). experts, scores
// [T][A]: the router's choice, of a layer with experts.
void block(Pool &pool, const Block &b, const Heads &heads, const Spans &spans, Cache *cache, int64_t T, float *x,
           int32_t *experts, float *scores);

}  // namespace herd
