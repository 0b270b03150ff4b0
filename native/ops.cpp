// The door of herd.ops.native: which kernels are in use, and the parts that check weights, layers and attention.
#include "ops.h"

#include <chrono>
#include <cstdlib>
#include <mutex>
#include <set>
#include <thread>

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
    info["threads"] = Threads::shared().count();
    return info;
}

// Tasks that wait for each other until as many threads as the pool has are in one.
int taking_part(Threads *threads) {
    nb::gil_scoped_release free;
    Turn turn(threads);
    std::mutex door;
    std::set<std::thread::id> found;
    const size_t expected = (size_t)turn.pool.threads();
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    turn.pool.run(2 * (int64_t)expected, [&](int64_t, int) {
        for (;;) {
            {
                std::lock_guard lock(door);
                found.insert(std::this_thread::get_id());
                if (found.size() >= expected) return;
            }
            if (std::chrono::steady_clock::now() > until) return;
            std::this_thread::yield();
        }
    });
    return (int)found.size();
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
    nb::class_<Threads>(m, "Threads", "Threads of an op set; they start at its first operation and end with it.")
        .def(nb::init<int>(), "count"_a = 0, "0: as many as processors this process may use.")
        .def_prop_ro("count", &Threads::count);
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
    m.def("threads_alive", &Threads::alive, "Threads that op sets and the shared pool have started.");
    m.def("threads_taking_part", &taking_part, "threads"_a = nb::none(), "For tests: how many an operation runs on.");
    m.def("set_threads", [](int count) { Threads::shared().set(count); }, "threads"_a,
          "Of operations that belong to no op set; 0: as many as processors this process may use.");
}

}  // namespace herd
