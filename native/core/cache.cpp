#include "cache.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <vector>

namespace herd {
namespace {

constexpr int64_t HUGE = 2 << 20;  // bytes of a large page

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

uint16_t *halves(uint8_t *p) { return reinterpret_cast<uint16_t *>(p); }

}  // namespace

Cache::Cache(int64_t slots_, int64_t K_, int64_t H_, Kv type_) : slots(slots_), K(K_), H(H_), type(type_) {
    int64_t size = std::max<int64_t>(bytes(), 1);
    void *p = mmap(nullptr, (size_t)size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
    // Rows of all heads lie far apart in the plain layouts: each would take a large page for its first slot.
    if (blocked() && size >= 4 * HUGE) madvise(p, (size_t)size, MADV_HUGEPAGE);
#endif
    data_ = {static_cast<uint8_t *>(p), Free{size}};
}

void Cache::Free::operator()(uint8_t *p) const { munmap(p, (size_t)bytes); }

int64_t Cache::stride() const {
    int64_t row = key_bytes(type, H);
    return blocked() ? K * (row + value_bytes(type, H)) : row;
}

int64_t Cache::bytes() const {
    return blocked() ? (slots + BLOCK - 1) / BLOCK * stride() : 2 * K * slots * stride();
}

uint8_t *Cache::head_at(int64_t h) const {
    return data_.get() + (blocked() ? h * (key_bytes(type, H) + value_bytes(type, H)) : h * slots * stride());
}

KvHead Cache::head(int64_t h) const {
    uint8_t *k = head_at(h);
    return {type, k, k + (blocked() ? key_bytes(type, H) : K * slots * stride()), stride()};
}

void Cache::write(int64_t slot, int64_t h, const float *key, const float *value) {
    if (!blocked()) {
        Type as = type == Kv::f32 ? Type::f32 : Type::f16;
        uint8_t *k = head_at(h) + slot * stride();
        kernels().narrow(as, key, H, k);
        kernels().narrow(as, value, H, k + K * slots * stride());
        return;
    }
    const int64_t lane = slot % BLOCK, width = round_up(H, 16);
    uint16_t *k = halves(block(slot, h)) + lane * 2;
    uint16_t *v = halves(block(slot, h) + key_bytes(type, H)) + lane / 2 * width * 2 + lane % 2;
    for (int64_t i = 0; i < H; i++) k[i / 2 * BLOCK * 2 + i % 2] = bf16_of(key[i]);
    for (int64_t i = 0; i < H; i++) v[i * 2] = bf16_of(value[i]);
}

void Cache::read(int64_t slot, int64_t h, float *key, float *value) const {
    if (!blocked()) {
        Type as = type == Kv::f32 ? Type::f32 : Type::f16;
        const uint8_t *k = head_at(h) + slot * stride();
        kernels().widen(as, k, H, key);
        kernels().widen(as, k + K * slots * stride(), H, value);
        return;
    }
    const int64_t lane = slot % BLOCK, width = round_up(H, 16);
    const uint16_t *k = halves(block(slot, h)) + lane * 2;
    const uint16_t *v = halves(block(slot, h) + key_bytes(type, H)) + lane / 2 * width * 2 + lane % 2;
    for (int64_t i = 0; i < H; i++) key[i] = float_of(k[i / 2 * BLOCK * 2 + i % 2]);
    for (int64_t i = 0; i < H; i++) value[i] = float_of(v[i * 2]);
}

void Cache::copy(int64_t source, int64_t target, int64_t page_size) {
    if (blocked() && page_size % BLOCK == 0) {
        int64_t size = page_size / BLOCK * stride();
        std::memmove(data_.get() + target * size, data_.get() + source * size, (size_t)size);
        return;
    }
    if (!blocked()) {
        for (int64_t h = 0; h < K; h++)
            for (int64_t side : {(int64_t)0, K * slots * stride()})
                std::memmove(head_at(h) + side + target * page_size * stride(),
                             head_at(h) + side + source * page_size * stride(), (size_t)(page_size * stride()));
        return;
    }
    std::vector<float> key((size_t)H), value((size_t)H);  // pages that share blocks: row by row, exactly
    for (int64_t i = 0; i < page_size; i++)
        for (int64_t h = 0; h < K; h++) {
            read(source * page_size + i, h, key.data(), value.data());
            write(target * page_size + i, h, key.data(), value.data());
        }
}

}  // namespace herd
