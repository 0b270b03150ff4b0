// Activations to int8 by groups of 32 and of 256 inputs.
#include "../../../native/core/cpu.h"
#include "check.h"

namespace check {

using namespace herd;

namespace {

// rows [n][ldx] of K inputs, group by group.
void check_rows(Check &check, const std::vector<float> &x, int64_t n, int64_t ldx, int64_t K, int step) {
    const int64_t Kp = (K + 255) / 256 * 256, room = (n + 3) / 4 * 4;
    std::vector<int8_t> q((size_t)(room * Kp), 99);
    std::vector<float> scale((size_t)(room * Kp / step), -1);
    std::vector<int16_t> sum16((size_t)(room * Kp / 16), 999), sum32((size_t)(room * Kp / 32), 999);
    kernels().quantise(x.data(), ldx, n, K, {q.data(), scale.data(), sum16.data(), sum32.data(), Kp, step});
    for (int64_t r = 0; r < n; r++)
        for (int64_t k0 = 0; k0 < Kp; k0 += step) {
            const auto at = [&](int64_t k) { return k < K ? (double)x[(size_t)(r * ldx + k)] : 0.0; };
            double top = 0;
            bool finite = true;
            for (int64_t k = k0; k < k0 + step; k++)
                top = std::max(top, std::fabs(at(k))), finite &= std::isfinite(at(k));
            const double s = scale[(size_t)((r * Kp + k0) / step)];
            if (finite) check(s, top / 127, top * EPS);
            else check.nan(s);
            for (int64_t k = k0; k < k0 + step; k++) {
                const int code = q[(size_t)(r * Kp + k)];
                if (finite) check(code, top > 0 ? at(k) * 127 / top : 0, 0.5 + 127 * 4 * EPS);
            }
            for (int64_t k = k0; k < k0 + step; k += 16) {
                int sum = 0;
                for (int64_t i = k; i < k + 16; i++) sum += q[(size_t)(r * Kp + i)];
                check.same(sum16[(size_t)((r * Kp + k) / 16)], sum);
            }
            for (int64_t k = k0; k < k0 + step; k += 32) {
                int sum = 0;
                for (int64_t i = k; i < k + 32; i++) sum += q[(size_t)(r * Kp + i)];
                check.same(sum32[(size_t)((r * Kp + k) / 32)], sum);
            }
        }
    for (int64_t i = n * Kp; i < room * Kp; i++) check.same(q[(size_t)i], 99);  // rows that are not there
}

}  // namespace

void quantising() {
    Check check{"activations to int8"};
    for (int step : {32, 256})
        for (int64_t K : {32, 96, 256, 544}) {
            const int64_t n = 5, ldx = K + 3;
            auto x = normals(n * ldx);
            for (int64_t k = 0; k < 32; k++) {
                x[(size_t)k] = 0;                                   // a group of zeros
                x[(size_t)(ldx + k)] = k % 3 ? 127.0f : -63.5f;     // halves and both ends
                x[(size_t)(2 * ldx + k)] *= 0x1p-120f;              // tiny
            }
            x[(size_t)(3 * ldx + K - 1)] = NAN;
            x[(size_t)(4 * ldx + K - 2)] = -INFINITY;
            check_rows(check, x, n, ldx, K, step);
        }
}

}  // namespace check
