// What this processor can do at best, for `herd.machine.probe`: reading memory, products of int8 and of bfloat16.
//
// Each probe runs on threads of its own for a few hundredths of a second. The products are the instructions that the
// kernels use, on registers that never leave: twelve independent sums hide the latency of one.
#include "probe.h"

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace nb = nanobind;
using namespace nb::literals;

namespace herd {
namespace {

volatile float sink;
constexpr int SUMS = 12;
constexpr int64_t TURNS = 3'000'000;

template <class Body>
double seconds_of(int threads, Body &&body) {
    auto start = std::chrono::steady_clock::now();
    std::vector<std::thread> all;
    for (int t = 1; t < threads; t++) all.emplace_back([&body, t] { body(t); });
    body(0);
    for (auto &t : all) t.join();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wignored-attributes"
#endif

#if defined(__x86_64__)
#define HERD_LOOP(TYPE, ZERO, VALUE, STEP)       \
    TYPE sums[SUMS];                             \
    for (auto &s : sums) s = ZERO;               \
    auto b = VALUE, c = VALUE;                   \
    for (int64_t i = 0; i < TURNS; i++) {        \
        asm volatile("" : "+v"(b), "+v"(c));     \
        for (int k = 0; k < SUMS; k++) STEP;     \
    }                                            \
    for (auto &s : sums) asm volatile("" : "+v"(s));

__attribute__((target("avx512f,avx512bw,avx512vnni"))) void int8_vnni() {
    HERD_LOOP(__m512i, _mm512_setzero_si512(), _mm512_set1_epi8(1), sums[k] = _mm512_dpbusd_epi32(sums[k], b, c))
}

__attribute__((target("avx2"))) void int8_avx2() {
    const __m256i ones = _mm256_set1_epi16(1);
    HERD_LOOP(__m256i, _mm256_setzero_si256(), _mm256_set1_epi8(1),
              sums[k] = _mm256_add_epi32(sums[k], _mm256_madd_epi16(_mm256_maddubs_epi16(b, _mm256_xor_si256(c, sums[k])), ones)))
}

__attribute__((target("avx512f,avx512bw,avx512bf16"))) void bf16_dots() {
    HERD_LOOP(__m512, _mm512_setzero_ps(), (__m512bh)_mm512_set1_epi32(0x3f803f80),
              sums[k] = _mm512_dpbf16_ps(sums[k], b, c))
}

__attribute__((target("avx512f"))) void fma_avx512() {
    HERD_LOOP(__m512, _mm512_setzero_ps(), _mm512_set1_ps(1e-9f), sums[k] = _mm512_fmadd_ps(b, c, sums[k]))
}

__attribute__((target("avx2,fma"))) void fma_avx2() {
    HERD_LOOP(__m256, _mm256_setzero_ps(), _mm256_set1_ps(1e-9f), sums[k] = _mm256_fmadd_ps(b, c, sums[k]))
}
#undef HERD_LOOP
#elif defined(__aarch64__)
void fma_neon() {
    float32x4_t sums[SUMS], b = vdupq_n_f32(1e-9f), c = b;
    for (auto &s : sums) s = vdupq_n_f32(0);
    for (int64_t i = 0; i < TURNS; i++) {
        asm volatile("" : "+w"(b), "+w"(c));
        for (int k = 0; k < SUMS; k++) sums[k] = vfmaq_f32(sums[k], b, c);
    }
    for (auto &s : sums) asm volatile("" : "+w"(s));
}
#endif

struct Product {
    const char *instruction;
    void (*run)();
    int operations;  // of one instruction: a multiply and an add are two
};

// The best of a kind that runs here; run == nullptr: none.
Product best(const std::string &kind) {
#if defined(__x86_64__)
    bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
    if (kind == "int8") {
        if (wide && __builtin_cpu_supports("avx512vnni")) return {"avx512vnni", int8_vnni, 128};
        if (__builtin_cpu_supports("avx2")) return {"avx2", int8_avx2, 64};
    } else {
        if (wide && __builtin_cpu_supports("avx512bf16")) return {"avx512bf16", bf16_dots, 64};
        if (wide) return {"avx512f", fma_avx512, 32};
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return {"fma", fma_avx2, 16};
    }
#elif defined(__aarch64__)
    if (kind == "float") return {"neon", fma_neon, 8};
#endif
    return {"", nullptr, 0};
}

// (instruction, operations a second); ("", 0) when there is none to probe with.
std::pair<std::string, double> products(const std::string &kind, int threads) {
    Product p = best(kind);
    if (!p.run) return {"", 0.0};
    double seconds;
    {
        nb::gil_scoped_release free;
        seconds = seconds_of(threads, [&](int) { p.run(); });
    }
    return {p.instruction, (double)threads * TURNS * SUMS * p.operations / seconds};
}

void read_all(const uint64_t *p, int64_t words) {
    uint64_t x[8] = {};
    for (int64_t i = 0; i + 8 <= words; i += 8) {
        __builtin_prefetch(p + i + 1024);  // 8 KiB ahead
        for (int k = 0; k < 8; k++) x[k] ^= p[i + k];
    }
    uint64_t all = 0;
    for (uint64_t v : x) all ^= v;
    sink = (float)all;
}

// Bytes a second of `repeats` reads through a block of memory, each.
std::vector<double> reads(int64_t bytes, int threads, int repeats) {
    nb::gil_scoped_release free;
    bytes = bytes / (1 << 21) * (1 << 21);
    std::unique_ptr<void, void (*)(void *)> block(std::aligned_alloc(1 << 21, bytes), std::free);
    if (!block) throw std::bad_alloc();
#if defined(__linux__)
    madvise(block.get(), bytes, MADV_HUGEPAGE);
#endif
    std::memset(block.get(), 1, bytes);
    std::vector<double> rates;
    int64_t part = bytes / threads / 4096 * 4096;
    for (int r = 0; r < repeats; r++) {
        double seconds = seconds_of(threads, [&](int t) {
            read_all((const uint64_t *)((const char *)block.get() + t * part), part / 8);
        });
        rates.push_back((double)part * threads / seconds);
    }
    return rates;
}

}  // namespace

void register_probe(nb::module_ &m) {
    m.def("probe_reads", [](int64_t bytes, int threads, int repeats) {
        if (bytes < (1 << 21) || threads < 1 || threads > 4096 || repeats < 1)
            throw nb::value_error("probe_reads: 2 MiB or more, 1 to 4096 threads, 1 repeat or more");
        nb::list out;
        for (double rate : reads(bytes, threads, repeats)) out.append(rate);
        return out;
    }, "bytes"_a, "threads"_a, "repeats"_a);
    m.def("probe_products", [](const char *kind, int threads) {
        std::string name = kind;
        if ((name != "int8" && name != "float") || threads < 1 || threads > 4096)
            throw nb::value_error("probe_products: int8 or float, 1 to 4096 threads");
        auto [instruction, rate] = products(name, threads);
        return nb::make_tuple(nb::str(instruction.c_str()), rate);
    }, "kind"_a, "threads"_a);
}

}  // namespace herd
