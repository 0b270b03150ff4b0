// Rows of a matrix as float32 (embedding tables), and rows of blocks turned into strips.
#include <cstring>

#include "check.h"
#include "weight.h"

namespace check {

using namespace herd;

namespace {

void tables(Pool &pool) {
    for (const Format &f : FORMATS) {
        Check check{std::string("decode ") + f.name};
        const int64_t O = 37, K = f.block == 1 ? 45 : 3 * f.block;
        Weight w(f, 1, O, K);
        const int64_t ids[] = {36, 0, 3, 15, 16, 31, 32, 3};
        const int64_t T = (int64_t)std::size(ids);
        for (Layout layout : layouts_of(f)) {
            if (layout == Layout::columns) continue;  // tables are never input-major
            const Matrix &m = w.as(layout).m;
            std::vector<float> y((size_t)(T * K));
            pool.reset();
            embed(pool, m, ids, T, y.data());
            for (int64_t t = 0; t < T; t++) {
                double most = 0;
                for (int64_t k = 0; k < K; k++) most = std::max(most, std::fabs(w.row(0, ids[t])[k]));
                for (int64_t k = 0; k < K; k++)
                    check(y[(size_t)(t * K + k)], w.row(0, ids[t])[k], is_packed(f) ? 8 * EPS * most : 0);
            }
        }
    }
}

void packing(Pool &pool) {
    Check check{"rows to strips"};
    for (const Format &f : FORMATS) {
        if (!is_packed(f)) continue;
        const int64_t E = 2, O = 21, K = 3 * f.block;
        Weight w(f, E, O, K);
        const Matrix m = w.as(Layout::rows).m;
        const int64_t size = (O + 15) / 16 * 16 * m.row_bytes;
        std::vector<uint8_t> strips((size_t)(E * size), 0xaa);
        pool.reset();
        pack_strips(pool, m, strips.data());
        for (int64_t e = 0; e < E; e++) {
            const auto expected = to_strips(f, w.rows.data() + e * O * m.row_bytes, O, m.row_bytes);
            for (int64_t i = 0; i < size; i++) check.same(strips[(size_t)(e * size + i)], expected[(size_t)i]);
        }
    }
}

}  // namespace

void decoding() {
    Turn turn;
    Pool &pool = turn.pool;
    tables(pool);
    packing(pool);
}

}  // namespace check
