// What the subjects of the check share: numbers that are the same on every machine, and errors in units of their bound.
// The expected values are plain loops in double precision, written from the descriptions of the formats and layouts
// (docs/formats.md, docs/kv.md) and from nothing of native/.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "../../../native/core/pool.h"

namespace check {

constexpr double EPS = 0x1p-24;  // half a unit in the last place of 1 in float32

inline std::mt19937 random_bits;  // seeded anew for each subject

// About normal: four uniform numbers added up, exact but for one division. std::normal_distribution and the logarithm
// in it differ between libraries, and encoded bytes are compared across machines.
inline float normal() {
    int64_t sum = 0;
    for (int i = 0; i < 2; i++) {
        const uint32_t bits = (uint32_t)random_bits();
        sum += (bits & 0xffff) + (bits >> 16);
    }
    return (float)(sum - 2 * 0xffff) / 37837.0f;
}

inline std::vector<float> normals(int64_t n, float scale = 1) {
    std::vector<float> x((size_t)n);
    for (float &v : x) v = normal() * scale;
    return x;
}

[[noreturn]] inline void wrong(const std::string &what, double got, double expected, double bound) {
    std::printf("%s: got %.9g, expected %.9g, bound %.3g\n", what.c_str(), got, expected, bound);
    std::exit(1);
}

// One line of the report. Leaves at the first error above its bound.
struct Check {
    std::string what;
    double worst = 0;
    int64_t count = 0;
    void operator()(double got, double expected, double bound) {
        const double error = got == expected ? 0 : std::fabs(got - expected) / bound;
        if (!(error <= 1)) wrong(what, got, expected, bound);
        worst = std::max(worst, error), count++;
    }
    void same(double got, double expected) { (*this)(got, expected, 0); }
    void nan(double got) {
        if (!std::isnan(got)) wrong(what, got, NAN, 0);
        count++;
    }
    ~Check() { std::printf("%-34s %9lld values, worst %.3f of its bound\n", what.c_str(), (long long)count, worst); }
};

// The subjects, in the order in which main() runs them.
void row_functions();
void quantising();
void decoding();
void products();
void experts();
void encoders();
void caches();
void attention();
void coarse_attention();
void threads();

}  // namespace check
