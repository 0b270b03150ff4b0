// The door's attention: slots, pages and shapes are proven in bounds before a pointer is made.
#include <algorithm>

#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>

#include "core/attention.h"
#include "handles.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace herd {
void check_attention(const Spans &spans, const Cache *cache, int64_t T, int64_t N, int64_t K, int64_t H) {
    if (K < 1 || H < 1 || N < 1 || N % K)
        refuse("query heads", std::to_string(N), "a multiple of the " + std::to_string(K) + " KV heads");
    if (spans.starts.back() != T)
        refuse("rows", std::to_string(T), std::to_string(spans.starts.back()) + ", the rows of the segments");
    if (cache) {
        if (!spans.page_size) refuse("segments", "no pages", "pages and slots, since there is a cache");
        if (cache->K != K || cache->H != H)
            refuse("cache heads and head size", show({cache->K, cache->H}), show({K, H}));
        if (bool(cache->exact) != !spans.exact.empty() && spans.starts.size() > 1)
            refuse("segments", cache->exact ? "no exact pages" : "exact pages",
                   cache->exact ? "them, since the cache is int4" : "none, since the cache is not int4");
        if (cache->exact && spans.exact_top > cache->exact->slots)
            refuse("segments", "exact slots up to " + std::to_string(spans.exact_top),
                   "at most the cache's " + std::to_string(cache->exact->slots));
        if (spans.top > cache->slots)
            refuse("segments", "slots up to " + std::to_string(spans.top),
                   "at most the cache's " + std::to_string(cache->slots));
    } else if (spans.page_size) {
        refuse("segments", "pages", "none, since there is no cache");
    }
}

