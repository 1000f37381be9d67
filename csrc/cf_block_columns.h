/* cf_block_columns.h -- column statistics of rows as they are encoded: what cf_columns_scan would
 * find, with most ones counted by rank in the dictionary, whose counters the nearer caches hold.
 */
#ifndef CF_BLOCK_COLUMNS_H
#define CF_BLOCK_COLUMNS_H

#include "cf_columns.h"
#include "cf_dictionary.h"

/* No column may come to 2^32 ones. */
typedef struct {
    cf_column_table *table; /* wide enough for every id */
    uint32_t *ones;         /* [n_ids] more ones, by rank */
} cf_block_columns;

/* Adds n values, by their bits, of the columns of so many ranks. Each here: false if the table
 * lists columns met that cannot be its own. */
bool cf_block_columns_valued(cf_block_columns *columns, const cf_dictionary *dictionary,
                             const uint32_t *ranks, const uint32_t *values, uint32_t n);

/* Adds those of all entries that are listed, by their places. */
bool cf_block_columns_plain(cf_block_columns *columns, const uint32_t *indices, const float *data,
                            const uint32_t *entries, uint32_t n);

/* The entries of a block that have no table, as they are sorted, where all are ones. */
typedef struct {
    const uint8_t *bitmaps; /* [n_rows][bitmap_bytes] */
    const uint8_t *eight;
    const uint16_t *twelve, *sixteen;
    const uint32_t *outside;
    size_t n_rows;
    uint32_t n[CF_TIERS]; /* of tiers 1 to 3, and outside */
} cf_sorted_ones;

void cf_block_columns_ones(cf_block_columns *columns, const cf_dictionary *dictionary,
                           const cf_sorted_ones *sorted);

/* Adds an entry that is not 1, but was taken for one. */
static inline bool cf_block_columns_exception(cf_block_columns *columns, uint32_t id, float x) {
    columns->table->ones[id]--; /* may wrap around, and back when those of ranks are added */
    return cf_column_add(columns->table, id, x);
}

/* Moves the ones from ranks to ids. False if an id is beyond the table, which is left as it was. */
bool cf_block_columns_by_id(cf_block_columns *columns, const cf_dictionary *dictionary);

#endif
