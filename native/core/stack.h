// All layers of the text model over few rows: the four operations of the op contract, layer after layer, without a way
// back between them.
#pragma once
#include "attention.h"
#include "layers.h"

namespace herd {

// A layer's weights, whose shapes fit together over rows of D. They lie in one piece: a token passes through all of them
// once, and finds none in a cache.
struct Layer {
    int64_t D = 0, H = 0;
    Norm norm1, norm2;
    Linear q, k, v, out, router, gate, up, down;  // gate, up, down: of the MLP or the shared expert
    Matrix expert_gate, expert_up, expert_down;
    int64_t E = 0, A = 0;  // 0: no experts
    bool gated = false, rope = false, chunked = false, tuned = false, unit = false;
    float unit_eps = 0;
};

// What the rows of a pass have in common.
struct Pass {
    int64_t T = 0;
    const float *cos[2] = {}, *sin[2] = {};  // of layers that see everything, of chunked ones
    const float *q_scale = nullptr;
    const Spans *spans[2] = {};
    Cache *const *caches = nullptr;  // one a layer
    int32_t *experts = nullptr;      // [layers][T][A], of layers with experts; A is the same for all
    float *scores = nullptr;
    int64_t A = 0;
};

// x [T][D] += attention(x), += ffn(x), for each layer.
void stack(Pool &pool, const std::vector<Layer> &layers, const Pass &pass, float *x);

}  // namespace herd
