// The formats of weights as their descriptions have them (docs/formats.md, src/herd/formats): value by value.
#pragma once
#include <vector>

#include "../../../native/kernels/table.h"

namespace check {

// Units of a field that strips interleave (src/herd/formats/strips.py).
struct Field {
    int unit, count;
};

struct Format {
    const char *name;
    herd::Type type;
    int block, bytes;            // inputs and bytes of a block
    std::vector<int> halves;     // where its float16 fields are
    std::vector<Field> fields;   // in the file's order; none: a format without strips
};

extern const std::vector<Format> FORMATS;

inline bool is_packed(const Format &f) { return !f.fields.empty(); }
const Format &format_of(const char *name);

double half(const uint8_t *p);
uint16_t nearest_half(double x);  // of finite x: ties to even, infinity from 65520 on

// Makes a block's scales from 2^-6 to 2^-5 of either sign (mxfp4: some powers of two), or without an exponent.
void set_scale(const Format &f, uint8_t *b, bool subnormal);

// One block, y[f.block].
void decode(const Format &f, const uint8_t *b, double *y);

// Rows of blocks [rows][row_bytes] as strips, the last one filled up with zeros.
std::vector<uint8_t> to_strips(const Format &f, const uint8_t *rows, int64_t num_rows, int64_t row_bytes);

}  // namespace check