namespace {

std::unique_ptr<Spans> make_spans(nb::handle starts_, nb::handle lengths_, nb::handle pages_, nb::handle slots_,
                                  int64_t page_size, nb::handle exact_, nb::handle closing_) {
    View starts(starts_, "segments.starts"), lengths(lengths_, "segments.kv_lens");
    Optional pages(pages_, "segments.pages"), slots(slots_, "segments.slots_T");
    Optional exact(exact_, "segments.exact_pages"), closing(closing_, "segments.closing");
    auto s = std::make_unique<Spans>();
    int64_t S = lengths.size();
    auto *from = starts.as<const int64_t>({S + 1});
    auto *len = lengths.as<const int64_t>({S});
    s->starts.assign(from, from + S + 1);
    s->lengths.assign(len, len + S);
    if (from[0] != 0) refuse("segments.starts[0]", std::to_string(from[0]), "0");
    for (int64_t i = 0; i < S; i++) {
        int64_t n = from[i + 1] - from[i];
        if (n < 0) refuse("segments.starts", show({from[i], from[i + 1]}), "ascending");
        if (!pages && len[i] != n)
            refuse("segments.kv_lens", std::to_string(len[i]),
                   std::to_string(n) + ", the rows of a segment without pages");
        if (pages && len[i] < n)
            refuse("segments.kv_lens", std::to_string(len[i]), "at least the segment's " + std::to_string(n) + " rows");
    }
    if (bool(pages) != bool(slots))
        refuse("segments", pages ? "pages without slots" : "slots without pages", "both or none");
    if ((exact && !pages) || (closing && !exact))
        refuse("segments", exact ? "exact_pages without pages" : "closing without exact_pages", "both or none");
    if (!pages) return s;
    constexpr int64_t MOST = (int64_t)1 << 40;
    if (page_size < 1 || page_size > MOST) refuse("segments.page_size", std::to_string(page_size), "1 or more");
    s->page_size = page_size;
    auto shape = pages.view().shape();
    s->widest = shape.size() == 2 ? shape[1] : -1;
    auto *page = pages.as<int64_t>({S, s->widest});
    for (int64_t i = 0; i < S; i++) {
        int64_t used = from[i + 1] > from[i] ? (len[i] - 1) / page_size + 1 : 0;
        if (used > s->widest)
            refuse("segments.pages", std::to_string(s->widest) + " pages",
                   std::to_string(used) + " for " + std::to_string(len[i]) + " keys of pages of " +
                       std::to_string(page_size));
        // With exact pages the first entry and the last mean nothing.
        for (int64_t j = exact ? 1 : 0; j < (exact ? used - 1 : used); j++) {
            int64_t p = page[i * s->widest + j];
            if (p < 0 || p >= MOST / page_size) refuse("segments.pages", std::to_string(p), "a page of the cache");
            s->top = std::max(s->top, p * page_size + (j + 1 < used ? page_size : (len[i] - 1) % page_size + 1));
        }
    }
    s->pages.assign(page, page + S * s->widest);
    int64_t T = from[S];
    auto *slot = slots.as<int64_t>({T});
    for (int64_t t = 0; t < T; t++) {
        if (slot[t] < 0 || slot[t] >= MOST) refuse("segments.slots_T", std::to_string(slot[t]), "a slot of the cache");
        int64_t &top = exact ? s->exact_top : s->top;
        top = std::max(top, slot[t] + 1);
    }
    s->slots.assign(slot, slot + T);
    if (exact) {
        if (page_size != PAGE) refuse("segments.page_size", std::to_string(page_size), "256 with exact pages");
        auto *own = exact.as<int64_t>({S, 2});
        auto take = [&](const char *what, int64_t p, int64_t &top) {
            if (p < 0 || p >= MOST / PAGE) refuse(what, std::to_string(p), "a page of the cache");
            top = std::max(top, (p + 1) * PAGE);
        };
        for (int64_t i = 0; i < S; i++) {
            int64_t n = from[i + 1] - from[i];
            if (!n) continue;
            if ((len[i] - n) / PAGE != (len[i] - 1) / PAGE)
                refuse("segments", "rows of positions " + show({len[i] - n, len[i]}), "within one page of 256");
            take("segments.exact_pages", own[2 * i], s->exact_top);
            take("segments.exact_pages", own[2 * i + 1], s->exact_top);
        }
        s->exact.assign(own, own + 2 * S);
        if (closing) {
            const int64_t C = closing.view().size() / 2;
            auto *pair = closing.as<int64_t>({C, 2});
            for (int64_t i = 0; i < C; i++) {
                take("segments.closing", pair[2 * i], s->exact_top);
                take("segments.closing", pair[2 * i + 1], s->top);
            }
            s->closing.assign(pair, pair + 2 * C);
        }
    }
    return s;
}

constexpr std::pair<const char *, Kv> KV_TYPES[] = {
    {"f32", Kv::f32}, {"f16", Kv::f16}, {"bf16", Kv::bf16}, {"int8", Kv::int8}, {"int4", Kv::int4}};

std::unique_ptr<Cache> make_cache(int64_t slots, int64_t K, int64_t H, const std::string &dtype, int64_t exact_slots,
                                  bool rope) {
    const Kv *type = nullptr;
    for (auto &known : KV_TYPES)
        if (dtype == known.first) type = &known.second;
    if (!type) refuse("cache dtype", dtype, "f32, f16, bf16, int8 or int4");
    int64_t size;
    for (int64_t n : {slots, exact_slots})
        if (n < 0 || K < 1 || H < 1 || K > 1 << 20 || H > 1 << 20 || n > (int64_t)1 << 40 ||
            __builtin_mul_overflow(n, 8 * K * round_up(H, 16), &size))
            refuse("cache of slots, heads, head size", show({n, K, H}),
                   "positive numbers whose product fits in memory");
    if ((*type == Kv::int8 || *type == Kv::int4) && H > MOST_DIMS)
        refuse("head size", std::to_string(H), "at most " + std::to_string(MOST_DIMS) + " in a cache of " + dtype);
    if (*type == Kv::int4 ? slots % PAGE || exact_slots % PAGE || !exact_slots : exact_slots != 0)
        refuse("cache slots, exact slots", show({slots, exact_slots}),
               *type == Kv::int4 ? "multiples of 256, some exact" : "no exact ones, which are for int4");
    return std::make_unique<Cache>(slots, K, H, *type, exact_slots, rope);
}

void op_attend(nb::handle q_, nb::handle k_, nb::handle v_, const Spans &spans, Cache *cache, bool causal,
               nb::handle o_, Threads *threads) {
    View q(q_, "q_TNH"), k(k_, "k_TKH"), v(v_, "v_TKH"), o(o_, "o_TNH", true);
    auto s = q.shape(), ks = k.shape();
    if (s.size() != 3 || ks.size() != 3) refuse("q_TNH, k_TKH", show(s) + ", " + show(ks), "three axes each");
    int64_t T = s[0], N = s[1], H = s[2], K = ks[1];
    auto *fq = q.as<const float>({T, N, H});
    auto *fk = k.as<const float>({T, K, H});
    auto *fv = v.as<const float>({T, K, H});
    auto *fo = o.as<float>({T, N, H});
    check_attention(spans, cache, T, N, K, H);
    nb::gil_scoped_release free;
    Turn turn(threads);
    attend(turn.pool, spans, cache, {T, N, K, H}, fq, fk, fv, causal, fo);
}

const int64_t *checked_slots(const View &slots, int64_t top) {
    auto *at = slots.as<const int64_t>({slots.size()});
    for (int64_t i = 0; i < slots.size(); i++)
        if (at[i] < 0 || at[i] >= top) refuse("slots", std::to_string(at[i]), "below " + std::to_string(top));
    return at;
}

void kv_move(Cache &c, nb::handle slots_, nb::handle keys_, nb::handle values_, bool write,
             Threads *threads) {
    View slots(slots_, "slots"), keys(keys_, "keys", !write), values(values_, "values", !write);
    auto *at = checked_slots(slots, write ? c.writable() : c.readable());
    int64_t n = slots.size();
    View *sides[] = {&keys, &values};
    float *data[2];
    for (int side = 0; side < 2; side++) data[side] = const_cast<float *>(sides[side]->as<const float>({n, c.K, c.H}));
    nb::gil_scoped_release free;
    Turn turn(threads);
    for (int64_t i = 0; i < n; i++)
        for (int64_t h = 0; h < c.K; h++) {
            float *key = data[0] + (i * c.K + h) * c.H, *value = data[1] + (i * c.K + h) * c.H;
            if (write) c.write(at[i], h, key, value);
            else c.read(at[i], h, key, value);
        }
}

void copy_pages(Cache &both, nb::handle source_, nb::handle target_, int64_t page_size, bool exact,
                Threads *threads) {
    if (exact && !both.exact) refuse("pool", "exact", "one that the cache has: exact pages are of int4");
    Cache &c = exact ? *both.exact : both;
    if (both.exact && page_size != PAGE) refuse("page size", std::to_string(page_size), "256 in a cache of int4");
    View source(source_, "source pages"), target(target_, "target pages");
    int64_t n = source.size();
    auto *from = source.as<const int64_t>({n});
    auto *to = target.as<const int64_t>({n});
    if (page_size < 1 || page_size > std::max<int64_t>(c.slots, 1))
        refuse("page size", std::to_string(page_size), "1 to " + std::to_string(c.slots));
    int64_t pages = c.slots / page_size;
    for (int64_t i = 0; i < n; i++)
        for (int64_t p : {from[i], to[i]})
            if (p < 0 || p >= pages) refuse("page", std::to_string(p), "below " + std::to_string(pages));
    nb::gil_scoped_release free;
    Turn turn(threads);
    for (int64_t i = 0; i < n; i++) c.copy(from[i], to[i], page_size);
}

// Exact pages to coarse ones, as the passes that fill them do it.
void close_pages(Cache &c, nb::handle exact_, nb::handle pages_, Threads *threads) {
    View exact(exact_, "exact pages"), pages(pages_, "pages");
    if (!c.exact) refuse("cache", "no exact pages", "a cache of int4");
    int64_t n = exact.size();
    auto *from = exact.as<const int64_t>({n});
    auto *to = pages.as<const int64_t>({n});
    for (int64_t i = 0; i < n; i++) {
        if (from[i] < 0 || from[i] >= c.exact->slots / PAGE)
            refuse("exact page", std::to_string(from[i]), "below " + std::to_string(c.exact->slots / PAGE));
        if (to[i] < 0 || to[i] >= c.slots / PAGE)
            refuse("page", std::to_string(to[i]), "below " + std::to_string(c.slots / PAGE));
    }
    nb::gil_scoped_release free;
    Turn turn(threads);
    turn.pool.run(n * c.K, [&](int64_t i, int) { c.close(from[i / c.K], to[i / c.K], i % c.K); });
}

}  // namespace

