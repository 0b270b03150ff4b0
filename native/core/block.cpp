#include "block.h"

namespace herd {

void block(Pool &pool, const Block &b, const Heads &heads, const Spans &spans, Cache *cache, int64_t T, float *x,
           int32_t *experts, float *scores) {
    const int64_t N = b.N(), K = b.K(), H = b.H;
    float *q = pool.take<float>(T * N * H), *k = pool.take<float>(T * K * H), *v = pool.take<float>(T * K * H);
    float *o = pool.take<float>(T * N * H);
    qkv(pool, b.norm1, b.in, heads, x, T, b.D, q, k, v);
    attend(pool, spans, cache, {T, N, K, H}, q, k, v, true, o);
    linear(pool, *b.out, 0, o, T, x, Finish::add);
    if (b.experts) moe(pool, b.norm2, b.moe, x, T, b.D, x, true, experts, scores);
    else mlp(pool, b.norm2, b.mlp, x, T, b.D, x, true);
}

}  // namespace herd
