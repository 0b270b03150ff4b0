// Least-squares searches over W rows at once: the step of a grid is not convex in the error, so a handful of code
// ranges is tried, each step solved for the codes that it gives, and the best of all is refined in turns of codes and
// step. H: columns have importances, and sums are weighted by them.

constexpr float LARGEST = 0x1p40f;  // herd.formats.format.LARGEST: no sum of squares below leaves float32
constexpr uint32_t LARGEST_BITS = 0x53800000;
constexpr float LARGEST_HALF = 65504;

// One block of W rows, and what became of it.
struct Block {
    F x[256];
    const float *w;                        // importances of its columns, or null
    alignas(64) uint8_t bytes[210][W];     // the encoded block
    alignas(64) uint8_t q[256][W];         // its codes
    bool over[W];                          // a scale leaves float16
    F error2, weighted2, most;
    void clear() {
        for (int lane = 0; lane < W; lane++) over[lane] = false;
        error2 = weighted2 = most = F{};
    }
};

typedef uint8_t B __attribute__((vector_size(W)));
INLINE B get(const uint8_t *p) {
    B v;
    memcpy(&v, p, W);
    return v;
}
INLINE void put(uint8_t *p, B v) { memcpy(p, &v, W); }
INLINE B narrowed(F q) { return __builtin_convertvector(__builtin_convertvector(q, I), B); }

INLINE F smallest(F a, F b) { return a < b ? a : b; }
INLINE F bounded(F x, float low, float high) { return smallest(largest(x, set1(low)), set1(high)); }
// Nearest, ties to even; |x| below 2^22.
INLINE F nearest(F x) {
    const F shift = set1(0x1.8p23f);
    return (x + shift) - shift;
}
INLINE F whole(F x, float low, float high) { return nearest(bounded(x, low, high)); }
// 1 / x; 0 where x is 0 or its inverse infinite.
INLINE F inverse(F x) {
    F inv = 1.0f / x;
    I finite = (I)(((U)inv & 0x7fffffffu) < 0x7f800000u);
    return (F)((I)inv & finite);
}
template <bool H>
INLINE F weigh(const float *w, int i, F v) {
    return H ? v * w[i] : v;
}

