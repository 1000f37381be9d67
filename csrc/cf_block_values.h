/* cf_block_values.h -- a block's own table, for values that no table of the dictionary covers
 * (internal, for encoding). */
#ifndef CF_BLOCK_VALUES_H
#define CF_BLOCK_VALUES_H

#include "cf_block_streams.h"
#include "cf_value_code.h"

enum {
    CF_OWN_VALUES = 8192, /* most values looked at */
    CF_OWN_SLOTS = 4 * CF_OWN_VALUES
};

typedef struct {
    uint64_t ranked[CF_OWN_VALUES], sort[CF_OWN_VALUES];
    uint32_t values[CF_OWN_VALUES], counts[CF_OWN_VALUES];
    uint16_t slots[CF_OWN_SLOTS]; /* hash: 1 + index into values, or 0 */
} cf_own_values;

/* Chooses table and code for the values of these entries, and notes them in the header. Returns the
 * bits they take. */
uint64_t cf_own_values_choose(cf_own_values *own, const float *data, const uint32_t *entries,
                              uint32_t n, cf_block_header *header);

/* Writes their codes where the three streams lie. */
void cf_own_values_write(cf_own_values *own, const float *data, const uint32_t *entries, uint32_t n,
                         const cf_block_header *header, uint8_t *codes, uint8_t *second,
                         uint8_t *raw);

#endif
