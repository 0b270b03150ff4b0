#include "attention.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <new>

#include "product.h"

namespace herd {
namespace {

constexpr int64_t TASK_ROWS = 64;    // query rows (tokens x heads of a KV head) of a task
constexpr int64_t FEW_ROWS = 16;     // segments with at most so many are cut along their keys as well
constexpr int64_t RANGE = 8 * KEYS;  // keys of such a cut: fixed, so that results do not depend on the threads

struct Task {
    int64_t segment, head, token, tokens, key0, key1;
    int64_t part;  // index of its partial result, -1: none
};

}  // namespace

Cache::Cache(int64_t slots_, int64_t K_, int64_t H_, Type type_) : slots(slots_), K(K_), H(H_), type(type_) {
    data.reset(static_cast<uint8_t *>(std::calloc(1, (size_t)std::max<int64_t>(bytes(), 1))));
    if (!data) throw std::bad_alloc();
}

void Cache::Free::operator()(uint8_t *p) const { std::free(p); }

void attend(Pool &pool, const Spans &spans, Cache *cache, const Heads3 &shape, const float *q, const float *k,
            const float *v, bool causal, float *o) {
    const auto [T, N, K, H] = shape;
    const int64_t G = N / K;
    if (cache)
        each_row(pool, T, 2 * K * H, [&, K = K, H = H](int64_t t) {
            for (int64_t h = 0; h < K; h++) {
                kernels().narrow(cache->type, k + (t * K + h) * H, H, cache->at(0, h, spans.slots[(size_t)t]));
                kernels().narrow(cache->type, v + (t * K + h) * H, H, cache->at(1, h, spans.slots[(size_t)t]));
            }
        });

    std::vector<Task> tasks;
    struct Split {
        int64_t segment, head, first, parts;
    };
    std::vector<Split> splits;
    int64_t parts = 0, most = 1;
    const int64_t step = std::max<int64_t>(1, TASK_ROWS / G);
    for (size_t s = 0; s < spans.lengths.size(); s++) {
        int64_t n = spans.starts[s + 1] - spans.starts[s], length = spans.lengths[s];
        if (!n) continue;
        for (int64_t h = 0; h < K; h++) {
            if (n * G <= FEW_ROWS && length > RANGE) {
                int64_t ranges = (length + RANGE - 1) / RANGE;
                splits.push_back({(int64_t)s, h, parts, ranges});
                for (int64_t i = 0; i < ranges; i++)
                    tasks.push_back({(int64_t)s, h, 0, n, i * RANGE, std::min(length, (i + 1) * RANGE), parts++});
                most = std::max(most, n * G);
            } else {
                for (int64_t t = 0; t < n; t += step)
                    tasks.push_back({(int64_t)s, h, t, std::min(step, n - t), 0, length, -1});
            }
        }
    }
    // Long ones first: the last rows of a causal segment see the most keys.
    std::reverse(tasks.begin(), tasks.end());

    const int64_t scratch_size = (attend_scratch(std::max(step * G, FEW_ROWS), H) + 15) / 16 * 16;
    float *scratch = pool.take<float>(scratch_size * pool.threads());
    float *part_o = pool.take<float>(parts * most * H), *part_state = pool.take<float>(parts * most * 2);
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
        a.key0 = task.key0, a.key1 = task.key1;
        if (cache) {
            a.k = cache->at(0, task.head, 0), a.v = cache->at(1, task.head, 0);
            a.slot_bytes = cache->row_bytes();
            a.type = cache->type;
            a.pages = spans.pages.data() + task.segment * spans.widest;
            a.page_size = spans.page_size;
        } else {
            a.k = reinterpret_cast<const uint8_t *>(k + (spans.starts[s] * K + task.head) * H);
            a.v = reinterpret_cast<const uint8_t *>(v + (spans.starts[s] * K + task.head) * H);
            a.slot_bytes = K * H * 4;
            a.type = Type::f32;
        }
        a.o = o + (row * N + task.head * G) * H;
        a.ldo = N * H;
        if (task.part >= 0) {
            a.o = part_o + task.part * most * H;
            a.ldo = G * H;
            a.state = part_state + task.part * most * 2;
        }
        a.scratch = scratch + worker * scratch_size;
        kernels().attend(a);
    });

    // Parts in order of their keys: o = sum e^(m_i - m) o_i / sum e^(m_i - m) l_i
    for (const Split &split : splits) {
        const size_t s = (size_t)split.segment;
        int64_t n = spans.starts[s + 1] - spans.starts[s];
        for (int64_t r = 0; r < n * G; r++) {
            float *out = o + ((spans.starts[s] + r / G) * N + split.head * G + r % G) * H;
            float top = -INFINITY, sum = 0;
            for (int64_t i = split.first; i < split.first + split.parts; i++)
                top = std::max(top, part_state[(i * most + r) * 2]);
            std::fill_n(out, H, 0.0f);
            for (int64_t i = split.first; i < split.first + split.parts; i++) {
                float c = std::exp(part_state[(i * most + r) * 2] - top);
                sum += c * part_state[(i * most + r) * 2 + 1];
                const float *from = part_o + (i * most + r) * H;
                if (c > 0)
                    for (int64_t d = 0; d < H; d++) out[d] += c * from[d];
            }
            for (int64_t d = 0; d < H; d++) out[d] /= sum;
        }
    }
}

}  // namespace herd
