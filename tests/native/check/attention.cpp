// Attention over caches of f32, f16, bf16 and int8, and over the rows of a pass themselves: prefill and decode.
#include "../../../native/core/attention.h"
#include "../../../native/core/cpu.h"
#include "check.h"
#include "softmax.h"

namespace check {

using namespace herd;

namespace {

struct Shape {
    int64_t N, K, H;
};

Rounding rounding_of(Kv type) {
    if (type == Kv::int8) return Rounding::codes;
    return type == Kv::bf16 && std::string(kernels().name) == "avx512bf16" ? Rounding::dots : Rounding::floats;
}

// Positions 0 .. length - 1, and queries for the last `queries` of them.
struct Sequence {
    int64_t length, queries;
    std::vector<float> q, k, v;
    std::vector<int64_t> pages;
    Sequence(const Shape &s, int64_t length_, int64_t queries_)
        : length(length_), queries(queries_), q(normals(queries_ * s.N * s.H, 2)), k(normals(length_ * s.K * s.H)),
          v(normals(length_ * s.K * s.H)) {}
};

// Rows start .. length - 1 of a sequence, in one pass with those of others.
struct Piece {
    const Sequence *of;
    int64_t start;
    int64_t rows() const { return of->length - start; }
};

// cache null: the sequences' own rows are the keys.
std::vector<float> attend_to(Pool &pool, Cache *cache, const Shape &s, int64_t Z, const std::vector<Piece> &pieces,
                             bool causal = true) {
    Spans spans;
    spans.starts = {0};
    std::vector<float> q, k, v;
    for (const Piece &p : pieces) spans.widest = std::max(spans.widest, (int64_t)p.of->pages.size());
    for (const Piece &p : pieces) {
        spans.starts.push_back(spans.starts.back() + p.rows());
        spans.lengths.push_back(p.of->length);
        q.insert(q.end(), p.of->q.end() - p.rows() * s.N * s.H, p.of->q.end());
        k.insert(k.end(), p.of->k.begin() + p.start * s.K * s.H, p.of->k.end());
        v.insert(v.end(), p.of->v.begin() + p.start * s.K * s.H, p.of->v.end());
        if (!cache) continue;
        spans.page_size = Z;
        for (int64_t i = p.start; i < p.of->length; i++)
            spans.slots.push_back(p.of->pages[(size_t)(i / Z)] * Z + i % Z);
        spans.pages.insert(spans.pages.end(), p.of->pages.begin(), p.of->pages.end());
        spans.pages.resize(spans.lengths.size() * (size_t)spans.widest);
    }
    std::vector<float> o(q.size());
    pool.reset();
    attend(pool, spans, cache, {spans.starts.back(), s.N, s.K, s.H}, q.data(), k.data(), v.data(), causal, o.data());
    return o;
}

// o: of the last rows of a sequence, [rows][N][H]. `kept(position, head)`: what the cache made of a key and value.
template <class Kept>
void check_rows(Check &check, const Shape &s, const Sequence &of, int64_t rows, const float *o, Rounding rounding,
                bool causal, Kept kept) {
    std::vector<int64_t> chosen;
    for (int64_t t = 0; t < rows; t++)
        if (of.length < 200 || t == 0 || t == rows / 2 || t == rows - 1) chosen.push_back(t);
    for (int64_t h = 0; h < s.K; h++) {
        Keys all;
        for (int64_t i = 0; i < of.length; i++) all.at.push_back(kept(i, h));
        for (int64_t t : chosen) {
            Keys seen;
            const int64_t n = causal ? of.length - rows + 1 + t : of.length;
            seen.at.assign(all.at.begin(), all.at.begin() + n);
            seen.rounding.assign((size_t)n, rounding);
            for (int64_t g = h * (s.N / s.K); g < (h + 1) * (s.N / s.K); g++) {
                const float *q = of.q.data() + ((of.queries - rows + t) * s.N + g) * s.H;
                const Reference r = softmax(q, s.H, seen);
                for (int64_t d = 0; d < s.H; d++)
                    check(o[(t * s.N + g) * s.H + d], r.out[(size_t)d], r.bound[(size_t)d]);
            }
        }
    }
}

// Three sequences in one pass, then each again in other company: the same bits.
void cached(Check &check, Pool &pool, Kv type, const Shape &s, int64_t Z) {
    std::vector<Sequence> all;
    for (auto [length, queries] : {std::pair{1, 1}, {49, 30}, {120, 7}, {600, 1}}) all.emplace_back(s, length, queries);
    int64_t page = 0;
    for (Sequence &of : all) page += (of.length + Z - 1) / Z;
    Cache cache(page * Z, s.K, s.H, type);
    for (Sequence &of : all)  // no two neighbours
        for (int64_t i = 0; i < of.length; i += Z) of.pages.push_back(--page);
    std::vector<Piece> pieces;
    for (const Sequence &of : all) {
        for (int64_t i = 0; i < of.length - of.queries; i++)
            for (int64_t h = 0; h < s.K; h++)
                cache.write(of.pages[(size_t)(i / Z)] * Z + i % Z, h, &of.k[(size_t)((i * s.K + h) * s.H)],
                            &of.v[(size_t)((i * s.K + h) * s.H)]);
        pieces.push_back({&of, of.length - of.queries});
    }
    const auto o = attend_to(pool, &cache, s, Z, pieces);
    const float *at = o.data();
    for (const Sequence &of : all) {
        check_rows(check, s, of, of.queries, at, rounding_of(type), true, [&](int64_t i, int64_t h) {
            return held(cache, of.pages[(size_t)(i / Z)] * Z + i % Z, h);
        });
        at += of.queries * s.N * s.H;
        for (int64_t rows : {of.queries, (of.queries + 1) / 2, (int64_t)1}) {
            const auto again = attend_to(pool, &cache, s, Z, {{&of, of.length - rows}});
            for (size_t i = 0; i < again.size(); i++) check.same(again[i], *(at - again.size() + i));
        }
    }
}

// Longer than a group of ranges (8192 keys): many rows, which walk over both groups, and one, whose keys are cut.
void deep(Check &check, Pool &pool, Kv type) {
    const Shape s{4, 1, 20};
    const int64_t Z = 32;
    Sequence of(s, 8300, 17);
    for (int64_t i = 0; i < of.length; i += Z) of.pages.push_back((of.length + Z - 1) / Z - 1 - i / Z);
    Cache cache((int64_t)of.pages.size() * Z, s.K, s.H, type);
    for (int64_t i = 0; i < of.length; i++)
        cache.write(of.pages[(size_t)(i / Z)] * Z + i % Z, 0, &of.k[(size_t)(i * s.H)], &of.v[(size_t)(i * s.H)]);
    const auto o = attend_to(pool, &cache, s, Z, {{&of, of.length - of.queries}});
    check_rows(check, s, of, of.queries, o.data(), rounding_of(type), true,
               [&](int64_t i, int64_t h) { return held(cache, of.pages[(size_t)(i / Z)] * Z + i % Z, h); });
    const auto last = attend_to(pool, &cache, s, Z, {{&of, of.length - 1}});
    for (size_t i = 0; i < last.size(); i++) check.same(last[i], o[o.size() - last.size() + i]);
}

void uncached(Pool &pool) {
    for (bool causal : {true, false}) {
        Check check{causal ? "attention within a pass" : "attention of tiles, not causal"};
        for (const Shape &s : {Shape{4, 2, 32}, {5, 1, 87}}) {
            const Sequence first(s, 30, 30), second(s, 133, 133);
            const auto o = attend_to(pool, nullptr, s, 0, {{&first, 0}, {&second, 0}}, causal);
            const float *at = o.data();
            for (const Sequence *of : {&first, &second}) {
                check_rows(check, s, *of, of->queries, at, Rounding::floats, causal, [&](int64_t i, int64_t h) {
                    Held one;
                    const auto from = (i * s.K + h) * s.H;
                    one.key.assign(of->k.begin() + from, of->k.begin() + from + s.H);
                    one.value.assign(of->v.begin() + from, of->v.begin() + from + s.H);
                    one.key_step = one.value_step = one.key_code = one.value_code = std::vector<double>((size_t)s.H);
                    return one;
                });
                at += of->queries * s.N * s.H;
            }
        }
    }
}

}  // namespace

void attention() {
    Turn turn;
    const std::pair<const char *, Kv> types[] = {
        {"f32", Kv::f32}, {"f16", Kv::f16}, {"bf16", Kv::bf16}, {"int8", Kv::int8}};
    for (auto [name, type] : types) {
        Check check{std::string("attention, keys of ") + name};
        for (const Shape &s : {Shape{4, 2, 32}, {5, 1, 88}, {3, 3, 20}})
            for (int64_t Z : {4, 32}) cached(check, turn.pool, type, s, Z);
        deep(check, turn.pool, type);
    }
    uncached(turn.pool);
}

}  // namespace check
