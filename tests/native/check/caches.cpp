// Writing to a cache, reading from it, copying pages and closing pages of int4.
#include "check.h"
#include "kv.h"

namespace check {

using namespace herd;

namespace {

constexpr int64_t NUM_HEADS = 2;

// Most that a value may be off for what its type rounds to; `top` is the largest of its row.
double rounding(Kv type, double x, double top) {
    switch (type) {
        case Kv::f32: return 0;
        case Kv::f16: return std::max(std::fabs(x) * 0x1p-11, 0x1p-25);
        case Kv::bf16: return std::fabs(x) * 0x1p-8;
        default: return top / 127 * (0.5 + 256 * EPS);
    }
}

// What lies in a slot, what `read` makes of it, and what was written.
void check_slot(Check &check, const Cache &c, int64_t slot, int64_t h, const float *key, const float *value) {
    const Held at = held(c, slot, h);
    std::vector<float> k((size_t)c.H), v((size_t)c.H);
    c.read(slot, h, k.data(), v.data());
    double key_top = 0, value_top = 0;
    for (int64_t i = 0; i < c.H; i++)
        key_top = std::max(key_top, (double)std::fabs(key[i])),
        value_top = std::max(value_top, (double)std::fabs(value[i]));
    for (size_t i = 0; i < (size_t)c.H; i++) {
        check(at.key[i], key[i], rounding(c.type, key[i], key_top));
        check(at.value[i], value[i], rounding(c.type, value[i], value_top));
        check(k[i], at.key[i], EPS * std::fabs(at.key[i])), check(v[i], at.value[i], EPS * std::fabs(at.value[i]));
    }
}

void written(Check &check, Kv type, int64_t H) {
    const int64_t slots = 37;
    Cache c(slots, NUM_HEADS, H, type);
    auto keys = normals(slots * NUM_HEADS * H, 3), values = normals(slots * NUM_HEADS * H);
    const auto key = [&](int64_t s, int64_t h) { return keys.data() + (s * NUM_HEADS + h) * H; };
    const auto value = [&](int64_t s, int64_t h) { return values.data() + (s * NUM_HEADS + h) * H; };
    const auto write = [&](int64_t s) {
        for (int64_t h = 0; h < NUM_HEADS; h++) c.write(s, h, key(s, h), value(s, h));
    };
    const auto check_all = [&] {
        for (int64_t s = 0; s < slots; s++)
            for (int64_t h = 0; h < NUM_HEADS; h++) check_slot(check, c, s, h, key(s, h), value(s, h));
    };
    for (int64_t s = 0; s < slots; s++) write(s * 11 % slots);
    for (int64_t i = 0; i < H; i++) key(17, 1)[i] = 0, value(18, 0)[i] *= 100;
    write(17), write(18);
    check_all();
    // Pages of sixteen, and of four, which share blocks: codes are then written anew, to the same codes.
    for (int64_t page_size : {16, 4}) {
        c.copy(1, 0, page_size);
        for (int64_t i = 0; i < page_size; i++)
            for (int64_t h = 0; h < NUM_HEADS; h++) {
                const Held from = held(c, page_size + i, h), to = held(c, i, h);
                for (size_t d = 0; d < (size_t)H; d++) {
                    check(to.key[d], from.key[d], 4 * EPS * std::fabs(from.key[d]));
                    check(to.value[d], from.value[d], 4 * EPS * std::fabs(from.value[d]));
                }
                std::copy_n(key(page_size + i, h), H, key(i, h)), std::copy_n(value(page_size + i, h), H, value(i, h));
            }
        check_all();
    }
    key(5, 0)[H - 1] = NAN, value(5, 0)[0] = INFINITY;
    write(5);
    const Held bad = held(c, 5, 0);
    check.nan(bad.key[(size_t)(H - 1)]);
    if (std::isfinite(bad.value[0])) wrong(check.what, bad.value[0], INFINITY, 0);
}

// Values that share a step, from the first on.
struct Group {
    int64_t first, count, step;
};

// Lowest and highest of them.
std::pair<double, double> span(const std::vector<float> &x, const Group &g) {
    double low = INFINITY, high = -INFINITY;
    for (int64_t i = 0; i < g.count; i++) {
        const double v = nearest_bf16(x[(size_t)(g.first + i * g.step)]);
        low = std::min(low, v), high = std::max(high, v);
    }
    return {low, high};
}

// One value of a page of bfloat16, become one of codes: its step and minimum are its group's in float16, and it is
// within half a step, and what float16 rounds, of what it was.
void check_code(Check &check, double coarse, double code, double step, double exact, std::pair<double, double> span) {
    const auto [low, high] = span;
    const double wanted = (high - low) / 15, float16 = 0x1p-11 * 1.001;
    check(step, wanted, wanted * float16 + 0x1p-25);
    check(coarse - code * step, low, std::fabs(low) * float16 + 0x1p-25);
    check(coarse, exact, step / 2 + 15 * wanted * float16 + std::fabs(low) * float16 + 15 * 0x1p-25);
}

void closed(Check &check, bool rope, int64_t H) {
    Cache c(2 * PAGE, NUM_HEADS, H, Kv::int4, 2 * PAGE, rope);
    auto keys = normals(PAGE * NUM_HEADS * H, 3), values = normals(PAGE * NUM_HEADS * H);
    const int64_t row = NUM_HEADS * H;
    const auto at = [&](int64_t j, int64_t h, int64_t i) { return j * row + h * H + i; };
    for (int64_t j = 0; j < PAGE; j++) keys[(size_t)at(j, 0, 0)] += 40;            // a channel that stands out
    for (int64_t i = 0; i < H; i++) values[(size_t)at(9, 0, i)] = 1.5f;            // a row of one value
    for (int64_t j = 0; j < PAGE; j++)
        for (int64_t h = 0; h < NUM_HEADS; h++)
            c.write(PAGE + j, h, &keys[(size_t)at(j, h, 0)], &values[(size_t)at(j, h, 0)]);
    for (int64_t h = 0; h < NUM_HEADS; h++) c.close(1, 1, h);
    std::vector<float> k((size_t)H), v((size_t)H);
    for (int64_t h = 0; h < NUM_HEADS; h++)
        for (int64_t j = 0; j < PAGE; j++) {
            const Held coarse = held(c, PAGE + j, h), exact = held(*c.exact, PAGE + j, h);
            c.read(c.exact->slots + PAGE + j, h, k.data(), v.data());
            for (int64_t i = 0; i < H; i++) {
                const size_t d = (size_t)i;
                const Group dims{at(j, h, i / 64 * 64), std::min<int64_t>(64, H - i / 64 * 64), 1};
                const Group slots{at(j / 64 * 64, h, i), 64, row};
                check.same(exact.key[d], nearest_bf16(keys[(size_t)at(j, h, i)]));
                check.same(exact.value[d], nearest_bf16(values[(size_t)at(j, h, i)]));
                check_code(check, coarse.key[d], coarse.key_code[d], coarse.key_step[d], exact.key[d],
                           span(keys, rope ? dims : slots));
                check_code(check, coarse.value[d], coarse.value_code[d], coarse.value_step[d], exact.value[d],
                           span(values, dims));
                const double key_low = coarse.key[d] - coarse.key_code[d] * coarse.key_step[d];
                const double value_low = coarse.value[d] - coarse.value_code[d] * coarse.value_step[d];
                check(k[d], coarse.key[d], 4 * EPS * (std::fabs(coarse.key[d]) + std::fabs(key_low)));
                check(v[d], coarse.value[d], 4 * EPS * (std::fabs(coarse.value[d]) + std::fabs(value_low)));
            }
        }
    // One value that is none spoils its group, and nothing else.
    values[(size_t)at(7, 1, 3)] = NAN;
    c.write(PAGE + 7, 1, &keys[(size_t)at(7, 1, 0)], &values[(size_t)at(7, 1, 0)]);
    c.close(1, 1, 1);
    check.nan(held(c, PAGE + 7, 1).value[0]), check.nan(held(c, PAGE + 7, 1).value[3]);
    if (!std::isfinite(held(c, PAGE + 8, 1).value[3] + held(c, PAGE + 7, 1).key[3])) wrong(check.what, NAN, 0, 0);
}

}  // namespace

void caches() {
    const std::pair<const char *, Kv> types[] = {
        {"f32", Kv::f32}, {"f16", Kv::f16}, {"bf16", Kv::bf16}, {"int8", Kv::int8}};
    for (auto [name, type] : types) {
        Check check{std::string("cache of ") + name};
        for (int64_t H : {20, 64, 87}) written(check, type, H);
    }
    for (bool rope : {false, true}) {
        Check check{rope ? "pages of int4, per slot" : "pages of int4, per channel"};
        for (int64_t H : {20, 87, 128}) closed(check, rope, H);
    }
}

}  // namespace check
