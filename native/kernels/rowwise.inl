// Operations that see one row at a time: norms, activations, rope, conversions, quantising.

// y = w * x / sqrt(mean(x^2) + eps)
void rms(const float *x, const float *w, float eps, int64_t n, float *y) {
    F a{}, b{};
    int64_t i = 0;
    for (; i + 2 * W <= n; i += 2 * W) {
        F u = load(x + i), v = load(x + i + W);
        a += u * u;
        b += v * v;
    }
    for (; i < n; i += W) {
        F u = i + W <= n ? load(x + i) : load_part(x + i, n - i);
        a += u * u;
    }
    float by = 1.0f / __builtin_sqrtf(total(a + b) / (float)n + eps);
    for (i = 0; i + W <= n; i += W) store(y + i, w ? load(x + i) * by * load(w + i) : load(x + i) * by);
    for (; i < n; i++) y[i] = w ? x[i] * by * w[i] : x[i] * by;
}

// y = (x - mean) / sqrt(var + eps) * w + b, the variance from the deviations (two passes: no cancellation)
void layer_norm(const float *x, const float *w, const float *b, float eps, int64_t n, float *y) {
    F a{};
    int64_t i = 0;
    for (; i < n; i += W) a += i + W <= n ? load(x + i) : load_part(x + i, n - i);
    float mean = total(a) / (float)n;
    a = F{};
    for (i = 0; i + W <= n; i += W) {
        F d = load(x + i) - mean;
        a += d * d;
    }
    float tail = 0;
    for (; i < n; i++) tail += (x[i] - mean) * (x[i] - mean);
    float by = 1.0f / __builtin_sqrtf((total(a) + tail) / (float)n + eps);
    for (i = 0; i + W <= n; i += W) store(y + i, (load(x + i) - mean) * by * load(w + i) + load(b + i));
    for (; i < n; i++) y[i] = (x[i] - mean) * by * w[i] + b[i];
}

INLINE F silu(F x) { return x / (exponential(-x) + 1.0f); }

void silu_mul(const float *gate, const float *up, int64_t n, float *y) {
    int64_t i = 0;
    for (; i + W <= n; i += W) store(y + i, silu(load(gate + i)) * load(up + i));
    if (i < n) store_part(y + i, silu(load_part(gate + i, n - i)) * load_part(up + i, n - i), n - i);
}

// x * Phi(x), Phi from the tail of erf: 1 - erf(z) = t(a1 + .. a5 t^4) e^(-z^2), t = 1 / (1 + p z), |error| <= 1.5e-7
// (Abramowitz and Stegun 7.1.26), z = |x| / sqrt 2. Working on the tail keeps the error of large |x| at zero.
INLINE F gelu_of(F x) {
    F size = absolute(x), z = size * 0.70710678f;
    F t = 1.0f / (z * 0.3275911f + 1.0f);
    F p = set1(1.061405429f);
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    F tail = p * t * exponential(size * size * -0.5f) * 0.5f;
    return x * pick(x < F{}, tail, 1.0f - tail);
}

void gelu(const float *x, int64_t n, float *y) {
    int64_t i = 0;
    for (; i + W <= n; i += W) store(y + i, gelu_of(load(x + i)));
    if (i < n) store_part(y + i, gelu_of(load_part(x + i, n - i)), n - i);
}

void rotate(float *x, const float *cos, const float *sin, int64_t pairs) {
    for (int64_t m = 0; m < pairs; m++) {
        float a = x[2 * m], b = x[2 * m + 1];
        x[2 * m] = a * cos[m] - b * sin[m];
        x[2 * m + 1] = a * sin[m] + b * cos[m];
    }
}

void scale(float *x, float by, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] *= by;
}

void add(const float *a, const float *b, int64_t n, float *y) {
    int64_t i = 0;
    for (; i + W <= n; i += W) store(y + i, load(a + i) + load(b + i));
    for (; i < n; i++) y[i] = a[i] + b[i];
}

