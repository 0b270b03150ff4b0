// Stands for native/core/cpu.cpp in check_avxvnni: there are these kernels and no others.
#include "../../../native/core/cpu.h"

#include <stdexcept>

namespace herd {

std::vector<const Kernels *> available_kernels() {
    const bool runs = __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
    return runs ? std::vector<const Kernels *>{avxvnni_kernels()} : std::vector<const Kernels *>{};
}

std::vector<std::string> cpu_features() { return {}; }

const Kernels &kernels() { return *avxvnni_kernels(); }

void use_kernels(const std::string &name) {
    if (available_kernels().empty() || name != avxvnni_kernels()->name)
        throw std::invalid_argument("got " + name + ", expected avxvnni on a processor with AVX-512 VNNI");
}

}  // namespace herd
