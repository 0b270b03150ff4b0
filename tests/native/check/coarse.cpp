// Attention over a cache of int4: the first page of positions and a query's own are exact, those between are codes.
#include "../../../native/core/attention.h"
#include "../../../native/core/cpu.h"
#include "check.h"
#include "softmax.h"

namespace check {

using namespace herd;

namespace {

struct Shape {
    int64_t N, K, H;
    bool rope;
};

constexpr int64_t FIRST = 2;  // exact page of positions 0 .. 255; later ones take 0 and 1 in turn

// A sequence in a cache of its own, filled from the front.
class Filled {
  public:
    const Shape s;
    const int64_t length, queries;

    Filled(const Shape &s_, int64_t length_, int64_t queries_)
        : s(s_), length(length_), queries(queries_), q_(normals(queries_ * s_.N * s_.H, 2)),
          k_(normals(length_ * s_.K * s_.H)), v_(normals(length_ * s_.K * s_.H)) {
        for (int64_t i = 0; i < s.K; i++)  // channels that stand out, as keys without positions have them
            for (int64_t j = 0; j < length; j++) k_[(size_t)((j * s.K + i) * s.H + 3)] += 5;
        empty();
    }

    void empty() {
        cache_ = std::make_unique<Cache>(num_pages() * PAGE, s.K, s.H, Kv::int4, 3 * PAGE, s.rope);
        filled_ = 0;
    }

    // Positions up to `stop` without attention, as earlier passes have left them.
    void fill(int64_t stop) {
        for (; filled_ < stop; filled_++)
            for (int64_t h = 0; h < s.K; h++) {
                cache_->write(slot(filled_), h, key(filled_, h), value(filled_, h));
                if ((filled_ + 1) % PAGE == 0 && filled_ >= PAGE)
                    cache_->close(exact_page(filled_ / PAGE), coarse_page(filled_ / PAGE), h);
            }
    }

    // One pass over positions up to `stop`, cut at the borders of pages; [rows][N][H].
    std::vector<float> pass(Pool &pool, int64_t stop) {
        Spans spans;
        const int64_t start = filled_, rows = stop - start;
        spans.starts = {0}, spans.page_size = PAGE, spans.widest = num_pages();
        for (int64_t at = start; at < stop;) {
            const int64_t page = at / PAGE, end = std::min(stop, (page + 1) * PAGE);
            spans.starts.push_back(end - start), spans.lengths.push_back(end);
            for (int64_t p = 0; p < num_pages(); p++) spans.pages.push_back(p && p < page ? coarse_page(p) : 0);
            spans.exact.push_back(FIRST), spans.exact.push_back(exact_page(page));
            for (; at < end; at++) spans.slots.push_back(slot(at));
            if (page && end % PAGE == 0)
                spans.closing.insert(spans.closing.end(), {exact_page(page), coarse_page(page)});
        }
        std::vector<float> o((size_t)(rows * s.N * s.H));
        pool.reset();
        attend(pool, spans, cache_.get(), {rows, s.N, s.K, s.H}, query(start, 0), key(start, 0), value(start, 0), true,
               o.data());
        filled_ = stop;
        return o;
    }

    const float *query(int64_t i, int64_t g) const { return &q_[(size_t)(((i - length + queries) * s.N + g) * s.H)]; }

    // What position t sees of KV head h.
    Keys seen(int64_t t, int64_t h) const {
        Keys keys;
        keys.per_channel = !s.rope;
        const bool dots = std::string(kernels().name) == "avx512bf16";
        for (int64_t i = 0; i <= t; i++) {
            const int64_t page = i / PAGE;
            const bool coarse = page && page < t / PAGE;
            keys.at.push_back(coarse ? held(*cache_, coarse_page(page) * PAGE + i % PAGE, h)
                                     : held(*cache_->exact, slot(i), h));
            keys.rounding.push_back(coarse ? (dots ? Rounding::mixed : Rounding::codes)
                                           : (dots ? Rounding::dots : Rounding::floats));
        }
        return keys;
    }

  private:
    int64_t num_pages() const { return (length + PAGE - 1) / PAGE; }
    int64_t exact_page(int64_t page) const { return page ? page % 2 : FIRST; }
    int64_t coarse_page(int64_t page) const { return num_pages() - page; }
    int64_t slot(int64_t i) const { return exact_page(i / PAGE) * PAGE + i % PAGE; }
    const float *key(int64_t i, int64_t h) const { return &k_[(size_t)((i * s.K + h) * s.H)]; }
    const float *value(int64_t i, int64_t h) const { return &v_[(size_t)((i * s.K + h) * s.H)]; }

    std::vector<float> q_, k_, v_;
    std::unique_ptr<Cache> cache_;
    int64_t filled_ = 0;
};

// Position t, row `row` of o.
void check_row(Check &check, const Filled &f, int64_t t, const std::vector<float> &o, int64_t row) {
    for (int64_t h = 0; h < f.s.K; h++) {
        const Keys keys = f.seen(t, h);
        for (int64_t g = h * (f.s.N / f.s.K); g < (h + 1) * (f.s.N / f.s.K); g++) {
            const Reference r = softmax(f.query(t, g), f.s.H, keys);
            for (int64_t d = 0; d < f.s.H; d++)
                check(o[(size_t)((row * f.s.N + g) * f.s.H + d)], r.out[(size_t)d], r.bound[(size_t)d]);
        }
    }
}

// The queries in one pass; then in several, cut at `cuts`: the same bits.
void check_cuts(Check &check, Pool &pool, Filled &f, const std::vector<int64_t> &cuts) {
    const int64_t start = f.length - f.queries;
    f.fill(start);
    const auto whole = f.pass(pool, f.length);
    for (int64_t t : {start, start + f.queries / 2, f.length - 1})
        if (t / PAGE + 1 >= f.length / PAGE) check_row(check, f, t, whole, t - start);
    f.empty();
    f.fill(start);
    std::vector<float> pieces;
    for (int64_t stop : cuts) {
        const auto o = f.pass(pool, stop);
        pieces.insert(pieces.end(), o.begin(), o.end());
    }
    for (size_t i = 0; i < whole.size(); i++) check.same(pieces[i], whole[i]);
}

}  // namespace

void coarse_attention() {
    Turn turn;
    for (bool rope : {false, true}) {
        Check check{rope ? "attention, int4 keys per slot" : "attention, int4 keys per channel"};
        for (const Shape &s : {Shape{2, 1, 32, rope}, {2, 2, 20, rope}, {3, 1, 128, rope}}) {
            Filled first(s, 20, 20);  // the first page alone
            check_cuts(check, turn.pool, first, {7, 8, 20});
            Filled second(s, 270, 20);  // the first and the own
            check_cuts(check, turn.pool, second, {256, 269, 270});
            Filled middle(s, 3 * PAGE + 30, 60);  // the third page fills in this pass, is read exactly and closed
            check_cuts(check, turn.pool, middle, {3 * PAGE - 1, 3 * PAGE, 3 * PAGE + 29, 3 * PAGE + 30});
        }
        Filled deep({4, 1, 16, rope}, 33 * PAGE + 40, 17);  // past a group of ranges
        check_cuts(check, turn.pool, deep, {deep.length - 1, deep.length});
    }
}

}  // namespace check
