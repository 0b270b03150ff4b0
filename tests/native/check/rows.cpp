// Operations that see one row at a time: norms, activations, rope, conversions.
#include <cstring>

#include "../../../native/core/cpu.h"
#include "check.h"
#include "formats.h"

namespace check {

using namespace herd;

namespace {

void norms(const Kernels &k) {
    Check check{"rms, layer norm"};
    for (int64_t n : {1, 7, 16, 100}) {
        auto x = normals(n, 3), w = normals(n), b = normals(n);
        std::vector<float> y((size_t)n), z((size_t)n), bare((size_t)n);
        k.rms(x.data(), w.data(), 1e-3f, n, y.data());
        k.rms(x.data(), nullptr, 1e-3f, n, bare.data());
        k.layer_norm(x.data(), w.data(), b.data(), 1e-3f, n, z.data());
        double square = 0, mean = 0, var = 0;
        for (float v : x) square += (double)v * v / (double)n, mean += (double)v / (double)n;
        for (float v : x) var += (v - mean) * (v - mean) / (double)n;
        const double rms = std::sqrt(square + (double)1e-3f), deviation = std::sqrt(var + (double)1e-3f);
        for (size_t i = 0; i < x.size(); i++) {
            check(bare[i], x[i] / rms, 200 * EPS);
            check(y[i], w[i] * x[i] / rms, 20 * EPS * (1 + 10 * std::fabs(w[i])));
            check(z[i], (x[i] - mean) / deviation * w[i] + b[i],
                  60 * EPS * (1 + 10 * std::fabs(w[i]) + std::fabs(b[i])));
        }
    }
}

void activations(const Kernels &k) {
    Check check{"gelu, silu"};
    for (double v = -14; v < 14; v += 0.0137) {
        float x[19], up[19], y[19];  // whole vectors and a rest
        for (int i = 0; i < 19; i++) x[i] = (float)(v + 0.0007 * i), up[i] = 2;
        k.gelu(x, 19, y);
        for (int i = 0; i < 19; i++) check(y[i], x[i] * 0.5 * std::erfc(-(double)x[i] / std::sqrt(2.0)), 1e-6);
        k.silu_mul(x, up, 19, y);
        for (int i = 0; i < 19; i++)
            check(y[i], 2 * (double)x[i] / (1 + std::exp(-(double)x[i])), 1e-6 * (1 + std::fabs(v)));
    }
}

void rope(const Kernels &k) {
    Check check{"rope, scale, add"};
    auto x = normals(22), cos = normals(11), sin = normals(11), turned = x, sum = x;
    k.rotate(turned.data(), cos.data(), sin.data(), 11);
    for (size_t i = 0; i < 11; i++) {
        const double a = x[2 * i], b = x[2 * i + 1], c = cos[i], s = sin[i], bound = 4 * EPS * 20;
        check(turned[2 * i], a * c - b * s, bound), check(turned[2 * i + 1], a * s + b * c, bound);
    }
    k.add(x.data(), turned.data(), 22, sum.data());
    for (size_t i = 0; i < 22; i++) check.same(sum[i], x[i] + turned[i]);
    k.scale(sum.data(), 0.5f, 22);
    for (size_t i = 0; i < 22; i++) check.same(sum[i], (x[i] + turned[i]) * 0.5f);
}

// Every float16 and bfloat16 there and back, in whole vectors and in the rest of a row.
void widening(const Kernels &k) {
    Check check{"float16, bfloat16: widen"};
    for (uint32_t bits = 0; bits < 65536; bits++) {
        uint16_t h[19], back[19];
        float wide[19];
        for (uint16_t &v : h) v = (uint16_t)bits;
        auto *bytes = reinterpret_cast<uint8_t *>(h), *again = reinterpret_cast<uint8_t *>(back);
        k.widen(Type::f16, bytes, 19, wide);
        const bool number = (bits & 0x7fff) <= 0x7c00;
        for (int i : {0, 18}) number ? check.same(wide[i], half(bytes)) : check.nan(wide[i]);
        k.narrow(Type::f16, wide, 19, again);
        for (int i : {0, 18})
            if (number) check.same(back[i], h[i]);
        k.widen(Type::bf16, bytes, 19, wide);
        uint32_t wanted = bits << 16;
        for (int i : {0, 18})
            if (std::memcmp(&wide[i], &wanted, 4)) wrong("bfloat16", wide[i], bits, 0);
        k.narrow(Type::bf16, wide, 19, again);
        for (int i : {0, 18})
            if ((bits & 0x7fff) <= 0x7f80) check.same(back[i], h[i]);
    }
}

// Between two neighbours of every exponent: below, at and above the middle, where ties go to even.
void narrowing(const Kernels &k) {
    Check check{"float16, bfloat16: narrow"};
    for (uint32_t bits = 0; bits < 0x7c00; bits += 13) {
        const uint8_t b[4] = {(uint8_t)bits, (uint8_t)(bits >> 8), (uint8_t)(bits + 1), (uint8_t)((bits + 1) >> 8)};
        const double next = bits + 1 < 0x7c00 ? half(b + 2) : 65536, middle = (half(b) + next) / 2;
        const float at = (float)middle;
        for (float x : {at, std::nextafter(at, 0.0f), std::nextafter(at, 1e9f)}) {
            float v[19];
            uint16_t h[19];
            for (int i = 0; i < 19; i++) v[i] = i % 2 ? -x : x;
            k.narrow(Type::f16, v, 19, reinterpret_cast<uint8_t *>(h));
            for (int i : {0, 1, 17, 18}) check.same(h[i], nearest_half(v[i]));
        }
    }
    for (int m : {1, 3}) {
        float v[19];
        uint16_t h[19];
        for (float &x : v) x = 1.0f + (float)m * 0x1p-8f;
        k.narrow(Type::bf16, v, 19, reinterpret_cast<uint8_t *>(h));
        check.same(h[0], 0x3f80 + (m == 3 ? 2 : 0)), check.same(h[18], h[0]);
    }
}

}  // namespace

void row_functions() {
    const Kernels &k = kernels();
    norms(k);
    activations(k);
    rope(k);
    widening(k);
    narrowing(k);
}

}  // namespace check