void narrow(Type type, const float *x, int64_t n, uint8_t *row) {
    if (type == Type::f32) {
        memcpy(row, x, (size_t)n * 4);
        return;
    }
    int64_t i = 0;
#if defined(HERD_AVX512)
    if (type == Type::f16)
        for (; i + 16 <= n; i += 16)
            _mm256_storeu_si256((__m256i *)(row + 2 * i),
                                _mm512_cvtps_ph(_mm512_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
#elif defined(HERD_AVX2)
    if (type == Type::f16)
        for (; i + 8 <= n; i += 8)
            _mm_storeu_si128((__m128i *)(row + 2 * i),
                             _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
#endif
    for (; i < n; i++) {
        uint16_t h = type == Type::f16 ? float_to_half(x[i]) : float_to_bf16(x[i]);
        memcpy(row + 2 * i, &h, 2);
    }
}

INLINE I pick_larger(I a, I b) { return a > b ? a : b; }

// One group of n inputs (whole 16s): scale = max |x| / 127, q = round(x / scale). A group of zeros has scale 0, one with
// a value that is not finite scale NaN. The largest is found in the bits, where a NaN is larger than any number.
INLINE float quantise_group(const float *x, int64_t n, int8_t *q, int16_t *sum16) {
    I most{};
    for (int64_t i = 0; i < n; i += W) {
        I bits = (I)absolute(load(x + i));
        most = pick_larger(most, bits);
    }
#if defined(HERD_AVX512)
    const int32_t bits = _mm512_reduce_max_epi32((__m512i)most);
#else
    int32_t bits = 0;
    for (int i = 0; i < W; i++) bits = most[i] > bits ? most[i] : bits;
#endif
    float top;
    memcpy(&top, &bits, 4);
    const bool finite = bits < 0x7f800000;
    const float by = top > 0 && finite ? 127.0f / top : 0.0f;
    for (int64_t i = 0; i < n; i += 16) {
        int32_t sum = 0;
#if defined(HERD_AVX512)
        __m512i c = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i), _mm512_set1_ps(by)));
        if (!finite) c = _mm512_setzero_si512();
        _mm_storeu_si128((__m128i *)(q + i), _mm512_cvtepi32_epi8(c));
        sum = _mm512_reduce_add_epi32(c);
#else
        for (int j = 0; j < 16; j += W) {
            // Adding 1.5 * 2^23 rounds to nearest even; the low byte of the sum is the integer.
            I r = (I)(load(x + i + j) * by + 12582912.0f);
            for (int k = 0; k < W; k++) {
                q[i + j + k] = finite ? (int8_t)r[k] : (int8_t)0;
                sum += q[i + j + k];
            }
        }
#endif
        sum16[i / 16] = (int16_t)sum;
    }
    return finite ? top / 127.0f : __builtin_nanf("");
}

void quantise(const float *x, int64_t ldx, int64_t rows, int64_t K, Quantised t) {
    const int64_t groups = t.Kp / t.step;
    for (int64_t r = 0; r < rows; r++) {
        int8_t *q = t.q + r * t.Kp;
        int16_t *sum16 = t.sum16 + r * (t.Kp / 16), *sum32 = t.sum32 + r * (t.Kp / 32);
        for (int64_t g = 0; g < groups; g++) {
            const int64_t k = g * t.step, left = K - k;
            float &s = t.scale[r * groups + g];
            if (left >= t.step) {
                s = quantise_group(x + r * ldx + k, t.step, q + k, sum16 + k / 16);
            } else {
                float part[256] = {};
                if (left > 0) memcpy(part, x + r * ldx + k, (size_t)left * 4);
                s = quantise_group(part, t.step, q + k, sum16 + k / 16);
            }
        }
        for (int64_t g = 0; g < t.Kp / 32; g++) sum32[g] = (int16_t)(sum16[2 * g] + sum16[2 * g + 1]);
    }
}
