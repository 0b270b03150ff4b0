// Checks the kernels of one instruction set against double precision, without Python: check NAME [seed].
// Built for this machine by tests/native/test_kernels.py, for aarch64 by its slow tier (run under qemu), and with
// sanitizers. Prints one line a check and "ok" at the end; exits with 1 at the first sum outside its bound.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

#include "../../native/core/attention.h"
#include "../../native/core/layers.h"

using namespace herd;

namespace {

std::mt19937 random_bits(1);

float normal() {
    static std::normal_distribution<float> d;
    return d(random_bits);
}

std::vector<float> normals(int64_t n, float scale = 1) {
    std::vector<float> x((size_t)n);
    for (float &v : x) v = normal() * scale;
    return x;
}

[[noreturn]] void wrong(const char *what, double got, double expected, double bound) {
    std::printf("%s: got %.9g, expected %.9g, bound %.3g\n", what, got, expected, bound);
    std::exit(1);
}

// The largest error in units of its bound; leaves at more than one.
struct Check {
    const char *what;
    double worst = 0;
    void operator()(double got, double expected, double bound) {
        double error = std::fabs(got - expected) / bound;
        if (!(error <= 1)) wrong(what, got, expected, bound);
        worst = std::max(worst, error);
    }
    ~Check() { std::printf("%-28s worst %.3f of its bound\n", what, worst); }
};

const struct Format {
    const char *name;
    Type type;
    int64_t block, bytes;
    int halves;  // float16 fields at these offsets
    int at[2];
} FORMATS[] = {
    {"f32", Type::f32, 1, 4, 0, {}},           {"f16", Type::f16, 1, 2, 1, {0}},
    {"bf16", Type::bf16, 1, 2, 0, {}},         {"q4_0", Type::q4_0, 32, 18, 1, {0}},
    {"q4_1", Type::q4_1, 32, 20, 2, {0, 2}},   {"q8_0", Type::q8_0, 32, 34, 1, {0}},
    {"q4_k", Type::q4_k, 256, 144, 2, {0, 2}}, {"q6_k", Type::q6_k, 256, 210, 1, {208}},
};

double half(const uint8_t *p) {
    int h = p[0] | p[1] << 8, e = h >> 10 & 31, m = h & 1023;
    double v = e == 0 ? std::ldexp(m, -24) : std::ldexp(1024 + m, e - 25);
    return h & 0x8000 ? -v : v;
}

// One block of a format, value by value, from the layout's description.
void decode(const Format &f, const uint8_t *b, double *y) {
    switch (f.type) {
        case Type::f32: {
            float v;
            std::memcpy(&v, b, 4);
            y[0] = v;
            return;
        }
        case Type::f16: y[0] = half(b); return;
        case Type::bf16: {
            uint32_t bits = (uint32_t)(b[0] | b[1] << 8) << 16;
            float v;
            std::memcpy(&v, &bits, 4);
            y[0] = v;
            return;
        }
        case Type::q4_0:
            for (int i = 0; i < 32; i++) y[i] = half(b) * ((i < 16 ? b[2 + i] & 15 : b[2 + i - 16] >> 4) - 8);
            return;
        case Type::q4_1:
            for (int i = 0; i < 32; i++) y[i] = half(b) * (i < 16 ? b[4 + i] & 15 : b[4 + i - 16] >> 4) + half(b + 2);
            return;
        case Type::q8_0:
            for (int i = 0; i < 32; i++) y[i] = half(b) * (int8_t)b[2 + i];
            return;
        case Type::q4_k:
            for (int i = 0; i < 256; i++) {
                int g = i / 32;
                const uint8_t *s = b + 4;
                int sc = g < 4 ? s[g] & 63 : (s[g + 4] & 15) | (s[g - 4] >> 6) << 4;
                int mn = g < 4 ? s[g + 4] & 63 : (s[g + 4] >> 4) | (s[g] >> 6) << 4;
                uint8_t code = b[16 + i / 64 * 32 + i % 32];
                y[i] = half(b) * sc * (i % 64 < 32 ? code & 15 : code >> 4) - half(b + 2) * mn;
            }
            return;
        default:
            for (int i = 0; i < 256; i++) {
                int c = i / 128, j = i % 128, l = j % 64;
                int low = j < 64 ? b[64 * c + l] & 15 : b[64 * c + l] >> 4;
                int high = b[128 + 32 * c + j % 32] >> (j / 32 * 2) & 3;
                y[i] = half(b + 208) * (int8_t)b[192 + i / 16] * ((low | high << 4) - 32);
            }
    }
}

// Random blocks with sane scales, in a buffer without a spare byte and at an odd address.
struct Weight {
    std::vector<uint8_t> bytes;
    std::vector<double> values;  // [E][O][K]
    Linear linear;
    Weight(const Format &f, int64_t E, int64_t O, int64_t K) {
        int64_t blocks = E * O * K / f.block;
        bytes.resize((size_t)(blocks * f.bytes + 1));
        values.resize((size_t)(E * O * K));
        for (uint8_t &b : bytes) b = (uint8_t)random_bits();
        for (int64_t i = 0; i < blocks; i++) {
            uint8_t *b = bytes.data() + 1 + i * f.bytes;
            if (f.type == Type::f32) {
                float v = normal();
                std::memcpy(b, &v, 4);
            }
            if (f.type == Type::bf16) b[1] = (uint8_t)((b[1] & 0x80) | 0x3f);
            for (int h = 0; h < f.halves; h++)
                b[f.at[h] + 1] = (uint8_t)((b[f.at[h] + 1] & 0x80) | 0x24 | (b[f.at[h] + 1] & 3));
            decode(f, b, values.data() + i * f.block);
        }
        Matrix &m = linear.m;
        m.type = f.type;
        m.input_major = m.strips = false;
        m.E = E, m.O = O, m.K = K;
        m.data = bytes.data() + 1;
        m.row_bytes = K / f.block * f.bytes;
        m.expert_bytes = m.row_bytes * O;
    }
    const double *row(int64_t e, int64_t o) const { return values.data() + (e * linear.m.O + o) * linear.m.K; }
};

// Whole steps of int8: quantising is exact, and what is left is the rounding of float sums.
std::vector<float> whole_steps(int64_t rows, int64_t K) {
    std::vector<float> x((size_t)(rows * K));
    for (int64_t i = 0; i < rows * K; i++) {
        int64_t k = i % K;
        float step = std::ldexp(1.0f, -9 + (int)((k / 256) % 4));
        x[(size_t)i] = step * (float)(k % 32 == 0 ? 127 : (int)(random_bits() % 255) - 127);
    }
    return x;
}

void products(Pool &pool) {
    for (const Format &f : FORMATS) {
        Check check{f.name};
        for (int64_t blocks : {1, 3, 5}) {
            int64_t K = f.block == 1 ? blocks * 19 + 2 : f.block * blocks;
            for (int64_t O : {1, 50, 97}) {
                Weight w(f, 2, O, K);
                for (int64_t T : {1, 2, 3, 4, 5, 17}) {
                    auto x = whole_steps(T, K);
                    std::vector<float> y((size_t)(T * O));
                    pool.reset();
                    linear(pool, w.linear, 1, x.data(), T, y.data(), Finish::store);
                    for (int64_t t = 0; t < T; t++)
                        for (int64_t o = 0; o < O; o++) {
                            double sum = 0, xx = 0, ww = 0, most = 0;
                            for (int64_t k = 0; k < K; k++) {
                                double a = x[(size_t)(t * K + k)], b = w.row(1, o)[k];
                                sum += a * b, xx += a * a, ww += b * b, most = std::max(most, std::fabs(b));
                            }
                            // The contract's 4 eps |x| |w|; codes are summed apart from their zero point, hence 2 max
                            // |w|.
                            double bound = 4 * std::ldexp(1, -24) * std::sqrt(xx) *
                                           (std::sqrt(ww) + 2 * most * std::sqrt((double)K));
                            check(y[(size_t)(t * O + o)], sum, bound + 1e-30);
                        }
                }
            }
        }
    }
}

void row_functions() {
    const Kernels &k = kernels();
    const double eps = std::ldexp(1, -24);
    {
        Check check{"rms, layer norm"};
        for (int64_t n : {1, 7, 16, 100}) {
            auto x = normals(n, 3), w = normals(n), b = normals(n);
            std::vector<float> y((size_t)n), z((size_t)n);
            k.rms(x.data(), w.data(), 1e-3f, n, y.data());
            k.layer_norm(x.data(), w.data(), b.data(), 1e-3f, n, z.data());
            double square = 0, mean = 0, var = 0;
            for (float v : x) square += (double)v * v / (double)n, mean += (double)v / (double)n;
            for (float v : x) var += (v - mean) * (v - mean) / (double)n;
            for (size_t i = 0; i < x.size(); i++) {
                check(y[i], w[i] * x[i] / std::sqrt(square + (double)1e-3f), 20 * eps * (1 + 10 * std::fabs(w[i])));
                check(z[i], (x[i] - mean) / std::sqrt(var + (double)1e-3f) * w[i] + b[i],
                      60 * eps * (1 + 10 * std::fabs(w[i]) + std::fabs(b[i])));
            }
        }
    }
    {
        Check check{"gelu, silu"};
        for (double v = -14; v < 14; v += 0.00137) {
            float x[3] = {(float)v, 0, (float)v}, up[3] = {2, 2, 2}, y[3];
            k.gelu(x, 3, y);
            check(y[2], x[2] * 0.5 * std::erfc(-(double)x[2] / std::sqrt(2.0)), 1e-6);
            k.silu_mul(x, up, 3, y);
            check(y[0], 2 * (double)x[0] / (1 + std::exp(-(double)x[0])), 1e-6 * (1 + std::fabs(v)));
        }
    }
    {
        Check check{"float16, bfloat16"};
        for (uint32_t bits = 0; bits < 65536; bits++) {
            uint16_t h[19];
            for (uint16_t &v : h) v = (uint16_t)bits;
            if ((bits & 0x7c00) == 0x7c00) continue;
            float wide[19];
            uint16_t back[19];
            k.widen(Type::f16, reinterpret_cast<uint8_t *>(h), 19, wide);
            check(wide[0], half(reinterpret_cast<uint8_t *>(h)), 1e-300);
            check(wide[18], half(reinterpret_cast<uint8_t *>(h)), 1e-300);
            k.narrow(Type::f16, wide, 19, reinterpret_cast<uint8_t *>(back));
            check(back[0], h[0], 0.5), check(back[18], h[18], 0.5);
            if ((bits & 0x7f80) == 0x7f80) continue;
            k.widen(Type::bf16, reinterpret_cast<uint8_t *>(h), 19, wide);
            k.narrow(Type::bf16, wide, 19, reinterpret_cast<uint8_t *>(back));
            check(back[0], h[0], 0.5), check(back[18], h[18], 0.5);
        }
        // Ties go to even, for both ways that a row is narrowed (whole vectors and the rest).
        float tie[19];
        uint16_t h[19];
        for (float &v : tie) v = 1.0f + std::ldexp(1.0f, -11);
        k.narrow(Type::f16, tie, 19, reinterpret_cast<uint8_t *>(h));
        check(h[0], 0x3c00, 0.5), check(h[18], 0x3c00, 0.5);
        for (float &v : tie) v = 1.0f + 3 * std::ldexp(1.0f, -11);
        k.narrow(Type::f16, tie, 19, reinterpret_cast<uint8_t *>(h));
        check(h[0], 0x3c02, 0.5), check(h[18], 0x3c02, 0.5);
        for (float &v : tie) v = 1.0f + std::ldexp(1.0f, -8);
        k.narrow(Type::bf16, tie, 19, reinterpret_cast<uint8_t *>(h));
        check(h[0], 0x3f80, 0.5), check(h[18], 0x3f80, 0.5);
    }
}

void attention(Pool &pool) {
    Check check{"attention"};
    // The bf16 dot instruction takes queries and probabilities rounded to 8 bits.
    const bool dots = std::string(kernels().name) == "avx512bf16";
    for (Kv type : {Kv::f32, Kv::f16, Kv::bf16, Kv::int8}) {
        const double step = type == Kv::int8           ? 1e-3  // whole numbers of 14 bits
                            : dots && type == Kv::bf16 ? 4 * std::ldexp(1, -9)
                                                       : 100 * std::ldexp(1, -24);
        for (auto [N, K, H] : {std::tuple{4, 2, 32}, {5, 1, 88}, {3, 3, 20}})
            for (auto [n, length] : {std::pair{1, 1}, {1, 49}, {30, 30}, {7, 120}, {1, 2500}}) {
                const int64_t Z = 4, slots = (length + Z - 1) / Z * Z + Z;
                Cache cache(slots, K, H, type);
                Spans spans;
                spans.starts = {0, n};
                spans.lengths = {length};
                spans.page_size = Z;
                spans.widest = slots / Z;
                for (int64_t p = 0; p < slots / Z; p++) spans.pages.push_back(slots / Z - 1 - p);
                auto slot = [&](int64_t key) { return spans.pages[(size_t)(key / Z)] * Z + key % Z; };
                for (int64_t t = 0; t < n; t++) spans.slots.push_back(slot(length - n + t));
                auto q = normals(n * N * H, 2), keys = normals(length * K * H), values = normals(length * K * H);
                for (int64_t i = 0; i < length - n; i++)
                    for (int64_t h = 0; h < K; h++)
                        cache.write(slot(i), h, keys.data() + (i * K + h) * H, values.data() + (i * K + h) * H);
                std::vector<float> o((size_t)(n * N * H));
                pool.reset();
                attend(pool, spans, &cache, {n, N, K, H}, q.data(), keys.data() + (length - n) * K * H,
                       values.data() + (length - n) * K * H, true, o.data());
                std::vector<float> both((size_t)(2 * H));
                auto held = [&](int side, int64_t key, int64_t h) {
                    cache.read(slot(key), h, both.data(), both.data() + H);
                    return both.data() + side * H;
                };
                for (int64_t t = 0; t < n; t++)
                    for (int64_t h = 0; h < N; h++) {
                        int64_t seen = length - n + 1 + t;
                        std::vector<double> p, out((size_t)H);
                        double top = -1e300, sum = 0;
                        for (int64_t s = 0; s < seen; s++) {
                            const float *key = held(0, s, h / (N / K));
                            double score = 0;
                            for (int64_t d = 0; d < H; d++) score += (double)key[d] * q[(size_t)((t * N + h) * H + d)];
                            p.push_back(score / std::sqrt((double)H));
                            top = std::max(top, p.back());
                        }
                        for (double &v : p) v = std::exp(v - top), sum += v;
                        for (int64_t s = 0; s < seen; s++) {
                            const float *v = held(1, s, h / (N / K));
                            for (int64_t d = 0; d < H; d++) out[(size_t)d] += p[(size_t)s] / sum * v[d];
                        }
                        for (int64_t d = 0; d < H; d++)
                            check(o[(size_t)((t * N + h) * H + d)], out[(size_t)d], 4 * step);
                    }
            }
    }
}

// A first page and an own page that are exact, one of int4 between them.
void coarse_attention(Pool &pool) {
    Check check{"coarse attention"};
    const double step = std::string(kernels().name) == "avx512bf16" ? 4 * std::ldexp(1, -9) : 1e-3;
    for (bool rope : {false, true})
        for (auto [N, K, H] : {std::tuple{4, 2, 32}, {5, 1, 128}, {3, 3, 20}}) {
            const int64_t n = 30, length = 2 * PAGE + 77;
            Cache cache(PAGE, K, H, Kv::int4, 3 * PAGE, rope);
            auto q = normals(n * N * H, 2), keys = normals(length * K * H), values = normals(length * K * H);
            for (int64_t i = 0; i < length - n; i++)
                for (int64_t h = 0; h < K; h++)
                    cache.write(i, h, keys.data() + (i * K + h) * H, values.data() + (i * K + h) * H);
            Spans spans;
            spans.starts = {0, n};
            spans.lengths = {length};
            spans.pages = {0, 0, 0};
            spans.widest = 3, spans.page_size = PAGE;
            spans.exact = {0, 2}, spans.closing = {1, 0};
            for (int64_t t = 0; t < n; t++) spans.slots.push_back(length - n + t);
            std::vector<float> o((size_t)(n * N * H)), key((size_t)H), value((size_t)H);
            pool.reset();
            attend(pool, spans, &cache, {n, N, K, H}, q.data(), keys.data() + (length - n) * K * H,
                   values.data() + (length - n) * K * H, true, o.data());
            for (int64_t t : {(int64_t)0, n - 1})
                for (int64_t h = 0; h < N; h++) {
                    double sum = 0;
                    std::vector<double> out((size_t)H);
                    for (int64_t s = 0; s <= length - n + t; s++) {
                        cache.read(s / PAGE == 1 ? 3 * PAGE + s % PAGE : s, h / (N / K), key.data(), value.data());
                        double score = 0;
                        for (int64_t d = 0; d < H; d++) score += (double)key[(size_t)d] * q[(size_t)((t * N + h) * H + d)];
                        const double p = std::exp(score / std::sqrt((double)H));
                        sum += p;
                        for (int64_t d = 0; d < H; d++) out[(size_t)d] += p * value[(size_t)d];
                    }
                    // int8 queries with the channels' scales
                    const double bound = 4 * step + (rope ? 0 : 2e-2);
                    for (int64_t d = 0; d < H; d++)
                        check(o[(size_t)((t * N + h) * H + d)], out[(size_t)d] / sum, bound);
                }
        }
}

// Rows through experts of every format, against the same sums one row at a time.
void experts(Pool &pool) {
    Check check{"experts"};
    const int64_t D = 256, F = 256, E = 5, A = 2, T = 11;
    for (const Format &f : FORMATS) {
        Weight router(FORMATS[0], 1, E, D), gate(f, E, F, D), up(f, E, F, D), down(f, E, D, F),
            one(FORMATS[0], 1, D, D);
        Moe m;
        m.router = &router.linear, m.gate = gate.linear.m, m.up = up.linear.m, m.down = down.linear.m;
        m.shared.up = &one.linear, m.shared.down = &one.linear;
        m.E = E, m.A = A;
        std::vector<float> ones((size_t)D, 1), x = normals(T * D), y((size_t)(T * D)), z((size_t)D),
                                               scores((size_t)(T * A));
        std::vector<int32_t> ids((size_t)(T * A));
        Norm norm{ones.data(), nullptr, 1e-5f};
        pool.reset();
        moe(pool, norm, m, x.data(), T, D, y.data(), true, ids.data(), scores.data());
        for (int64_t t = 0; t < T; t++) {
            pool.reset();
            moe(pool, norm, m, x.data() + t * D, 1, D, z.data(), true, ids.data(), scores.data());
            double size = 0;
            for (float v : z) size = std::max(size, (double)std::fabs(v));
            // The router's float sums may differ in their last bit and move a score, and with it a quantised input, by
            // a step.
            for (int64_t d = 0; d < D; d++)
                check(y[(size_t)(t * D + d)], z[(size_t)d], (is_packed(f.type) ? 0.01 : 1e-5) * size);
        }
    }
}

void threads() {
    Check check{"threads at once"};
    Weight w(FORMATS[3], 1, 300, 320);
    auto x = whole_steps(4, 320);
    std::vector<float> expected(4 * 300);
    {
        Turn turn;
        linear(turn.pool, w.linear, 0, x.data(), 4, expected.data(), Finish::store);
    }
    std::vector<std::vector<float>> found(5, std::vector<float>(4 * 300));
    std::vector<std::thread> workers;
    for (auto &y : found)
        workers.emplace_back([&] {
            for (int i = 0; i < 50; i++) {
                Turn turn;
                linear(turn.pool, w.linear, 0, x.data(), 4, y.data(), Finish::store);
            }
        });
    for (auto &t : workers) t.join();
    for (auto &y : found)
        for (size_t i = 0; i < y.size(); i++) check(y[i], expected[i], 1e-300);
}

}  // namespace

int main(int argc, char **argv) {
    if (argc > 1 && !std::strcmp(argv[1], "list")) {
        for (const Kernels *k : available_kernels()) std::printf("%s\n", k->name);
        return 0;
    }
    try {
        use_kernels(argc > 1 ? argv[1] : "");
    } catch (const std::invalid_argument &e) {
        std::printf("%s\n", e.what());
        return 2;
    }
    Pool::set_threads(3);
    std::printf("%s\n", kernels().name);
    row_functions();
    {
        Turn turn;
        products(turn.pool);
        attention(turn.pool);
        coarse_attention(turn.pool);
        experts(turn.pool);
    }
    threads();
    std::printf("ok\n");
}
