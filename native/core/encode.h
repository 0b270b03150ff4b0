// Encoders: rows of weights to the blocks of a number format, with the error that they make.
//
// Rows lie side by side in the lanes of a vector, so every step of a search is plain vertical arithmetic: the same
// operations in the same order for every instruction set (built without contraction), and so the same bytes on every
// processor and for any number of threads. core/encode_*.cpp hold one build each.
#pragma once
#include <cstdint>

namespace herd {

enum class Coding : int { q4_0, q4_1, q5_0, q5_1, q8_0, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl, iq4_xs };

struct CodingShape {
    const char *name;
    int block, bytes;
};
constexpr CodingShape CODINGS[] = {
    {"q4_0", 32, 18},   {"q4_1", 32, 20},   {"q5_0", 32, 22},   {"q5_1", 32, 24},  {"q8_0", 32, 34},   {"q2_k", 256, 84},
    {"q3_k", 256, 110}, {"q4_k", 256, 144}, {"q5_k", 256, 176}, {"q6_k", 256, 210}, {"iq4_nl", 32, 18}, {"iq4_xs", 256, 136},
};

enum class Element : int { f32, f16, bf16 };

// A matrix [rows, K] of any strides (bytes), and the importance of each column (finite, above 0) or null.
struct Given {
    const uint8_t *x;
    Element element;
    int64_t row_step, column_step;
    int64_t rows, K;
    const float *importance;
};

enum class Fault : int { none, not_finite, too_large };

// What encoding lost, and the first weight that the format cannot hold (at = row * K + column).
struct Lost {
    double error2 = 0, weighted2 = 0, x2 = 0;  // sums over weights of e^2, importance * e^2, x^2
    float most = 0;                            // largest |e|
    Fault fault = Fault::none;
    int64_t at = INT64_MAX;
};

struct Encoders {
    const char *name;  // of the kernels with the same vectors
    int lanes;         // rows of a strip
    // Rows [row0, row0 + lanes) that exist, columns [column0, column1), whole blocks; adds to `lost`.
    void (*strip)(Coding coding, const Given &given, int64_t row0, int64_t column0, int64_t column1, uint8_t *out,
                  int64_t row_bytes, Lost &lost);
};

const Encoders *portable_encoders();
const Encoders *avx2_encoders();  // null where it was not built
const Encoders *avx512_encoders();
const Encoders &encoders();  // the widest that go with the kernels in use (HERD_ISA)

class Pool;

// Fills out[rows][row_bytes] with all cores; on a fault its content is not defined. Called with the pool's door held.
Lost encode(Pool &pool, Coding coding, const Given &given, uint8_t *out);

}  // namespace herd
