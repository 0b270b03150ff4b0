#include "cpu.h"

#include <atomic>
#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace herd {
namespace {

std::atomic<const Kernels *> active{nullptr};

// __builtin_cpu_supports also asks whether the operating system saves the wide registers.
bool runs_avx2() {
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#else
    return false;
#endif
}

// CPUID leaf 7, subleaf 1, EAX bit 4: older compilers have no name for it to ask by.
bool runs_avxvnni() {
#if defined(__x86_64__)
    unsigned a = 0, b, c, d;
    return runs_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
#else
    return false;
#endif
}

bool runs_avx512() {
#if defined(__x86_64__)
    return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
#else
    return false;
#endif
}

bool runs_avx512bf16() {
#if defined(__x86_64__)
    return runs_avx512() && __builtin_cpu_supports("avx512bf16");
#else
    return false;
#endif
}

bool runs_avx512vbmi() {
#if defined(__x86_64__)
    return runs_avx512() && __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("gfni");
#else
    return false;
#endif
}

// The best of the sets with AVX-512 takes in what VBMI adds, where the processor has it: the same bits, sooner. The other
// stays as processors without it have it.
const Kernels *with_permutes(const Kernels *best) {
    static const Kernels joined = [best] {
        Kernels k = *best;
        k.few = avx512vbmi_few();
        return k;
    }();
    return &joined;
}

bool runs_neon() {
#if defined(__aarch64__) && defined(__linux__)
    return getauxval(AT_HWCAP) & (1ul << 20);  // HWCAP_ASIMDDP
#elif defined(__aarch64__) && defined(__APPLE__)
    return true;
#else
    return false;
#endif
}

}  // namespace

std::vector<std::string> cpu_features() {
    std::vector<std::string> names;
#if defined(__x86_64__)
#define HERD_ASK(name) \
    if (__builtin_cpu_supports(name)) names.push_back(name);
    HERD_ASK("avx2")
    HERD_ASK("fma") HERD_ASK("f16c") HERD_ASK("avx512f") HERD_ASK("avx512bw") HERD_ASK("avx512dq") HERD_ASK("avx512vl")
        HERD_ASK("avx512vnni") HERD_ASK("avx512bf16") HERD_ASK("avx512vbmi") HERD_ASK("gfni")
#undef HERD_ASK
    if (runs_avxvnni()) names.push_back("avxvnni");
#elif defined(__aarch64__)
    names.push_back("asimd");
    if (runs_neon()) names.push_back("asimddp");
#endif
            return names;
}

std::vector<const Kernels *> available_kernels() {
    std::vector<const Kernels *> found;
    if (runs_avx512bf16() && avx512bf16_kernels()) found.push_back(avx512bf16_kernels());
    if (runs_avx512() && avx512_kernels()) found.push_back(avx512_kernels());
    if (!found.empty() && runs_avx512vbmi() && avx512vbmi_few()) found.front() = with_permutes(found.front());
    if (runs_avxvnni() && avxvnni_kernels()) found.push_back(avxvnni_kernels());
    if (runs_avx2() && avx2_kernels()) found.push_back(avx2_kernels());
    if (runs_neon() && neon_kernels()) found.push_back(neon_kernels());
    found.push_back(portable_kernels());
    return found;
}

const Kernels &kernels() {
    const Kernels *k = active.load(std::memory_order_acquire);
    if (!k) {
        k = available_kernels().front();
        active.store(k, std::memory_order_release);
    }
    return *k;
}

void use_kernels(const std::string &name) {
    std::string names;
    for (const Kernels *k : available_kernels()) {
        if (name.empty() || name == k->name) {
            active.store(k, std::memory_order_release);
            return;
        }
        names += (names.empty() ? "" : ", ") + std::string(k->name);
    }
    throw std::invalid_argument("HERD_ISA: got " + name +
                                ", expected one that this processor and build have: " + names);
}

}  // namespace herd
