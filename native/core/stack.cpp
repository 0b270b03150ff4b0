#include "stack.h"

#include <algorithm>

namespace herd {
namespace {

// A layer's description and norms, which lie between weights that are read once a token.
void ask_for(const Layer &l) {
    auto ask = [](const void *from, size_t bytes) {
        for (size_t i = 0; i < std::min<size_t>(bytes, 4096); i += 64)
            __builtin_prefetch(static_cast<const char *>(from) + i, 0, 2);
    };
    ask(&l, sizeof l);
    ask(l.norm1.w, (size_t)l.D * 4);
    ask(l.norm2.w, (size_t)l.D * 4);
}

void layer(Pool &pool, const Layer &l, const Pass &p, Cache *cache, float *x, int32_t *experts, float *scores) {
    const int64_t T = p.T, H = l.H, N = l.q.m.O / H, K = l.k.m.O / H;
    float *q = pool.take<float>(T * N * H), *k = pool.take<float>(T * K * H), *v = pool.take<float>(T * K * H);
    float *o = pool.take<float>(T * N * H);
    Heads heads;
    heads.H = H;
    if (l.rope) heads.cos = p.cos[l.chunked], heads.sin = p.sin[l.chunked];
    if (l.tuned) heads.q_scale = p.q_scale;
    heads.unit = l.unit, heads.unit_eps = l.unit_eps;
    qkv(pool, l.norm1, {&l.q, &l.k, &l.v}, heads, x, T, l.D, q, k, v);
    attend(pool, *p.spans[l.chunked], cache, {T, N, K, H}, q, k, v, true, o);
    linear(pool, l.out, 0, o, T, x, Finish::add);
    const Mlp inner{l.gated ? &l.gate : nullptr, &l.up, &l.down};
    if (!l.E) return mlp(pool, l.norm2, inner, x, T, l.D, x, true);
    const Moe m{&l.router, l.expert_gate, l.expert_up, l.expert_down, inner, l.E, l.A};
    moe(pool, l.norm2, m, x, T, l.D, x, true, experts, scores);
}

}  // namespace

void stack(Pool &pool, const std::vector<Layer> &layers, const Pass &p, float *x) {
    for (size_t i = 0; i < layers.size(); i++) {
        pool.reset();
        if (i + 1 < layers.size()) ask_for(layers[i + 1]);
        const int64_t at = (int64_t)i * p.T * p.A;
        layer(pool, layers[i], p, p.caches[i], x, p.experts + at, p.scores + at);
    }
}

}  // namespace herd
