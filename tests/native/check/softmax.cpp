#include "softmax.h"

#include <algorithm>
#include <cmath>

#include "check.h"

namespace check {
namespace {

constexpr double STEPS = 127 * 128;  // of a number of 14 bits
// Roundings of half a step at most are 0.29 steps on the whole, and add up as the root of their squares: six such.
constexpr double SIX_SIGMA = 6 * 0.29;

double root(double square) { return std::sqrt(square); }

struct Score {
    double value = 0, slack = 0;  // and the most that it may be off
};

// Queries in whole numbers of 14 bits or in floats: q . k, and what those round.
Score score_of(const float *q, size_t H, const Held &k, Rounding rounding) {
    double most = 0, sum = 0, products2 = 0, codes2 = 0;
    Score s;
    for (size_t d = 0; d < H; d++) {
        const double product = q[d] * k.key[d], coded = k.key_code[d] * k.key_step[d];
        s.value += product, sum += std::fabs(product), products2 += product * product;
        codes2 += coded * coded, most = std::max(most, (double)std::fabs(q[d]));
    }
    s.slack = 16 * EPS * sum;
    if (rounding == Rounding::dots) s.slack += SIX_SIGMA * 0x1p-7 * root(products2);
    if (rounding == Rounding::codes || rounding == Rounding::mixed) s.slack += SIX_SIGMA * most / STEPS * root(codes2);
    return s;
}

// Keys whose steps belong to channels: query times step as whole numbers of 7 bits, and what that loses on the middle
// of the codes added back (docs/kv.md). Only where a number is about halfway between two is the outcome open.
Score score_per_channel(const float *q, size_t H, const Held &k) {
    double most = 0;
    for (size_t d = 0; d < H; d++) most = std::max(most, std::fabs(q[d] * k.key_step[d]));
    const double step = most / 127;
    Score s;
    for (size_t d = 0; d < H; d++) {
        const double exact = q[d] * k.key_step[d] / step, whole = std::nearbyint(exact);
        const double from_middle = k.key_code[d] - 7.5;
        const double minimum = k.key[d] - k.key_code[d] * k.key_step[d];
        s.value += step * whole * from_middle + q[d] * (7.5 * k.key_step[d] + minimum);
        s.slack += 16 * EPS * (std::fabs(q[d] * minimum) + 15 * std::fabs(q[d] * k.key_step[d]));
        if (std::fabs(std::fabs(exact - whole) - 0.5) < 1e-4) s.slack += step * std::fabs(from_middle);
    }
    return s;
}

}  // namespace

Reference softmax(const float *q, int64_t H, const Keys &keys) {
    const size_t n = keys.at.size(), dims = (size_t)H;
    std::vector<double> p(n);
    double top = -INFINITY, sum = 0, slack = 0;
    for (size_t j = 0; j < n; j++) {
        const bool coded = keys.rounding[j] == Rounding::codes || keys.rounding[j] == Rounding::mixed;
        const Score s = keys.per_channel && coded ? score_per_channel(q, dims, keys.at[j])
                                                  : score_of(q, dims, keys.at[j], keys.rounding[j]);
        p[j] = s.value / root((double)H);
        top = std::max(top, p[j]);
        slack = std::max(slack, s.slack / root((double)H) + 64 * EPS);
    }
    for (double &v : p) v = std::exp(v - top), sum += v;
    for (double &v : p) v /= sum;
    Reference found{std::vector<double>(dims), std::vector<double>(dims)};
    for (size_t j = 0; j < n; j++)
        for (size_t d = 0; d < dims; d++) found.out[d] += p[j] * keys.at[j].value[d];
    for (size_t d = 0; d < dims; d++) {
        // Scores that are off by s move each probability by at most exp(2 s) - 1 of itself.
        double away = 0, size = 0, rounded = 0, step = 0, codes2 = 0;
        for (size_t j = 0; j < n; j++) {
            const Held &k = keys.at[j];
            away += p[j] * std::fabs(k.value[d] - found.out[d]), size += p[j] * std::fabs(k.value[d]);
            if (keys.rounding[j] == Rounding::dots) rounded += p[j] * std::fabs(k.value[d]) * 0x1p-8;
            if (keys.rounding[j] == Rounding::mixed) rounded += p[j] * k.value_step[d] * k.value_code[d] * 0x1p-8;
            if (keys.rounding[j] == Rounding::codes)
                step = std::max(step, p[j] * k.value_step[d] / STEPS), codes2 += k.value_code[d] * k.value_code[d];
        }
        found.bound[d] = std::expm1(2 * slack) * away + rounded + SIX_SIGMA * step * root(codes2) + 64 * EPS * size;
    }
    return found;
}

}  // namespace check
