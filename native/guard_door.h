#pragma once
#include <nanobind/nanobind.h>

namespace herd {

void register_guard(nanobind::module_ &m);

}  // namespace herd
