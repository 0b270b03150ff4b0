// The operations of the op contract that hold weights (herd.ops.contract), over plain pointers. Shapes were checked.
#pragma once
#include "product.h"

namespace herd {

struct Norm {
    const float *w = nullptr, *b = nullptr;  // b null: RMS
    float eps = 0;
};

// A weight and its bias (float32, or null).
struct Linear {
    Matrix m;
    const float *bias = nullptr;
};

struct Mlp {
    const Linear *gate = nullptr;  // null: down(gelu(up x))
    const Linear *up = nullptr, *down = nullptr;
};

void normalise(Pool &pool, const Norm &norm, const float *x, int64_t T, int64_t D, float *y);

// y = w x + bias, added to y or stored; gelu: stored after GELU.
void linear(Pool &pool, const Linear &w, int64_t expert, const float *x, int64_t T, float *y, Finish finish);

struct Heads {
    int64_t H = 0;
    const float *cos = nullptr, *sin = nullptr;  // [T][H / 2] or null
    bool unit = false;                           // divide each head of q and k by its root mean square
    float unit_eps = 0;
    const float *q_scale = nullptr;  // [T] or null
};

// Rope, QK norm and temperature on q [T, N, H] and k [T, K, H], in place.
void shape_heads(Pool &pool, const Heads &heads, int64_t T, int64_t N, int64_t K, float *q, float *k);

struct Projections {
    const Linear *q = nullptr, *k = nullptr, *v = nullptr;
};

void qkv(Pool &pool, const Norm &norm, const Projections &w, const Heads &heads, const float *x, int64_t T, int64_t D,
         float *q, float *k, float *v);

// y (+)= mlp(norm(x)); with `add` y is x.
void mlp(Pool &pool, const Norm &norm, const Mlp &mlp, const float *x, int64_t T, int64_t D, float *y, bool add);

struct Moe {
    const Linear *router = nullptr;
    Matrix gate, up, down;  // stacks [E, F, D], [E, F, D], [E, D, F]
    Mlp shared;  // up null: none
    int64_t E = 0, A = 0;
};

// The A largest of each row's E logits (ties: the lower expert) and their sigmoids.
void choose(const float *logits_TE, int64_t T, int64_t E, int64_t A, int32_t *experts_TA, float *scores_TA);

// y = (x +) shared(h) + sum of the chosen experts of s * h; x null: without. y may be x.
void experts(Pool &pool, const Moe &moe, Rows &h, const int32_t *experts_TA, const float *scores_TA, const float *x,
             float *y);

// The same of h = norm(x), and the choice.
void moe(Pool &pool, const Norm &norm, const Moe &moe, const float *x, int64_t T, int64_t D, float *y, bool residual,
         int32_t *experts_TA, float *scores_TA);

// y = w norm(x[rows]); rows null: all T.
void head(Pool &pool, const Norm &norm, const Linear &w, const float *x, const int64_t *rows, int64_t T, int64_t D,
          float *y);

void embed(Pool &pool, const Matrix &w, const int64_t *ids, int64_t T, float *y);

}  // namespace herd
