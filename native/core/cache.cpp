#include "cache.h"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <vector>

namespace herd {
namespace {

constexpr int64_t LARGE = 2 << 20;  // bytes of a large page

uint16_t bf16_of(float x) {
    uint32_t b;
    std::memcpy(&b, &x, 4);
    if ((b & 0x7fffffff) > 0x7f800000) return (uint16_t)(b >> 16 | 0x40);
    return (uint16_t)((b + 0x7fff + (b >> 16 & 1)) >> 16);
}

float float_of(uint16_t h) {
    uint32_t b = (uint32_t)h << 16;
    float x;
    std::memcpy(&x, &b, 4);
    return x;
}

float half_at(const uint8_t *p) {
    float x;
    kernels().widen(Type::f16, p, 1, &x);
    return x;
}

// Where element i of a slot's row lies in a unit, in elements: D neighbouring dims of a slot are a lane of keys, D
// neighbouring slots of a dim a lane of values.
struct Lanes {
    int64_t D, width;
    int64_t key(int64_t slot, int64_t i) const { return (i / D * BLOCK + slot) * D + i % D; }
    int64_t value(int64_t slot, int64_t i) const { return (slot / D * width + i) * D + slot % D; }
};

// scale and codes of int8; a row with a value that is no number has a scale that is none.
float bytes_of(const float *x, int64_t n, int8_t *q) {
    float top = 0;
    bool finite = true;
    for (int64_t i = 0; i < n; i++) {
        top = std::max(top, std::fabs(x[i]));
        finite &= std::isfinite(x[i]);
    }
    const float scale = finite ? top / 127.0f : NAN;
    for (int64_t i = 0; i < n; i++)
        q[i] = scale > 0 ? (int8_t)std::lrint(std::min(127.0f, std::max(-127.0f, x[i] / scale))) : 0;
    return scale;
}

// n values at `step` as codes 0 .. 15 of a float16 scale and minimum; none are numbers when one value is not.
void codes_of(const float *x, int64_t n, int64_t step, uint8_t *codes, uint8_t *scale_at, uint8_t *minimum_at) {
    float low = INFINITY, high = -INFINITY;
    bool finite = true;
    for (int64_t i = 0; i < n; i++) {
        low = std::min(low, x[i * step]), high = std::max(high, x[i * step]);
        finite &= std::isfinite(x[i * step]);
    }
    float of[2] = {finite ? (high - low) / 15.0f : NAN, finite ? low : NAN};
    kernels().narrow(Type::f16, of, 1, scale_at);
    kernels().narrow(Type::f16, of + 1, 1, minimum_at);
    const float scale = half_at(scale_at), minimum = half_at(minimum_at);
    const bool coded = scale > 0 && std::isfinite(scale) && std::isfinite(minimum);
    for (int64_t i = 0; i < n; i++)
        codes[i * step] =
            coded ? (uint8_t)std::lrint(std::min(15.0f, std::max(0.0f, (x[i * step] - minimum) / scale))) : 0;
}

// Byte and shift of a code in a page of int4.
struct Code {
    int64_t byte;
    int shift;
};
Code key_code(int64_t slot, int64_t i, int64_t H4) {
    return {slot / 32 * BLOCK * H4 + (i / 4 * BLOCK + slot % BLOCK) * 4 + i % 4, slot % 32 < BLOCK ? 0 : 4};
}
Code value_code(int64_t slot, int64_t i, int64_t width) {
    return {(slot / 8 * width + i) * 4 + slot % 4, slot % 8 < 4 ? 0 : 4};
}

}  // namespace

Cache::Cache(int64_t slots_, int64_t K_, int64_t H_, Kv type_, int64_t exact_slots, bool rope_)
    : slots(slots_), K(K_), H(H_), type(type_), rope(rope_) {
    if (type == Kv::int4) exact = std::make_unique<Cache>(exact_slots, K, H, Kv::bf16);
    int64_t size = std::max<int64_t>(own_bytes(), 1);
    void *p = mmap(nullptr, (size_t)size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
    // Rows of all heads lie far apart in the plain layouts: each would take a large page for its first slot.
    if (!plain() && size >= 4 * LARGE) madvise(p, (size_t)size, MADV_HUGEPAGE);
#endif
    data_ = {static_cast<uint8_t *>(p), Free{size}};
}

void Cache::Free::operator()(uint8_t *p) const { munmap(p, (size_t)bytes); }

int64_t Cache::stride() const {
    int64_t row = key_bytes(type, H, rope);
    return plain() ? row : K * (row + value_bytes(type, H));
}

int64_t Cache::own_bytes() const {
    const int64_t unit = unit_slots(type);
    return plain() ? 2 * K * slots * stride() : (slots + unit - 1) / unit * stride();
}

int64_t Cache::bytes() const { return own_bytes() + (exact ? exact->bytes() : 0); }

uint8_t *Cache::keys(int64_t h, int64_t unit) const {
    int64_t head = plain() ? slots * stride() : key_bytes(type, H, rope) + value_bytes(type, H);
    return data_.get() + h * head + unit * stride();
}

uint8_t *Cache::values(int64_t h, int64_t unit) const {
    return keys(h, unit) + (plain() ? K * slots * stride() : key_bytes(type, H, rope));
}

KvHead Cache::head(int64_t h) const { return {type, keys(h, 0), values(h, 0), stride()}; }

void Cache::write(int64_t slot, int64_t h, const float *key, const float *value) {
    if (exact) return exact->write(slot, h, key, value);
    uint8_t *k = keys(h, slot / unit_slots(type)), *v = values(h, slot / unit_slots(type));
    if (plain()) {
        Type as = type == Kv::f32 ? Type::f32 : Type::f16;
        kernels().narrow(as, key, H, k);
        kernels().narrow(as, value, H, v);
        return;
    }
    const Lanes lanes{type == Kv::int8 ? 4 : 2, round_up(H, 16)};
    const int64_t lane = slot % BLOCK;
    if (type == Kv::bf16) {
        auto *ks = reinterpret_cast<uint16_t *>(k), *vs = reinterpret_cast<uint16_t *>(v);
        for (int64_t i = 0; i < H; i++) ks[lanes.key(lane, i)] = bf16_of(key[i]);
        for (int64_t i = 0; i < H; i++) vs[lanes.value(lane, i)] = bf16_of(value[i]);
        return;
    }
    int8_t q[MOST_DIMS];
    float scale = bytes_of(key, H, q);
    for (int64_t i = 0; i < H; i++) k[lanes.key(lane, i)] = (uint8_t)q[i];
    std::memcpy(k + key_bytes(type, H) - 4 * (BLOCK - lane), &scale, 4);
    scale = bytes_of(value, H, q);
    for (int64_t i = 0; i < H; i++) v[lanes.value(lane, i)] = (uint8_t)q[i];
    std::memcpy(v + value_bytes(type, H) - 4 * (BLOCK - lane), &scale, 4);
}

void Cache::read(int64_t slot, int64_t h, float *key, float *value) const {
    if (exact) {
        if (slot < exact->slots) return exact->read(slot, h, key, value);
        slot -= exact->slots;
    }
    const uint8_t *k = keys(h, slot / unit_slots(type)), *v = values(h, slot / unit_slots(type));
    const Lanes lanes{type == Kv::int8 ? 4 : 2, round_up(H, 16)};
    const int64_t lane = slot % BLOCK;
    if (plain()) {
        Type as = type == Kv::f32 ? Type::f32 : Type::f16;
        kernels().widen(as, k, H, key);
        kernels().widen(as, v, H, value);
    } else if (type == Kv::bf16) {
        auto *ks = reinterpret_cast<const uint16_t *>(k), *vs = reinterpret_cast<const uint16_t *>(v);
        for (int64_t i = 0; i < H; i++) key[i] = float_of(ks[lanes.key(lane, i)]);
        for (int64_t i = 0; i < H; i++) value[i] = float_of(vs[lanes.value(lane, i)]);
    } else if (type == Kv::int8) {
        float scales[2];
        std::memcpy(scales, k + key_bytes(type, H) - 4 * (BLOCK - lane), 4);
        std::memcpy(scales + 1, v + value_bytes(type, H) - 4 * (BLOCK - lane), 4);
        for (int64_t i = 0; i < H; i++) key[i] = scales[0] * (float)(int8_t)k[lanes.key(lane, i)];
        for (int64_t i = 0; i < H; i++) value[i] = scales[1] * (float)(int8_t)v[lanes.value(lane, i)];
    } else {
        const int64_t at = slot % PAGE, H4 = round_up(H, 4), width = round_up(H, 16), groups = dim_groups(H);
        const uint8_t *ks = k + PAGE / 2 * H4, *vs = v + PAGE / 2 * width;
        const int64_t span = rope ? 2 * PAGE * groups : 2 * PAGE / KEY_GROUP * width;  // bytes from scales to minima
        for (int64_t i = 0; i < H; i++) {
            const int64_t pk = 2 * (rope ? i / DIM_GROUP * PAGE + at : at / KEY_GROUP * width + i);
            const int64_t pv = 2 * (i / DIM_GROUP * PAGE + at);
            const Code ck = key_code(at, i, H4), cv = value_code(at, i, width);
            key[i] = (float)(k[ck.byte] >> ck.shift & 15) * half_at(ks + pk) + half_at(ks + span + pk);
            value[i] = (float)(v[cv.byte] >> cv.shift & 15) * half_at(vs + pv) + half_at(vs + 2 * PAGE * groups + pv);
        }
    }
}

void Cache::close(int64_t exact_page, int64_t page, int64_t h) {
    const int64_t H4 = round_up(H, 4), width = round_up(H, 16), groups = dim_groups(H);
    std::vector<float> x((size_t)(2 * PAGE * H));
    std::vector<uint8_t> codes((size_t)(2 * PAGE * H));
    float *xk = x.data(), *xv = xk + PAGE * H;
    uint8_t *ck = codes.data(), *cv = ck + PAGE * H;
    for (int64_t j = 0; j < PAGE; j++) exact->read(exact_page * PAGE + j, h, xk + j * H, xv + j * H);
    uint8_t *k = keys(h, page), *v = values(h, page), *ks = k + PAGE / 2 * H4, *vs = v + PAGE / 2 * width;
    auto per_slot = [&](const float *from, uint8_t *to, uint8_t *params) {
        for (int64_t j = 0; j < PAGE; j++)
            for (int64_t g = 0; g < groups; g++) {
                const int64_t at = j * H + g * DIM_GROUP, p = 2 * (g * PAGE + j);
                codes_of(from + at, std::min(DIM_GROUP, H - g * DIM_GROUP), 1, to + at, params + p,
                         params + 2 * PAGE * groups + p);
            }
    };
    if (rope) per_slot(xk, ck, ks);
    else
        for (int64_t j = 0; j < PAGE; j += KEY_GROUP)
            for (int64_t i = 0; i < H; i++) {
                const int64_t p = 2 * (j / KEY_GROUP * width + i);
                codes_of(xk + j * H + i, KEY_GROUP, H, ck + j * H + i, ks + p, ks + 2 * PAGE / KEY_GROUP * width + p);
            }
    per_slot(xv, cv, vs);
    std::memset(k, 0, (size_t)(PAGE / 2 * H4));
    std::memset(v, 0, (size_t)(PAGE / 2 * width));
    for (int64_t j = 0; j < PAGE; j++)
        for (int64_t i = 0; i < H; i++) {
            const Code a = key_code(j, i, H4), b = value_code(j, i, width);
            k[a.byte] = (uint8_t)(k[a.byte] | ck[j * H + i] << a.shift);
            v[b.byte] = (uint8_t)(v[b.byte] | cv[j * H + i] << b.shift);
        }
}

void Cache::copy(int64_t source, int64_t target, int64_t page_size) {
    const int64_t unit = unit_slots(type);
    if (!plain() && page_size % unit == 0) {
        int64_t size = page_size / unit * stride();
        std::memmove(data_.get() + target * size, data_.get() + source * size, (size_t)size);
        return;
    }
    if (plain()) {
        const int64_t size = page_size * stride();
        for (int64_t h = 0; h < K; h++) {
            std::memmove(keys(h, target * page_size), keys(h, source * page_size), (size_t)size);
            std::memmove(values(h, target * page_size), values(h, source * page_size), (size_t)size);
        }
        return;
    }
    std::vector<float> key((size_t)H), value((size_t)H);  // pages that share blocks: row by row
    for (int64_t i = 0; i < page_size; i++)
        for (int64_t h = 0; h < K; h++) {
            read(source * page_size + i, h, key.data(), value.data());
            write(target * page_size + i, h, key.data(), value.data());
        }
}

}  // namespace herd
