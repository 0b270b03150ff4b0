#include "product.h"

#include <algorithm>

#include "blocks.h"

namespace herd {
namespace {

constexpr int64_t ROW_BLOCK = 256;    // rows of a blocked product's task: its sums stay in the second-level cache
constexpr int64_t FEW_OUTPUTS = 512;  // most outputs of a task along weight rows
constexpr int64_t FEW_BYTES = 131072;  // most weights of such a task
constexpr int64_t LEAST_BYTES = 16384;  // fewer are not worth taking a task for

int group_of(Type t) { return block_of(t).inputs == 256 ? 1 : 0; }

// Rows that are to be quantised, in pieces that threads share.
struct Quantising {
    Rows *rows;
    int which;
    int64_t first;  // task
};

constexpr int64_t ROWS_A_TASK = 4;

void prepare(Pool &pool, Rows &rows, int which, std::vector<Quantising> &todo, int64_t &tasks) {
    if (rows.have[which]) return;
    rows.have[which] = true;
    Quantised &q = rows.quantised[which];
    q.step = which ? 256 : 32;
    q.Kp = (rows.K + 255) / 256 * 256;
    const int64_t room = (rows.n + 3) / 4 * 4, n = rows.n;
    q.q = pool.take<int8_t>(room * q.Kp);
    q.scale = pool.take<float>(room * (q.Kp / q.step));
    q.sum16 = pool.take<int16_t>(room * (q.Kp / 16));
    q.sum32 = pool.take<int16_t>(room * (q.Kp / 32));
    if (n > 2) {  // rows that fill up a tile are zero; nobody reads their sums
        std::fill(q.q + n * q.Kp, q.q + room * q.Kp, (int8_t)0);
        std::fill(q.scale + n * (q.Kp / q.step), q.scale + room * (q.Kp / q.step), 0.0f);
        std::fill(q.sum16 + n * (q.Kp / 16), q.sum16 + room * (q.Kp / 16), (int16_t)0);
        std::fill(q.sum32 + n * (q.Kp / 32), q.sum32 + room * (q.Kp / 32), (int16_t)0);
    }
    todo.push_back({&rows, which, tasks});
    tasks += (rows.n + ROWS_A_TASK - 1) / ROWS_A_TASK;
}

void quantise(Pool &pool, const std::vector<Quantising> &todo, int64_t tasks, int64_t cost) {
    auto body = [&](int64_t task, int) {
        size_t i = todo.size() - 1;
        while (todo[i].first > task) i--;
        const Rows &rows = *todo[i].rows;
        Quantised q = rows.quantised[todo[i].which];
        const int64_t r = (task - todo[i].first) * ROWS_A_TASK;
        q.q += r * q.Kp, q.scale += r * (q.Kp / q.step), q.sum16 += r * (q.Kp / 16), q.sum32 += r * (q.Kp / 32);
        kernels().quantise(rows.x + r * rows.ldx, rows.ldx, std::min(ROWS_A_TASK, rows.n - r), rows.K, q);
    };
    if (cost < 100000)
        for (int64_t t = 0; t < tasks; t++) body(t, 0);
    else pool.run(tasks, body);
}

// How a work is cut: steps of outputs times blocks of rows.
struct Cut {
    bool few;
    int64_t step, blocks, tasks;
};

Cut cut(const Work &w, int64_t alike) {
    const Matrix &m = *w.w;
    if (!kernels().is_few(m.type, w.rows->n)) {
        int64_t blocks = (w.rows->n + ROW_BLOCK - 1) / ROW_BLOCK;
        return {false, PANEL, blocks, (m.O + PANEL - 1) / PANEL * blocks};
    }
    int64_t bytes = STRIP * (m.input_major ? m.K * (m.type == Type::f32 ? 4 : 2) : m.row_bytes);
    int64_t strips = std::clamp<int64_t>(FEW_BYTES / std::max<int64_t>(bytes, 1), 1, FEW_OUTPUTS / STRIP);
    // enough tasks that no thread waits long for the last one
    strips = std::min(strips, std::max((m.O + STRIP - 1) / STRIP / alike, LEAST_BYTES / std::max<int64_t>(bytes, 1) + 1));
    if (!is_packed(m.type)) strips = std::max<int64_t>(3, strips / 3 * 3);
    int64_t step = STRIP * strips;
    return {true, step, 1, (m.O + step - 1) / step};
}

void product(const Work &w, const Matrix &m, bool few, int64_t o0, int64_t o1, int64_t row0, int64_t rows, float *y,
             int64_t ldy, uint8_t *scratch) {
    Product p{&m, w.expert, o0, o1, rows, w.rows->x + row0 * w.rows->ldx, w.rows->ldx, {}, y, ldy};
    if (is_packed(m.type)) {
        Quantised q = w.rows->quantised[group_of(m.type)];
        q.q += row0 * q.Kp, q.scale += row0 * (q.Kp / q.step);
        q.sum16 += row0 * (q.Kp / 16), q.sum32 += row0 * (q.Kp / 32);
        p.quantised = q;
    }
    if (few) kernels().few(p, scratch);
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

void pack_strips(Pool &pool, const Matrix &m, uint8_t *out) {
    const int64_t strips = (m.O + STRIP - 1) / STRIP, blocks = m.K / block_of(m.type).inputs;
    std::vector<uint8_t> zeros(m.O % STRIP ? (size_t)m.row_bytes : 0);
    pool.run(m.E * strips, [&](int64_t task, int) {
        const int64_t e = task / strips, o = task % strips * STRIP;
        const uint8_t *rows[STRIP];
        for (int64_t i = 0; i < STRIP; i++)
            rows[i] = o + i < m.O ? m.data + (e * m.O + o + i) * m.row_bytes : zeros.data();
        kernels().pack(m.type, rows, blocks, out + task * STRIP * m.row_bytes);
    });
}

void multiply(Pool &pool, std::vector<Work> &works) {
    std::vector<Cut> cuts;
    std::vector<int64_t> starts{0};
    std::vector<Quantising> todo;
    int64_t quantise_tasks = 0, cost = 0;
    for (Work &w : works) {
        Cut c = w.rows->n ? cut(w, 8 * pool.threads()) : Cut{};
        cuts.push_back(c);
        starts.push_back(starts.back() + c.tasks);
        if (!w.rows->n) continue;
        for (const Matrix *m : {w.w, w.w2})
            if (m && is_packed(m->type)) {
                if (!w.rows->have[group_of(m->type)]) cost += w.rows->n * w.rows->K * 2;
                prepare(pool, *w.rows, group_of(m->type), todo, quantise_tasks);
            }
    }
    if (quantise_tasks) quantise(pool, todo, quantise_tasks, cost);
    const int64_t room = std::max(ROW_BLOCK * PANEL, FEW_ROWS * FEW_OUTPUTS);
    const int64_t bytes = (2 * room * 4 + PRODUCT_SCRATCH + 63) / 64 * 64;
    uint8_t *scratch = pool.take<uint8_t>(bytes * pool.threads());
    pool.run(starts.back(), [&](int64_t task, int worker) {
        size_t i = (size_t)(std::upper_bound(starts.begin(), starts.end(), task) - starts.begin()) - 1;
        const Work &w = works[i];
        const Cut &c = cuts[i];
        int64_t local = task - starts[i], o0 = local / c.blocks * c.step, o1 = std::min(w.w->O, o0 + c.step);
        int64_t row0 = local % c.blocks * ROW_BLOCK, rows = c.few ? w.rows->n : std::min(ROW_BLOCK, w.rows->n - row0);
        float *a = reinterpret_cast<float *>(scratch + worker * bytes), *b = a + room;
        int64_t ld = c.few ? (o1 - o0 + STRIP - 1) / STRIP * STRIP : PANEL;
        uint8_t *own = reinterpret_cast<uint8_t *>(b + room);
        product(w, *w.w, c.few, o0, o1, row0, rows, a, ld, own);
        if (w.w2) product(w, *w.w2, c.few, o0, o1, row0, rows, b, ld, own);
        finish(w, o0, o1 - o0, row0, rows, a, b, ld);
    });
}

}  // namespace herd
