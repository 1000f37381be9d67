/* cf_block_sort.h -- the first step of encoding, and the one that has variants: the entries of some
 * rows sorted by what they are written as (internal).
 */
#ifndef CF_BLOCK_SORT_H
#define CF_BLOCK_SORT_H

#include "cf_block.h"

enum {
    CF_SORTED_ROWS = 16, /* most rows at a time: what is known of so many fits the nearest cache */
    CF_SORT_SLACK = 16   /* items, or bytes of bitmaps, that are writable behind the last */
};

typedef struct {
    /* Of all rows so far. Set: the numbers of the rows' members of tiers 1 to 3 and their ids
     * outside are appended, and `n` moves on. */
    uint8_t *eight;
    uint16_t *twelve, *sixteen;
    uint32_t *outside;
    uint32_t n[CF_BLOCK_COUNTS];

    /* Set: the rows' entries with narrow and wide tables, and where each row's end. */
    uint32_t *tables[2], *values[2]; /* numbers of the tables, bits of the values */
    uint32_t n_valued[2], valued_ends[CF_SORTED_ROWS][2];

    uint32_t *work[CF_KINDS]; /* for as many entries as the rows have */
} cf_block_sorted;

/* Sorts rows [row, row + n_rows) of a block, and writes their bitmaps and counts:
 * bitmaps[n_rows][bitmap_bytes] and counts[n_rows][CF_BLOCK_COUNTS] begin with those of `row`.
 * Ends of rows were checked. Returns 0 if ids do not increase within a row. */
typedef int cf_block_sort(const cf_block_input *rows, size_t row, size_t n_rows,
                          const cf_dictionary_index *index, cf_block_sorted *sorted,
                          uint8_t *bitmaps, uint32_t *counts);

cf_block_sort cf_block_sort_scalar;
#if defined(__x86_64__)
cf_block_sort cf_block_sort_avx2;
#endif

/* How many of the ids of these rows are not above the one before, though of its row. */
static inline uint32_t cf_count_falls(const cf_block_input *rows, size_t row, size_t n_rows) {
    const int64_t first = rows->indptr[row], last = rows->indptr[row + n_rows];
    const uint32_t *ids = rows->indices;
    uint32_t falls = 0;
    for (int64_t e = first + 1; e < last; e++)
        falls += ids[e] <= ids[e - 1];
    for (size_t i = row + 1; i < row + n_rows; i++) {
        const int64_t e = rows->indptr[i]; /* where a row with entries begins was counted, too */
        if (e > first && e < rows->indptr[i + 1])
            falls -= ids[e] <= ids[e - 1];
    }
    return falls;
}

#endif
