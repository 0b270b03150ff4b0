// Exact attention of a block of rows (tokens x query heads of one KV head) over a range of keys, in one pass: running
// maximum and sum per row (Milakov and Gimelshein 2018; Dao et al. 2022). Keys go in blocks of KEYS counted from the
// segment's start, so a row's result depends on its own keys and nothing else.

INLINE int64_t slot_of(const Attend &a, int64_t key) {
    return a.pages ? a.pages[key / a.page_size] * a.page_size + key % a.page_size : key;
}

// The rows of keys s0 .. s0 + n, and behind them those of the next block (at the end: of the last key again), which the
// work on this block asks for as it goes.
INLINE void rows_of_block(const Attend &a, int64_t s0, int64_t n, const uint8_t **k, const uint8_t **v) {
    for (int64_t j = 0; j < 2 * KEYS; j++) {
        if (j >= n && j < KEYS) continue;
        int64_t key = s0 + j < a.key1 ? s0 + j : a.key1 - 1, at = slot_of(a, key) * a.slot_bytes;
        k[j] = a.k + at, v[j] = a.v + at;
    }
}

// Keys as kt[H][KEYS] and values as v[KEYS][HP], in float32. Keys past the last stand in for by it: their scores are
// masked.
template <Type T>
static void turn_block(const uint8_t *const *k, const uint8_t *const *v, int64_t n, int64_t H, int64_t HP, float *kt,
                       float *to) {
    for (int64_t j = 0; j < n; j += W) {
        const uint8_t *row[W];
        for (int64_t i = 0; i < W; i++) row[i] = k[j + i < n ? j + i : n - 1];
        turn_rows<T>(row, H, kt + j, KEYS);
    }
    for (int64_t j = 0; j < n; j++) {
        for (int64_t i = 0; i < H * SIZE<T>; i += 64)
            __builtin_prefetch(k[KEYS + j] + i), __builtin_prefetch(v[KEYS + j] + i);
        widen_as<T>(v[j], H, to + j * HP);
        for (int64_t i = H; i < HP; i++) to[j * HP + i] = 0;
    }
}

template <Type T>
static void attend_as(const Attend &a) {
    const int64_t R = a.tokens * a.heads, H = a.H, HP = attend_width(H);
    float *q = a.scratch, *o = q + R * HP, *s = o + R * HP, *m = s + R * KEYS, *l = m + R, *kt = l + R,
          *v = kt + KEYS * HP;
    const float by = 1.0f / __builtin_sqrtf((float)H);
    for (int64_t t = 0; t < a.tokens; t++)
        for (int64_t h = 0; h < a.heads; h++) {
            int64_t r = t * a.heads + h;
            for (int64_t i = 0; i < H; i++) q[r * HP + i] = a.q[t * a.ldq + h * H + i] * by;
            for (int64_t i = H; i < HP; i++) q[r * HP + i] = 0;
            m[r] = -__builtin_inff();
            l[r] = 0;
        }
    memset(o, 0, (size_t)(R * HP) * 4);
    int64_t last = a.causal ? a.first + a.tokens - 1 : a.first, end = a.key1 < last ? a.key1 : last;
    const bool few = R <= FEW_QUERIES;
    for (int64_t s0 = a.key0; s0 < end; s0 += KEYS) {
        int64_t n = end - s0 < KEYS ? end - s0 : KEYS;
        const uint8_t *key[2 * KEYS], *value[2 * KEYS];
        rows_of_block(a, s0, n, key, value);
        if (few) {
            few_queries<T>(true, key, n, R, H, q, s, o, HP);
        } else {
            turn_block<T>(key, value, n, H, HP, kt, v);
            tile(R, H, (n + W - 1) / W, q, HP, kt, KEYS, s, KEYS, false);
        }
        for (int64_t t = 0; t < a.tokens; t++) {
            int64_t sees = (a.causal ? a.first + t : a.first) - s0;
            int64_t seen = sees < n ? sees : n;
            for (int64_t h = 0; h < a.heads; h++) {
                int64_t r = t * a.heads + h;
                float *row = s + r * KEYS;
                if (seen <= 0) {
                    memset(row, 0, KEYS * 4);
                    continue;
                }
                for (int64_t j = seen; j < KEYS; j++) row[j] = -__builtin_inff();
                F top = load(row);
                for (int j = W; j < KEYS; j += W) top = largest(top, load(row + j));
                float most = peak(top), next = most > m[r] ? most : m[r];
                F sum{};
                for (int j = 0; j < KEYS; j += W) {
                    F e = exponential(load(row + j) - next);
                    store(row + j, e);
                    sum += e;
                }
                float c = exponential(set1(m[r] - next))[0];
                l[r] = l[r] * c + total(sum);
                m[r] = next;
                if (c != 1.0f)
                    for (int64_t i = 0; i < HP; i += W) store(o + r * HP + i, load(o + r * HP + i) * c);
            }
        }
        if (few) few_queries<T>(false, value, n, R, H, q, s, o, HP);
        else tile(R, n, HP / W, s, KEYS, v, HP, o, HP, true);
    }
    for (int64_t t = 0; t < a.tokens; t++)
        for (int64_t h = 0; h < a.heads; h++) {
            int64_t r = t * a.heads + h;
            float norm = a.state ? 1.0f : 1.0f / l[r];
            for (int64_t i = 0; i < H; i++) a.o[t * a.ldo + h * H + i] = o[r * HP + i] * norm;
            if (a.state) a.state[2 * r] = m[r], a.state[2 * r + 1] = l[r];
        }
}

static void attend(const Attend &a) {
    if (a.type == Type::f32) attend_as<Type::f32>(a);
    else if (a.type == Type::f16) attend_as<Type::f16>(a);
    else attend_as<Type::bf16>(a);
}