// float32 to float16 bits, nearest even; infinity from 65520 on.
INLINE uint16_t half_of(float x) {
    uint32_t b;
    memcpy(&b, &x, 4);
    uint32_t sign = b >> 16 & 0x8000, a = b & 0x7fffffff;
    if (a >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
    if (a < 0x38800000) {  // subnormal: 0.5 has the right unit in the last place
        float size;
        memcpy(&size, &a, 4);
        size += 0.5f;
        memcpy(&a, &size, 4);
        return (uint16_t)(sign | (a - 0x3f000000));
    }
    a += 0xfff + (a >> 13 & 1);
    return (uint16_t)(sign | (a - 0x38000000) >> 13);
}

// The values that float16 has nearest to v. Lanes that overflow are noted in the block.
INLINE F halved(F v, Block &b) {
    F r;
    for (int lane = 0; lane < W; lane++) {
        uint16_t h = half_of(v[lane]);
        if ((h & 0x7c00) == 0x7c00) b.over[lane] = true;
        r[lane] = half_to_float((const uint8_t *)&h);
    }
    return r;
}
// The same where nothing can overflow: clipped to the largest.
INLINE F halved(F v) {
    v = bounded(v, -LARGEST_HALF, LARGEST_HALF);
    F r;
    for (int lane = 0; lane < W; lane++) {
        uint16_t h = half_of(v[lane]);
        r[lane] = half_to_float((const uint8_t *)&h);
    }
    return r;
}
INLINE void put_half(Block &b, int at, F v) {
    for (int lane = 0; lane < W; lane++) {
        uint16_t h = half_of(v[lane]);
        b.bytes[at][lane] = (uint8_t)h, b.bytes[at + 1][lane] = (uint8_t)(h >> 8);
    }
}

// Book the error of weight i.
template <bool H>
INLINE void lose(Block &b, int i, F value) {
    F e = b.x[i] - value, e2 = e * e;
    b.error2 += e2;
    if (H) b.weighted2 += e2 * b.w[i];
    b.most = largest(b.most, absolute(e));
}

// -- scale and minimum: x ~ scale * q - minimum, q 0..top ---------------------------------------------------------

// Tried code ranges: the extremes of a group land this far outside (-) or inside (+) the last code.
constexpr float INSIDE[] = {-1.2f, -0.9f, -0.6f, -0.4f, -0.2f, 0.0f, 0.2f, 0.4f, 0.6f, 0.9f, 1.3f, 1.8f, 2.4f};

struct Line {
    F scale, offset;  // x ~ scale * q + offset
};

// One group of N weights alone. below: the offset may not be above 0 (it is stored as a minimum to subtract).
template <bool H, int N>
Line fit_affine(const F *x, const float *w, float top, bool below) {
    F low = x[0], high = x[0];
    for (int i = 1; i < N; i++) low = smallest(low, x[i]), high = largest(high, x[i]);
    if (below) low = smallest(low, F{}), high = largest(high, F{});
    F sw = {}, sy = {}, syy = {};
    for (int i = 0; i < N; i++) {
        F y = x[i] - low, wy = weigh<H>(w, i, y);
        sy += wy, syy += wy * y;
        sw += weigh<H>(w, i, set1(1));
    }
    const F inv_w = 1.0f / sw, mean = sy * inv_w, spread = syy - sy * mean;
    const F sxx = syy + 2.0f * low * sy + low * low * sw;
    F best = set1(3e38f);
    Line line = {F{}, F{}};
    auto consider = [&](F inv, F start) {
        F sq = {}, sqq = {}, syq = {};
        for (int i = 0; i < N; i++) {
            F q = whole((x[i] - start) * inv, 0, top), wq = weigh<H>(w, i, q);
            sq += wq, sqq += wq * q, syq += wq * (x[i] - low);
        }
        F mean_q = sq * inv_w, across = syq - mean * sq, along = sqq - mean_q * sq;
        F scale = across * inverse(along), offset = low + mean - scale * mean_q;
        F error = spread - scale * across;
        if (below) {
            F sxq = syq + low * sq, through = sxq * inverse(sqq);
            I above = offset > 0.0f;
            error = above ? sxx - through * sxq : error;
            scale = above ? through : scale;
            offset = above ? F{} : offset;
        }
        I better = (error < best) & (scale >= 0.0f);
        best = better ? error : best;
        line.scale = better ? scale : line.scale;
        line.offset = better ? offset : line.offset;
    };
    const F width = inverse(high - low);
    for (float inside : INSIDE) consider(width * (top + inside), low);
    for (int turn = 0; turn < 2; turn++) consider(inverse(line.scale), line.offset);
    return line;
}

// Scales and minima of G groups of N in units of two float16.
template <int G>
struct Affine {
    F d, dmin, scale[G], minimum[G];
};

template <bool H, int N>
INLINE F affine_error(const F *x, const float *w, F step, F base, float top) {
    F inv = inverse(step), error = {};
    for (int i = 0; i < N; i++) {
        F t = x[i] + base, e = t - step * whole(t * inv, 0, top);
        error += weigh<H>(w, i, e * e);
    }
    return error;
}

// d and dmin by least squares, all whole numbers fixed: two linear equations.
template <bool H, int G, int N>
void fit_two(const Block &b, Affine<G> &a, float top) {
    F aa = {}, bb = {}, ab = {}, xa = {}, xb = {};
    for (int g = 0; g < G; g++) {
        const F *x = b.x + g * N;
        const float *w = H ? b.w + g * N : nullptr;
        F step = a.d * a.scale[g], base = a.dmin * a.minimum[g], inv = inverse(step);
        F sw = {}, sq = {}, sqq = {}, sx = {}, sxq = {};
        for (int i = 0; i < N; i++) {
            F q = whole((x[i] + base) * inv, 0, top), wq = weigh<H>(w, i, q);
            sw += weigh<H>(w, i, set1(1)), sx += weigh<H>(w, i, x[i]);
            sq += wq, sqq += wq * q, sxq += wq * x[i];
        }
        aa += a.scale[g] * a.scale[g] * sqq, bb += a.minimum[g] * a.minimum[g] * sw;
        ab -= a.scale[g] * a.minimum[g] * sq, xa += a.scale[g] * sxq, xb -= a.minimum[g] * sx;
    }
    F determinant = aa * bb - ab * ab;
    I regular = determinant > 1e-5f * aa * bb;
    F inv = inverse(determinant);
    F d = regular ? (xa * bb - xb * ab) * inv : xa * inverse(aa);
    F dmin = regular ? (xb * aa - xa * ab) * inv : (aa > 0.0f ? F{} : xb * inverse(bb));
    // A negative one cannot be better than none with the other fitted alone; keep what there is.
    I usable = (d >= 0.0f) & (dmin >= 0.0f);
    a.d = usable ? halved(d) : a.d;
    a.dmin = usable ? halved(dmin) : a.dmin;
}

// The whole numbers of every group against all their neighbours, each with the nearest codes. Returns the error.
template <bool H, int G, int N>
F polish(const Block &b, Affine<G> &a, float top, float scale_top) {
    F total = {};
    for (int g = 0; g < G; g++) {
        const F *x = b.x + g * N;
        const float *w = H ? b.w + g * N : nullptr;
        const F scale0 = a.scale[g], minimum0 = a.minimum[g];
        F error = set1(3e38f);
        for (int i = -1; i <= 1; i++)
            for (int j = -1; j <= 1; j++) {
                F scale = bounded(scale0 + (float)i, 0, scale_top), minimum = bounded(minimum0 + (float)j, 0, scale_top);
                F e = affine_error<H, N>(x, w, a.d * scale, a.dmin * minimum, top);
                I better = e < error;
                error = better ? e : error;
                a.scale[g] = better ? scale : a.scale[g];
                a.minimum[g] = better ? minimum : a.minimum[g];
            }
        total += error;
    }
    return total;
}

template <int G>
INLINE void keep_better(Affine<G> &best, F &least, const Affine<G> &a, F error) {
    I better = error < least;
    least = better ? error : least;
    best.d = better ? a.d : best.d;
    best.dmin = better ? a.dmin : best.dmin;
    for (int g = 0; g < G; g++) {
        best.scale[g] = better ? a.scale[g] : best.scale[g];
        best.minimum[g] = better ? a.minimum[g] : best.minimum[g];
    }
}

template <bool H, int G, int N>
Affine<G> search_affine(Block &b, float top, float scale_top, int rounds) {
    F scale[G], minimum[G], most_scale = {}, most_minimum = {};
    for (int g = 0; g < G; g++) {
        Line line = fit_affine<H, N>(b.x + g * N, H ? b.w + g * N : nullptr, top, true);
        scale[g] = line.scale, minimum[g] = -line.offset;
        most_scale = largest(most_scale, scale[g]), most_minimum = largest(most_minimum, minimum[g]);
    }
    Affine<G> a, best;
    a.d = halved(most_scale / scale_top, b), a.dmin = halved(most_minimum / scale_top, b);
    F inv = inverse(a.d), inv_min = inverse(a.dmin);
    for (int g = 0; g < G; g++) {
        a.scale[g] = whole(scale[g] * inv, 0, scale_top);
        a.minimum[g] = whole(minimum[g] * inv_min, 0, scale_top);
    }
    best = a;
    F least = set1(3e38f);
    for (int round = 0; round < rounds; round++) {
        if (round) fit_two<H, G, N>(b, a, top);
        keep_better(best, least, a, polish<H, G, N>(b, a, top, scale_top));
    }
    return best;
}

// Codes and errors of the choice.
template <bool H, int G, int N>
void code_affine(Block &b, const Affine<G> &a, float top) {
    for (int g = 0; g < G; g++) {
        F step = a.d * a.scale[g], base = a.dmin * a.minimum[g], inv = inverse(step);
        for (int i = g * N; i < (g + 1) * N; i++) {
            F q = whole((b.x[i] + base) * inv, 0, top);
            put(b.q[i], narrowed(q));
            lose<H>(b, i, step * q - base);
        }
    }
}

// -- a signed scale: x ~ scale * value(q) -------------------------------------------------------------------------

// Whole numbers of low..high.
struct Whole {
    float low, high;
    __attribute__((always_inline)) inline F value(F at) const { return whole(at, low, high); }
};

// The sixteen values of iq4: code of the nearest is the number of middles below.
constexpr float BELL[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
struct Bell {
    __attribute__((always_inline)) inline F value(F at) const {
        F v = set1(BELL[0]);
        for (int j = 1; j < 16; j++) v = at > 0.5f * (BELL[j - 1] + BELL[j]) ? set1(BELL[j]) : v;
        return v;
    }
    __attribute__((always_inline)) inline B code(F at) const {
        I q = {};
        for (int j = 1; j < 16; j++) q -= at > 0.5f * (BELL[j - 1] + BELL[j]);
        return __builtin_convertvector(q, B);
    }
};

// The best scale of N weights alone. reaches: where the weight of largest magnitude lands on the scale of values.
template <bool H, int N, class Values>
F fit_scale(const F *x, const float *w, const Values &values, const float *reaches, int num_reaches) {
    F extreme = {}, size = {};
    for (int i = 0; i < N; i++) {
        I more = absolute(x[i]) > size;
        extreme = more ? x[i] : extreme;
        size = more ? absolute(x[i]) : size;
    }
    F best = {}, scale = {};
    auto consider = [&](F inv) {
        F xv = {}, vv = {};
        for (int i = 0; i < N; i++) {
            F v = values.value(x[i] * inv), wv = weigh<H>(w, i, v);
            xv += wv * x[i], vv += wv * v;
        }
        F s = xv * inverse(vv), gain = s * xv;  // what the fit takes off the sum of squares
        I better = gain > best;
        best = better ? gain : best;
        scale = better ? s : scale;
    };
    const F inv = inverse(extreme);
    for (int r = 0; r < num_reaches; r++) consider(inv * reaches[r]);
    for (int turn = 0; turn < 2; turn++) consider(inverse(scale));
    return scale;
}

template <int G>
struct Symmetric {
    F d, scale[G];
};

template <bool H, int N, class Values>
INLINE F symmetric_error(const F *x, const float *w, F step, const Values &values) {
    F inv = inverse(step), error = {};
    for (int i = 0; i < N; i++) {
        F e = x[i] - step * values.value(x[i] * inv);
        error += weigh<H>(w, i, e * e);
    }
    return error;
}

// Scales -limit..limit-1 of G groups of N in units of one float16, in turns of whole numbers and d.
template <bool H, int G, int N, class Values>
Symmetric<G> search_symmetric(Block &b, const Values &values, const float *reaches, int num_reaches, float limit,
                              int rounds) {
    F scale[G], extreme = {};
    for (int g = 0; g < G; g++) {
        scale[g] = fit_scale<H, N>(b.x + g * N, H ? b.w + g * N : nullptr, values, reaches, num_reaches);
        extreme = absolute(scale[g]) > absolute(extreme) ? scale[g] : extreme;
    }
    Symmetric<G> a, best;
    a.d = halved(extreme / -limit, b);  // the extreme scale lands on -limit, the longer side
    F inv = inverse(a.d);
    for (int g = 0; g < G; g++) a.scale[g] = whole(scale[g] * inv, -limit, limit - 1);
    best = a;
    F least = set1(3e38f);
    for (int round = 0; round < rounds; round++) {
        if (round) {
            F xa = {}, aa = {};
            for (int g = 0; g < G; g++) {
                const F *x = b.x + g * N;
                const float *w = H ? b.w + g * N : nullptr;
                F inv_step = inverse(a.d * a.scale[g]), xv = {}, vv = {};
                for (int i = 0; i < N; i++) {
                    F v = values.value(x[i] * inv_step), wv = weigh<H>(w, i, v);
                    xv += wv * x[i], vv += wv * v;
                }
                xa += a.scale[g] * xv, aa += a.scale[g] * a.scale[g] * vv;
            }
            a.d = halved(xa * inverse(aa));
        }
        F total = {};
        for (int g = 0; g < G; g++) {
            const F scale0 = a.scale[g];
            F error = set1(3e38f);
            for (int near = -1; near <= 1; near++) {
                F s = bounded(scale0 + (float)near, -limit, limit - 1);
                F e = symmetric_error<H, N>(b.x + g * N, H ? b.w + g * N : nullptr, a.d * s, values);
                I better = e < error;
                error = better ? e : error;
                a.scale[g] = better ? s : a.scale[g];
            }
            total += error;
        }
        I better = total < least;
        least = better ? total : least;
        best.d = better ? a.d : best.d;
        for (int g = 0; g < G; g++) best.scale[g] = better ? a.scale[g] : best.scale[g];
    }
    return best;
}
