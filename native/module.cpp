// herd._native: the door between Python and the C++ kernels. Each subject registers itself; nothing is computed here.
#include <nanobind/nanobind.h>

#include "bpe.h"
#include "encode.h"
#include "guard_door.h"
#include "ops.h"
#include "probe.h"

namespace nb = nanobind;

NB_MODULE(_native, m) {
    m.doc() = "Native kernels of Herd. Private: use herd.ops.native and herd.text.";
    // Handles hang on weight nodes, which a program may keep until its interpreter ends; that is no leak to tell of.
    nb::set_leak_warnings(false);
    herd::register_bpe(m);
    herd::register_encode(m);
    herd::register_guard(m);
    herd::register_ops(m);
    herd::register_probe(m);
}
