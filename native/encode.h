// Registers `encode` in herd._native.
#pragma once
#include <nanobind/nanobind.h>

namespace herd {
void register_encode(nanobind::module_ &m);
}
