// Encoders of every block format: what the bytes say against what was given, and one number for all bytes, which is the
// same on every processor.
#include "../../../native/core/cpu.h"
#include "../../../native/core/encode.h"
#include "check.h"
#include "formats.h"

namespace check {

using namespace herd;

namespace {

constexpr int64_t ROWS = 19, K = 512;
constexpr int64_t ODD = 5;  // rows at the front that are not like the others

// Root mean square error of Gaussian weights over their deviation (docs/formats.md).
const double LOST[] = {0.0861, 0.0783, 0.0428, 0.0379, 0.00536, 0.263, 0.144, 0.0701, 0.0345, 0.0172, 0.0734, 0.0740};

struct Encoded {
    std::vector<uint8_t> bytes;
    Lost lost;
};

Encoded encoded(int coding, const uint8_t *x, Element element, int64_t row_step, int64_t column_step,
                const float *importance) {
    const CodingShape &shape = CODINGS[coding];
    Turn turn;
    Encoded e;
    e.bytes.assign((size_t)(ROWS * (K / shape.block) * shape.bytes), 0xaa);
    const Given given{x, element, row_step, column_step, ROWS, K, importance};
    e.lost = encode(turn.pool, (Coding)coding, given, e.bytes.data());
    return e;
}

Encoded encoded(int coding, const std::vector<float> &x, const float *importance = nullptr) {
    return encoded(coding, reinterpret_cast<const uint8_t *>(x.data()), Element::f32, 4 * K, 4, importance);
}

std::vector<double> decoded(const Format &f, const Encoded &e) {
    std::vector<double> y((size_t)(ROWS * K));
    for (int64_t i = 0; i < ROWS * K / f.block; i++) decode(f, e.bytes.data() + i * f.bytes, y.data() + i * f.block);
    return y;
}

// Zeros, one sign, tiny, large and mostly zeros; then ordinary rows.
std::vector<float> weights() {
    auto x = normals(ROWS * K);
    for (int64_t k = 0; k < K; k++) {
        x[(size_t)k] = 0;
        x[(size_t)(K + k)] = std::fabs(x[(size_t)(K + k)]);
        x[(size_t)(2 * K + k)] *= 0x1p-13f;
        x[(size_t)(3 * K + k)] *= 0x1p10f;
        if (k % 7) x[(size_t)(4 * K + k)] = 0;
    }
    return x;
}

// What was lost is what the bytes say, and for ordinary rows no more than the documentation has.
void check_errors(Check &check, int coding, const Encoded &e, const std::vector<float> &x, const float *importance) {
    const auto y = decoded(format_of(CODINGS[coding].name), e);
    double error2 = 0, weighted2 = 0, x2 = 0, most = 0, plain_error2 = 0, plain_x2 = 0;
    for (size_t i = 0; i < y.size(); i++) {
        const double off = y[i] - x[i], w = importance ? importance[i % K] : 1;
        error2 += off * off, weighted2 += w * off * off, x2 += (double)x[i] * x[i];
        most = std::max(most, std::fabs(off));
        if (i < K) check.same(y[i], 0);
        if (i >= ODD * K) plain_error2 += off * off, plain_x2 += (double)x[i] * x[i];
    }
    if (e.lost.fault != Fault::none) wrong(check.what, (double)e.lost.at, -1, 0);
    check(e.lost.error2, error2, 1e-4 * error2), check(e.lost.weighted2, weighted2, 1e-4 * weighted2);
    check(e.lost.x2, x2, 1e-5 * x2), check(e.lost.most, most, 1e-3 * most);
    if (!importance) check(std::sqrt(plain_error2 / plain_x2), 0, 1.1 * LOST[coding]);
}

// Floats of 16 bits and columns side by side: the bytes of the same numbers in float32, row by row.
void check_strides(Check &check, int coding, const std::vector<float> &x) {
    std::vector<uint16_t> halves(x.size());
    std::vector<float> same(x.size()), turned(x.size());
    for (size_t i = 0; i < x.size(); i++) {
        halves[i] = nearest_half(x[i]);
        same[i] = (float)half(reinterpret_cast<uint8_t *>(&halves[i]));
        turned[i % K * ROWS + i / K] = x[i];
    }
    const auto wide = encoded(coding, same), whole = encoded(coding, x);
    const auto narrow = encoded(coding, reinterpret_cast<uint8_t *>(halves.data()), Element::f16, 2 * K, 2, nullptr);
    const auto *by_column = reinterpret_cast<uint8_t *>(turned.data());
    const auto columns = encoded(coding, by_column, Element::f32, 4, 4 * ROWS, nullptr);
    for (size_t i = 0; i < whole.bytes.size(); i++)
        check.same(narrow.bytes[i], wide.bytes[i]), check.same(columns.bytes[i], whole.bytes[i]);
}

// The first weight that cannot be held is named.
void check_faults(Check &check, int coding, const std::vector<float> &x) {
    const int64_t at = 13 * K + 300;
    const std::pair<float, Fault> cases[] = {
        {NAN, Fault::not_finite}, {-INFINITY, Fault::not_finite}, {1e30f, Fault::too_large}};
    for (auto [bad, fault] : cases) {
        auto spoiled = x;
        spoiled[(size_t)at] = spoiled[(size_t)(at + 1)] = spoiled[(size_t)(at + 2 * K)] = bad;
        const Lost lost = encoded(coding, spoiled).lost;
        check.same((int)lost.fault, (int)fault), check.same((double)lost.at, (double)at);
    }
    auto spoiled = x;
    spoiled[(size_t)at] = -0x1p33f;  // its scale leaves float16
    const Lost lost = encoded(coding, spoiled).lost;
    check.same((int)lost.fault, (int)Fault::too_large), check.same((double)lost.at, (double)at);
}

// Kernels with instructions for products alone have the encoders of those with the same vectors.
void check_choice(const std::string &kernels_name) {
    const std::string name = herd::encoders().name, wide = kernels_name.substr(0, 6);
    const bool right = name == (wide == "avx512" ? "avx512" : wide.substr(0, 3) == "avx" ? "avx2" : "portable");
    std::printf("encoders %s\n", name.c_str());
    if (!right) wrong("encoders of " + kernels_name, 0, 1, 0);
}

}  // namespace

void encoders() {
    check_choice(herd::kernels().name);
    uint64_t sum = 0xcbf29ce484222325;  // FNV-1a
    const auto x = weights();
    std::vector<float> importance((size_t)K);
    for (float &w : importance) w = (float)(1 + random_bits() % 1024) / 256;
    for (int coding = 0; coding < (int)std::size(CODINGS); coding++) {
        Check check{std::string("encode ") + CODINGS[coding].name};
        for (const float *w : {(const float *)nullptr, (const float *)importance.data()}) {
            const auto e = encoded(coding, x, w);
            check_errors(check, coding, e, x, w);
            for (uint8_t b : e.bytes) sum = (sum ^ b) * 0x100000001b3;
        }
        check_strides(check, coding, x);
        check_faults(check, coding, x);
    }
    std::printf("encoded bytes %016llx\n", (unsigned long long)sum);
}

}  // namespace check
