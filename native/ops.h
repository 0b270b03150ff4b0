#pragma once
#include <nanobind/nanobind.h>

namespace herd {

void register_ops(nanobind::module_ &m);

}  // namespace herd
