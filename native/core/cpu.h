// Which kernels this processor can run, and which are in use.
#pragma once
#include <string>
#include <vector>

#include "../kernels/table.h"

namespace herd {

std::vector<const Kernels *> available_kernels();  // best first; the portable ones last, always there
std::vector<std::string> cpu_features();           // of those the kernels ask about
const Kernels &kernels();                          // in use
void use_kernels(const std::string &name);         // "" chooses the best; throws std::invalid_argument with the reason

}  // namespace herd
