#pragma once
#include <nanobind/nanobind.h>

namespace herd {

void register_probe(nanobind::module_ &m);

}  // namespace herd
