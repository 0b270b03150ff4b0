// Random weights of a format, as bytes and as the numbers that they stand for.
#pragma once
#include <vector>

#include "../../../native/core/layers.h"
#include "formats.h"

namespace check {

enum class Layout { rows, strips, columns };  // as files have it; as kernels want it; floats [K][O]

inline const char *name_of(Layout l) { return l == Layout::rows ? "rows" : l == Layout::strips ? "strips" : "columns"; }

// The layouts that a format has.
std::vector<Layout> layouts_of(const Format &f);

// E matrices [O, K]. Scales are ordinary, now and then subnormal, of either sign. The bytes lie at an odd address with
// none to spare behind them.
struct Weight {
    std::vector<double> values;  // [E][O][K]
    std::vector<uint8_t> rows;   // the same as a file has it

    Weight(const Format &f, int64_t E, int64_t O, int64_t K);
    // Valid until the next call.
    const herd::Linear &as(Layout layout);
    const double *row(int64_t e, int64_t o) const { return values.data() + (e * O_ + o) * K_; }

  private:
    const Format &f_;
    int64_t E_, O_, K_, row_bytes_;
    std::vector<uint8_t> bytes_;
    herd::Linear linear_;
};

}  // namespace check
