#include "attention.h"

#include <algorithm>
#include <cmath>

#include "product.h"

namespace herd {
namespace {

constexpr int64_t TILE = 6;               // tokens of a task are a multiple, so that tiles of six rows are full
constexpr int64_t TASK_ROWS = 32 * TILE;  // query rows (tokens x heads of a KV head) of a task, about
constexpr int64_t FEW_QUERIES = 64;          // segments with at most so many may be cut along their keys as well
constexpr int64_t TASKS_PER_THREAD = 8;   // below this they are cut into single ranges

struct Task {
    int64_t segment, head, token, tokens, range0, range1;
    int64_t part;  // index of its partial result, -1: none
};

// A segment and head whose keys were cut: parts one after another, each of `unit` ranges (one, or a group).
struct Split {
    int64_t segment, head, first, parts, unit;
};

}  // namespace

void attend(Pool &pool, const Spans &spans, Cache *cache, const Heads3 &shape, const float *q, const float *k,
            const float *v, bool causal, float *o) {
    const auto [T, N, K, H] = shape;
    const int64_t G = N / K, width = round_up(H, 16);
    const Kv type = cache ? cache->type : Kv::f32;
    const int64_t keys = range_keys(type), group = GROUP_KEYS / keys;
    if (cache)
        each_row(pool, T, 8 * K * H, [&, K = K, H = H](int64_t t) {
            for (int64_t h = 0; h < K; h++)
                cache->write(spans.slots[(size_t)t], h, k + (t * K + h) * H, v + (t * K + h) * H);
        });

    if (cache && !spans.closing.empty())
        pool.run((int64_t)spans.closing.size() / 2 * K, [&, K = K](int64_t i, int) {
            const int64_t *page = spans.closing.data() + i / K * 2;
            cache->close(page[0], page[1], i % K);
        });

    // How the work is cut changes nothing in the results: ranges are joined in the same order in every case.
    const int64_t enough = TASKS_PER_THREAD * pool.threads();
    const int64_t step = TILE * std::max<int64_t>(1, std::min(TASK_ROWS / TILE / G, T * K / enough / TILE));
    auto rows_of = [&](size_t s) { return spans.starts[s + 1] - spans.starts[s]; };
    auto ranges_of = [&](size_t s) { return (spans.lengths[s] + keys - 1) / keys; };
    int64_t coarse = 0;
    for (size_t s = 0; s < spans.lengths.size(); s++)
        if (int64_t n = rows_of(s))
            coarse += K * (n * G <= FEW_QUERIES ? (ranges_of(s) + group - 1) / group : (n + step - 1) / step);
    const int64_t unit = coarse < enough ? 1 : group;

    std::vector<Task> tasks;
    std::vector<Split> splits;
    int64_t parts = 0, most = 1;
    for (size_t s = 0; s < spans.lengths.size(); s++) {
        int64_t n = rows_of(s), ranges = ranges_of(s);
        if (!n) continue;
        for (int64_t h = 0; h < K; h++) {
            if (n * G <= FEW_QUERIES && ranges > unit) {
                int64_t first = parts;
                for (int64_t i = 0; i < ranges; i += unit)
                    tasks.push_back({(int64_t)s, h, 0, n, i, std::min(ranges, i + unit), parts++});
                splits.push_back({(int64_t)s, h, first, parts - first, unit});
                most = std::max(most, n * G);
            } else {
                for (int64_t t = 0; t < n; t += step)
                    tasks.push_back({(int64_t)s, h, t, std::min(step, n - t), 0, ranges, -1});
            }
        }
    }
    // Long ones first: the last rows of a causal segment see the most keys.
    std::reverse(tasks.begin(), tasks.end());

    const int64_t scratch_size = attend_scratch(std::max(step * G, FEW_QUERIES), H);
    uint8_t *scratch = pool.take<uint8_t>(scratch_size * pool.threads());
    float *part_o = pool.take<float>(parts * most * width), *part_state = pool.take<float>(parts * most * 2);
    pool.run((int64_t)tasks.size(), [&, N = N, K = K, H = H](int64_t i, int worker) {
        const Task &task = tasks[(size_t)i];
        const size_t s = (size_t)task.segment;
        int64_t row = spans.starts[s] + task.token, n = spans.starts[s + 1] - spans.starts[s];
        Attend a{};
        a.q = q + (row * N + task.head * G) * H;
        a.ldq = N * H;
        a.tokens = task.tokens, a.heads = G, a.H = H;
        a.causal = causal;
        a.first = causal ? spans.lengths[s] - n + 1 + task.token : spans.lengths[s];
        a.range0 = task.range0, a.range1 = task.range1;
        if (cache) {
            a.kv = cache->head(task.head);
            a.pages = spans.pages.data() + task.segment * spans.widest;
            a.page_size = spans.page_size;
            a.rope = cache->rope;
            if (cache->exact) {
                a.exact = cache->exact->head(task.head);
                a.first_page = spans.exact[2 * s], a.own_page = spans.exact[2 * s + 1];
                a.last_page = (spans.lengths[s] - 1) / PAGE;
            }
        } else {
            a.kv = {Kv::f32, reinterpret_cast<const uint8_t *>(k + (spans.starts[s] * K + task.head) * H),
                    reinterpret_cast<const uint8_t *>(v + (spans.starts[s] * K + task.head) * H), K * H * 4};
        }
        a.o = o + (row * N + task.head * G) * H;
        a.ldo = N * H;
        if (task.part >= 0) {
            a.o = part_o + task.part * most * width;
            a.state = part_state + task.part * most * 2;
        }
        a.scratch = scratch + worker * scratch_size;
        kernels().attend(a);
    });

    // Ranges of a group in order, then groups in order, as a task that sees them all does it.
    float *sums = pool.take<float>(pool.threads() * 2 * width);
    pool.run((int64_t)splits.size(), [&, N = N, H = H](int64_t i, int worker) {
        const Split &split = splits[(size_t)i];
        const size_t s = (size_t)split.segment;
        const auto merge = kernels().merge;
        float *here = sums + worker * 2 * width, *sum = here + width;
        for (int64_t r = 0; r < rows_of(s) * G; r++) {
            float all[2] = {-INFINITY, 0};
            std::fill_n(sum, width, 0.0f);
            for (int64_t part = 0; part < split.parts;) {
                float state[2] = {-INFINITY, 0};
                std::fill_n(here, width, 0.0f);
                int64_t stop = std::min(split.parts, part + group / split.unit);
                for (; part < stop; part++) {
                    const int64_t at = (split.first + part) * most + r;
                    if (part_state[at * 2 + 1] != 0) merge(state, here, part_state + at * 2, part_o + at * width, width);
                }
                if (state[1] != 0) merge(all, sum, state, here, width);
            }
            const float norm = 1.0f / all[1];
            float *out = o + ((spans.starts[s] + r / G) * N + split.head * G + r % G) * H;
            for (int64_t d = 0; d < H; d++) out[d] = sum[d] * norm;
        }
    });
}

}  // namespace herd
