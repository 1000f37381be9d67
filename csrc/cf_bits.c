/* Choosing how gaps between ids are written. */
#include "cf_bits.h"

cf_gap_code cf_gap_code_choose(const uint64_t histogram[33]) {
    uint64_t up_to[33]; /* gaps of at most so many bits */
    uint64_t n = 0;
    unsigned longest = 0;
    for (unsigned length = 0; length <= 32; length++) {
        n += histogram[length];
        up_to[length] = n;
        if (histogram[length] != 0)
            longest = length;
    }
    const uint8_t top = (uint8_t)longest;
    const uint8_t one = (uint8_t)(longest == 0 ? 1 : longest);
    cf_gap_code best = {0, {one, 0, 0, 0}};
    uint64_t best_bits = n * one;
    for (unsigned a = 0; a < longest; a++) {
        const uint64_t two = n + a * up_to[a] + longest * (n - up_to[a]);
        if (two < best_bits) {
            best_bits = two;
            best = (cf_gap_code){1, {(uint8_t)a, top, 0, 0}};
        }
        for (unsigned b = a; b < longest; b++)
            for (unsigned c = b; c < longest; c++) {
                const uint64_t four = 2 * n + a * up_to[a] + b * (up_to[b] - up_to[a]) +
                                      c * (up_to[c] - up_to[b]) + longest * (n - up_to[c]);
                if (four < best_bits) {
                    best_bits = four;
                    best = (cf_gap_code){2, {(uint8_t)a, (uint8_t)b, (uint8_t)c, top}};
                }
            }
    }
    return best;
}

int cf_gap_code_is_valid(cf_gap_code code) {
    if (code.class_bits > 2)
        return 0;
    for (unsigned c = 0; c < 4; c++) {
        const int used = c < 1u << code.class_bits;
        if (code.width[c] > 32 || (!used && code.width[c] != 0))
            return 0;
    }
    return code.class_bits + code.width[0] != 0;
}
