// The codebooks as words; core.cmake makes codebooks.inc of the file that Python reads, too.
#include "../kernels/table.h"

namespace herd {

// One word more: a processor that fetches words in pairs reads past the last entry.
alignas(64) const uint16_t CODEBOOKS[CODEBOOK_WORDS + 1] = {
#include "codebooks.inc"
};

namespace {

// Where the level of weight k of an entry stands.
int bit_of(int k) { return k % 2 * 8 + k / 2 % 2 * 4 + k / 4 * 2; }

struct Eights {
    uint64_t of[BOOK_IQ3_XXS] = {};
    Eights() {
        for (int i = 0; i < BOOK_IQ3_XXS; i++)
            for (int k = 0; k < 8; k++)
                of[i] |= (uint64_t)((CODEBOOKS[i] >> bit_of(k) & 3) * (i < BOOK_IQ2_XXS ? 8 : 1)) << (8 * k);
    }
};
const Eights eights;

// So that a sign of weight k at bit k stands beside its level in six bits (kernels/permuted.inl).
const int HALF_BITS[4] = {2, 4, 0, 6};

struct Halves {
    alignas(64) uint8_t of[2][CODEBOOK_WORDS] = {};
    Halves() {
        for (int i = 0; i < CODEBOOK_WORDS; i++) {
            const int entry = CODEBOOKS[i];
            const auto level = [&](int k) { return entry >> bit_of(k) & (i < BOOK_IQ3_XXS ? 3 : 7); };
            for (int h = 0; h < 2; h++)
                if (i < BOOK_IQ3_XXS)
                    for (int k = 0; k < 4; k++) of[h][i] |= (uint8_t)(level(4 * h + k) << HALF_BITS[k]);
                else of[h][i] = (uint8_t)(level(3 - h) | level(h) << 3);
        }
    }
};
const Halves halves;

struct Steps {
    alignas(64) uint8_t of[3][128] = {};
    Steps() {
        for (int n = 0; n < 128; n++) {
            const uint8_t *entry = halves.of[1] + BOOK_IQ1 + 16 * n;
            int at = 15;
            while (at > 0 && entry[at - 1] == entry[15]) at--;
            of[0][n] = (uint8_t)(16 * n + at), of[1][n] = entry[0], of[2][n] = entry[15];
        }
    }
};
const Steps steps;

}  // namespace

const uint64_t *const EIGHTS = eights.of;
const uint8_t *const HALVES[2] = {halves.of[0], halves.of[1]};
const uint8_t *const IQ1_STEPS = steps.of[0];

}  // namespace herd
