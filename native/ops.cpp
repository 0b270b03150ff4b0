// The door of herd.ops.native: which kernels are in use, and the parts that check weights, layers and attention.
#include "ops.h"

#include <cstdlib>

#include <nanobind/stl/string.h>

#include "handles.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace herd {
namespace {

nb::dict isa_info() {
    nb::list names, features;
    for (const Kernels *k : available_kernels()) names.append(k->name);
    for (const std::string &f : cpu_features()) features.append(f.c_str());
    nb::dict info;
    info["available"] = names;
    info["chosen"] = kernels().name;
    info["features"] = features;
    info["threads"] = Pool::get().threads();
    return info;
}

}  // namespace

void register_ops(nb::module_ &m) {
    if (const char *name = std::getenv("HERD_ISA"); name && *name) {
        try {
            use_kernels(name);
        } catch (const std::invalid_argument &e) {
            throw nb::value_error(e.what());
        }
    }
    register_weights(m);
    register_layers(m);
    register_attention(m);
    register_stack(m);
    m.def("isa_info", &isa_info,
          "Instruction sets that this processor and build have, the one in use, the processor's features, threads.");
    m.def("set_isa_for_tests", [](const std::string &name) {
        try {
            use_kernels(name);
        } catch (const std::invalid_argument &e) {
            throw nb::value_error(e.what());
        }
    });
    m.def("set_threads", &Pool::set_threads, "threads"_a, "0: as many as processors this process may use.");
}

}  // namespace herd
