/* cf_columns.h -- per-column statistics of stored entries, and the scaling made from them.
 *
 * Absent entries are not looked at here: whoever turns statistics into a scaling knows the number
 * of rows, so it knows from `count` whether a column has any, and what an absent entry means.
 */
#ifndef CF_COLUMNS_H
#define CF_COLUMNS_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cf_status.h"

typedef struct {
    uint64_t count; /* stored entries, explicit zeros included */
    float min, max; /* +inf and -inf without any; NaN entries are passed over */
    double sum_squares;
} cf_column;

/* Columns as entries are added to them. All arrays have n_columns members; `ones` and `others`
 * start as zero bytes. Entries that are exactly 1 are most of click data, and all there is to say
 * of them is how many: they are counted in `ones` alone, six times smaller than `others`. No column
 * may come to 2^32 of them.
 *
 * A table is kept for one stretch of rows after another: `met` lists the n_met columns of `others`
 * with entries, as they came up, so that the few that click data have are taken out and made zero
 * bytes again without a walk over all. CF_E_ROOM says that it lists others than those. */
typedef struct {
    uint32_t *ones;
    cf_column *others;
    uint32_t *met;
    size_t n_columns, n_met;
} cf_column_table;

/* Adds an entry that is not 1, of a column below n_columns. False without room in `met`. */
static inline bool cf_column_add(cf_column_table *table, uint32_t id, float x) {
    cf_column *const column = table->others + id;
    if (column->count == 0) {
        if (table->n_met == table->n_columns)
            return false;
        column->min = INFINITY;
        column->max = -INFINITY;
        table->met[table->n_met++] = id;
    }
    column->count++;
    column->min = x < column->min ? x : column->min;
    column->max = x > column->max ? x : column->max;
    column->sum_squares += (double)x * x;
    return true;
}

/* Adds nnz entries. Every index must be below n_columns, else CF_E_ID at that entry; the entries
 * before it have been added. */
cf_status cf_columns_scan(const uint32_t *indices, const float *data, size_t nnz,
                          cf_column_table *table);

/* Merges two lists of columns with increasing ids. The outputs have room for n_a + n_b; returns
 * how many were written. */
size_t cf_columns_merge(const uint32_t *a_ids, const cf_column *a, size_t n_a,
                        const uint32_t *b_ids, const cf_column *b, size_t n_b, uint32_t *out_ids,
                        cf_column *out);

/* out[i] = (data[i] - shift) / divisor with the pair of column indices[i]; pairs is
 * [n_columns][2]. Columns at or above n_columns stay as they are: new data may have columns that
 * no statistics know. `out` may be `data`. */
void cf_columns_scale(const uint32_t *indices, const float *data, size_t nnz, const float *pairs,
                      size_t n_columns, float *out);

#endif
