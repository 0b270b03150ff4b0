// A layer of experts in every format: against the equations in double precision, in rows and in strips, all tokens at
// once and one by one.
#include "check.h"
#include "weight.h"

namespace check {

using namespace herd;

namespace {

constexpr int64_t D = 256, F = 256, E = 5, A = 2, T = 11;

std::vector<double> times(const Weight &w, int64_t e, int64_t O, const std::vector<double> &x) {
    std::vector<double> y((size_t)O);
    for (int64_t o = 0; o < O; o++)
        for (size_t k = 0; k < x.size(); k++) y[(size_t)o] += w.row(e, o)[k] * x[k];
    return y;
}

struct Weights {
    Weight router, gate, up, down, shared_up, shared_down;
    explicit Weights(const Format &f)
        : router(FORMATS[0], 1, E, D), gate(f, E, F, D), up(f, E, F, D), down(f, E, D, F),
          shared_up(FORMATS[0], 1, F, D), shared_down(FORMATS[0], 1, D, F) {}

    // y = x + down_s gelu(up_s h) + sum over the chosen of down (silu(gate s h) * (up s h)), h = x / rms(x), s = score
    std::vector<double> layer(const float *x) const {
        std::vector<double> h(x, x + D), y(x, x + D);
        double square = 0;
        for (double v : h) square += v * v / (double)D;
        for (double &v : h) v /= std::sqrt(square + 1e-5);
        auto mid = times(shared_up, 0, F, h);
        for (double &v : mid) v *= 0.5 * std::erfc(-v / std::sqrt(2.0));
        add(y, times(shared_down, 0, D, mid));
        auto logits = times(router, 0, E, h);
        for (int64_t a = 0; a < A; a++) {
            const auto best = std::max_element(logits.begin(), logits.end());
            const int64_t e = best - logits.begin();
            auto in = h;
            for (double &v : in) v /= 1 + std::exp(-*best);
            *best = -INFINITY;
            auto g = times(gate, e, F, in), u = times(up, e, F, in);
            for (size_t i = 0; i < g.size(); i++) g[i] = g[i] / (1 + std::exp(-g[i])) * u[i];
            add(y, times(down, e, D, g));
        }
        return y;
    }

    Moe as(Layout layout) {
        Moe m;
        m.router = &router.as(Layout::rows);
        m.gate = gate.as(layout).m, m.up = up.as(layout).m, m.down = down.as(layout).m;
        m.shared.up = &shared_up.as(Layout::rows), m.shared.down = &shared_down.as(Layout::rows);
        m.E = E, m.A = A;
        return m;
    }

  private:
    static void add(std::vector<double> &to, const std::vector<double> &from) {
        for (size_t i = 0; i < to.size(); i++) to[i] += from[i];
    }
};

double largest(const std::vector<double> &x) {
    double most = 0;
    for (double v : x) most = std::max(most, std::fabs(v));
    return most;
}

}  // namespace

void experts() {
    Turn turn;
    Pool &pool = turn.pool;
    for (const Format &f : FORMATS) {
        Check check{std::string("experts of ") + f.name};
        Weights w(f);
        const auto x = normals(T * D);
        std::vector<float> ones((size_t)D, 1), whole((size_t)(T * D)), y = whole;
        std::vector<float> one((size_t)D), scores((size_t)(T * A));
        std::vector<int32_t> ids((size_t)(T * A));
        const Norm norm{ones.data(), nullptr, 1e-5f};
        for (Layout layout : layouts_of(f)) {
            const Moe m = w.as(layout);
            pool.reset();
            moe(pool, norm, m, x.data(), T, D, y.data(), true, ids.data(), scores.data());
            if (layout == Layout::rows) whole = y;
            for (size_t i = 0; i < y.size(); i++) check.same(y[i], whole[i]);
            for (int64_t t = 0; t < T; t++) {
                pool.reset();
                moe(pool, norm, m, x.data() + t * D, 1, D, one.data(), true, ids.data(), scores.data());
                for (int64_t d = 0; d < D; d++) check.same(one[(size_t)d], whole[(size_t)(t * D + d)]);
            }
        }
        for (int64_t t : {(int64_t)0, T - 1}) {
            const auto expected = w.layer(x.data() + t * D);
            // Activations of int8 lose about 0.7% of a product's root mean square (docs/formats.md), thrice over.
            const double bound = (is_packed(f) ? 0.05 : 1e-5) * largest(expected);
            for (int64_t d = 0; d < D; d++) check(whole[(size_t)(t * D + d)], expected[(size_t)d], bound);
        }
    }
}

}  // namespace check