void register_attention(nb::module_ &m) {
    nb::class_<Spans>(m, "Spans");
    nb::class_<Cache>(m, "Cache")
        .def_ro("num_slots", &Cache::slots)
        .def_ro("num_heads", &Cache::K)
        .def_ro("head_size", &Cache::H)
        .def_prop_ro("nbytes", &Cache::bytes);
    m.def("spans", &make_spans, "starts"_a, "lengths"_a, "pages"_a.none(), "slots"_a.none(), "page_size"_a,
          "exact"_a = nb::none(), "closing"_a = nb::none());
    m.def("cache", &make_cache, "slots"_a, "heads"_a, "head_size"_a, "dtype"_a, "exact_slots"_a = 0,
          "rope"_a = true);
    m.def("attend", &op_attend, "q"_a, "k"_a, "v"_a, "spans"_a, "cache"_a.none(), "causal"_a, "o"_a,
          "threads"_a = nb::none());
    m.def("kv_move", &kv_move, "cache"_a, "slots"_a, "keys"_a, "values"_a, "write"_a, "threads"_a = nb::none());
    m.def("copy_pages", &copy_pages, "cache"_a, "source"_a, "target"_a, "page_size"_a, "exact"_a = false,
          "threads"_a = nb::none());
    m.def("close_pages", &close_pages, "cache"_a, "exact"_a, "pages"_a, "threads"_a = nb::none());
}

}  // namespace herd
