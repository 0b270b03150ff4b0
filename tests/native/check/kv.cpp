#include "kv.h"

#include <cmath>
#include <cstring>

#include "formats.h"

namespace check {

using herd::Cache;
using herd::Kv;

float nearest_bf16(float x) {
    int e = 0;
    std::frexp(x, &e);
    const int step = std::max(e, -125) - 8;
    return (float)std::ldexp(std::nearbyint(std::ldexp((double)x, -step)), step);
}

namespace {

float float_at(const uint8_t *p) {
    float v;
    std::memcpy(&v, p, 4);
    return v;
}

double bf16_at(const uint8_t *p) {
    const uint8_t wide[4] = {0, 0, p[0], p[1]};
    return float_at(wide);
}

int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Rows one after another.
void plain(const Cache &c, const herd::KvHead &at, int64_t slot, Held &held) {
    const int size = c.type == Kv::f32 ? 4 : 2;
    for (int64_t i = 0; i < c.H; i++) {
        const uint8_t *k = at.k + slot * at.stride + i * size, *v = at.v + slot * at.stride + i * size;
        held.key[(size_t)i] = size == 4 ? (double)float_at(k) : half(k);
        held.value[(size_t)i] = size == 4 ? (double)float_at(v) : half(v);
    }
}

// Blocks of sixteen slots: keys [H / 2][16][2], values [8][H][2].
void bf16(const Cache &c, const herd::KvHead &at, int64_t slot, Held &held) {
    const uint8_t *k = at.k + slot / 16 * at.stride, *v = at.v + slot / 16 * at.stride;
    const int64_t s = slot % 16;
    for (int64_t i = 0; i < c.H; i++) {
        held.key[(size_t)i] = bf16_at(k + 2 * (i / 2 * 32 + s * 2 + i % 2));
        held.value[(size_t)i] = bf16_at(v + 2 * ((s / 2 * up(c.H, 16) + i) * 2 + s % 2));
    }
}

void set(Held &held, int64_t i, double key_code, double key_step, double key_minimum, double value_code,
         double value_step, double value_minimum) {
    const size_t at = (size_t)i;
    held.key_code[at] = key_code, held.key_step[at] = key_step, held.key[at] = key_code * key_step + key_minimum;
    held.value_code[at] = value_code, held.value_step[at] = value_step;
    held.value[at] = value_code * value_step + value_minimum;
}

// Blocks of sixteen slots: keys [H / 4][16][4], values [4][H][4], scales [16] behind each.
void int8(const Cache &c, const herd::KvHead &at, int64_t slot, Held &held) {
    const uint8_t *k = at.k + slot / 16 * at.stride, *v = at.v + slot / 16 * at.stride;
    const int64_t s = slot % 16, width = up(c.H, 16);
    const double ks = float_at(k + 16 * up(c.H, 4) + 4 * s), vs = float_at(v + 16 * width + 4 * s);
    for (int64_t i = 0; i < c.H; i++)
        set(held, i, (int8_t)k[i / 4 * 64 + s * 4 + i % 4], ks, 0, (int8_t)v[(s / 4 * width + i) * 4 + s % 4], vs, 0);
}

// Pages of 256 slots: keys [8][H / 4][16][4], of 32 slots the first sixteen in the low halves; values [32][H][4], of
// eight slots the first four in the low halves. Scales and minima: of keys without positions [4][H] each, otherwise and
// of values [groups of 64 dims][256] each.
void int4(const Cache &c, const herd::KvHead &at, int64_t slot, Held &held) {
    const int64_t s = slot % 256, H4 = up(c.H, 4), width = up(c.H, 16), groups = up(c.H, 64) / 64;
    const uint8_t *k = at.k + slot / 256 * at.stride, *v = at.v + slot / 256 * at.stride;
    const uint8_t *k_scales = k + 128 * H4, *v_scales = v + 128 * width;
    for (int64_t i = 0; i < c.H; i++) {
        const uint8_t kb = k[s / 32 * 16 * H4 + i / 4 * 64 + s % 16 * 4 + i % 4];
        const uint8_t vb = v[(s / 8 * width + i) * 4 + s % 4];
        const int64_t per_slot = i / 64 * 256 + s, per_channel = s / 64 * width + i;
        const int64_t key_at = c.rope ? per_slot : per_channel, key_span = c.rope ? groups * 256 : 4 * width;
        set(held, i, s % 32 < 16 ? kb & 15 : kb >> 4, half(k_scales + 2 * key_at),
            half(k_scales + 2 * (key_span + key_at)), s % 8 < 4 ? vb & 15 : vb >> 4, half(v_scales + 2 * per_slot),
            half(v_scales + 2 * (groups * 256 + per_slot)));
    }
}

}  // namespace

Held held(const Cache &c, int64_t slot, int64_t h) {
    Held found;
    for (auto *v : {&found.key, &found.value, &found.key_step, &found.value_step, &found.key_code, &found.value_code})
        v->resize((size_t)c.H);
    const herd::KvHead at = c.head(h);
    if (c.type == Kv::bf16) bf16(c, at, slot, found);
    else if (c.type == Kv::int8) int8(c, at, slot, found);
    else if (c.type == Kv::int4) int4(c, at, slot, found);
    else plain(c, at, slot, found);
    return found;
}

}  // namespace check
