#include "weight.h"

#include <cstring>

#include "check.h"

namespace check {

std::vector<Layout> layouts_of(const Format &f) {
    return {Layout::rows, is_packed(f) ? Layout::strips : Layout::columns};
}

Weight::Weight(const Format &f, int64_t E, int64_t O, int64_t K)
    : f_(f), E_(E), O_(O), K_(K), row_bytes_(K / f.block * f.bytes) {
    const int64_t blocks = E * O * K / f.block, blocks_a_row = K / f.block;
    rows.resize((size_t)(blocks * f.bytes));
    values.resize((size_t)(E * O * K));
    for (uint8_t &b : rows) b = (uint8_t)random_bits();
    for (int64_t i = 0; i < blocks; i++) {
        uint8_t *b = rows.data() + i * f.bytes;
        if (f.type == herd::Type::f32) {
            const float v = normal();
            std::memcpy(b, &v, 4);
        }
        if (f.type == herd::Type::bf16) b[1] = (uint8_t)((b[1] & 0x80) | 0x3f);
        set_scale(f, b, i / blocks_a_row % 7 == 3);  // every seventh row: subnormal, its weights in float16 as well
        decode(f, b, values.data() + i * f.block);
    }
}

const herd::Linear &Weight::as(Layout layout) {
    herd::Matrix &m = linear_.m;
    m.type = f_.type, m.E = E_, m.O = O_, m.K = K_;
    m.strips = layout == Layout::strips, m.input_major = layout == Layout::columns;
    m.row_bytes = m.input_major ? O_ * f_.bytes : row_bytes_;
    bytes_.assign(1, 0);
    for (int64_t e = 0; e < E_; e++) {
        const uint8_t *from = rows.data() + e * O_ * row_bytes_;
        if (layout == Layout::rows) bytes_.insert(bytes_.end(), from, from + O_ * row_bytes_);
        if (layout == Layout::strips) {
            const auto strips = to_strips(f_, from, O_, row_bytes_);
            bytes_.insert(bytes_.end(), strips.begin(), strips.end());
        }
        if (layout == Layout::columns)
            for (int64_t k = 0; k < K_; k++)
                for (int64_t o = 0; o < O_; o++) {
                    const uint8_t *one = from + o * row_bytes_ + k * f_.bytes;
                    bytes_.insert(bytes_.end(), one, one + f_.bytes);
                }
    }
    bytes_.shrink_to_fit();
    m.expert_bytes = (int64_t)(bytes_.size() - 1) / E_;
    m.data = bytes_.data() + 1;
    return linear_;
}

}  // namespace check
