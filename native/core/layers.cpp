#include "layers.h"

#include <algorithm>
#include <cmath>

#include "blocks.h"

namespace herd {

void normalise(Pool &pool, const Norm &n, const float *x, int64_t T, int64_t D, float *y) {
    each_row(pool, T, 3 * D, [&](int64_t t) {
        if (n.b) kernels().layer_norm(x + t * D, n.w, n.b, n.eps, D, y + t * D);
        else kernels().rms(x + t * D, n.w, n.eps, D, y + t * D);
    });
}

void linear(Pool &pool, const Linear &w, int64_t expert, const float *x, int64_t T, float *y, Finish finish) {
    Rows rows{x, w.m.K, T, w.m.K};
    std::vector<Work> works{{&w.m, nullptr, expert, &rows, y, w.m.O, w.bias, nullptr, finish}};
    multiply(pool, works);
}

void shape_heads(Pool &pool, const Heads &h, int64_t T, int64_t N, int64_t K, float *q, float *k) {
    if (!h.cos && !h.unit && !h.q_scale) return;
    const int64_t H = h.H;
    each_row(pool, T, (N + K) * H * 4, [&](int64_t t) {
        for (int64_t n = 0; n < N + K; n++) {
            float *row = n < N ? q + (t * N + n) * H : k + (t * K + n - N) * H;
            if (h.cos) kernels().rotate(row, h.cos + t * (H / 2), h.sin + t * (H / 2), H / 2);
            if (h.unit) kernels().rms(row, nullptr, h.unit_eps, H, row);
            if (h.q_scale && n < N) kernels().scale(row, h.q_scale[t], H);
        }
    });
}

void qkv(Pool &pool, const Norm &norm, const Projections &p, const Heads &heads, const float *x, int64_t T, int64_t D,
         float *q, float *k, float *v) {
    float *h = pool.take<float>(T * D);
    normalise(pool, norm, x, T, D, h);
    Rows rows{h, D, T, D};
    std::vector<Work> works;
    for (auto [w, y] : {std::pair{p.q, q}, {p.k, k}, {p.v, v}})
        works.push_back({&w->m, nullptr, 0, &rows, y, w->m.O, w->bias, nullptr, Finish::store});
    multiply(pool, works);
    shape_heads(pool, heads, T, p.q->m.O / heads.H, p.k->m.O / heads.H, q, k);
}

namespace {

// The first half of an MLP: the product whose output goes into `down`.
Work inner(const Mlp &m, Rows &h, float *y) {
    if (!m.gate) return {&m.up->m, nullptr, 0, &h, y, m.up->m.O, m.up->bias, nullptr, Finish::gelu};
    return {&m.gate->m, &m.up->m, 0, &h, y, m.up->m.O, m.gate->bias, m.up->bias, Finish::silu_mul};
}

}  // namespace

void mlp(Pool &pool, const Norm &norm, const Mlp &m, const float *x, int64_t T, int64_t D, float *y, bool add) {
    const int64_t F = m.up->m.O;
    float *h = pool.take<float>(T * D), *f = pool.take<float>(T * F);
    normalise(pool, norm, x, T, D, h);
    Rows in{h, D, T, D}, mid{f, F, T, F};
    std::vector<Work> works{inner(m, in, f)};
    multiply(pool, works);
    works = {{&m.down->m, nullptr, 0, &mid, y, D, m.down->bias, nullptr, add ? Finish::add : Finish::store}};
    multiply(pool, works);
}

void choose(const float *logits, int64_t T, int64_t E, int64_t A, int32_t *experts, float *scores) {
    for (int64_t t = 0; t < T; t++)
        for (int64_t a = 0; a < A; a++) {
            int64_t best = -1;
            for (int64_t e = 0; e < E; e++) {
                const float *l = logits + t * E;
                if (std::find(experts + t * A, experts + t * A + a, (int32_t)e) != experts + t * A + a) continue;
                if (best < 0 || l[e] > l[best]) best = e;
            }
            experts[t * A + a] = (int32_t)best;
            scores[t * A + a] = 1.0f / (1.0f + std::exp(-logits[t * E + best]));
        }
}

// Rows are grouped by expert, so that each expert's weights are read once. The sum over a token's experts runs in the
// order of its choice, whatever the batch.
void experts(Pool &pool, const Moe &m, Rows &all, const int32_t *experts, const float *scores, const float *x,
             float *y) {
    const int64_t T = all.n, D = all.K, E = m.E, A = m.A, F = m.gate.O, R = T * A;
    const float *h = all.x;
    std::vector<int64_t> counts((size_t)E), starts((size_t)E);
    for (int64_t i = 0; i < R; i++) counts[(size_t)experts[i]]++;
    int64_t room = 0;
    for (size_t e = 0; e < counts.size(); e++) starts[e] = room, room += counts[e];
    int64_t *place = pool.take<int64_t>(R);
    std::vector<int64_t> next = starts;
    for (int64_t i = 0; i < R; i++) place[i] = next[(size_t)experts[i]]++;
    float *in = pool.take<float>(room * D), *mid = pool.take<float>(room * F), *out = pool.take<float>(room * D);
    each_row(pool, R, D, [&](int64_t i) {
        for (int64_t d = 0; d < D; d++) in[place[i] * D + d] = h[i / A * D + d] * scores[i];
    });

    const int64_t S = m.shared.up ? m.shared.up->m.O : 0;
    float *shared_mid = pool.take<float>(T * S), *sum = pool.take<float>(T * D);
    Rows shared_rows{shared_mid, S, T, S};
    std::vector<Rows> ins((size_t)E), mids((size_t)E);
    std::vector<Work> works, downs;
    if (S) {
        works.push_back(inner(m.shared, all, shared_mid));
        downs.push_back(
            {&m.shared.down->m, nullptr, 0, &shared_rows, sum, D, m.shared.down->bias, nullptr, Finish::store});
    } else {
        std::fill_n(sum, T * D, 0.0f);
    }
    for (size_t e = 0; e < counts.size(); e++) {
        if (!counts[e]) continue;
        ins[e] = {in + starts[e] * D, D, counts[e], D};
        mids[e] = {mid + starts[e] * F, F, counts[e], F};
        works.push_back(
            {&m.gate, &m.up, (int64_t)e, &ins[e], mid + starts[e] * F, F, nullptr, nullptr, Finish::silu_mul});
        downs.push_back(
            {&m.down, nullptr, (int64_t)e, &mids[e], out + starts[e] * D, D, nullptr, nullptr, Finish::store});
    }
    multiply(pool, works);
    multiply(pool, downs);
    each_row(pool, T, 2 * D, [&](int64_t t) {
        float *row = sum + t * D;
        for (int64_t a = 0; a < A; a++) kernels().add(row, out + place[t * A + a] * D, D, row);
        if (x) kernels().add(x + t * D, row, D, y + t * D);
        else std::copy_n(row, D, y + t * D);
    });
}

void moe(Pool &pool, const Norm &norm, const Moe &m, const float *x, int64_t T, int64_t D, float *y, bool residual,
         int32_t *ids, float *scores) {
    float *h = pool.take<float>(T * D), *logits = pool.take<float>(T * m.E);
    normalise(pool, norm, x, T, D, h);
    Rows all{h, D, T, D};
    std::vector<Work> works{{&m.router->m, nullptr, 0, &all, logits, m.E, m.router->bias, nullptr, Finish::store}};
    multiply(pool, works);
    choose(logits, T, m.E, m.A, ids, scores);
    experts(pool, m, all, ids, scores, residual ? x : nullptr, y);
}

void head(Pool &pool, const Norm &norm, const Linear &w, const float *x, const int64_t *rows, int64_t T, int64_t D,
          float *y) {
    float *h = pool.take<float>(T * D);
    if (rows) {
        for (int64_t t = 0; t < T; t++) std::copy_n(x + rows[t] * D, D, h + t * D);
        x = h;
    }
    normalise(pool, norm, x, T, D, h);
    linear(pool, w, 0, h, T, y, Finish::store);
}

void embed(Pool &pool, const Matrix &w, const int64_t *ids, int64_t T, float *y) {
    each_row(pool, T, 4 * w.K, [&](int64_t t) {
        if (is_packed(w.type)) widen_blocks(w, ids[t], y + t * w.K);
        else kernels().widen(w.type, w.data + ids[t] * w.row_bytes, w.K, y + t * w.K);
    });
}

}  // namespace herd
