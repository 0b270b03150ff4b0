// Shares the strips of a matrix out over the pool; sums what was lost in the order of the tasks.
#include "encode.h"

#include <algorithm>
#include <string_view>
#include <vector>

#include "cpu.h"
#include "pool.h"

namespace herd {
namespace {

constexpr int64_t SEGMENT = 4096;  // columns of a task: whole blocks of every format

}  // namespace

const Encoders &encoders() {
    // avx512bf16 and avxvnni add instructions that encoders have no use for.
    const std::string_view name = kernels().name;
    const Encoders *e = nullptr;
    if (name.starts_with("avx")) e = name.starts_with("avx512") ? avx512_encoders() : avx2_encoders();
    return e ? *e : *portable_encoders();
}

Lost encode(Pool &pool, Coding coding, const Given &given, uint8_t *out) {
    const Encoders &e = encoders();
    const CodingShape &shape = CODINGS[(int)coding];
    const int64_t row_bytes = given.K / shape.block * shape.bytes;
    const int64_t strips = (given.rows + e.lanes - 1) / e.lanes, segments = (given.K + SEGMENT - 1) / SEGMENT;
    std::vector<Lost> lost(strips * segments);
    pool.run(strips * segments, [&](int64_t task, int) {
        int64_t strip = task / segments, column = task % segments * SEGMENT;
        e.strip(coding, given, strip * e.lanes, column, std::min(given.K, column + SEGMENT), out, row_bytes, lost[task]);
    });
    Lost total;
    for (const Lost &l : lost) {
        total.error2 += l.error2, total.weighted2 += l.weighted2, total.x2 += l.x2;
        total.most = std::max(total.most, l.most);
        if (l.at < total.at) total.at = l.at, total.fault = l.fault;
    }
    return total;
}

}  // namespace herd
