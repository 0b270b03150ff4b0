// Products of every format: few rows and many, weights in every layout, against double precision; and the same bits for
// a row whatever comes along.
#include "check.h"
#include "weight.h"

namespace check {

using namespace herd;

namespace {

constexpr int64_t MOST_ROWS = 39;
// Many (from 25 on; from 9 on for q3_k and q6_k), then few: every rest of a tile.
const int64_t ROWS[] = {MOST_ROWS, 30, 25, 24, 23, 17, 14, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1};

// Whole steps of int8: quantising is exact, and what is left is the rounding of float sums.
std::vector<float> whole_steps(int64_t rows, int64_t K) {
    std::vector<float> x((size_t)(rows * K));
    for (int64_t i = 0; i < rows * K; i++) {
        const int64_t k = i % K;
        const float step = std::ldexp(1.0f, -9 + (int)((k / 256) % 4));
        x[(size_t)i] = step * (float)(k % 32 == 0 ? 127 : (int)(random_bits() % 255) - 127);
    }
    return x;
}

std::vector<float> product(Pool &pool, const Linear &w, const std::vector<float> &x, int64_t T) {
    std::vector<float> y((size_t)(T * w.m.O));
    pool.reset();
    linear(pool, w, 1, x.data(), T, y.data(), Finish::store);
    return y;
}

// The contract's 4 eps |x| |w|; codes are summed apart from their zero point, hence 2 max |w|.
void check_values(Check &check, const Weight &w, const std::vector<float> &x, const std::vector<float> &y, int64_t O,
                  int64_t K) {
    for (int64_t t = 0; t < MOST_ROWS; t++)
        for (int64_t o = 0; o < O; o++) {
            double sum = 0, xx = 0, ww = 0, most = 0;
            for (int64_t k = 0; k < K; k++) {
                const double a = x[(size_t)(t * K + k)], b = w.row(1, o)[k];
                sum += a * b, xx += a * a, ww += b * b, most = std::max(most, std::fabs(b));
            }
            const double size = std::sqrt(ww) + 2 * most * std::sqrt((double)K);
            check(y[(size_t)(t * O + o)], sum, 4 * EPS * std::sqrt(xx) * size);
        }
}

// A value that is no number spoils its row and no other.
void check_faults(Check &check, Pool &pool, const Linear &w, std::vector<float> x, const std::vector<float> &whole,
                  int64_t T, bool packed) {
    const int64_t K = w.m.K, O = w.m.O;
    x[(size_t)(2 * K - 1)] = NAN, x[(size_t)(2 * K)] = INFINITY;  // the last of row 1, the first of row 2
    const auto y = product(pool, w, x, T);
    for (int64_t o = 0; o < O; o++) {
        check.nan(y[(size_t)(O + o)]);
        if (packed) check.nan(y[(size_t)(2 * O + o)]);
        else if (std::isfinite(y[(size_t)(2 * O + o)])) wrong(check.what, y[(size_t)(2 * O + o)], INFINITY, 0);
        check.same(y[(size_t)o], whole[(size_t)o]);
        for (int64_t t = 3; t < T; t++) check.same(y[(size_t)(t * O + o)], whole[(size_t)(t * O + o)]);
    }
}

void check_shape(Check &check, Pool &pool, const Format &f, int64_t O, int64_t K) {
    Weight w(f, 2, O, K);
    const auto x = whole_steps(MOST_ROWS, K);
    std::vector<float> whole;
    for (Layout layout : layouts_of(f)) {
        check.what = std::string(f.name) + ", " + name_of(layout);
        check.what += " of " + std::to_string(O) + " x " + std::to_string(K);
        const Linear &as = w.as(layout);
        for (int64_t T : ROWS) {
            const auto y = product(pool, as, x, T);
            if (whole.empty()) {
                check_values(check, w, x, y, O, K);
                whole = y;
            }
            for (size_t i = 0; i < y.size(); i++) check.same(y[i], whole[i]);
        }
        for (int64_t T : {30, 14, 5}) check_faults(check, pool, as, x, whole, T, is_packed(f));
    }
}

}  // namespace

void products() {
    Turn turn;
    Pool &pool = turn.pool;
    for (const Format &f : FORMATS) {
        Check check{f.name};
        const auto inputs = [&](int64_t blocks) { return f.block == 1 ? blocks * 19 + 2 : blocks * f.block; };
        check_shape(check, pool, f, 97, inputs(1));
        check_shape(check, pool, f, 1, inputs(3));
        check_shape(check, pool, f, 50, inputs(f.block == 256 ? 5 : 17));  // more than a panel is deep
        if (f.type >= Type::iq1_s) check_shape(check, pool, f, 1, inputs(129));  // more than is turned at once
        check.what = std::string("products of ") + f.name;
    }
}

}  // namespace check
