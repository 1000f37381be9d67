/* cf_value_code.h -- how the values without a table of the dictionary are written (internal).
 *
 * Most frequent first, the values of a block's own table have codes of 1, 2, 4 or 8 bits; the
 * largest code means "see the next two bytes", and of those the largest "see the next four, the
 * value itself". Of 0 bits all are the largest; 32 bits are the value itself.
 */
#ifndef CF_VALUE_CODE_H
#define CF_VALUE_CODE_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    unsigned bits;       /* 0, 1, 2, 4, 8 or 32 */
    uint32_t n;          /* values in the table */
    uint64_t total_bits; /* of everything, the table included */
} cf_value_code;

/* Values that have a code of so many bits to themselves. */
static inline uint32_t cf_value_code_limit(unsigned bits) { return (UINT32_C(1) << bits) - 1; }

/* The cheapest code for values of which the i-th most frequent occurs counts[i] times out of
 * `total` (the rest is not worth looking at), in a table stored n_copies times. */
cf_value_code cf_value_code_choose(const uint32_t *counts, size_t n, uint64_t total,
                                   uint64_t n_copies);

/* Whole bytes that hold a gap. */
static inline unsigned cf_gap_bytes(uint32_t gap) {
    return 1u + (gap > 0xff) + (gap > 0xffff) + (gap > 0xffffff);
}

#endif
