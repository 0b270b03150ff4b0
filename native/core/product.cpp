#include "product.h"

#include <algorithm>

namespace herd {
namespace {

constexpr int64_t ROW_BLOCK = 256;    // rows of a blocked product's task: its sums stay in the second-level cache
constexpr int64_t FEW_OUTPUTS = 512;  // most outputs of a task along weight rows
constexpr int64_t FEW_BYTES = 65536;  // weights of such a task

bool is_few(const Work &w) { return w.rows->n <= kernels().few_rows; }

Layout layout_of(const Matrix &m, bool few) { return few ? kernels().few_layout(m.type) : Layout::tiles; }

void quantise(Pool &pool, Rows &rows, Layout layout) {
    if (rows.have[(int)layout]) return;
    rows.have[(int)layout] = true;
    Quantised &q = rows.quantised[(int)layout];
    q.Kp = (rows.K + 127) / 128 * 128;
    int64_t tiles = (rows.n + 3) / 4, G = q.Kp / 32;
    q.q = pool.take<int8_t>(tiles * 4 * q.Kp);
    q.scale = pool.take<float>(tiles * 4 * G);
    q.sum = pool.take<float>(tiles * 4 * G);
    q.half = pool.take<int32_t>(tiles * 8 * G);
    each_row(pool, tiles, rows.K * 8, [&](int64_t t) {
        Quantised tile{q.q + t * 4 * q.Kp, q.scale + t * 4 * G, q.sum + t * 4 * G, q.half + t * 8 * G, q.Kp};
        kernels().quantise(rows.x + t * 4 * rows.ldx, rows.ldx, std::min<int64_t>(4, rows.n - 4 * t), rows.K, layout,
                           tile);
    });
}

// How a work is cut: steps of outputs times blocks of rows.
struct Cut {
    bool few;
    int64_t step, blocks, tasks;
};

Cut cut(const Work &w) {
    const Matrix &m = *w.w;
    if (!is_few(w)) {
        int64_t blocks = (w.rows->n + ROW_BLOCK - 1) / ROW_BLOCK;
        return {false, PANEL, blocks, (m.O + PANEL - 1) / PANEL * blocks};
    }
    int64_t bytes = m.input_major ? m.expert_bytes / std::max<int64_t>(m.O, 1) : m.row_bytes;
    int64_t step =
        std::clamp<int64_t>(FEW_BYTES / std::max<int64_t>(bytes, 1) / 64 * 64, m.input_major ? 64 : 16, FEW_OUTPUTS);
    if (!m.input_major && step == 64) step = 32;
    return {true, step, 1, (m.O + step - 1) / step};
}

void product(const Work &w, const Matrix &m, bool few, int64_t o0, int64_t o1, int64_t row0, int64_t rows, float *y,
             int64_t ldy, uint8_t *scratch) {
    Product p{&m, w.expert, o0, o1, rows, w.rows->x + row0 * w.rows->ldx, w.rows->ldx, {}, y, ldy};
    if (is_packed(m.type)) {
        const Quantised &q = w.rows->quantised[(int)layout_of(m, few)];
        int64_t t = row0 / 4, G = q.Kp / 32;
        p.quantised = {q.q + t * 4 * q.Kp, q.scale + t * 4 * G, q.sum + t * 4 * G, q.half + t * 8 * G, q.Kp};
    }
    if (few) kernels().few(p);
    else kernels().many(p, scratch);
}

void finish(const Work &w, int64_t o0, int64_t n, int64_t row0, int64_t rows, float *a, float *b, int64_t ld) {
    const Kernels &k = kernels();
    for (int64_t r = 0; r < rows; r++) {
        float *y = w.y + (row0 + r) * w.ldy + o0;
        if (w.bias) k.add(a + r * ld, w.bias + o0, n, a + r * ld);
        if (w.bias2) k.add(b + r * ld, w.bias2 + o0, n, b + r * ld);
        switch (w.finish) {
            case Finish::store: std::copy_n(a + r * ld, n, y); break;
            case Finish::add: k.add(y, a + r * ld, n, y); break;
            case Finish::silu_mul: k.silu_mul(a + r * ld, b + r * ld, n, y); break;
            case Finish::gelu: k.gelu(a + r * ld, n, y); break;
        }
    }
}

}  // namespace

void multiply(Pool &pool, std::vector<Work> &works) {
    std::vector<Cut> cuts;
    std::vector<int64_t> starts{0};
    for (Work &w : works) {
        Cut c = w.rows->n ? cut(w) : Cut{};
        cuts.push_back(c);
        starts.push_back(starts.back() + c.tasks);
        if (!w.rows->n) continue;
        for (const Matrix *m : {w.w, w.w2})
            if (m && is_packed(m->type)) quantise(pool, *w.rows, layout_of(*m, c.few));
    }
    const int64_t room = std::max(ROW_BLOCK * PANEL, kernels().few_rows * FEW_OUTPUTS);
    const int64_t bytes = (2 * room * 4 + PRODUCT_SCRATCH + 63) / 64 * 64;
    uint8_t *scratch = pool.take<uint8_t>(bytes * pool.threads());
    pool.run(starts.back(), [&](int64_t task, int worker) {
        size_t i = (size_t)(std::upper_bound(starts.begin(), starts.end(), task) - starts.begin()) - 1;
        const Work &w = works[i];
        const Cut &c = cuts[i];
        int64_t local = task - starts[i], o0 = local / c.blocks * c.step, o1 = std::min(w.w->O, o0 + c.step);
        int64_t row0 = local % c.blocks * ROW_BLOCK, rows = c.few ? w.rows->n : std::min(ROW_BLOCK, w.rows->n - row0);
        float *a = reinterpret_cast<float *>(scratch + worker * bytes), *b = a + room;
        int64_t ld = c.few ? o1 - o0 : PANEL;
        uint8_t *own = reinterpret_cast<uint8_t *>(b + room);
        product(w, *w.w, c.few, o0, o1, row0, rows, a, ld, own);
        if (w.w2) product(w, *w.w2, c.few, o0, o1, row0, rows, b, ld, own);
        finish(w, o0, o1 - o0, row0, rows, a, b, ld);
    });
}

}  // namespace herd
