#include "softmax.h"

#include <algorithm>
#include <cmath>

#include "check.h"

namespace check {
namespace {

constexpr double STEPS = 127 * 128;  // of a number of 14 bits
// Roundings of half a step at most are 0.29 steps on the whole, and add up as the root of their squares: six times that.
constexpr double SIX_SIGMA = 6 * 0.29;

double root(double square) { return std::sqrt(square); }

// Most that a score may be off.
double score_slack(const float *q, int64_t H, const Held &k, Rounding rounding, bool per_channel) {
    double most = 0, sum = 0, products2 = 0, codes2 = 0, middle2 = 0;
    for (size_t d = 0; d < (size_t)H; d++) {
        const double product = q[d] * k.key[d], coded = k.key_code[d] * k.key_step[d];
        sum += std::fabs(product), products2 += product * product;
        codes2 += coded * coded, middle2 += (k.key_code[d] - 7.5) * (k.key_code[d] - 7.5);
        most = std::max(most, (double)std::fabs(per_channel ? q[d] * k.key_step[d] : q[d]));
    }
    double slack = 16 * EPS * sum;
    if (rounding == Rounding::dots) slack += SIX_SIGMA * 0x1p-7 * root(products2);
    if (rounding == Rounding::codes || rounding == Rounding::mixed)
        slack += SIX_SIGMA * (per_channel ? most / 127 * root(middle2) : most / STEPS * root(codes2));
    return slack / root((double)H) + 64 * EPS;
}

}  // namespace

Reference softmax(const float *q, int64_t H, const Keys &keys) {
    const size_t n = keys.at.size(), dims = (size_t)H;
    std::vector<double> p(n);
    double top = -INFINITY, sum = 0, slack = 0;
    for (size_t j = 0; j < n; j++) {
        for (size_t d = 0; d < dims; d++) p[j] += keys.at[j].key[d] * q[d];
        p[j] /= root((double)H);
        top = std::max(top, p[j]);
        slack = std::max(slack, score_slack(q, H, keys.at[j], keys.rounding[j], keys.per_channel));
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
