// The codebooks as words; core.cmake makes codebooks.inc of the file that Python reads, too.
#include "../kernels/table.h"

namespace herd {

// One word more: a processor that fetches words in pairs reads past the last entry.
alignas(64) const uint16_t CODEBOOKS[CODEBOOK_WORDS + 1] = {
#include "codebooks.inc"
};

}  // namespace herd
