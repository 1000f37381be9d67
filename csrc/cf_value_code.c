#include "cf_value_code.h"

enum { ROOM_OF_TWO_BYTES = 0xffff };

cf_value_code cf_value_code_choose(const uint32_t *counts, size_t n, uint64_t total,
                                   uint64_t n_copies) {
    static const unsigned BITS[] = {0, 1, 2, 4, 8};
    cf_value_code best = {32, 0, 32 * total};
    for (size_t k = 0; k < sizeof BITS / sizeof *BITS; k++) {
        const unsigned bits = BITS[k];
        const uint32_t first = cf_value_code_limit(bits);
        uint64_t own = 0, coded = 0; /* values with codes to themselves, with any code */
        size_t kept = 0;
        for (; kept < n && kept < (size_t)first + ROOM_OF_TWO_BYTES; kept++) {
            if (counts[kept] <= n_copies) /* four bytes each time, or four in each table */
                break;
            coded += counts[kept];
            own += kept < first ? counts[kept] : 0;
        }
        const uint64_t cost =
            bits * total + 16 * (total - own) + 32 * (total - coded) + 32 * n_copies * kept;
        if (cost < best.total_bits)
            best = (cf_value_code){bits, (uint32_t)kept, cost};
    }
    return best;
}
