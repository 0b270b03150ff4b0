// The codebooks as words; core.cmake makes codebooks.inc of the file that Python reads, too.
#include "../kernels/table.h"

namespace herd {

// One word more: a processor that fetches words in pairs reads past the last entry.
alignas(64) const uint16_t CODEBOOKS[CODEBOOK_WORDS + 1] = {
#include "codebooks.inc"
};

namespace {

struct Eights {
    uint64_t of[BOOK_IQ3_XXS] = {};
    Eights() {
        for (int i = 0; i < BOOK_IQ3_XXS; i++)
            for (int k = 0; k < 8; k++)
                of[i] |= (uint64_t)((CODEBOOKS[i] >> (k % 2 * 8 + k / 2 % 2 * 4 + k / 4 * 2) & 3) * (i < BOOK_IQ2_XXS ? 8 : 1))
                         << (8 * k);
    }
};
const Eights eights;

}  // namespace

const uint64_t *const EIGHTS = eights.of;

}  // namespace herd
