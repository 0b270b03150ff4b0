// The door of guard.h: maps are given as buffers, of whole pages from their start.
#include "guard_door.h"

#include <unistd.h>

#include <cstdint>

#include "guard.h"
#include "view.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace herd {

void register_guard(nb::module_ &m) {
    m.def("watch", [](nb::handle map) {
        View view(map, "map");
        const uintptr_t start = (uintptr_t)view.data();
        if (!view.bytes() || start % (uintptr_t)sysconf(_SC_PAGESIZE))
            refuse("map", "memory in the middle of a page", "a mapped file, from its first byte");
        return watch(view.data(), (size_t)view.bytes());
    }, "map"_a);
    m.def("unwatch", &unwatch, "number"_a);
    m.def("fault_of", &fault_of, "number"_a);
    m.def("count_faults", &count_faults);
}

}  // namespace herd
