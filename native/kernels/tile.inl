// The float32 inner product of a block: C[rows][cols] (+)= A[rows][depth] B[depth][cols], B and C in whole vectors.
// Linear layers and both products of attention end here. Every element is one chain of multiply-adds in the order of
// depth, whatever the blocking: a row's result does not depend on its neighbours.

template <int R, int V>
INLINE void tile_block(int64_t depth, const float *A, int64_t lda, const float *B, int64_t ldb, float *C, int64_t ldc,
                       bool more) {
    F acc[R][V];
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) acc[r][v] = more ? load(C + r * ldc + v * W) : F{};
    for (int64_t k = 0; k < depth; k++) {
        F b[V];
        for (int v = 0; v < V; v++) b[v] = load(B + k * ldb + v * W);
        for (int r = 0; r < R; r++) {
            F a = set1(A[r * lda + k]);
            for (int v = 0; v < V; v++) acc[r][v] = fused(a, b[v], acc[r][v]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) store(C + r * ldc + v * W, acc[r][v]);
}

// The last rows, at most R.
template <int R, int V>
INLINE void tile_rest(int64_t rows, int64_t depth, const float *A, int64_t lda, const float *B, int64_t ldb, float *C,
                      int64_t ldc, bool more) {
    if constexpr (R > 0) {
        if (rows == R) tile_block<R, V>(depth, A, lda, B, ldb, C, ldc, more);
        else tile_rest<R - 1, V>(rows, depth, A, lda, B, ldb, C, ldc, more);
    }
}

template <int V>
INLINE void tile_columns(int64_t rows, int64_t depth, const float *A, int64_t lda, const float *B, int64_t ldb,
                         float *C, int64_t ldc, bool more) {
#if defined(HERD_AVX512) || defined(__aarch64__)
    constexpr int R = 8;  // 32 registers: 24 sums
#else
    constexpr int R = V == 3 ? 4 : 6;
#endif
    int64_t r = 0;
    for (; r + R <= rows; r += R) tile_block<R, V>(depth, A + r * lda, lda, B, ldb, C + r * ldc, ldc, more);
    tile_rest<R - 1, V>(rows - r, depth, A + r * lda, lda, B, ldb, C + r * ldc, ldc, more);
}

// vectors: columns / W
static void tile(int64_t rows, int64_t depth, int64_t vectors, const float *A, int64_t lda, const float *B, int64_t ldb,
                 float *C, int64_t ldc, bool more) {
#if defined(HERD_AVX512) || defined(__aarch64__)
    for (; vectors >= 3; vectors -= 3, B += 3 * W, C += 3 * W)
        tile_columns<3>(rows, depth, A, lda, B, ldb, C, ldc, more);
#endif
    for (; vectors >= 2; vectors -= 2, B += 2 * W, C += 2 * W)
        tile_columns<2>(rows, depth, A, lda, B, ldb, C, ldc, more);
    if (vectors) tile_columns<1>(rows, depth, A, lda, B, ldb, C, ldc, more);
}
