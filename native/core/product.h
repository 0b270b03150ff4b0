// Products of several weights with the same or different rows, shared out over the pool.
#pragma once
#include <vector>

#include "cpu.h"
#include "pool.h"

namespace herd {

// Rows that go into products: float32, and quantised in the groups that the weights ask for (32 and 256 inputs).
struct Rows {
    const float *x = nullptr;
    int64_t ldx = 0, n = 0, K = 0;
    Quantised quantised[2] = {};
    bool have[2] = {};
};

enum class Finish { store, add, silu_mul, gelu };

// y = finish(w x + bias); silu_mul: y = silu(w x + bias) * (w2 x + bias2).
struct Work {
    const Matrix *w = nullptr;
    const Matrix *w2 = nullptr;
    int64_t expert = 0;
    Rows *rows = nullptr;
    float *y = nullptr;
    int64_t ldy = 0;
    const float *bias = nullptr, *bias2 = nullptr;
    Finish finish = Finish::store;
};

inline bool is_packed(Type t) { return t >= Type::q4_0; }

// Sixteen rows of blocks at a time to strips (herd.formats.strips), with all threads. m: in rows, E * O of them.
void pack_strips(Pool &pool, const Matrix &m, uint8_t *strips);

// Quantises what is needed, then computes all works in one sharing of tasks. Works must not write the same outputs.
void multiply(Pool &pool, std::vector<Work> &works);

// body(row) for n rows that cost about `cost` float operations each: on this thread when that is little.
template <class Body>
void each_row(Pool &pool, int64_t n, int64_t cost, Body &&body) {
    if (n * cost < 20000 || n == 1) {
        for (int64_t i = 0; i < n; i++) body(i);
        return;
    }
    int64_t step = std::max<int64_t>(1, 8000 / std::max<int64_t>(cost, 1));
    pool.run((n + step - 1) / step, [&](int64_t task, int) {
        for (int64_t i = task * step; i < std::min(n, (task + 1) * step); i++) body(i);
    });
}

}  // namespace herd
